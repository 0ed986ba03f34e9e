"""What we answer as resident server, and to invites from outside.

Letting somebody in: a template of an event on top of the room (`make_`), then the signed event is
verified, judged like every received one, appended, and sent on by us to everybody else. Who may
read: servers with a joined user that the room's ACL allows, and of what was said before only what
the history visibility shows them. Spec: S2S, joining rooms; restricted rooms; leaving rooms;
knocking upon a room; inviting to a room; third-party invites; backfilling and retrieving missing
events; retrieving events.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from bridge.engine.auth import check_auth
from bridge.engine.build import Draft, countersign, prototype
from bridge.engine.keys import Signer
from bridge.engine.pdu import Pdu
from bridge.engine.receipt import Verdict
from bridge.engine.state import MEMBER, StateKey, StateMap
from bridge.engine.stateres import auth_chain
from bridge.engine.versions import UNNAMED, VERSIONS, RoomVersion
from bridge.errors import BadInput, NotFound, Refused
from bridge.ids import (
    EventId,
    RoomId,
    RoomVersionId,
    ServerName,
    TraceId,
    UserId,
    parse_user_id,
    server_of,
)
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.rooms.accept import Acceptor
from bridge.rooms.bounds import GraphBounds
from bridge.rooms.exchange import Exchange
from bridge.rooms.load import KnownEvent, Room, RoomStates
from bridge.rooms.network import Json, Lookups
from bridge.rooms.outside import Outside
from bridge.rooms.policy_server import PolicyServers
from bridge.rooms.query import RoomQueries
from bridge.rooms.restricted import find_voucher, needs_voucher
from bridge.rooms.send import Sender
from bridge.rooms.stripped import look_at, stripped_state
from bridge.rooms.underway import Underway
from bridge.rooms.verify import Verifier
from bridge.rooms.visibility import (
    check_in_room,
    check_server,
    check_was_in_room,
    has_member,
    is_visible,
    visible_form,
)
from bridge.telemetry.log import get_logger

log = get_logger("rooms")


PAGE = 50
MAX_PAGES = 10
"""Of events that are looked at for one that the asking server may see."""
_NAMES: Mapping[StateKey, str] = {
    ("m.room.name", ""): "name",
    ("m.room.canonical_alias", ""): "alias",
}
"""What names a room, and the field of the content that does."""


class IncompatibleVersion(Refused):
    """`room_version` belongs into the error's body beside `errcode`."""

    errcode = "M_INCOMPATIBLE_ROOM_VERSION"

    def __init__(self, room_version: RoomVersionId) -> None:
        super().__init__(f"the room's version is {room_version}", rule="room_version")
        self.room_version = room_version


class Answers:
    """One method per endpoint. `origin` is authenticated by the caller; server ACLs, membership
    and history visibility are checked here. Errors: `Refused` (403 unless the errcode says more),
    `NotFound`, `BadInput`, `Unavailable`."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        key: Signer,
        states: RoomStates,
        sender: Sender,
        acceptor: Acceptor,
        outside: Outside,
        verifier: Verifier,
        lookups: Lookups,
        underway: Underway,
        exchange: Exchange,
        queries: RoomQueries,
        bounds: GraphBounds,
        new_trace: Callable[[], TraceId],
        house: House,
        policy_servers: PolicyServers,
    ) -> None:
        self._policy_servers = policy_servers
        self._house = house
        self._bounds = bounds
        self._server_name = server_name
        self._key = key
        self._states = states
        self._sender = sender
        self._acceptor = acceptor
        self._outside = outside
        self._verifier = verifier
        self._lookups = lookups
        self._underway = underway
        self._exchange = exchange
        self._queries = queries
        self._new_trace = new_trace

    # --- joins ------------------------------------------------------------------------------

    async def make_join(
        self,
        origin: ServerName,
        room_id: RoomId,
        user_id: UserId,
        versions: Sequence[RoomVersionId],
    ) -> Json:
        """`{"room_version", "event"}`. Raises `IncompatibleVersion`."""
        self._house.check_member(user_id, room_id, Scope.JOINS, door="join")
        await self._outside.note_versions(origin, versions)
        await self._underway.settled(room_id, user_id)
        room = await self._open_room(origin, room_id)
        if room.version.id not in versions:
            raise IncompatibleVersion(room.version.id)
        content: dict[str, Any] = {"membership": "join"}
        if await needs_voucher(self._states, room, user_id):
            content["join_authorised_via_users_server"] = await find_voucher(
                self._states, room, user_id, self._server_name
            )
        return await self._template(origin, room, user_id, content)

    async def send_join(
        self,
        origin: ServerName,
        room_id: RoomId,
        event_id: EventId,
        pdu: Json,
        *,
        omit_members: bool = False,
    ) -> Json:
        """The version 2 answer: `state`, `auth_chain`, `event`, `origin`, `members_omitted`, and
        `servers_in_room` (before the join) where members may be omitted."""
        room = await self._open_room(origin, room_id)
        join = self._parse_member(origin, room, event_id, pdu, "join")
        self._house.check_member(join.sender, room_id, Scope.JOINS, door="join")
        voucher = join.content.get("join_authorised_via_users_server")
        if isinstance(voucher, str) and server_of(UserId(voucher)) == self._server_name:
            if await needs_voucher(self._states, room, join.sender):
                await find_voucher(self._states, room, join.sender, self._server_name)
            join = countersign(join, key=self._key, server=self._server_name)
        known = await self._let_in(room, join)
        before = await self._states.before(known)
        ids = set(before.state.values())
        if omit_members:
            ids = await self._without_members(room_id, before.state, known.pdu.sender)
        chain = await self._states.drive(auth_chain([*ids, known.pdu.event_id]))
        answer: Json = {
            "origin": self._server_name,
            "event": known.pdu.wire(),
            "state": [one.pdu.wire() for one in await self._in_order(ids)],
            "auth_chain": [
                one.wire() for key, one in chain.items() if not (omit_members and key in ids)
            ],
            "members_omitted": len(ids) < len(before.state),
        }
        if omit_members:
            servers = await self._queries.servers_at(room_id, before)
            answer["servers_in_room"] = sorted(servers)
        return answer

    async def _without_members(
        self, room_id: RoomId, state: StateMap, joiner: UserId
    ) -> set[EventId]:
        """Of a room that has a name or an alias, no member; of others those it is called by."""
        named = await self._states.pick(state, _NAMES)
        is_named = any(
            named[key].content.get(field) for key, field in _NAMES.items() if key in named
        )
        shown = [] if is_named else await self._queries.heroes(room_id, joiner)
        heroes = {(MEMBER, user_id) for user_id in shown}
        return {one for key, one in state.items() if key[0] != MEMBER or key in heroes}

    # --- knocks -----------------------------------------------------------------------------

    async def make_knock(
        self,
        origin: ServerName,
        room_id: RoomId,
        user_id: UserId,
        versions: Sequence[RoomVersionId],
    ) -> Json:
        """`{"room_version", "event"}`. Raises `IncompatibleVersion`."""
        self._house.check_member(user_id, room_id, Scope.KNOCKS, door="knock")
        room = await self._open_room(origin, room_id)
        if room.version.id not in versions:
            raise IncompatibleVersion(room.version.id)
        return await self._template(origin, room, user_id, {"membership": "knock"})

    async def send_knock(
        self, origin: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> Json:
        """`{"knock_room_state"}`: what an invite would tell, so that nothing more is told."""
        room = await self._open_room(origin, room_id)
        knock = self._parse_member(origin, room, event_id, pdu, "knock")
        self._house.check_member(knock.sender, room_id, Scope.KNOCKS, door="knock")
        await self._let_in(room, knock)
        return {"knock_room_state": await stripped_state(self._states, room)}

    # --- leaves -----------------------------------------------------------------------------

    async def make_leave(self, origin: ServerName, room_id: RoomId, user_id: UserId) -> Json:
        """`{"room_version", "event"}`."""
        await self._underway.settled(room_id, user_id)
        room = await self._open_room(origin, room_id)
        return await self._template(origin, room, user_id, {"membership": "leave"})

    async def send_leave(
        self, origin: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> None:
        room = await self._open_room(origin, room_id)
        await self._let_in(room, self._parse_member(origin, room, event_id, pdu, "leave"))

    async def _open_room(self, origin: ServerName, room_id: RoomId) -> Room:
        room = await self._states.joined_room(room_id)
        await check_server(self._states, room, origin)
        return room

    async def _template(
        self, origin: ServerName, room: Room, user_id: UserId, content: dict[str, Any]
    ) -> Json:
        if server_of(user_id) != origin:
            raise Refused(f"{user_id} is no user of {origin}", rule="origin")
        draft = Draft(
            room_id=room.room_id, type=MEMBER, sender=user_id, content=content, state_key=user_id
        )
        template, before = await self._sender.template(room, draft)
        event = prototype(template, room.version)
        check_auth(event, await self._states.auth_state(before.state, event))
        return {"room_version": room.version.id, "event": template}

    def _parse_member(
        self, origin: ServerName, room: Room, event_id: EventId, json: Json, membership: str
    ) -> Pdu:
        """The event that a peer asks us to let in says what the endpoint is for."""
        pdu = Pdu.parse(json, room.version)
        if pdu.event_id != event_id:
            raise BadInput("the event has another ID", errcode="M_INVALID_PARAM")
        if pdu.room_id != room.room_id or pdu.membership != membership:
            raise BadInput(f"no {membership} event of this room", errcode="M_INVALID_PARAM")
        if pdu.sender != pdu.state_key or pdu.sender_server != origin:
            raise Refused("somebody else's membership", rule="origin")
        return pdu

    async def _let_in(self, room: Room, pdu: Pdu) -> KnownEvent:
        """Judge and append a member event; we send it on. Nothing is stored unless accepted."""
        checked = await self._verifier.check(pdu)
        named = {*checked.prev_events, *checked.auth_events}
        known = await self._states.events(named, place_matters=True)
        unknown = len(named - known.keys())
        if unknown or any(known[one].outlier for one in checked.prev_events):
            raise BadInput("the event does not stand on ours", errcode="M_INVALID_PARAM")
        # Its words are the answer, where a policy server refuses.
        checked = await self._policy_servers.sign(room, checked)
        decision = await self._acceptor.accept(
            room.room_id,
            checked,
            trace_id=self._new_trace(),
            outgoing=True,
            refuses_soft_failure=True,
        )
        if decision.verdict is not Verdict.ACCEPTED:
            raise Refused(decision.reason or "not allowed", rule=decision.rule)
        return await self._inside(pdu.event_id)

    # --- invites ----------------------------------------------------------------------------

    async def invite(
        self,
        origin: ServerName,
        room_id: RoomId,
        event_id: EventId,
        pdu: Json,
        room_version: RoomVersionId | None,
        invite_room_state: Sequence[Json],
    ) -> Json:
        """The event with our signature: `{"event": this}` in v2, `[200, {"event": this}]` in v1.

        `room_version` is None for v1, which names none: the room's where we know it, else 1, until
        we come in. Invites of the versions that v1 is for look the same.
        """
        room = await self._states.find_room(room_id)
        version = _invited_version(room, room_version)
        invite = Pdu.parse(pdu, version)
        if invite.event_id != event_id or invite.room_id != room_id:
            raise BadInput("the event is another one", errcode="M_INVALID_PARAM")
        if invite.membership != "invite" or invite.state_key is None:
            raise BadInput("the event is no invite", errcode="M_INVALID_PARAM")
        target = parse_user_id(invite.state_key)
        if server_of(target) != self._server_name:
            raise BadInput(f"{target} is no user of ours", errcode="M_INVALID_PARAM")
        if invite.sender_server != origin:
            raise Refused(f"the inviter is no user of {origin}", rule="origin")
        self._house.check_member(invite.sender, room_id, Scope.INVITES, door="invite")
        self._house.check_user(target, Scope.INVITES, door="invite")
        if version.event_format.room_id_from_create == (":" in room_id):
            raise BadInput(
                f"no room ID of version {version.id}: {room_id}", errcode="M_INVALID_PARAM"
            )
        if room is not None and room.version.id != version.id:
            raise BadInput(f"the room's version is {room.version.id}", errcode="M_INVALID_PARAM")
        if room is not None and room.joined:
            await check_server(self._states, room, origin)
        checked = await self._verifier.check(invite)
        if not await self._lookups.user_exists(target):
            raise NotFound(f"{target} does not exist")
        told = await look_at(self._verifier, invite_room_state, version, room_id)
        if told.wrong is not None:
            log.info("incomplete invite", room_id=room_id, peer=origin, reason=told.wrong)
            if version.whole_invite_state:
                raise BadInput(f"invite_room_state: {told.wrong}", errcode="M_INVALID_PARAM")
        signed = countersign(checked, key=self._key, server=self._server_name)
        if room is None or not room.joined:
            await self._outside.store_invite(
                signed,
                origin=origin,
                room_state=told.kept(version),
                trace_id=self._new_trace(),
            )
        return signed.wire()

    async def exchange_third_party_invite(
        self, origin: ServerName, room_id: RoomId, event: Json
    ) -> None:
        """`origin` shows that one of its users is whom one of ours invited by another name."""
        room = await self._open_room(origin, room_id)
        self._house.check_room(room_id, Scope.INVITES, door="invite")
        await self._exchange.invite(origin, room, event, trace_id=self._new_trace())

    # --- reading ----------------------------------------------------------------------------

    async def event(self, origin: ServerName, event_id: EventId) -> Json:
        """The PDU; the caller wraps it as a transaction."""
        known = await self._states.event(event_id)
        room = await self._readable_room(origin, known.pdu.room_id)
        pdu = await visible_form(self._states, room, known, origin)
        if pdu is None:
            raise NotFound(f"event {event_id} is not known")
        return pdu.wire()

    async def state(self, origin: ServerName, room_id: RoomId, event_id: EventId) -> Json:
        """`{"pdus", "auth_chain"}` before the event."""
        ids = await self._state_before(origin, room_id, event_id)
        chain = await self._states.drive(auth_chain(ids))
        return {
            "pdus": [one.pdu.wire() for one in await self._in_order(ids)],
            "auth_chain": [one.wire() for one in chain.values()],
        }

    async def state_ids(self, origin: ServerName, room_id: RoomId, event_id: EventId) -> Json:
        """`{"pdu_ids", "auth_chain_ids"}` before the event."""
        ids = await self._state_before(origin, room_id, event_id)
        chain = await self._states.drive(auth_chain(ids))
        return {"pdu_ids": sorted(ids), "auth_chain_ids": sorted(chain)}

    async def event_auth(self, origin: ServerName, room_id: RoomId, event_id: EventId) -> Json:
        """`{"auth_chain"}`."""
        room = await self._readable_room(origin, room_id)
        await self._event_of(room, event_id)
        chain = await self._states.drive(auth_chain([event_id]))
        return {"auth_chain": [one.wire() for one in chain.values()]}

    async def timestamp_to_event(
        self, origin: ServerName, room_id: RoomId, at_ms: int, *, forwards: bool
    ) -> Json:
        """`{"event_id", "origin_server_ts"}` of the closest event that this server may see.

        Where very many in a row are hidden from it, none is found."""
        room = await self._readable_room(origin, room_id)
        was_in: dict[int, bool] = {}
        for page in range(MAX_PAGES):
            found = await self._queries.closest(
                room_id, at_ms, forwards=forwards, limit=PAGE, skip=page * PAGE
            )
            for known in found:
                if await is_visible(self._states, room, known, origin, was_in):
                    return {
                        "event_id": known.pdu.event_id,
                        "origin_server_ts": known.pdu.origin_server_ts,
                    }
            if len(found) < PAGE:
                break
        raise NotFound("no event at that time")

    async def backfill(
        self, origin: ServerName, room_id: RoomId, event_ids: Sequence[EventId], limit: int
    ) -> list[Json]:
        """PDUs, newest first; the caller wraps them as a transaction."""
        room = await self._readable_room(origin, room_id)
        found = await self._walk(
            room,
            event_ids,
            stop=(),
            min_depth=0,
            limit=max(0, min(limit, self._bounds.backfill_events)),
            skip=(),
        )
        return await self._visible(room, found, origin)

    async def get_missing_events(
        self,
        origin: ServerName,
        room_id: RoomId,
        earliest: Sequence[EventId],
        latest: Sequence[EventId],
        limit: int,
        min_depth: int,
    ) -> list[Json]:
        """`{"events": this}`, oldest first. A server whose last user was just removed may still
        need what came before: it is given what happened while it was in."""
        room = await self._states.joined_room(room_id)
        is_in = await check_was_in_room(self._states, room, origin)
        found = await self._walk(
            room,
            latest,
            stop=set(earliest),
            min_depth=min_depth,
            limit=max(0, min(limit, self._bounds.missing_events)),
            skip=set(latest),
        )
        if not is_in:
            found = [one for one in found if await self._was_there(one, origin)]
        return await self._visible(room, found[::-1], origin)

    async def _was_there(self, known: KnownEvent, server: ServerName) -> bool:
        before = await self._states.before(known)
        return await has_member(self._states, before.state, server, ("join",))

    async def _readable_room(self, origin: ServerName, room_id: RoomId) -> Room:
        room = await self._states.joined_room(room_id)
        await check_in_room(self._states, room, origin)
        return room

    async def _event_of(self, room: Room, event_id: EventId) -> KnownEvent:
        known = await self._inside(event_id)
        if known.pdu.room_id != room.room_id:
            raise NotFound(f"event {event_id} is not known in this room")
        return known

    async def _inside(self, event_id: EventId) -> KnownEvent:
        known = (await self._states.events([event_id], place_matters=True)).get(event_id)
        if known is None:
            raise NotFound(f"event {event_id} is not known")
        return known

    async def _state_before(
        self, origin: ServerName, room_id: RoomId, event_id: EventId
    ) -> Collection[EventId]:
        room = await self._readable_room(origin, room_id)
        known = await self._event_of(room, event_id)
        return set((await self._states.before(known)).state.values())

    async def _in_order(self, event_ids: Iterable[EventId]) -> list[KnownEvent]:
        found = await self._states.events(event_ids)
        return sorted(found.values(), key=lambda one: (one.pdu.depth, one.pdu.event_id))

    async def _walk(
        self,
        room: Room,
        start: Sequence[EventId],
        *,
        stop: Collection[EventId],
        min_depth: int,
        limit: int,
        skip: Collection[EventId],
    ) -> list[KnownEvent]:
        """Back through the graph from `start`, deepest first."""
        heap: list[tuple[int, EventId]] = []
        reached: dict[EventId, KnownEvent] = {}
        found: list[KnownEvent] = []

        async def reach(event_ids: Iterable[EventId]) -> None:
            new = [one for one in event_ids if one not in reached and one not in stop]
            for event_id, known in (await self._states.events(new, place_matters=True)).items():
                if known.outlier or known.pdu.room_id != room.room_id:
                    continue
                if known.pdu.depth >= min_depth:
                    reached[event_id] = known
                    heapq.heappush(heap, (-known.pdu.depth, event_id))

        await reach(start[: self._bounds.backfill_events])
        while heap and len(found) < limit and len(reached) < self._bounds.walk_events:
            _, event_id = heapq.heappop(heap)
            known = reached[event_id]
            if event_id not in skip:
                found.append(known)
            await reach(known.pdu.prev_events)
        return found

    async def _visible(
        self, room: Room, found: Sequence[KnownEvent], origin: ServerName
    ) -> list[Json]:
        was_in: dict[int, bool] = {}
        pdus = [await visible_form(self._states, room, one, origin, was_in) for one in found]
        return [pdu.wire() for pdu in pdus if pdu is not None]


def _invited_version(room: Room | None, room_version: RoomVersionId | None) -> RoomVersion:
    if room_version is None:
        return room.version if room is not None and room.version.invited_by_v1 else UNNAMED
    version = VERSIONS.get(room_version)
    if version is None:
        raise IncompatibleVersion(room_version)
    return version
