"""Verified events of other servers enter the room: steps 4 to 7 on receipt, then the append.

What they rest on must be known: `gaps` brings it before. Decisions are in `engine.receipt`.
Spec: S2S, checks on receipt of a PDU; soft failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeAlias

from bridge.clock import Clock
from bridge.engine.pdu import Pdu
from bridge.engine.receipt import Decision, Verdict, judge
from bridge.engine.state import CREATE, MEMBER, StateMap
from bridge.engine.versions import RoomVersion
from bridge.errors import Refused, Unavailable
from bridge.ids import EventId, RoomId, TraceId, UserId
from bridge.rooms.append import Appender, Plan, event_row
from bridge.rooms.load import EMPTY, Fresh, KnownEvent, Room, RoomStates, Snapshot, to_known
from bridge.rooms.policy_server import PolicyServers, changes, needs
from bridge.rooms.verify import check_name
from bridge.storage import events as event_rows
from bridge.storage import inbound
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from bridge.telemetry.log import get_logger


class Whole(Protocol):
    """What is written with a group."""

    def __call__(self, tx: Transaction, *, outcomes: Mapping[EventId, str]) -> None:
        """`outcomes`: the answer for each event, empty where it is fine."""
        ...


DONE_TOPIC = "inbound_done"
"""Woken when an inbound PDU has its outcome."""

Judged: TypeAlias = list[tuple[KnownEvent, str | None]]
"""Outliers, each with the rule that it broke."""
STAGED = 250
"""Outliers of one commit."""
BREATH = 10
"""Events of a group judged before other tasks get a turn."""
BREATH_OF_OUTLIERS = 100

log = get_logger("rooms")

STORED_VERDICT = {
    Verdict.ACCEPTED: event_rows.ACCEPTED,
    Verdict.SOFT_FAILED: event_rows.SOFT_FAILED,
    Verdict.REJECTED: event_rows.REJECTED,
}


class Acceptor:
    """Judges and appends events whose previous events and auth events we have."""

    def __init__(
        self,
        *,
        database: Database,
        states: RoomStates,
        appender: Appender,
        policy_servers: PolicyServers,
        clock: Clock,
    ) -> None:
        self._policy_servers = policy_servers
        self._database = database
        self._clock = clock
        self._states = states
        self._appender = appender

    async def accept(
        self,
        room_id: RoomId,
        pdu: Pdu,
        *,
        trace_id: TraceId,
        outgoing: bool = False,
        before: Snapshot | None = None,
        refuses_soft_failure: bool = False,
        queued: bool = False,
    ) -> Decision:
        """The verdict, stored with the event unless it was known already.

        `before`: the state that a peer gave us, where previous events are missing.
        `refuses_soft_failure`: store nothing unless the event is accepted (the answers of a
        resident server). `queued`: a row of the inbound queue is worked off with it.
        """
        pdu = await self._policy_servers.complete(await self._states.joined_room(room_id), pdu)

        async def attempt() -> Decision:
            room = await self._states.joined_room(room_id)
            there, historic, late, redacted_by = await self._database.read(
                partial(_look_up, pdu=pdu)
            )
            if there is not None and pdu.version.event_format.named_by_sender:
                # Between `verify` and the room's lane another event may have taken the name.
                check_name(pdu, {pdu.event_id: to_known(there, pdu.version).pdu})
            if there is not None and not there.outlier:
                if queued:
                    await self._finish(pdu.event_id, _outcome(there.verdict, there.rule))
                return Decision(verdict=_verdict_of(there.verdict), rule=there.rule or "")
            state = before if before is not None else await self.state_before(room, pdu)
            decision = await self.judge(room, pdu, state)
            if refuses_soft_failure and decision.verdict is not Verdict.ACCEPTED:
                return decision
            plan = self._appender.plan(room)
            if queued:
                plan.also.append(lambda tx: tx.wake(DONE_TOPIC))
            await self._appender.add(
                plan,
                pdu,
                before=state,
                trace_id=trace_id,
                verdict=STORED_VERDICT[decision.verdict],
                rule=decision.rule or None,
                outgoing=outgoing,
                historic=historic,
                # What it said is news; what it changed is in the state already.
                late=late,
                untold=late and pdu.state_key is not None,
                promoted=there is not None,
                redacted_by=redacted_by,
            )
            if before is not None:
                plan.also.append(_note_gaps(room_id, pdu))
            elif late:
                plan.also.append(lambda tx: room_rows.close_gap(tx, room_id, pdu.event_id))
            outcome = _outcome(STORED_VERDICT[decision.verdict], decision.rule)
            await self._appender.commit(plan, outcomes=[(pdu.event_id, outcome)] if queued else ())
            return decision

        decision = await self._appender.until_unmoved(room_id, attempt)
        _log_decision(pdu, decision)
        return decision

    def is_busy(self, room_id: RoomId) -> bool:
        """Somebody plans or commits in the room's lane now."""
        return self._appender.is_busy(room_id)

    async def accept_group(
        self,
        room_id: RoomId,
        queued: Sequence[tuple[Pdu, TraceId]],
        *,
        whole: Whole | None = None,
    ) -> int:
        """Several rows of the inbound queue in one commit: how many, from the first on.

        Ends before one that needs more than to be judged and written: of which, or of what comes
        after it, we know something, that rests on what we do not have, or that may end our own
        stay. `whole`: they have no rows yet, and are taken all or none; this is written with them,
        and given the answer for each.
        """

        async def attempt() -> list[tuple[Pdu, Decision]]:
            room = await self._states.joined_room(room_id)
            known, redacted_by = await self._database.read(
                partial(_look_up_all, room_id=room_id, pdus=[pdu for pdu, _ in queued])
            )
            plan = self._appender.plan(room)
            done: list[tuple[Pdu, Decision]] = []
            for number, (pdu, trace_id) in enumerate(queued):
                if number % BREATH == 0:
                    await asyncio.sleep(0)
                if pdu.event_id in known or self._is_about_us(pdu):
                    break
                policy = await self._policy_servers.find(plan.room, plan.fresh)
                if needs(pdu, policy) or changes(pdu, policy):
                    break
                if await self.missing_prev(pdu, plan.fresh):
                    break
                auth = await self._states.events(pdu.auth_events, plan.fresh)
                if any(one not in auth for one in pdu.auth_events):
                    break
                before = await self.state_before(plan.room, pdu, plan)
                decision = await self.judge(plan.room, pdu, before, plan.fresh)
                await self._appender.add(
                    plan,
                    pdu,
                    before=before,
                    trace_id=trace_id,
                    verdict=STORED_VERDICT[decision.verdict],
                    rule=decision.rule or None,
                    redacted_by=redacted_by.get(pdu.event_id),
                )
                done.append((pdu, decision))
            outcomes = [
                (pdu.event_id, _outcome(STORED_VERDICT[decision.verdict], decision.rule))
                for pdu, decision in done
            ]
            if whole is not None:
                if len(done) < len(queued):
                    return []
                plan.also.append(partial(whole, outcomes=dict(outcomes)))
                await self._appender.commit(plan)
            elif done:
                plan.also.append(lambda tx: tx.wake(DONE_TOPIC))
                await self._appender.commit(plan, outcomes=outcomes)
            return done

        done = await self._appender.until_unmoved(room_id, attempt)
        for pdu, decision in done:
            _log_decision(pdu, decision)
        return len(done)

    def _is_about_us(self, pdu: Pdu) -> bool:
        return (
            pdu.type == MEMBER
            and pdu.state_key is not None
            and self._appender.is_ours(UserId(pdu.state_key))
        )

    async def judge(
        self, room: Room, pdu: Pdu, before: Snapshot, fresh: Fresh | None = None
    ) -> Decision:
        """Steps 4 to 7. Raises `Unavailable` when an auth event is missing."""
        create = await self._states.create_event(room.state, fresh)
        auth = await self._states.events(pdu.auth_events, fresh)
        missing = set(pdu.auth_events) - auth.keys()
        if missing:
            raise Unavailable(f"{len(missing)} auth events of {pdu.event_id} are missing")
        state_before = await self._states.auth_state(before.state, pdu, fresh)
        current_state = state_before
        if before is not room.snapshot:
            current_state = await self._states.auth_state(room.state, pdu, fresh)
        return judge(
            pdu,
            create=create,
            auth_events={event_id: known.pdu for event_id, known in auth.items()},
            state_before=state_before,
            current_state=current_state,
            rejected=[event_id for event_id, known in auth.items() if known.is_rejected],
            policy=await self._policy_servers.find(room, fresh),
        )

    async def state_before(self, room: Room, pdu: Pdu, plan: Plan | None = None) -> Snapshot:
        """All previous events must be inside the graph, or in the plan. Raises `NotFound`."""
        prev = list(dict.fromkeys(pdu.prev_events))
        if prev and set(prev) == room.extremities.keys():
            return room.snapshot
        merged = await self._states.merged(
            prev,
            room.version,
            None if plan is None else plan.afters,
            None if plan is None else plan.fresh,
        )
        return room.snapshot if merged.is_same(room.snapshot) else merged

    async def missing_prev(self, pdu: Pdu, fresh: Fresh | None = None) -> list[EventId]:
        """Previous events that are not inside the graph."""
        prev = list(dict.fromkeys(pdu.prev_events))
        known = await self._states.events(prev, fresh, place_matters=True)
        return [one for one in prev if one not in known or known[one].outlier]

    async def store_outliers(
        self, room_id: RoomId, pdus: Iterable[Pdu], *, create: Pdu | None, trace_id: TraceId
    ) -> None:
        """Verified events outside the graph, judged by their auth events alone."""
        judged = await self.judge_outliers(pdus, create=create)
        now_ms = self._clock.now_ms()
        rows = [
            event_row(known, None, trace_id=trace_id, rule=rule, now_ms=now_ms)
            for known, rule in judged
        ]

        def unit(tx: Transaction) -> None:
            if room_rows.find(tx, room_id) is not None:
                event_rows.insert_outliers(tx, rows)

        if rows:
            await self._database.write(unit)

    async def stage_outliers(
        self,
        room_id: RoomId,
        version: RoomVersion,
        judged: Judged,
        *,
        trace_id: TraceId,
    ) -> None:
        """Those of a room that we are about to enter: a bounded part in each commit, so that others
        get their turn between. What an entry that fails leaves is purged with its room's row."""
        now_ms = self._clock.now_ms()
        for start in range(0, len(judged), STAGED):
            rows = [
                event_row(known, None, trace_id=trace_id, rule=rule, now_ms=now_ms)
                for known, rule in judged[start : start + STAGED]
            ]

            def unit(tx: Transaction, rows: Sequence[event_rows.EventRow] = rows) -> None:
                room_rows.expect(tx, room_id, version.id)
                event_rows.insert_outliers(tx, rows)

            await self._database.write(unit)

    async def judge_outliers(
        self, pdus: Iterable[Pdu], *, create: Pdu | None, fresh: Fresh | None = None
    ) -> Judged:
        """In the order of their auth events; those that lack one of them are left out."""
        waiting = {pdu.event_id: pdu for pdu in pdus}
        parents = {parent for pdu in waiting.values() for parent in pdu.auth_events}
        stored = await self._states.events(parents | waiting.keys(), fresh)
        done: dict[EventId, KnownEvent] = dict(stored)
        judged: Judged = []
        for number, pdu in enumerate(in_auth_order(waiting)):
            if number % BREATH_OF_OUTLIERS == 0:
                await asyncio.sleep(0)
            if pdu.event_id in stored or any(one not in done for one in pdu.auth_events):
                continue
            auth = {one: done[one] for one in pdu.auth_events}
            if create is None and pdu.type == "m.room.create":
                create = pdu
            decision = judge(
                pdu,
                create=None if pdu.type == "m.room.create" else create,
                auth_events={one: known.pdu for one, known in auth.items()},
                state_before=None,
                current_state=None,
                rejected=[one for one, known in auth.items() if known.is_rejected],
            )
            rejected = decision.verdict is Verdict.REJECTED
            known = KnownEvent(
                pdu=Pdu.trusted(pdu.json, pdu.version, pdu.event_id, rejected=rejected),
                verdict=STORED_VERDICT[decision.verdict],
                outlier=True,
                snapshot_before=None,
            )
            done[pdu.event_id] = known
            judged.append((known, decision.rule or None))
        return await self._redacted([known for known, _ in judged], [rule for _, rule in judged])

    async def _redacted(self, known: Sequence[KnownEvent], rules: Sequence[str | None]) -> Judged:
        """Those whose redactions came before them lose their content at once."""
        targets = {one.pdu.event_id: one.pdu.sender_server for one in known if not one.is_rejected}
        by: dict[EventId, EventId] = {}
        if targets:
            room_id = known[0].pdu.room_id
            by = await self._database.read(
                lambda tx: event_rows.find_redactions(tx, room_id, targets)
            )
        return [
            (
                replace(one, pdu=one.pdu.redacted(), redacted_by=by[one.pdu.event_id])
                if one.pdu.event_id in by
                else one,
                rule,
            )
            for one, rule in zip(known, rules, strict=True)
        ]

    async def _finish(self, event_id: EventId, outcome: str) -> None:
        def unit(tx: Transaction) -> None:
            inbound.finish(tx, event_id, outcome)
            tx.wake(DONE_TOPIC)

        await self._database.write(unit)


def _look_up(
    tx: Transaction, pdu: Pdu
) -> tuple[event_rows.EventRow | None, bool, bool, EventId | None]:
    """The event as it is stored, whether something after it is known already, whether it was noted
    as missing there, its redaction."""
    there = event_rows.find(tx, [pdu.event_id]).get(pdu.event_id)
    redactions = event_rows.find_redactions(tx, pdu.room_id, {pdu.event_id: pdu.sender_server})
    historic = event_rows.has_children(tx, pdu.event_id)
    late = historic and room_rows.is_gap(tx, pdu.room_id, pdu.event_id)
    return there, historic, late, redactions.get(pdu.event_id)


def _look_up_all(
    tx: Transaction, room_id: RoomId, pdus: Sequence[Pdu]
) -> tuple[Collection[EventId], Mapping[EventId, EventId]]:
    """Which of them are stored or have something after them that is, and their redactions."""
    ids = [pdu.event_id for pdu in pdus]
    targets = {pdu.event_id: pdu.sender_server for pdu in pdus}
    return (
        {*event_rows.find_known(tx, ids), *event_rows.with_children(tx, ids)},
        event_rows.find_redactions(tx, room_id, targets),
    )


def _log_decision(pdu: Pdu, decision: Decision) -> None:
    if decision.verdict is not Verdict.ACCEPTED:
        log.info(
            "pdu not accepted",
            verdict=decision.verdict.value,
            room_id=pdu.room_id,
            event_id=pdu.event_id,
            rule=decision.rule,
            reason=decision.reason,
        )


def in_auth_order(pdus: dict[EventId, Pdu]) -> list[Pdu]:
    """Each event after those of its auth events that are among them.

    Cycles cannot be hashed; where event IDs are no hashes, they are cut somewhere.
    """
    order: list[Pdu] = []
    seen: set[EventId] = set()
    for start in pdus.values():
        if start.event_id in seen:
            continue
        seen.add(start.event_id)
        stack = [(start, iter(start.auth_events))]
        while stack:
            pdu, parents = stack[-1]
            parent = next((one for one in parents if one in pdus and one not in seen), None)
            if parent is None:
                stack.pop()
                order.append(pdu)
                continue
            seen.add(parent)
            stack.append((pdus[parent], iter(pdus[parent].auth_events)))
    return order


def state_from(known: Sequence[KnownEvent]) -> StateMap:
    """The state that a peer listed: its state events, without those that we reject.

    Raises `Refused` where it lists two events of one key: that is no state.
    """
    state = EMPTY
    for one in known:
        key = one.pdu.key
        if key is not None and not one.is_rejected:
            if state.get(key, one.pdu.event_id) != one.pdu.event_id:
                raise Refused(f"the state holds two events of {key[0]}", rule="state.double")
            state = state.insert(key, one.pdu.event_id)
    return state


def has_create(state: StateMap, room_id: RoomId, fresh: Fresh) -> bool:
    """Whether the state's create event is there and is this room's."""
    known = fresh.get(state[CREATE]) if CREATE in state else None
    return known is not None and known.pdu.room_id == room_id and not known.is_rejected


def _note_gaps(room_id: RoomId, pdu: Pdu) -> Callable[[Transaction], None]:
    def write(tx: Transaction) -> None:
        known = event_rows.find_known(tx, pdu.prev_events)
        missing = [one for one in pdu.prev_events if known.get(one, True)]
        room_rows.add_gaps(tx, room_id, missing)
        room_rows.close_gap(tx, room_id, pdu.event_id)

    return write


def _verdict_of(stored: str) -> Verdict:
    return next(verdict for verdict, text in STORED_VERDICT.items() if text == stored)


def _outcome(stored: str, rule: str | None) -> str:
    """What the peer is told, as often as it asks. A soft failure is nobody else's business."""
    return f"rejected by the rule {rule or '?'}" if stored == event_rows.REJECTED else ""
