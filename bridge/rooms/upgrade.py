"""Upgrades: a room gets a successor, of the same or of another version.

1. Check that the user may send `m.room.tombstone` in the old room.
2. Create the successor: `predecessor`, `room_version`, `type`, `m.federate`; its creator joins.
3. Write the old room's state again: the recommended events, a space's children, bans.
4. Move our aliases, what the canonical alias event says of them, and the place in our list of
   rooms.
5. Send the tombstone.
6. Raise the levels of the old room so that it falls silent, as far as the user may.
7. Invite the members of the old room, unless the successor is public: our own users with the rest,
   those of other servers afterwards, one request each.

1 to 6 and our own users' invites are one commit: a crash leaves no successor or a complete one
with its tombstone. 7 goes on where the same transaction ID is used again; whoever has a member
event in the successor is left alone. The order of the commit is not that of the list: the tombstone
is built first where the successor's create event names it, last where the room ID is a hash of the
create event, which then names the last event before it (rooms/v12, room IDs).

The successor's power levels are its last event. Before them its creator has 100 or, from version
12, all the power, which is enough for whatever the state is; so that there are never other levels
than the true ones. What `engine.upgrade` says of them and of each event is pure.

Spec: client-server API, room upgrades; rooms/v12; MSC1501; I.1, 7. Deviates: bans and a space's
children are carried (not in the recommended list, but an upgrade that lifts bans surprises people,
and Synapse carries them); our own upgrade may be asked for once only, then the successor's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from bridge.clock import Clock
from bridge.engine.build import Draft, build_pdu
from bridge.engine.keys import Signer
from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels
from bridge.engine.state import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS, StateKey
from bridge.engine.upgrade import (
    CANONICAL_ALIAS,
    CARRIED,
    SPACE,
    SPACE_CHILD,
    TOMBSTONE,
    closed_levels,
    named_aliases,
    split_aliases,
    successor_create,
    successor_levels,
    successor_state,
)
from bridge.engine.versions import RoomVersion
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import (
    EventId,
    RoomAlias,
    RoomId,
    ServerName,
    TraceId,
    UserId,
    parse_user_id,
    server_of,
)
from bridge.rooms.append import Appender, Plan, Repeated
from bridge.rooms.create import member_content
from bridge.rooms.handshake import Handshake
from bridge.rooms.listing import listing_of
from bridge.rooms.load import EMPTY, Room, RoomStates, Snapshot
from bridge.rooms.network import UserProfile
from bridge.rooms.query import RoomQueries
from bridge.rooms.send import Sender
from bridge.storage import aliases as alias_rows
from bridge.storage import events as event_rows
from bridge.storage import published, version_hints
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from bridge.telemetry.log import get_logger

MAX_CARRIED = 10_000
"""Bans, children of a space and members of ours: all go into one commit. Rather no upgrade than one
that lifts bans."""
MAX_INVITED = 200
"""Members of other servers who are invited by one call, the most powerful first. The others may be
invited by them, or by a call with the same transaction ID."""
INVITING_S = 120.0
"""How long one call goes on with it."""
MAX_CREATORS = 20
"""Additional creators of one room."""
BODY = "This room has been replaced"
VERSION_REFUSALS = frozenset({"M_UNSUPPORTED_ROOM_VERSION", "M_INCOMPATIBLE_ROOM_VERSION"})
_TOMBSTONE = (TOMBSTONE, "")
_ALIAS = (CANONICAL_ALIAS, "")

log = get_logger("rooms")


class Upgrader:
    """Upgrades rooms in the name of users of this server."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        key: Signer,
        database: Database,
        states: RoomStates,
        appender: Appender,
        sender: Sender,
        handshake: Handshake,
        queries: RoomQueries,
        clock: Clock,
        random_text: Callable[[], str],
    ) -> None:
        self._server_name = server_name
        self._key = key
        self._database = database
        self._states = states
        self._appender = appender
        self._sender = sender
        self._handshake = handshake
        self._queries = queries
        self._clock = clock
        self._random_text = random_text

    async def upgrade(
        self,
        *,
        room_id: RoomId,
        sender: UserId,
        version: RoomVersion,
        transaction_id: str,
        trace_id: TraceId,
        additional_creators: Sequence[UserId] = (),
        profile: UserProfile | None = None,
    ) -> RoomId:
        """The successor, made once per transaction ID. Raises `Refused` or `NotFound` before
        anything is done. Returns when whoever can be invited now is invited."""
        if server_of(sender) != self._server_name:
            raise Refused(f"{sender} is no user of ours", rule="sender")
        creators = _creators(sender, additional_creators)
        if not version.auth.privileged_creators:
            creators = creators[:1]
        successor = await self._find_done(transaction_id)
        if successor is None:
            successor = await self._replace(
                room_id=room_id,
                sender=sender,
                version=version,
                transaction_id=transaction_id,
                trace_id=trace_id,
                creators=creators,
                profile=profile,
            )
            log.info("room upgraded", room_id=room_id, successor=successor, version=version.id)
        await self._invite_others(room_id, successor, sender, transaction_id, trace_id)
        return successor

    async def _find_done(self, transaction_id: str) -> RoomId | None:
        there = await self._database.read(
            lambda tx: event_rows.find_local_transaction(tx, transaction_id)
        )
        if there is None:
            return None
        if there[1] is not None:
            raise Refused(f"{transaction_id} stood for an event", rule="transaction")
        return there[0]

    # --- the commit -------------------------------------------------------------------------

    async def _replace(
        self,
        *,
        room_id: RoomId,
        sender: UserId,
        version: RoomVersion,
        transaction_id: str,
        trace_id: TraceId,
        creators: Sequence[UserId],
        profile: UserProfile | None,
    ) -> RoomId:
        named = None
        if not version.event_format.room_id_from_create:
            named = RoomId(f"!{self._random_text()}:{self._server_name}")
        attempts = count()

        async def attempt() -> RoomId:
            done = await self._find_done(transaction_id)
            if done is not None:
                return done
            room = await self._states.joined_room(room_id)
            is_direct = (await self._queries.summary(room_id)).is_direct
            one = _Upgrade(
                states=self._states,
                appender=self._appender,
                sender=self._sender,
                room=room,
                version=version,
                user=sender,
                creators=creators,
                is_direct=is_direct,
                trace_id=trace_id,
            )
            # Two rooms that are hashes of the same event would be one: a new attempt is a new time.
            at_ms = self._clock.now_ms() + next(attempts)
            old, new = await one.plan(
                lambda content: self._build_create(sender, content, version, named, at_ms),
                named=named,
                moved=await self._own_aliases(room),
                members=await self._own_members(room_id),
                profile=profile,
            )
            successor = new.room.room_id
            new.also.append(lambda tx: alias_rows.move(tx, of=room_id, to=successor))
            listing = listing_of({key: pdu for key, pdu in new.listed.items() if pdu is not None})
            new.also.append(
                lambda tx: published.move(tx, of=room_id, to=successor, listing=listing)
            )
            async with self._appender.locked(successor):
                await self._appender.commit(new, transaction_id=transaction_id, preceded_by=(old,))
            return successor

        try:
            return await self._appender.until_unmoved(room_id, attempt)
        except Repeated as before:
            return before.room_id

    async def _own_aliases(self, room: Room) -> list[RoomAlias]:
        """Those that the canonical alias event may name in the successor: our own, but for what
        names another room. Of some the bridge side knows where they lead, and it follows."""
        event = (await self._states.pick(room.state, (_ALIAS,))).get(_ALIAS)
        named = [] if event is None else named_aliases(event.content)
        own = [alias for alias in named if server_of(alias) == self._server_name]
        there = await self._database.read(
            lambda tx: {alias: alias_rows.find(tx, alias) for alias in own}
        )
        return [alias for alias, room_id in there.items() if room_id in (None, room.room_id)]

    async def _own_members(self, room_id: RoomId) -> list[UserId]:
        def unit(tx: Transaction) -> list[room_rows.MemberRow]:
            return room_rows.members(
                tx, room_id, ("join",), limit=MAX_CARRIED, server=self._server_name
            )

        return [row.user_id for row in await self._database.read(unit)]

    def _build_create(
        self,
        creator: UserId,
        content: dict[str, Any],
        version: RoomVersion,
        room_id: RoomId | None,
        at_ms: int,
    ) -> Pdu:
        return build_pdu(
            Draft(
                room_id=room_id,
                type=CREATE[0],
                sender=creator,
                content=content,
                state_key="",
            ),
            prev_events=(),
            auth_events=(),
            version=version,
            key=self._key,
            server=self._server_name,
            origin_server_ts=at_ms,
        )

    # --- invites of others ------------------------------------------------------------------

    async def _invite_others(
        self,
        room_id: RoomId,
        successor: RoomId,
        sender: UserId,
        transaction_id: str,
        trace_id: TraceId,
    ) -> None:
        """7, where members could not come by themselves."""
        room = await self._states.find_room(successor)
        if room is None or not room.joined:
            return
        found = await self._states.pick(room.state, (JOIN_RULES, CREATE, POWER_LEVELS))
        if _join_rule(found.get(JOIN_RULES)) == "public":
            return
        power = PowerLevels.of(found.get(POWER_LEVELS), found.get(CREATE))
        members = await self._queries.members(room_id, ("join",))
        wanted = [
            UserId(pdu.state_key)
            for pdu in members
            if pdu.state_key is not None
            and pdu.sender_server != self._server_name
            and (MEMBER, pdu.state_key) not in room.state
        ]
        if not wanted:
            return
        if not power.may_invite(sender):
            log.warning("members not invited", room_id=successor, reason="no right to invite")
            return
        wanted.sort(key=lambda user: -power.user(user))
        if len(wanted) > MAX_INVITED:
            log.warning("members not invited", room_id=successor, left=len(wanted) - MAX_INVITED)
        is_direct = (await self._queries.summary(room_id)).is_direct
        try:
            async with asyncio.timeout(INVITING_S):
                await self._invite(
                    room, wanted[:MAX_INVITED], sender, transaction_id, trace_id, is_direct
                )
        except TimeoutError:
            log.warning("members not invited", room_id=successor, reason="it took too long")

    async def _invite(
        self,
        room: Room,
        targets: Sequence[UserId],
        sender: UserId,
        transaction_id: str,
        trace_id: TraceId,
        is_direct: bool,
    ) -> None:
        given_up: set[ServerName] = set()
        for target in targets:
            peer = server_of(target)
            if peer in given_up:
                continue
            try:
                await self._handshake.invite(
                    room_id=room.room_id,
                    sender=sender,
                    target=target,
                    transaction_id=f"{transaction_id}.invite.{target}",
                    trace_id=trace_id,
                    is_direct=is_direct,
                )
            except Unavailable as exc:
                given_up.add(peer)
                log.info("member not invited", room_id=room.room_id, peer=peer, reason=exc.reason)
            except (Refused, NotFound, BadInput) as exc:
                log.info("member not invited", room_id=room.room_id, peer=peer, reason=exc.reason)
                if exc.errcode in VERSION_REFUSALS:
                    given_up.add(peer)
                    await self._remember_refusal(peer, room.version)

    async def _remember_refusal(self, peer: ServerName, version: RoomVersion) -> None:
        await self._database.write(lambda tx: version_hints.put(tx, peer, {version.id: False}))


class _Upgrade:
    """One attempt: what both rooms will be told."""

    def __init__(
        self,
        *,
        states: RoomStates,
        appender: Appender,
        sender: Sender,
        room: Room,
        version: RoomVersion,
        user: UserId,
        creators: Sequence[UserId],
        is_direct: bool,
        trace_id: TraceId,
    ) -> None:
        self._states = states
        self._appender = appender
        self._sender = sender
        self._room = room
        self._version = version
        self._user = user
        self._creators = creators
        self._is_direct = is_direct
        self._trace_id = trace_id

    async def plan(
        self,
        build_create: Callable[[dict[str, Any]], Pdu],
        *,
        named: RoomId | None,
        moved: Sequence[RoomAlias],
        members: Sequence[UserId],
        profile: UserProfile | None,
    ) -> tuple[Plan, Plan]:
        """For the old room and for the successor. `named`: its ID, where that is no hash."""
        state = await self._old_state()
        if _TOMBSTONE in state:
            replacement = state[_TOMBSTONE].content.get("replacement_room")
            if isinstance(replacement, str) and replacement:
                raise Refused(
                    f"the room was replaced by {replacement} before", rule="upgrade.tombstone"
                )
        old = self._appender.plan(self._room)
        last_event = max(self._room.extremities.items(), key=lambda item: (item[1], item[0]))[0]
        if named is not None:  # 1, 5
            last_event = await self._bury(old, named)
        create = build_create(  # 2
            successor_create(
                state[CREATE],
                self._version,
                creator=self._user,
                predecessor=self._room.room_id,
                last_event=last_event,
                additional_creators=self._creators[1:],
            )
        )
        if named is None:  # 1, 5
            await self._bury(old, create.room_id)
        new = self._appender.plan_new(create.room_id, self._version)
        await self._appender.add(new, create, before=Snapshot(EMPTY), trace_id=self._trace_id)
        power = PowerLevels.of(state.get(POWER_LEVELS), state[CREATE])
        goes, stays = split_aliases(
            {} if _ALIAS not in state else state[_ALIAS].content, frozenset(moved)
        )
        await self._add(new, (MEMBER, self._user), member_content("join", profile))
        for key, content in successor_state(state, self._room.version, self._version):  # 3
            await self._add(new, key, content)
        if goes:  # 4
            await self._add(new, _ALIAS, goes)
            await self._try(old, _ALIAS, stays)
        for key, content in self._memberships(state, new, members):  # 3, 7
            await self._add(new, key, content)
        await self._add(
            new,
            POWER_LEVELS,
            successor_levels(power, self._room.version, self._version, creators=self._creators),
        )
        closed = closed_levels(power)
        if closed is not None:  # 6
            await self._try(old, POWER_LEVELS, closed)
        return old, new

    async def _old_state(self) -> dict[StateKey, Pdu]:
        """What is carried or looked at. Raises `Refused` when it is too much."""
        state = self._room.state
        create = await self._states.create_event(state)
        members = await self._bans()
        children: list[StateKey] = []
        if create.content.get("type") == SPACE:
            children = sorted(key for key in state if key[0] == SPACE_CHILD)
        if len(members) + len(children) > MAX_CARRIED:
            raise Refused(
                f"more than {MAX_CARRIED} bans and rooms of a space cannot be carried over",
                rule="upgrade.size",
            )
        found = await self._states.pick(
            state, [*CARRIED, *children, POWER_LEVELS, _ALIAS, _TOMBSTONE]
        )
        return {**found, **members, CREATE: create}

    async def _bans(self) -> dict[StateKey, Pdu]:
        keys = [key for key in self._room.state if key[0] == MEMBER]
        bans: dict[StateKey, Pdu] = {}
        for start in range(0, len(keys), _LOOK):
            found = await self._states.pick(self._room.state, keys[start : start + _LOOK])
            bans |= {key: pdu for key, pdu in found.items() if pdu.membership == "ban"}
        return bans

    def _memberships(
        self, state: dict[StateKey, Pdu], new: Plan, members: Sequence[UserId]
    ) -> Iterator[tuple[StateKey, dict[str, Any]]]:
        """Bans, and the invites of our own users, who then find their way in with everybody."""
        for key, pdu in sorted(state.items()):
            if key[0] != MEMBER or not _is_user(key[1]):
                continue
            if key[1] in self._creators:
                raise Refused(f"{key[1]} is banned and cannot be a creator", rule="upgrade.creator")
            reason = pdu.content.get("reason")
            text = reason if isinstance(reason, str) else None
            yield key, member_content("ban", None, reason=text)
        rules = new.fresh.get(new.room.state[JOIN_RULES])
        if rules is None or _join_rule(rules.pdu) == "public":
            return
        for member in members:
            if member != self._user:
                yield (MEMBER, member), member_content("invite", None, is_direct=self._is_direct)

    async def _bury(self, old: Plan, successor: RoomId) -> EventId:
        """The tombstone; the auth rules say whether the user may. Raises `Refused`."""
        content = {"body": BODY, "replacement_room": successor}
        pdu = await self._sender.add(
            old, self._draft(old, _TOMBSTONE, content), trace_id=self._trace_id
        )
        return pdu.event_id

    async def _try(self, old: Plan, key: StateKey, content: dict[str, Any]) -> None:
        """In the old room, as far as the user may."""
        try:
            await self._sender.add(old, self._draft(old, key, content), trace_id=self._trace_id)
        except (Refused, BadInput) as exc:
            log.info(
                "old room not changed", room_id=old.room.room_id, type=key[0], reason=exc.reason
            )

    async def _add(self, new: Plan, key: StateKey, content: dict[str, Any]) -> None:
        """In the successor. Nobody else is in it yet, so there is nobody to tell."""
        pdu, before = await self._sender.build(new.room, self._draft(new, key, content), new)
        await self._appender.add(new, pdu, before=before, trace_id=self._trace_id)

    def _draft(self, plan: Plan, key: StateKey, content: dict[str, Any]) -> Draft:
        return Draft(
            room_id=plan.room.room_id,
            type=key[0],
            sender=self._user,
            content=content,
            state_key=key[1],
        )


_LOOK = 500
"""Member events read in one go."""


def _creators(sender: UserId, additional: Sequence[UserId]) -> tuple[UserId, ...]:
    """The sender first. Raises `BadInput`."""
    creators = tuple(dict.fromkeys([sender, *(parse_user_id(user) for user in additional)]))
    if len(creators) > MAX_CREATORS + 1:
        raise BadInput(f"more than {MAX_CREATORS} additional creators", errcode="M_INVALID_PARAM")
    return creators


def _join_rule(rules: Pdu | None) -> object:
    return None if rules is None else rules.content.get("join_rule")


def _is_user(text: str) -> bool:
    try:
        parse_user_id(text)
    except BadInput:
        return False
    return True
