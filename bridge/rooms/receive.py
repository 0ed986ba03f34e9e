"""PDUs from other servers: stored first, then understood, one lane per room.

A transaction's PDUs and its ID are one commit; from then on a crash loses nothing. Where nothing of
its one room waits, and nobody must be asked, what was judged goes *straight* in, in that very
commit; if anything is special it is stored as ever. The lane takes a room's rows in order through
the checks of the specification, those behind gaps last:

1. format, when it is stored   2. and 3. signatures and content hash (`verify`)
then what it rests on is fetched (`gaps`), and 4. to 6. are judged with the append (`accept`).

What cannot be judged now (a key, a gap, a peer that is down) is tried again, a bounded number of
times. Spec: S2S, transactions; checks on receipt of a PDU.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from bridge.clock import Clock
from bridge.delivery.lanes import Lanes
from bridge.engine.canonical import parse_json
from bridge.engine.format import MAX_PDU_BYTES
from bridge.engine.pdu import Pdu
from bridge.engine.versions import RoomVersion, get_version
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import (
    EventId,
    RoomId,
    ServerName,
    TraceId,
    parse_room_id,
    server_of,
)
from bridge.policy.house import House
from bridge.policy.limits import Limits
from bridge.policy.rules import Scope
from bridge.rooms.accept import DONE_TOPIC, Acceptor
from bridge.rooms.bounds import GraphBounds, note_reached
from bridge.rooms.gaps import GapFiller
from bridge.rooms.load import RoomStates
from bridge.rooms.outside import Outside
from bridge.rooms.verify import Verifier
from bridge.rooms.visibility import check_server
from bridge.storage import inbound, transactions
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction, Waker
from bridge.storage.inbound import InboundRow
from bridge.telemetry.log import get_logger

MAX_PDUS = 50
"""Per transaction, as the specification says."""
FIRST_DELAY_MS = 2_000
MAX_DELAY_MS = 3_600_000
BATCH = 50
MAX_GROUPS = 3
"""Groups tried in one batch; a batch that falls apart oftener is taken row by row."""
WORKERS = 32
"""Rooms worked on at once. Most of the time they wait for peers, and a slow peer may keep a few."""
POLL_S = 5.0
AFTER_OUTAGE_S = 1.0
KEEP_MS = 24 * 3600 * 1000
"""How long a transaction's answer and a PDU's outcome are remembered."""
SWEEP_S = 3_600.0
MAX_HEARD = 10_000

log = get_logger("rooms")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A PDU at the door: good to be stored, or why not."""

    pdu: Pdu
    room_id: RoomId
    error: str | None
    from_namer: bool
    """It comes from the server that its event ID names: of two events with one ID it is the one."""

    @property
    def event_id(self) -> EventId:
        return self.pdu.event_id


class _NotStraight(Exception):
    """It is no longer simple: the transaction is known, events of its room wait, or they are too
    many at once."""


class _Gap(Exception):
    """What the event rests on is not all here."""


class Receiver:
    """Takes transactions' PDUs and works them off. `run()` is its one long-lived task."""

    def __init__(
        self,
        *,
        database: Database,
        states: RoomStates,
        acceptor: Acceptor,
        verifier: Verifier,
        gaps: GapFiller,
        outside: Outside,
        clock: Clock,
        bounds: GraphBounds,
        new_trace: Callable[[], TraceId],
        house: House,
        limits: Limits,
    ) -> None:
        self._house = house
        self._limits = limits
        self._bounds = bounds
        self._database = database
        self._states = states
        self._acceptor = acceptor
        self._verifier = verifier
        self._gaps = gaps
        self._outside = outside
        self._clock = clock
        self._new_trace = new_trace
        self._heard: dict[ServerName, None] = {}
        """Servers of which an event was verified: their keys are here."""
        self._lanes = Lanes(self._run_lane, workers=WORKERS, name="inbound")

    async def take(
        self,
        origin: ServerName,
        transaction_id: str,
        pdus: Sequence[object],
        *,
        wait_s: float = 5.0,
        straight: bool = True,
    ) -> Mapping[EventId, Mapping[str, str]]:
        """Store the PDUs and the transaction in one commit, wait a little for the verdicts.

        The answer's `pdus`: `{}` or `{"error": ...}` per event ID. A replayed transaction ID
        gets the same answer. PDUs of rooms that we are not in, or that the room's ACL forbids,
        are answered with an error and not stored; so are those that a rule of the house denies.
        `Unavailable`: too many wait; nothing stored. `straight`: simple ones may be done at once.
        """
        if len(pdus) > MAX_PDUS:
            raise BadInput(f"more than {MAX_PDUS} PDUs")
        self._house.check_server(origin, Scope.ALL, door="transaction")
        taken = [one for pdu in pdus if (one := await self._look_at(origin, pdu)) is not None]
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        if straight:
            verdicts = await self._take_straight(origin, transaction_id, taken)
            if verdicts is not None:
                return verdicts

        def unit(tx: Transaction) -> tuple[list[tuple[EventId, str | None]], bool]:
            before = transactions.find(tx, origin, transaction_id)
            good = [one for one in taken if one.error is None]
            if before is not None or not good:
                # It costs us something all the same, and nothing of it is counted below.
                self._limits.check_request(origin, now_s)
            if before is not None:
                return before, False
            self._check_bounds(tx, origin, good)
            # Of what was stored before nothing is counted: its answer is above.
            rooms = dict(Counter(str(one.room_id) for one in good))
            self._limits.check_events(origin, rooms, now_s)
            rows = [
                inbound.NewRow(
                    room_id=one.room_id,
                    event_id=one.event_id,
                    json=one.pdu.canonical().decode(),
                    trace_id=self._new_trace(),
                    displaces=one.from_namer,
                )
                for one in good
            ]
            is_new = inbound.put_all(tx, rows, origin=origin, received_ms=now_ms)
            answer = [(one.event_id, one.error) for one in taken]
            transactions.put(tx, origin, transaction_id, pdus=answer, received_ms=now_ms)
            return answer, is_new

        done = self._database.waker(DONE_TOPIC)
        answer, is_new = await self._database.write(unit)
        for room_id in {one.room_id for one in taken if one.error is None}:
            self._lanes.wake(room_id)  # When too many wait, the next look finds the rows.
        return await self._verdicts(dict(answer), done, wait_s, is_new=is_new)

    async def _take_straight(
        self, origin: ServerName, transaction_id: str, taken: Sequence[_Taken]
    ) -> dict[EventId, dict[str, str]] | None:
        """The verdicts, where it can be done at once; None: nothing was stored."""
        good = [one.pdu for one in taken if one.error is None]
        rooms = {pdu.room_id for pdu in good}
        ids = {pdu.event_id for pdu in good}
        if len(rooms) != 1 or len(ids) != len(good) or not self._is_simple(good):
            return None
        (room_id,) = rooms
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        answer: dict[EventId, str | None] = {one.event_id: one.error for one in taken}

        def store(tx: Transaction, *, outcomes: Mapping[EventId, str]) -> None:
            if transactions.find(tx, origin, transaction_id) is not None:
                raise _NotStraight
            if inbound.count_waiting(tx, room_id=room_id):
                raise _NotStraight
            try:
                self._limits.check_events(origin, {str(room_id): len(good)}, now_s)
            except Unavailable as exc:
                raise _NotStraight from exc
            answer.update((event_id, why or None) for event_id, why in outcomes.items())
            pdus = list(answer.items())
            transactions.put(tx, origin, transaction_id, pdus=pdus, received_ms=now_ms)

        try:
            checked = [(await self._verifier.check(pdu), self._new_trace()) for pdu in good]
            if not await self._acceptor.accept_group(room_id, checked, whole=store):
                return None
        except _NotStraight:
            return None  # Who sends too much is told so where it would be stored.
        except IsthmusError:
            return None  # The lane says what is wrong, with each event for itself.
        except Exception:
            # Refused as a whole it would come again for ever; the lane takes each for itself.
            log.exception("transaction not taken straight", room_id=room_id, peer=origin)
            return None
        return {event_id: {} if why is None else {"error": why} for event_id, why in answer.items()}

    def _is_simple(self, pdus: Sequence[Pdu]) -> bool:
        """Nobody needs to be asked or waited for, as far as can be told at the door."""
        return not self._acceptor.is_busy(pdus[0].room_id) and all(
            pdu.sender_server in self._heard and not pdu.version.event_format.named_by_sender
            for pdu in pdus
        )

    async def run(self) -> None:
        """Works the lanes off until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lanes.run())
            group.create_task(self._watch())

    # --- at the door ------------------------------------------------------------------------

    async def _look_at(self, origin: ServerName, json: object) -> _Taken | None:
        """Step 1. None when not even an event ID can be told."""
        try:
            room_id = parse_room_id(json.get("room_id") if isinstance(json, dict) else None)
        except BadInput:
            log.info("pdu dropped", peer=origin, rule="room_id")
            return None
        version, error = await self._version_of(origin, room_id)
        if version is None:
            log.info("pdu dropped", peer=origin, room_id=room_id, rule="room")
            return None
        try:
            pdu = Pdu.parse(json, version)
        except BadInput as exc:
            log.info("pdu dropped", peer=origin, room_id=room_id, rule="format", reason=exc.reason)
            return None
        return _Taken(
            pdu=pdu,
            room_id=room_id,
            error=error or self._denial(pdu),
            from_namer=version.event_format.named_by_sender and server_of(pdu.event_id) == origin,
        )

    def _denial(self, pdu: Pdu) -> str | None:
        """Of a denied user the author is told, by the portals. What was not taken may come all the
        same, by a gap of somebody else's events: it is part of the room, but not shown."""
        try:
            self._house.check_server(pdu.sender_server, Scope.ALL, door="pdu")
            self._house.check_room(pdu.room_id, Scope.ALL, door="pdu")
        except Refused as exc:
            return exc.reason
        return None

    async def _version_of(
        self, origin: ServerName, room_id: RoomId
    ) -> tuple[RoomVersion | None, str | None]:
        """The room's version where we know it, and why its events are not taken."""
        room = await self._states.find_room(room_id)
        if room is not None and room.joined:
            try:
                await check_server(self._states, room, origin)
            except Refused as exc:
                return room.version, exc.reason
            return room.version, None
        joining = self._states.joining.get(room_id)
        if joining is not None:
            return joining, None
        row = await self._database.read(lambda tx: room_rows.find(tx, room_id))
        if row is None:
            return None, None
        waits = await self._outside.may_end(room_id, origin)
        return get_version(row.version), None if waits else "we are not in this room"

    def _check_bounds(self, tx: Transaction, origin: ServerName, good: Sequence[_Taken]) -> None:
        if not good:
            return
        if inbound.count_waiting(tx, origin=origin) >= self._bounds.waiting_per_origin:
            note_reached("waiting_per_origin", room_id=good[0].room_id)
            raise Unavailable(f"too many events of {origin} wait", retry_after_s=30)
        for room_id in {one.room_id for one in good}:
            if inbound.count_waiting(tx, room_id=room_id) >= self._bounds.waiting_per_room:
                note_reached("waiting_per_room", room_id=room_id)
                raise Unavailable(f"too many events of {room_id} wait", retry_after_s=30)

    async def _verdicts(
        self, answer: dict[EventId, str | None], done: Waker, wait_s: float, *, is_new: bool
    ) -> dict[EventId, dict[str, str]]:
        """`is_new`: something was stored, so `done` will be woken."""
        verdicts: dict[EventId, dict[str, str]] = {
            event_id: {} if error is None else {"error": error}
            for event_id, error in answer.items()
        }
        open_ids = [event_id for event_id, error in answer.items() if error is None]
        until = self._clock.monotonic_s() + wait_s
        if is_new and open_ids and wait_s > 0:
            await done.wait(wait_s)
        while open_ids:
            wanted = open_ids
            outcomes = await self._database.read(partial(inbound.outcomes, event_ids=wanted))
            for event_id in wanted:
                outcome = outcomes.get(event_id, "")
                if outcome:
                    verdicts[event_id] = {"error": outcome}
            open_ids = [one for one in wanted if outcomes.get(one, "") is None]
            left = until - self._clock.monotonic_s()
            if not open_ids or left <= 0:
                break
            await done.wait(left)
        return verdicts

    # --- the lanes --------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Wakes lanes by the clock: for what is tried again, and what was left by a crash."""
        swept_s = self._clock.monotonic_s()
        while True:
            try:
                await self._wake_due()
                if self._clock.monotonic_s() - swept_s > SWEEP_S:
                    swept_s = self._clock.monotonic_s()
                    before_ms = self._clock.now_ms() - KEEP_MS
                    await self._database.write(partial(_forget, before_ms=before_ms))
            except Unavailable as exc:
                log.warning("inbound queue unreadable", reason=exc.reason)
                await self._clock.sleep(AFTER_OUTAGE_S)
                continue
            await self._clock.sleep(POLL_S)

    async def _wake_due(self) -> None:
        now_ms = self._clock.now_ms()
        for room_id in await self._database.read(
            partial(inbound.due_rooms, now_ms=now_ms, busy=(), limit=1_000)
        ):
            self._lanes.wake(room_id)

    async def _run_lane(self, key: str) -> None:
        try:
            await self._work(key)
        except Unavailable as exc:
            # The database's, not an event's: those are put off. The next look finds them again.
            log.warning("inbound lane stalled", room_id=key, reason=exc.reason)

    async def _work(self, key: str) -> None:
        """Take what is due for one room."""
        room_id = RoomId(key)
        while True:
            rows = await self._database.read(
                partial(inbound.due, room_id=room_id, now_ms=self._clock.now_ms(), limit=BATCH)
            )
            if not rows:
                return
            await self._work_off_all(rows)
            if len(rows) < BATCH:
                return  # Whoever stores more wakes the lane again.

    async def _work_off_all(self, rows: Sequence[InboundRow]) -> None:
        """Rows of one room, in order: in groups with one commit each where nothing is special;
        those that rest on what must be asked for come last."""
        behind_gaps: list[InboundRow] = []
        done = groups = 0
        while done < len(rows):
            if groups < MAX_GROUPS and len(rows) - done > 1:
                groups += 1
                count = await self._work_off_group(rows[done:])
                done += count
                if count:
                    continue
            if not await self.work_off(rows[done], may_ask=False):
                behind_gaps.append(rows[done])
            done += 1
        for row in behind_gaps:
            await self.work_off(row)

    async def _work_off_group(self, rows: Sequence[InboundRow]) -> int:
        """How many of them, from the first on, have their outcome: those after them, and all of
        them when anything goes wrong, go one by one, each with a commit and an error of its own."""
        try:
            room = await self._states.find_room(rows[0].room_id)
            if room is None or not room.joined:
                return 0
            if room.version.event_format.named_by_sender:
                return 0  # What a name stands for may change while we look.
            queued: list[tuple[Pdu, TraceId]] = []
            with suppress(BadInput, Refused, NotFound, Unavailable):
                for row in rows:
                    queued.append((await self._verified(room.version, row), row.trace_id))
            if len(queued) < 2:
                return 0
            return await self._acceptor.accept_group(rows[0].room_id, queued)
        except IsthmusError as exc:
            log.info("group not taken", room_id=rows[0].room_id, reason=exc.reason)
        except Exception:
            log.exception("group failed", room_id=rows[0].room_id)
        return 0

    async def _verified(self, version: RoomVersion, row: InboundRow) -> Pdu:
        """Steps 2 and 3. Raises `Refused`, `Unavailable`."""
        json = parse_json(row.json.encode(), max_bytes=2 * MAX_PDU_BYTES)
        checked = await self._verifier.check(Pdu.trusted(json, version, row.event_id))
        self._heard[checked.sender_server] = None
        if len(self._heard) > MAX_HEARD:
            del self._heard[next(iter(self._heard))]
        return checked

    async def work_off_due(self) -> None:
        """Everything that is due now, one room after the other, without the lanes."""
        rooms = await self._database.read(
            partial(inbound.due_rooms, now_ms=self._clock.now_ms(), busy=(), limit=1_000)
        )
        for room_id in rooms:
            await self._work(room_id)

    async def work_off(self, row: InboundRow, *, may_ask: bool = True) -> bool:
        """One PDU: its outcome is stored, or it is put off. False where a peer must be asked what
        it rests on and `may_ask` is false: what needs nobody goes first."""
        try:
            finished = await self._receive(row, may_ask=may_ask)
        except _Gap:
            return False
        except Unavailable as exc:
            await self._put_off(row, exc)
        except (BadInput, Refused, NotFound) as exc:
            log.info(
                "pdu dropped",
                room_id=row.room_id,
                event_id=row.event_id,
                peer=row.origin,
                rule=getattr(exc, "rule", ""),
                reason=exc.reason,
            )
            await self._finish(row, exc.reason or "dropped")
        except Exception as exc:
            # It must neither end the lane nor stand in its way for ever.
            log.exception("pdu failed", room_id=row.room_id, event_id=row.event_id)
            await self._put_off(row, Unavailable(f"internal error: {type(exc).__name__}"))
        else:
            if not finished:
                await self._finish(row, "")
        return True

    async def _receive(self, row: InboundRow, *, may_ask: bool) -> bool:
        """True: the outcome was stored in the append's own commit."""
        room = await self._states.find_room(row.room_id)
        if room is None or not room.joined:
            await self._receive_outside(row)
            return False
        checked = await self._verified(room.version, row)
        if await self._gaps.is_before(checked):
            if not may_ask:
                raise _Gap
            await self._gaps.fill(room, checked, origin=row.origin, trace_id=row.trace_id)
        await self._acceptor.accept(row.room_id, checked, trace_id=row.trace_id, queued=True)
        return True

    async def _receive_outside(self, row: InboundRow) -> None:
        """Of a room that we are not in: while we join it, it waits; else an end of an invite or
        of a knock."""
        if row.room_id in self._states.joining:
            raise Unavailable("the room is being joined")
        stored = await self._database.read(lambda tx: room_rows.find(tx, row.room_id))
        if stored is None:
            raise Refused("we are not in this room", rule="room")
        json = parse_json(row.json.encode(), max_bytes=2 * MAX_PDU_BYTES)
        pdu = Pdu.trusted(json, get_version(stored.version), row.event_id)
        await self._outside.end(row.origin, pdu, trace_id=row.trace_id)

    async def _finish(self, row: InboundRow, outcome: str) -> None:
        def unit(tx: Transaction) -> None:
            inbound.finish(tx, row.event_id, outcome, inbound_id=row.inbound_id)
            tx.wake(DONE_TOPIC)

        await self._database.write(unit)

    async def _put_off(self, row: InboundRow, exc: IsthmusError) -> None:
        if row.attempts + 1 >= self._bounds.attempts:
            note_reached("attempts", room_id=row.room_id, event_id=row.event_id)
            log.warning(
                "pdu given up", room_id=row.room_id, event_id=row.event_id, reason=exc.reason
            )
            await self._finish(row, f"given up: {exc.reason}")
            return
        delay_ms = min(MAX_DELAY_MS, FIRST_DELAY_MS * 2**row.attempts)
        at_ms = self._clock.now_ms() + delay_ms
        log.info("pdu put off", room_id=row.room_id, event_id=row.event_id, reason=exc.reason)
        await self._database.write(
            lambda tx: inbound.postpone(tx, row.inbound_id, next_attempt_ms=at_ms)
        )


def _forget(tx: Transaction, before_ms: int) -> None:
    transactions.forget(tx, before_ms=before_ms)
    inbound.forget(tx, before_ms=before_ms)
