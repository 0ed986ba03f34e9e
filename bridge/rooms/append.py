"""The append: events enter a room's graph, its state and the arrival order in one commit.

1. A `Plan` starts from the room's head, read without a lock, and grows in memory: each event's
   state before, the new forward extremities and current state, memberships, redactions.
2. The commit compares the room's position and raises `Conflict` if it moved: whoever planned plans
   again (a local event is built and signed again).
3. Events, edges, extremities, snapshots, memberships, redactions, stream positions, acceptances,
   and the answer to whoever asked for it are that one commit; then readers are woken.

One owner per room in this process: plan and commit under `locked(room_id)`. The position guards
against other processes. DESIGN of the house: Append. Spec: S2S, PDUs; soft failure; rejection.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bridge.clock import Clock
from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels
from bridge.engine.redaction import may_apply_redaction, may_redact_anything
from bridge.engine.state import CREATE, MEMBER, POWER_LEVELS, StateKey
from bridge.engine.versions import RoomVersion
from bridge.errors import BadInput, Conflict, Unavailable
from bridge.ids import EventId, RoomId, ServerName, TraceId, UserId, parse_user_id, server_of
from bridge.rooms.bounds import DEFAULTS, GraphBounds, note_reached
from bridge.rooms.listing import LISTED, fields_of
from bridge.rooms.load import (
    EMPTY,
    KnownEvent,
    Room,
    RoomStates,
    Snapshot,
    settle_snapshots,
    store_snapshot,
)
from bridge.storage import events as event_rows
from bridge.storage import inbound, invites, published, streams
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.schema import stream_acceptances, stream_events
from bridge.telemetry.log import get_logger

log = get_logger("rooms")

EVENTS_TOPIC = "events"
FEDERATION_TOPIC = "federation"
LOCK_TIMEOUT_S = 120.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """One event of a plan."""

    pdu: Pdu
    verdict: str
    rule: str | None
    before: Snapshot
    outgoing: bool
    streamed: bool
    untold: bool
    """Its place in the arrival order is history: the bridge side does not hear of it."""
    promoted: bool
    """It was known as an outlier."""
    trace_id: TraceId


@dataclass(slots=True, kw_only=True)
class Plan:
    """What one commit will write. `room` is the head as it will be."""

    base: Room | None
    """None: the room is new to us."""
    room: Room
    expected: int | None
    """The stored position; None: there is no row."""
    additions: list[Addition] = field(default_factory=list)
    outliers: list[tuple[KnownEvent, TraceId]] = field(default_factory=list)
    fresh: dict[EventId, KnownEvent] = field(default_factory=dict)
    afters: dict[EventId, Snapshot] = field(default_factory=dict)
    members: dict[UserId, room_rows.MemberRow | None] = field(default_factory=dict)
    """What changed in the current state; None: no member event any more."""
    replaces_members: bool = False
    listed: dict[StateKey, Pdu | None] = field(default_factory=dict)
    """What changed of the current state that a room list shows."""
    redactions: dict[EventId, tuple[KnownEvent, EventId]] = field(default_factory=dict)
    """Those that take effect, by their target."""
    redaction_rows: list[event_rows.RedactionRow] = field(default_factory=list)
    also: list[Callable[[Transaction], None]] = field(default_factory=list)
    """Rows that belong into the same commit."""


class Repeated(Exception):
    """The transaction ID was used before: this is what it did then."""

    def __init__(self, room_id: RoomId, event_id: EventId | None) -> None:
        super().__init__(room_id, event_id)
        self.room_id = room_id
        self.event_id = event_id


class RoomLocks:
    """One lock per room, for as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[RoomId, tuple[asyncio.Lock, int]] = {}

    def is_busy(self, room_id: RoomId) -> bool:
        return room_id in self._locks

    @asynccontextmanager
    async def locked(self, room_id: RoomId) -> AsyncIterator[None]:
        """Raises `Unavailable` when it takes too long to get a turn."""
        lock, users = self._locks.get(room_id, (asyncio.Lock(), 0))
        self._locks[room_id] = (lock, users + 1)
        try:
            try:
                async with asyncio.timeout(LOCK_TIMEOUT_S):
                    await lock.acquire()
            except TimeoutError as exc:
                raise Unavailable(f"room {room_id} is busy") from exc
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._locks[room_id]
            if users == 1:
                del self._locks[room_id]
            else:
                self._locks[room_id] = (lock, users - 1)


class Appender:
    """Plans and commits."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        states: RoomStates,
        clock: Clock,
        bounds: GraphBounds = DEFAULTS,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._states = states
        self._clock = clock
        self._bounds = bounds
        self._locks = RoomLocks()

    def is_ours(self, user_id: UserId) -> bool:
        return server_of(user_id) == self._server_name

    def is_busy(self, room_id: RoomId) -> bool:
        return self._locks.is_busy(room_id)

    def locked(self, room_id: RoomId) -> AbstractAsyncContextManager[None]:
        """The room's lane. Never wait for a peer inside it."""
        return self._locks.locked(room_id)

    async def until_unmoved(self, room_id: RoomId, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run `attempt` in the room's lane, again whenever the room moved under it."""
        async with self.locked(room_id):
            for _ in range(self._bounds.append_attempts):
                try:
                    return await attempt()
                except Conflict:
                    self._states.forget_room(room_id)
        raise Unavailable(f"room {room_id} moves too fast")

    # --- planning ---------------------------------------------------------------------------

    def plan(self, room: Room) -> Plan:
        return Plan(base=room, room=room, expected=room.position)

    def plan_new(self, room_id: RoomId, version: RoomVersion) -> Plan:
        """A room that has no row yet."""
        room = Room(
            room_id=room_id,
            version=version,
            position=0,
            joined=True,
            snapshot=Snapshot(EMPTY),
            extremities={},
        )
        return Plan(base=None, room=room, expected=None)

    async def add(
        self,
        plan: Plan,
        pdu: Pdu,
        *,
        before: Snapshot,
        trace_id: TraceId,
        verdict: str = event_rows.ACCEPTED,
        rule: str | None = None,
        outgoing: bool = False,
        historic: bool = False,
        shown: bool = False,
        untold: bool = False,
        late: bool = False,
        promoted: bool = False,
        redacted_by: EventId | None = None,
    ) -> None:
        """Plan one event.

        `historic`: something after it is known already, so that it changes neither the extremities
        nor the current state, and has no place in the arrival order. `shown`: it has one
        nevertheless, where `untold` as history, not as new; so it has if it comes `late`, what
        came after it having been entered on a state that a peer gave. `redacted_by`: a stored
        redaction that takes effect on it.
        """
        accepted = verdict == event_rows.ACCEPTED
        addition = Addition(
            pdu=pdu,
            verdict=verdict,
            rule=rule,
            before=before,
            outgoing=outgoing,
            streamed=accepted and (shown or late or not historic),
            untold=untold,
            promoted=promoted,
            trace_id=trace_id,
        )
        plan.additions.append(addition)
        plan.fresh[pdu.event_id] = KnownEvent(
            pdu=Pdu.trusted(
                pdu.json, pdu.version, pdu.event_id, rejected=verdict == event_rows.REJECTED
            ),
            verdict=verdict,
            outlier=False,
            snapshot_before=None,
        )
        after = before if verdict == event_rows.REJECTED else before.with_event(pdu)
        if after.is_same(plan.room.snapshot):
            after = plan.room.snapshot
        plan.afters[pdu.event_id] = after
        if verdict != event_rows.REJECTED:
            self._plan_late_redaction(plan, pdu, redacted_by)
        if not accepted:
            return
        if not historic:
            await self._move_head(plan, pdu, after)
        await self._plan_redactions(plan, pdu, before, past=historic and shown)

    async def _move_head(self, plan: Plan, pdu: Pdu, after: Snapshot) -> None:
        before, old = plan.room.extremities, plan.room.snapshot
        prev = set(pdu.prev_events)
        kept = {key: depth for key, depth in before.items() if key not in prev}
        extremities = {**kept, pdu.event_id: pdu.depth}
        if len(extremities) > self._bounds.extremities:
            extremities = await self._trim(plan, extremities)
        if not kept:
            new = after
        elif await self._marks(plan, extremities) == await self._marks(plan, before):
            new = old  # The same states beside each other as before.
        else:
            ids = sorted(extremities)
            new = await self._states.merged(ids, plan.room.version, plan.afters, plan.fresh)
            if new is not old and new.state == old.state:
                new = old
        plan.room = replace(plan.room, snapshot=new, extremities=extremities)
        await self.plan_members(plan, old, new)

    async def _marks(self, plan: Plan, event_ids: Iterable[EventId]) -> frozenset[int]:
        """What tells the different states after these events."""
        found = [await self._states.after(one, plan.afters) for one in event_ids]
        return frozenset(snapshot.mark for snapshot in found)

    async def _trim(self, plan: Plan, extremities: dict[EventId, int]) -> dict[EventId, int]:
        """Let go what others stand for, and beyond the bound of states what one server has most."""
        chosen = await self._states.choose_extremities(
            extremities, plan.afters, limit=self._bounds.extremities
        )
        ids = list(chosen.event_ids)
        if chosen.states > self._bounds.extremity_states:
            note_reached("extremity_states", room_id=plan.room.room_id, event_id=ids[-1])
            found = await self._states.events(ids, plan.fresh)
            servers = {one: known.pdu.sender_server for one, known in found.items()}
            while len(ids) > self._bounds.extremity_states:
                counts = Counter(servers[one] for one in ids)
                most = max(counts.values())
                ids.remove(next(one for one in reversed(ids) if counts[servers[one]] == most))
        return {one: extremities[one] for one in ids}

    async def plan_members(self, plan: Plan, old: Snapshot, new: Snapshot) -> None:
        """Note which member events the current state exchanges, and what a room list shows."""
        if new is old:
            return
        if new.parent is old:
            changed = [(kind, key, event) for kind, key, event in new.delta if kind == MEMBER]
        else:
            changed = [
                (kind, key, event)
                for (kind, key), event in new.state.items()
                if kind == MEMBER and old.state.get((kind, key)) != event
            ]
            changed += [
                (kind, key, None)
                for kind, key in old.state
                if kind == MEMBER and (kind, key) not in new.state
            ]
        wanted = [event for _, _, event in changed if event is not None]
        listed = {
            key: new.state.get(key) for key in LISTED if new.state.get(key) != old.state.get(key)
        }
        wanted += [event for event in listed.values() if event is not None]
        found = await self._states.events(wanted, plan.fresh)
        for state_key, event_id in listed.items():
            shown = None if event_id is None else found.get(event_id)
            plan.listed[state_key] = None if shown is None else shown.pdu
        for _, key, event_id in changed:
            try:
                user_id = parse_user_id(key)
            except BadInput:
                continue
            known = None if event_id is None else found.get(event_id)
            plan.members[user_id] = None if known is None else member_row(known.pdu)

    async def _plan_redactions(self, plan: Plan, pdu: Pdu, before: Snapshot, past: bool) -> None:
        """A redaction: is its target here, and what will be true for one that comes later?

        Its sender's power counts in the state that the redaction stands on, as for every rule; and,
        as for soft failure, in the current state when it comes, or whoever lost their power could
        go back in the graph and redact everything. `past`: it does not come now.
        Spec: rooms/v3, handling redactions; S2S, soft failure.
        """
        target_id = pdu.redacts
        if target_id is None:
            return
        states = [before] if past else [before, plan.room.snapshot]
        powers = [await self._power(plan, state) for state in states]
        plan.redaction_rows.append(
            event_rows.RedactionRow(
                target_id=target_id,
                event_id=pdu.event_id,
                room_id=pdu.room_id,
                server=pdu.sender_server,
                by_power=all(may_redact_anything(pdu, power) for power in powers),
            )
        )
        known = await self._states.events([target_id], plan.fresh, place_matters=True)
        target = known.get(target_id)
        if target is None or target.redacted or target.is_rejected:
            return
        if target_id in plan.redactions:
            return
        if all(may_apply_redaction(pdu, target.pdu, power) for power in powers):
            plan.redactions[target_id] = (target, pdu.event_id)
        else:
            # Like a soft failure: other servers may have heard of the loss of power later.
            log.info(
                "redaction not applied",
                room_id=pdu.room_id,
                event_id=pdu.event_id,
                target=target_id,
                rule="redaction.level",
            )

    def _plan_late_redaction(self, plan: Plan, pdu: Pdu, redacted_by: EventId | None) -> None:
        """The event came after its redaction, which is stored or in this plan."""
        for row in plan.redaction_rows:
            is_right = row.by_power or row.server == pdu.sender_server
            if row.target_id == pdu.event_id and row.room_id == pdu.room_id and is_right:
                redacted_by = redacted_by or row.event_id
        if redacted_by is not None:
            plan.redactions[pdu.event_id] = (plan.fresh[pdu.event_id], redacted_by)

    async def _power(self, plan: Plan, snapshot: Snapshot) -> PowerLevels:
        found = await self._states.pick(snapshot.state, (POWER_LEVELS, CREATE), plan.fresh)
        return PowerLevels.of(found.get(POWER_LEVELS), found.get(CREATE))

    # --- committing -------------------------------------------------------------------------

    async def commit(
        self,
        plan: Plan,
        *,
        transaction_id: str | None = None,
        answers: EventId | None = None,
        accepted_by: Iterable[tuple[EventId, ServerName]] = (),
        outcomes: Sequence[tuple[EventId, str]] = (),
        preceded_by: Sequence[Plan] = (),
    ) -> None:
        """Write the plan. Raises `Conflict`, or `Repeated` when the transaction ID was used.

        `answers`: the event that the transaction ID stands for. `outcomes`: rows of the inbound
        queue that are worked off with it. `preceded_by`: plans of other rooms, whose locks the
        caller holds as well, that are written before it in the same commit.
        """
        now_ms = self._clock.now_ms()
        accepted_by = list(accepted_by)
        plans = [*preceded_by, plan]

        def unit(tx: Transaction) -> list[tuple[dict[Snapshot, tuple[int, int]], bool]]:
            if transaction_id is not None:
                there = event_rows.find_local_transaction(tx, transaction_id)
                if there is not None:
                    raise Repeated(*there)
            written: list[tuple[dict[Snapshot, tuple[int, int]], bool]] = []
            for one in plans:
                stored: dict[Snapshot, tuple[int, int]] = {}
                written.append((stored, self._write_room(tx, one, stored, now_ms)))
            if transaction_id is not None:
                event_rows.insert_local_transaction(
                    tx,
                    transaction_id,
                    room_id=plan.room.room_id,
                    event_id=answers,
                    at_ms=now_ms,
                )
            for event_id, server in accepted_by:
                streams.append(
                    tx,
                    stream_acceptances,
                    {
                        "event_id": event_id,
                        "room_id": plan.room.room_id,
                        "server": server,
                        "error": None,
                    },
                )
            inbound.finish_all(tx, outcomes)
            for write in (write for one in plans for write in one.also):
                write(tx)
            additions = [addition for one in plans for addition in one.additions]
            if any(one.streamed for one in additions) or accepted_by:
                tx.wake(EVENTS_TOPIC)
            if any(one.outgoing for one in additions):
                tx.wake(FEDERATION_TOPIC)
            return written

        for one, (stored, joined) in zip(plans, await self._database.write(unit), strict=True):
            self._settle(one, stored, joined)

    def _write_room(
        self,
        tx: Transaction,
        plan: Plan,
        stored: dict[Snapshot, tuple[int, int]],
        now_ms: int,
    ) -> bool:
        """Returns whether we are in the room afterwards."""
        room, base = plan.room, plan.base
        self._lock_room(tx, plan)
        if plan.outliers:
            event_rows.insert_outliers(
                tx,
                (
                    event_row(known, None, trace_id=trace_id, rule=None, now_ms=now_ms)
                    for known, trace_id in plan.outliers
                ),
            )
        self._write_events(tx, plan, stored, now_ms)
        gone = set() if base is None else base.extremities.keys() - room.extremities.keys()
        new = room.extremities.keys() - (set() if base is None else base.extremities.keys())
        room_rows.change_extremities(tx, room.room_id, gone=gone, new=new)
        self._write_redactions(tx, plan)
        joined = room.joined
        if plan.members or plan.replaces_members:
            room_rows.set_members(
                tx,
                room.room_id,
                changed=[row for row in plan.members.values() if row is not None],
                gone=[user for user, row in plan.members.items() if row is None],
                replace=plan.replaces_members,
            )
            if any(server_of(user) == self._server_name for user in plan.members):
                count = room_rows.count_joined(tx, room.room_id, self._server_name)
                joined = count > 0
        if base is None or room.snapshot is not base.snapshot or joined != base.joined:
            room_rows.set_state(
                tx,
                room.room_id,
                snapshot_id=self._store_snapshot(tx, plan, room.snapshot, stored),
                joined=joined,
            )
        self._write_listing(tx, plan, joined)
        return joined

    def _write_listing(self, tx: Transaction, plan: Plan, joined: bool) -> None:
        """Rooms that are not listed have no row, and this finds none."""
        room_id, changed = plan.room.room_id, dict(plan.listed)
        if plan.replaces_members:
            changed = dict.fromkeys(LISTED) | changed
        for target, _ in plan.redactions.values():
            key = target.pdu.key
            if key in LISTED and plan.room.state.get(key) == target.pdu.event_id:
                changed[key] = target.pdu.redacted()
        if changed:
            published.change(
                tx,
                room_id,
                {
                    name: one
                    for key, pdu in changed.items()
                    for name, one in fields_of(key, pdu).items()
                },
            )
        if plan.members or plan.replaces_members or plan.base is None or joined != plan.base.joined:
            published.recount(tx, room_id, joined=joined)

    def _lock_room(self, tx: Transaction, plan: Plan) -> None:
        if plan.expected is not None:
            room_rows.advance(tx, plan.room.room_id, expected=plan.expected)
            if plan.base is None:
                room_rows.set_version(tx, plan.room.room_id, plan.room.version.id)
            return
        if room_rows.find(tx, plan.room.room_id) is not None:
            raise Conflict(f"room {plan.room.room_id} appeared")
        room_rows.insert_room(
            tx,
            room_rows.RoomRow(
                room_id=plan.room.room_id,
                version=plan.room.version.id,
                position=1,
                snapshot_id=None,
                joined=True,
            ),
        )

    def _write_events(
        self,
        tx: Transaction,
        plan: Plan,
        stored: dict[Snapshot, tuple[int, int]],
        now_ms: int,
    ) -> None:
        new: list[tuple[event_rows.EventRow, Sequence[EventId]]] = []
        positions: list[dict[str, object]] = []
        for one in plan.additions:
            before = self._store_snapshot(tx, plan, one.before, stored)
            known = plan.fresh[one.pdu.event_id]
            row = event_row(known, before, trace_id=one.trace_id, rule=one.rule, now_ms=now_ms)
            streamed = one.streamed
            if one.promoted:
                event_rows.promote_outlier(tx, row, one.pdu.prev_events)
                # An invite from outside, or its end, has its place already.
                streamed = streamed and not event_rows.is_streamed(tx, one.pdu.event_id)
            else:
                new.append((row, one.pdu.prev_events))
            if streamed:
                positions.append(
                    {
                        "room_id": plan.room.room_id,
                        "event_id": one.pdu.event_id,
                        "outgoing": one.outgoing,
                        "historic": one.untold,
                    }
                )
        event_rows.insert_events(tx, new)
        streams.append_all(tx, stream_events, positions)

    def _store_snapshot(
        self,
        tx: Transaction,
        plan: Plan,
        snapshot: Snapshot,
        stored: dict[Snapshot, tuple[int, int]],
    ) -> int:
        hops = self._bounds.snapshot_hops
        return store_snapshot(tx, plan.room.room_id, snapshot, stored, max_hops=hops)

    def _write_redactions(self, tx: Transaction, plan: Plan) -> None:
        for row in plan.redaction_rows:
            event_rows.insert_redaction(tx, row)
        for target, by in plan.redactions.values():
            event_rows.set_redacted(
                tx,
                target.pdu.event_id,
                by=by,
                json=target.pdu.redacted().canonical().decode(),
            )

    def _settle(self, plan: Plan, stored: dict[Snapshot, tuple[int, int]], joined: bool) -> None:
        """The commit stands: let the caches know."""
        settle_snapshots(stored)
        self._states.keep_snapshots(stored)
        for one in plan.additions:
            known = plan.fresh[one.pdu.event_id]
            self._states.keep_event(replace(known, snapshot_before=one.before.row_id))
            self._states.keep_after(one.pdu.event_id, plan.afters[one.pdu.event_id])
        for target, _ in plan.redactions.values():
            self._states.forget_event(target.pdu.event_id)
        self._states.keep_room(
            replace(
                plan.room,
                position=1 if plan.expected is None else plan.expected + 1,
                joined=joined,
            )
        )


def member_row(pdu: Pdu) -> room_rows.MemberRow | None:
    """None for a member event without a membership (never accepted by the rules)."""
    membership, user = pdu.membership, pdu.state_key
    if membership is None or user is None:
        return None
    user_id = UserId(user)
    return room_rows.MemberRow(
        user_id=user_id,
        server=server_of(user_id),
        membership=membership,
        event_id=pdu.event_id,
    )


def event_row(
    known: KnownEvent,
    snapshot_before: int | None,
    *,
    trace_id: TraceId,
    rule: str | None,
    now_ms: int,
) -> event_rows.EventRow:
    pdu = known.pdu
    return event_rows.EventRow(
        event_id=pdu.event_id,
        room_id=pdu.room_id,
        type=pdu.type,
        state_key=pdu.state_key,
        sender=pdu.sender,
        depth=pdu.depth,
        origin_server_ts=pdu.origin_server_ts,
        json=pdu.canonical().decode(),
        verdict=known.verdict,
        rule=rule,
        outlier=known.outlier,
        snapshot_before=snapshot_before,
        redacted_by=known.redacted_by,
        received_ms=now_ms,
        trace_id=trace_id,
    )


def forget_invites(room_id: RoomId) -> Callable[[Transaction], None]:
    """We are in the room now: what came with invites from outside is spent."""
    return lambda tx: invites.remove_all(tx, room_id)
