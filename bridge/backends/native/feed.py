"""The arrival order, told to the bridge side: in order per room, at least once.

A durable cursor (`bridge`) says up to where everything was told. Each room is a lane of its own,
so that a room whose listener cannot go on now (`Unavailable`) delays no other; the cursor stands
before the oldest event that was not told, and what lies behind is told again after a restart.
What was a room's past when we came in is passed over.
DESIGN of the house: positions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from bridge.backends.native.values import to_room_event
from bridge.clock import Clock
from bridge.delivery.lanes import Lanes
from bridge.errors import IsthmusError, Unavailable
from bridge.ids import EventId, RoomId, ServerName
from bridge.ports.matrix import Acceptance, MatrixListener
from bridge.rooms.query import RoomQueries, TimelineEvent
from bridge.storage import streams
from bridge.storage.database import Database, Transaction
from bridge.storage.schema import stream_acceptances, stream_events
from bridge.telemetry.log import get_logger

CURSOR = "bridge"
ACCEPTANCE_CURSOR = "bridge_acceptances"
MAX_UNTOLD = 10_000
"""Events read and not told yet, over all rooms."""
READ = 200
LOAD = 50
WORKERS = 16
POLL_S = 5.0
SAVE_S = 1.0
"""At most this much is told again after a crash that nothing else delayed."""
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
AFTER_OUTAGE_S = 1.0
MAX_FAILURES = 5
"""Tries of an event whose telling ends in an unexpected exception; then it is left out, loudly."""

log = get_logger("backend")


@dataclass(slots=True)
class _Rest:
    """A room whose listener failed rests until `until_s`."""

    until_s: float
    delay_s: float
    failures: int


class NativeFeed:
    """`run()` is the one long-lived task."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        queries: RoomQueries,
        listener: MatrixListener,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._queries = queries
        self._listener = listener
        self._clock = clock
        self._lanes = Lanes(self._work, workers=WORKERS, name="feed")
        self._waiting: dict[RoomId, deque[tuple[int, EventId]]] = {}
        self._untold: dict[int, None] = {}
        self._rests: dict[RoomId, _Rest] = {}
        self._read_to = 0
        self._accepted_to = 0
        self._saved: dict[str, int] = {}
        self._room_left = asyncio.Event()
        self._progress = asyncio.Event()

    async def run(self) -> None:
        self._read_to = await self._cursor(CURSOR)
        self._accepted_to = await self._cursor(ACCEPTANCE_CURSOR)
        self._saved = {CURSOR: self._read_to, ACCEPTANCE_CURSOR: self._accepted_to}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lanes.run())
            group.create_task(self._read_forever())
            group.create_task(self._save_forever())
            group.create_task(self._resume_forever())
            group.create_task(self._accept_forever())

    @property
    def told_to(self) -> int:
        """Everything up to here was told."""
        first = next(iter(self._untold), None)
        return self._read_to if first is None else first - 1

    async def _cursor(self, name: str) -> int:
        while True:
            try:
                return await self._database.read(partial(streams.cursor, name=name))
            except Unavailable as exc:
                await self._wait_out(exc)

    async def _wait_out(self, exc: Unavailable) -> None:
        """The database is away for a moment; what was read stays where it is."""
        log.warning("the feed waits for the database", reason=exc.reason)
        await self._clock.sleep(AFTER_OUTAGE_S)

    # --- reading ----------------------------------------------------------------------------

    async def _read_forever(self) -> None:
        waker = self._database.waker(stream_events.name)
        while True:
            while len(self._untold) >= MAX_UNTOLD:
                self._room_left.clear()
                await self._room_left.wait()
            after = self._read_to

            def unit(
                tx: Transaction, after: int = after
            ) -> list[tuple[int, RoomId, EventId | None]]:
                rows = streams.read_since(tx, stream_events, after, READ)
                return [
                    (
                        row["position"],
                        RoomId(row["room_id"]),
                        None if row["historic"] else EventId(row["event_id"]),
                    )
                    for row in rows
                ]

            try:
                rows = await self._database.read(unit)
            except Unavailable as exc:
                await self._wait_out(exc)
                continue
            for position, room_id, event_id in rows:
                self._read_to = position
                if event_id is None:
                    self._progress.set()
                    continue
                self._untold[position] = None
                self._waiting.setdefault(room_id, deque()).append((position, event_id))
            for room_id in dict.fromkeys(room_id for _, room_id, _ in rows):
                if room_id not in self._rests:
                    self._lanes.wake(room_id)
            if len(rows) < READ:
                await waker.wait(POLL_S)
                self._wake_all()

    def _wake_all(self) -> None:
        """A wake-up that the lanes had no room for is made up."""
        for room_id in self._waiting:
            if room_id not in self._rests:
                self._lanes.wake(room_id)

    async def _save_forever(self) -> None:
        """Both positions, in one commit that many events share."""
        while True:
            await self._progress.wait()
            self._progress.clear()
            reached = {CURSOR: self.told_to, ACCEPTANCE_CURSOR: self._accepted_to}
            moved = {name: to for name, to in reached.items() if to > self._saved[name]}
            if moved:
                try:
                    await self._database.write(partial(_advance, moved=moved))
                except Unavailable as exc:
                    self._progress.set()
                    await self._wait_out(exc)
                    continue
                self._saved.update(moved)
            await self._clock.sleep(SAVE_S)

    # --- telling ----------------------------------------------------------------------------

    async def _work(self, key: str) -> None:
        room_id = RoomId(key)
        while queue := self._waiting.get(room_id):
            batch = list(queue)[:LOAD]
            try:
                found = await self._queries.streamed([event_id for _, event_id in batch])
            except Unavailable as exc:
                self._rest(room_id, exc.retry_after_s)
                log.warning("events cannot be read", room_id=room_id, reason=exc.reason)
                return
            for position, event_id in batch:
                if not await self._tell(room_id, found.get(event_id)):
                    return
                queue.popleft()
                self._told(position)
        self._waiting.pop(room_id, None)

    async def _tell(self, room_id: RoomId, one: TimelineEvent | None) -> bool:
        """False: not now. The room rests, and is worked on again after that."""
        if one is None or not one.applies:
            self._rests.pop(room_id, None)
            return True  # Of a room that was purged, or a redaction without effect.
        try:
            await self._listener.on_event(to_room_event(one, self._server_name))
        except Unavailable as exc:
            self._rest(room_id, exc.retry_after_s)
            log.info("event waits", room_id=room_id, position=one.position, reason=exc.reason)
            return False
        except IsthmusError as exc:
            log.warning(
                "event left out", room_id=room_id, event_id=one.pdu.event_id, reason=exc.reason
            )
        except Exception:
            log.exception("event failed", room_id=room_id, event_id=one.pdu.event_id)
            rest = self._rest(room_id, None)
            rest.failures += 1
            if rest.failures < MAX_FAILURES:
                return False
            log.error("event given up", room_id=room_id, event_id=one.pdu.event_id)
        self._rests.pop(room_id, None)
        return True

    def _told(self, position: int) -> None:
        self._untold.pop(position, None)
        self._progress.set()
        self._room_left.set()

    def _rest(self, room_id: RoomId, retry_after_s: float | None) -> _Rest:
        rest = self._rests.get(room_id)
        if rest is None:
            rest = _Rest(until_s=0.0, delay_s=FIRST_DELAY_S / 2, failures=0)
            self._rests[room_id] = rest
        rest.delay_s = min(MAX_DELAY_S, rest.delay_s * 2)
        rest.until_s = self._clock.monotonic_s() + max(rest.delay_s, retry_after_s or 0.0)
        return rest

    async def _resume_forever(self) -> None:
        """Rooms that have rested long enough are worked on again."""
        while True:
            now_s = self._clock.monotonic_s()
            for room_id, rest in self._rests.items():
                if rest.until_s <= now_s and room_id in self._waiting:
                    self._lanes.wake(room_id)
            await self._clock.sleep(FIRST_DELAY_S / 2)

    # --- acceptances ------------------------------------------------------------------------

    async def _accept_forever(self) -> None:
        waker = self._database.waker(stream_acceptances.name)
        position = self._accepted_to
        delay_s = FIRST_DELAY_S
        while True:
            try:
                rows = await self._database.read(
                    partial(
                        streams.read_since, table=stream_acceptances, after=position, limit=READ
                    )
                )
            except Unavailable as exc:
                await self._wait_out(exc)
                continue
            for row in rows:
                try:
                    await self._listener.on_acceptance(_acceptance(row))
                except Unavailable as exc:
                    log.info("acceptance waits", reason=exc.reason)
                    break
                except IsthmusError as exc:
                    log.warning("acceptance left out", reason=exc.reason)
                except Exception:
                    log.exception("acceptance failed", event_id=row["event_id"])
                position = row["position"]
            if position > self._accepted_to:
                self._accepted_to = position
                self._progress.set()
                delay_s = FIRST_DELAY_S
            if rows and position < rows[-1]["position"]:
                await self._clock.sleep(delay_s)
                delay_s = min(MAX_DELAY_S, delay_s * 2)
            elif len(rows) < READ:
                await waker.wait(POLL_S)


def _advance(tx: Transaction, moved: Mapping[str, int]) -> None:
    for name, position in moved.items():
        streams.advance(tx, name, position)


def _acceptance(row: dict[str, Any]) -> Acceptance:
    return Acceptance(
        position=row["position"],
        event_id=EventId(row["event_id"]),
        room_id=RoomId(row["room_id"]),
        server=ServerName(row["server"]),
        error=row["error"],
    )
