"""Our users enter, leave, and bring others into rooms, where a peer has a part in it.

Joining a room that we are not in:
1. `make_join` at the servers of `via` in order; the template must say what was asked for.
2. Sign, `send_join`.
3. Verify the answer: signatures, hashes, the auth rules over the auth chain, the state and our
   join on it.
4. One commit: the state's events as outliers, the state before the join, what was written to an
   invited user meanwhile (`before_join`) or, of other rooms, the recent `past`, the join. Of a big
   room the outliers are stored before, part by part, so that other rooms are not held up.
A crash between 2 and 4 is healed by joining again. Knocking, and leaving (refusing an invite,
taking back a knock), are the same with less; an invite of a remote user is signed by that user's
server before it is appended.
Spec: S2S, joining rooms; knocking upon a room; leaving rooms; inviting to a room.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from bridge.clock import Clock
from bridge.engine.build import Draft, chosen_event_id, complete
from bridge.engine.canonical import JsonObject
from bridge.engine.keys import Signer
from bridge.engine.pdu import Pdu, linked_ids
from bridge.engine.receipt import Verdict, judge
from bridge.engine.signing import check_pdu_signature, signatures_of
from bridge.engine.state import CREATE, MEMBER
from bridge.engine.versions import UNNAMED, VERSIONS, RoomVersion, get_version
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomId, ServerName, TraceId, UserId, server_of
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.rooms.accept import STAGED, Acceptor, Judged, has_create, state_from
from bridge.rooms.append import Appender, Plan, Repeated, RoomLocks, forget_invites
from bridge.rooms.before_join import BeforeJoin, Take
from bridge.rooms.bounds import GraphBounds, note_reached
from bridge.rooms.create import member_content
from bridge.rooms.load import EMPTY, KnownEvent, Room, RoomStates, Snapshot
from bridge.rooms.network import Json, KeyRing, Lookups, Peers, UserProfile
from bridge.rooms.outside import Outside
from bridge.rooms.past import Found, Past
from bridge.rooms.restricted import find_voucher, needs_voucher
from bridge.rooms.send import Sender
from bridge.rooms.stripped import invite_state, look_at
from bridge.rooms.underway import Underway
from bridge.rooms.verify import MAX_KEYS_PER_SERVER, Verifier
from bridge.storage import events as event_rows
from bridge.storage import rooms as room_rows
from bridge.storage import version_hints
from bridge.storage.database import Database, Transaction
from bridge.telemetry.log import get_logger

MAX_VIA = 8
"""Servers tried for one handshake."""
SAME_KNOCK_MS = 60_000
"""Who knocks again within this time is still knocking. Later it is a new knock: some servers tell
nobody outside that they refused one."""
KNOCKED_VERSIONS = tuple(one for one, version in VERSIONS.items() if version.auth.knock_rules)

TEMPLATE_KEYS = (
    "type",
    "room_id",
    "sender",
    "state_key",
    "prev_events",
    "auth_events",
    "depth",
)
VOUCHER = "join_authorised_via_users_server"

log = get_logger("rooms")


class Handshake:
    """Joins, leaves and invites of users of this server."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        key: Signer,
        database: Database,
        states: RoomStates,
        appender: Appender,
        acceptor: Acceptor,
        sender: Sender,
        outside: Outside,
        verifier: Verifier,
        keyring: KeyRing,
        peers: Peers,
        underway: Underway,
        lookups: Lookups,
        take: Take,
        clock: Clock,
        bounds: GraphBounds,
        random_text: Callable[[], str],
        house: House,
    ) -> None:
        """`random_text`: of the IDs of our events, where they are no hashes."""
        self._house = house
        self._bounds = bounds
        self._server_name = server_name
        self._key = key
        self._database = database
        self._states = states
        self._appender = appender
        self._acceptor = acceptor
        self._sender = sender
        self._outside = outside
        self._verifier = verifier
        self._keyring = keyring
        self._peers = peers
        self._underway = underway
        self._lookups = lookups
        self._clock = clock
        self._random_text = random_text
        self._locks = RoomLocks()
        self._past = Past(
            states=states, acceptor=acceptor, verifier=verifier, peers=peers, bounds=bounds
        )
        self._before_join = BeforeJoin(
            states=states,
            past=self._past,
            outside=outside,
            verifier=verifier,
            peers=peers,
            take=take,
            clock=clock,
        )

    async def run(self) -> None:
        """What is left to do after a join, for ever."""
        await self._before_join.run()

    # --- join -------------------------------------------------------------------------------

    async def join(
        self,
        *,
        user_id: UserId,
        room_id: RoomId,
        via: Sequence[ServerName] = (),
        trace_id: TraceId,
        profile: UserProfile | None = None,
    ) -> None:
        """Idempotent. Raises `Refused` when those asked refuse, `Unavailable` when none answers."""
        self._house.check_member(user_id, room_id, Scope.JOINS, door="join")
        async with self._locks.locked(room_id):
            room = await self._states.find_room(room_id)
            if room is None or not room.joined:
                await self._join_remotely(user_id, room_id, via, trace_id, profile)
                return
            member = (await self._states.pick(room.state, ((MEMBER, user_id),))).get(
                (MEMBER, user_id)
            )
            if member is not None and member.membership == "join":
                return
            content = member_content("join", profile)
            if await needs_voucher(self._states, room, user_id):
                try:
                    voucher = await find_voucher(self._states, room, user_id, self._server_name)
                except Refused as exc:
                    if exc.errcode == "M_FORBIDDEN":
                        raise
                    await self._join_remotely(user_id, room_id, via, trace_id, profile)
                    return
                content[VOUCHER] = voucher
            await self._sender.send(
                room_id=room_id,
                sender=user_id,
                type=MEMBER,
                state_key=user_id,
                content=content,
                trace_id=trace_id,
            )

    async def _join_remotely(
        self,
        user_id: UserId,
        room_id: RoomId,
        via: Sequence[ServerName],
        trace_id: TraceId,
        profile: UserProfile | None,
    ) -> None:
        async def attempt(peer: ServerName) -> None:
            await self._join_at(peer, user_id, room_id, trace_id, profile)

        await self._ask_in_order(await self._candidates(room_id, user_id, via), room_id, attempt)

    async def _ask_in_order(
        self,
        peers: Sequence[ServerName],
        room_id: RoomId,
        attempt: Callable[[ServerName], Awaitable[None]],
    ) -> None:
        """Until one has let us in."""
        problem: Refused | Unavailable | NotFound | BadInput | None = None
        for peer in peers:
            try:
                await attempt(peer)
            except (Refused, Unavailable, NotFound, BadInput) as exc:
                log.info("not let in", peer=peer, room_id=room_id, reason=exc.reason)
                # A refusal says more than a server that is down.
                if problem is None or isinstance(problem, Unavailable):
                    problem = exc
                continue
            return
        raise problem or NotFound(f"no server is known that could let us into {room_id}")

    async def _candidates(
        self, room_id: RoomId, user_id: UserId, via: Sequence[ServerName]
    ) -> list[ServerName]:
        invite = await self._outside.find_invite(room_id, user_id)
        known = await self._database.read(lambda tx: room_rows.servers(tx, room_id))
        domain = room_id.partition(":")[2]
        wanted = [
            *([invite.origin] if invite is not None else []),
            *via,
            *sorted(known),
            *([ServerName(domain)] if domain else []),
        ]
        found = [one for one in dict.fromkeys(wanted) if one != self._server_name]
        return found[:MAX_VIA]

    async def _join_at(
        self,
        peer: ServerName,
        user_id: UserId,
        room_id: RoomId,
        trace_id: TraceId,
        profile: UserProfile | None,
    ) -> None:
        self._house.check_server(peer, Scope.JOINS, door="join")
        version_id, template = await self._peers.make_join(peer, room_id, user_id, list(VERSIONS))
        version = get_version(version_id)
        _check_template(template, room_id=room_id, user_id=user_id, membership="join")
        content = member_content("join", profile)
        voucher = template["content"].get(VOUCHER)
        if isinstance(voucher, str):
            content[VOUCHER] = voucher
        join = self._complete(template, content, version)
        self._states.joining[room_id] = version
        try:
            answer = await self._peers.send_join(peer, room_id, join.event_id, join.wire())
            join = await self._signed_by_resident(join, answer)
            await self._enter(peer, join, answer, trace_id)
        finally:
            self._states.joining.pop(room_id, None)

    def _complete(self, template: JsonObject, content: JsonObject, version: RoomVersion) -> Pdu:
        """Of the template only what places the event in the room: the rest would be said in the
        name of our user."""
        placed: JsonObject = {name: template[name] for name in TEMPLATE_KEYS if name in template}
        event = {**placed, "content": content, "origin_server_ts": self._clock.now_ms()}
        return complete(
            event,
            version=version,
            key=self._key,
            server=self._server_name,
            event_id=chosen_event_id(version, self._server_name, self._random_text),
        )

    async def _signed_by_resident(self, join: Pdu, answer: Json) -> Pdu:
        """The event as the resident server signed it, where it vouches for a restricted join."""
        event = answer.get("event")
        if not isinstance(event, dict):
            return join
        theirs = Pdu.parse(event, join.version)
        if not theirs.is_same(join):
            raise BadInput("the resident server answered with another event")
        return await self._verifier.check(theirs)

    async def _enter(self, peer: ServerName, join: Pdu, answer: Json, trace_id: TraceId) -> None:
        room = await self._states.find_room(join.room_id)
        if room is not None and room.joined:
            # A restricted join that another server had to vouch for.
            await self._acceptor.accept(join.room_id, join, trace_id=trace_id)
            return
        judged, state, fresh = await self._verify_state(join, answer)
        invite = await self._before_join.find_invite(join)
        if invite is None:
            past = await self._past.recent(peer, join, state, fresh)
        else:
            past = await self._before_join.find(peer, join, invite, state, fresh)
        if len(judged) > STAGED:
            await self._acceptor.stage_outliers(
                join.room_id, join.version, judged, trace_id=trace_id
            )
            judged = []

        async def attempt() -> None:
            plan, before = await self._plan_entry(join, state)
            plan.fresh.update(fresh)
            plan.fresh.update({known.pdu.event_id: known for known in past.outliers})
            outliers = (*(known for known, _ in judged), *past.outliers)
            plan.outliers = [(known, trace_id) for known in outliers]
            await self._appender.plan_members(plan, Snapshot(EMPTY), before)
            await self._plan_past(plan, past, before, trace_id, is_new=invite is not None)
            known = (await self._states.events([join.event_id])).get(join.event_id)
            await self._appender.add(
                plan, join, before=before, trace_id=trace_id, promoted=known is not None
            )
            plan.also.append(forget_invites(join.room_id))
            plan.also.append(_remember_version(peer, join.version))
            await self._appender.commit(plan, accepted_by=[(join.event_id, peer)])

        await self._appender.until_unmoved(join.room_id, attempt)
        log.info("room entered", room_id=join.room_id, peer=peer, version=join.version.id)
        if invite is not None:
            await self._before_join.take_newest(peer, join)

    async def _plan_past(
        self, plan: Plan, past: Found, before: Snapshot, trace_id: TraceId, *, is_new: bool
    ) -> None:
        """`is_new`: the bridge side hears of it, but for memberships that were over long ago."""
        bases: dict[int, Snapshot] = {}
        senders = {one.pdu.event_id: one.pdu.sender_server for one in past.written}
        redacted = await self._database.read(
            lambda tx: event_rows.find_redactions(tx, plan.room.room_id, senders)
        )
        for one in past.written:
            base = bases.get(id(one.before))
            if base is None:
                # One snapshot for all that was said in the same state.
                base = bases[id(one.before)] = before.with_state(one.before.state)
            await self._appender.add(
                plan,
                one.pdu,
                before=base,
                trace_id=trace_id,
                historic=True,
                shown=True,
                untold=not is_new or one.pdu.type == MEMBER,
                promoted=one.is_known,
                redacted_by=redacted.get(one.pdu.event_id),
            )

    async def _plan_entry(self, join: Pdu, state: Snapshot) -> tuple[Plan, Snapshot]:
        """A plan that starts from the given state: nothing before it is known."""
        self._states.forget_room(join.room_id)
        old = await self._states.find_room(join.room_id)
        if old is not None and old.version.id != join.version.id:
            raise Refused("the room had another version before", rule="state.version")
        row = await self._database.read(lambda tx: room_rows.find(tx, join.room_id))
        plan = self._appender.plan_new(join.room_id, join.version)
        plan.base = old
        plan.expected = None if row is None else row.position
        plan.replaces_members = True
        before = Snapshot(state.state) if old is None else old.snapshot.with_state(state.state)
        plan.room = replace(plan.room, snapshot=before, extremities={}, joined=True)
        return plan, before

    async def _verify_state(
        self, join: Pdu, answer: Json
    ) -> tuple[Judged, Snapshot, dict[EventId, KnownEvent]]:
        """Step 3. Raises `Refused` or `BadInput`: do not believe this server."""
        state, chain = answer.get("state"), answer.get("auth_chain")
        if not isinstance(state, list) or not isinstance(chain, list):
            raise BadInput("send_join answered without state or auth chain")
        if len(state) + len(chain) > self._bounds.join_events:
            note_reached("join_events", room_id=join.room_id, event_id=join.event_id)
            raise Refused("the room is too large", rule="bounds.state")
        in_state = await self._verifier.check_all(state, join.version, join.room_id)
        behind = await self._verifier.check_all(chain, join.version, join.room_id)
        create = next((pdu for pdu in (*in_state, *behind) if pdu.key == CREATE), None)
        if create is None:
            raise Refused("the answer has no create event", rule="state.create")
        judged = await self._acceptor.judge_outliers([*behind, *in_state], create=create)
        fresh = {known.pdu.event_id: known for known, _ in judged}
        fresh |= {
            event_id: known
            for event_id, known in (
                await self._states.events([pdu.event_id for pdu in in_state], fresh)
            ).items()
            if event_id not in fresh
        }
        listed = [fresh[pdu.event_id] for pdu in in_state if pdu.event_id in fresh]
        state_map = state_from(listed)
        if not has_create(state_map, join.room_id, fresh):
            raise Refused("the state has no create event of this room", rule="state.create")
        if create.content.get("room_version", UNNAMED.id) != join.version.id:
            raise Refused("the room has another version than was said", rule="state.version")
        auth = await self._states.events(join.auth_events, fresh)
        snapshot = Snapshot(EMPTY).with_state(state_map)
        decision = judge(
            join,
            create=fresh[state_map[CREATE]].pdu,
            auth_events={event_id: known.pdu for event_id, known in auth.items()},
            state_before=await self._states.auth_state(snapshot.state, join, fresh),
            current_state=None,
            rejected=[event_id for event_id, known in auth.items() if known.is_rejected],
        )
        if decision.verdict is not Verdict.ACCEPTED:
            raise Refused(f"our join is not allowed: {decision.reason}", rule=decision.rule)
        return judged, snapshot, dict(fresh)

    # --- knock ------------------------------------------------------------------------------

    async def knock(
        self,
        *,
        user_id: UserId,
        room_id: RoomId,
        via: Sequence[ServerName] = (),
        trace_id: TraceId,
        profile: UserProfile | None = None,
        reason: str | None = None,
    ) -> None:
        """Ask to be invited. Nothing to do for who just did. Raises as `join` does."""
        content = member_content("knock", profile, reason=reason)
        self._house.check_member(user_id, room_id, Scope.KNOCKS, door="knock")
        async with self._locks.locked(room_id):
            room = await self._states.find_room(room_id)
            if room is not None and room.joined:
                await self._knock_here(room, user_id, content, trace_id)
                return
            knock = await self._outside.find_knock(room_id, user_id)
            if knock is not None and self._clock.now_ms() - knock.received_ms < SAME_KNOCK_MS:
                return

            async def attempt(peer: ServerName) -> None:
                await self._knock_at(peer, user_id, room_id, trace_id, content)

            peers = await self._candidates(room_id, user_id, via)
            await self._ask_in_order(peers, room_id, attempt)

    async def _knock_here(
        self, room: Room, user_id: UserId, content: JsonObject, trace_id: TraceId
    ) -> None:
        member = (await self._states.pick(room.state, ((MEMBER, user_id),))).get((MEMBER, user_id))
        if member is not None and member.membership == "knock":
            return
        await self._sender.send(
            room_id=room.room_id,
            sender=user_id,
            type=MEMBER,
            state_key=user_id,
            content=content,
            trace_id=trace_id,
        )

    async def _knock_at(
        self,
        peer: ServerName,
        user_id: UserId,
        room_id: RoomId,
        trace_id: TraceId,
        content: JsonObject,
    ) -> None:
        self._house.check_server(peer, Scope.KNOCKS, door="knock")
        version_id, template = await self._peers.make_knock(
            peer, room_id, user_id, KNOCKED_VERSIONS
        )
        version = get_version(version_id)
        if version_id not in KNOCKED_VERSIONS:
            raise BadInput(f"nobody knocks on rooms of version {version_id}")
        _check_template(template, room_id=room_id, user_id=user_id, membership="knock")
        knock = self._complete(template, content, version)
        state = await self._peers.send_knock(peer, room_id, knock.event_id, knock.wire())
        told = await look_at(self._verifier, state, version, room_id)
        if told.wrong is not None:
            log.info("incomplete knock", room_id=room_id, peer=peer, reason=told.wrong)
        await self._outside.store_knock(
            knock, peer=peer, room_state=told.kept(version), trace_id=trace_id
        )
        log.info("knocked", room_id=room_id, peer=peer, version=version.id)

    # --- leave ------------------------------------------------------------------------------

    async def leave(
        self,
        *,
        user_id: UserId,
        room_id: RoomId,
        trace_id: TraceId,
        reason: str | None = None,
    ) -> None:
        """Leave a room, refuse an invite to it, or take back a knock on it. Idempotent."""
        async with self._locks.locked(room_id):
            room = await self._states.find_room(room_id)
            if room is not None and room.joined:
                await self._leave_here(room, user_id, trace_id, reason)
            else:
                await self._leave_outside(user_id, room_id, trace_id, reason)

    async def _leave_here(
        self, room: Room, user_id: UserId, trace_id: TraceId, reason: str | None
    ) -> None:
        member = (await self._states.pick(room.state, ((MEMBER, user_id),))).get((MEMBER, user_id))
        if member is None or member.membership not in ("join", "invite", "knock"):
            return
        await self._sender.send(
            room_id=room.room_id,
            sender=user_id,
            type=MEMBER,
            state_key=user_id,
            content=member_content("leave", None, reason=reason),
            trace_id=trace_id,
        )

    async def _leave_outside(
        self, user_id: UserId, room_id: RoomId, trace_id: TraceId, reason: str | None
    ) -> None:
        row = await self._database.read(lambda tx: room_rows.member(tx, room_id, user_id))
        if row is None or row.membership not in ("invite", "knock"):
            return
        problem: Unavailable | None = None
        for peer in await self._candidates(room_id, user_id, ()):
            try:
                leave = await self._leave_at(peer, user_id, room_id, reason)
            except Unavailable as exc:
                problem = exc
                continue
            except (Refused, NotFound, BadInput) as exc:
                log.info("leave refused", peer=peer, room_id=room_id, reason=exc.reason)
                continue
            await self._outside.put_end(leave, trace_id=trace_id)
            return
        if problem is not None:
            raise problem
        await self._outside.forget_invite(room_id, user_id)

    async def _leave_at(
        self, peer: ServerName, user_id: UserId, room_id: RoomId, reason: str | None
    ) -> Pdu:
        version_id, template = await self._peers.make_leave(peer, room_id, user_id)
        version = get_version(version_id)
        _check_template(template, room_id=room_id, user_id=user_id, membership="leave")
        content = member_content("leave", None, reason=reason)
        leave = self._complete(template, content, version)
        await self._peers.send_leave(peer, room_id, leave.event_id, leave.wire())
        return leave

    async def heads_at(
        self, peer: ServerName, *, user_id: UserId, room_id: RoomId
    ) -> list[EventId]:
        """The events on which a peer would build now: what it shows is these and their past. Asked
        by a template for leaving, which nobody sends. Spec: S2S, GET /make_leave."""
        _, template = await self._peers.make_leave(peer, room_id, user_id)
        return linked_ids(template.get("prev_events"))

    # --- invite -----------------------------------------------------------------------------

    async def invite(
        self,
        *,
        room_id: RoomId,
        sender: UserId,
        target: UserId,
        transaction_id: str,
        trace_id: TraceId,
        is_direct: bool = False,
        reason: str | None = None,
    ) -> None:
        """Done when the target's server took it. Nothing to do for who is invited or in."""
        if await self._sender.find_sent(transaction_id) is not None:
            return
        self._house.check_member(sender, room_id, Scope.INVITES, door="invite")
        self._house.check_user(target, Scope.INVITES, door="invite")
        room = await self._states.joined_room(room_id)
        member = (await self._states.pick(room.state, ((MEMBER, target),))).get((MEMBER, target))
        if member is not None and member.membership in ("join", "invite"):
            return
        content = member_content("invite", None, reason=reason, is_direct=is_direct)
        peer = server_of(target)
        if peer == self._server_name:
            if not await self._lookups.user_exists(target):
                raise NotFound(f"{target} does not exist")
            await self._sender.send(
                room_id=room_id,
                sender=sender,
                type=MEMBER,
                state_key=target,
                content=content,
                trace_id=trace_id,
                transaction_id=transaction_id,
            )
            return
        draft = Draft(
            room_id=room_id, type=MEMBER, sender=sender, content=content, state_key=target
        )
        await self.invite_drafted(room, draft, transaction_id=transaction_id, trace_id=trace_id)

    async def invite_drafted(
        self, room: Room, draft: Draft, *, transaction_id: str | None, trace_id: TraceId
    ) -> None:
        """Of a user of another server, who is neither invited nor in."""
        target = UserId(draft.state_key or "")
        peer = server_of(target)
        invite, _ = await self._sender.build(room, draft)
        stripped = await invite_state(self._states, room, draft.sender)
        with self._underway.inviting(room.room_id, target):
            answer = await self._peers.invite(
                peer, room.room_id, invite.event_id, invite.wire(), room.version.id, stripped
            )
            signed = await self._signed_by_invited(invite, peer, answer)
            await self._append_invite(signed, peer, transaction_id, trace_id)

    async def _signed_by_invited(self, invite: Pdu, peer: ServerName, answer: Json) -> Pdu:
        """Our event with the peer's valid signature beside ours."""
        theirs = signatures_of(answer, peer)
        if not theirs:
            raise BadInput(f"{peer} did not sign the invite")
        ours = invite.json["signatures"]
        # The peer may be the room's policy server, too, whose signature is there already.
        signatures = {**ours, peer: {**ours.get(peer, {}), **theirs}}
        signed = Pdu.parse({**invite.json, "signatures": signatures}, invite.version)
        for key_id in sorted(theirs)[:MAX_KEYS_PER_SERVER]:
            text = await self._keyring.verify_key(peer, key_id, invite.origin_server_ts)
            if text is not None and check_pdu_signature(
                signed, server=peer, key_id=key_id, verify_key=text
            ):
                return signed
        raise BadInput(f"{peer} did not sign the invite validly")

    async def _append_invite(
        self, invite: Pdu, peer: ServerName, transaction_id: str | None, trace_id: TraceId
    ) -> None:
        async def attempt() -> None:
            room = await self._states.joined_room(invite.room_id)
            before = await self._acceptor.state_before(room, invite)
            decision = await self._acceptor.judge(room, invite, before)
            if decision.verdict is not Verdict.ACCEPTED:
                raise Refused(decision.reason, rule=decision.rule)
            plan = self._appender.plan(room)
            await self._appender.add(plan, invite, before=before, trace_id=trace_id, outgoing=True)
            plan.also.append(_remember_version(peer, invite.version))
            await self._appender.commit(
                plan,
                transaction_id=transaction_id,
                answers=invite.event_id,
                accepted_by=[(invite.event_id, peer)],
            )

        try:
            await self._appender.until_unmoved(invite.room_id, attempt)
        except Repeated:
            return


def _check_template(template: Json, *, room_id: RoomId, user_id: UserId, membership: str) -> None:
    """Spec: S2S, joining rooms: we sign only what we asked for."""
    content = template.get("content")
    if (
        template.get("type") != MEMBER
        or template.get("room_id") != room_id
        or template.get("sender") != user_id
        or template.get("state_key") != user_id
        or not isinstance(content, dict)
        or content.get("membership") != membership
    ):
        raise BadInput("the template is not what was asked for")


def _remember_version(peer: ServerName, version: RoomVersion) -> Callable[[Transaction], None]:
    def write(tx: Transaction) -> None:
        version_hints.put(tx, peer, {version.id: True})

    return write
