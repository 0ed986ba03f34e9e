"""A durable queue: rows of inbox or outbox, delivered lane by lane, at least once.

What becomes of an item:
* delivered: `done`, in one commit with whatever `deliver` wants written;
* Unavailable: tried again after a wait that grows; its lane waits with it, so that the order
  within a chat is kept;
* Refused, BadInput, NotFound: parked; the lane goes on;
* an unexpected exception: logged, tried again a few times, then parked.

A parked item is reported through `on_parked`, one that has waited long through `on_waiting`, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

from bridge.clock import Clock
from bridge.delivery.backoff import Backoff
from bridge.delivery.lanes import Lanes
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.storage import queues
from bridge.storage.database import Database, Transaction, Unit
from bridge.storage.queues import QueueItem, QueueTable
from bridge.telemetry.log import bind, get_logger
from bridge.telemetry.metrics import QUEUE_ITEMS

log = get_logger("delivery")

Deliver = Callable[[QueueItem], Awaitable[Unit[None] | None]]
"""Delivers an item. Returns what must be written in the same commit as its `done`, if anything.
Raises Unavailable (the lane tries again later), Refused, BadInput or NotFound (parked)."""

OnParked = Callable[[QueueItem, str, str], Awaitable[Unit[None] | None]]
"""Told that the item is given up, with the reason and its error code; what it returns is written
with the parking."""

OnWaiting = Callable[[QueueItem, float], Awaitable[None]]
"""Told once that an item has waited for that many seconds."""

RUN_ITEMS = 50
LANES_A_LOOK = 500
LOOK_S = 30.0
AFTER_OUTAGE_S = 1.0
WATCH_S = 5.0
PRUNE_S = 600.0
PRUNE_ITEMS = 1_000


class DurableQueue:
    """One of the two queues at work. `run` it once; put rows with `storage.queues`."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        queue: QueueTable,
        deliver: Deliver,
        on_parked: OnParked | None = None,
        on_waiting: OnWaiting | None = None,
        workers: int = 64,
        backoff: Backoff | None = None,
        random: Random | None = None,
        tries_after_failure: int = 5,
        give_up_after_s: float | None = None,
        tell_waiting_after_s: float = 60.0,
        keep_done_s: float = 14 * 24 * 3600.0,
    ) -> None:
        self._database = database
        self._clock = clock
        self._queue = queue
        self._deliver = deliver
        self._on_parked = on_parked
        self._on_waiting = on_waiting
        self._backoff = backoff or Backoff()
        self._random = random or Random()
        self._tries_after_failure = tries_after_failure
        self._give_up_after_s = give_up_after_s
        self._tell_waiting_after_s = tell_waiting_after_s
        self._keep_done_s = keep_done_s
        self._lanes = Lanes(self._run_lane, workers=workers, name=queue.topic)
        # Items that failed unexpectedly, by ID: at most one per lane.
        self._failures: dict[int, int] = {}

    async def run(self) -> None:
        """Until cancelled, or until `stop` and the end of the items in hand."""
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(self._look_for_work())
            pruning = tasks.create_task(self._prune())
            watching = tasks.create_task(self._watch())
            await self._lanes.run()
            for task in (looking, pruning, watching):
                task.cancel()

    def stop(self) -> None:
        """Begin no further item; `run` returns when those in hand are finished."""
        self._lanes.stop()

    async def _look_for_work(self) -> None:
        waker = self._database.waker(self._queue.topic)
        while True:
            wait_s = LOOK_S
            try:
                now_ms = self._clock.now_ms()
                due = await self._database.read(
                    partial(queues.lanes_due, queue=self._queue, now_ms=now_ms, limit=LANES_A_LOOK)
                )
            except Unavailable as exc:
                log.warning("queue unreadable", queue=self._queue.topic, reason=exc.reason)
                wait_s = AFTER_OUTAGE_S
            else:
                for lane in due.lanes:
                    self._lanes.wake(lane)
                if len(due.lanes) == LANES_A_LOOK:
                    wait_s = 1.0  # there may be more
                if due.next_ms is not None:
                    wait_s = min(wait_s, max(due.next_ms - now_ms, 0) / 1000)
            await waker.wait(wait_s)

    async def _run_lane(self, lane: str) -> None:
        """A bounded number of items; whoever has more comes again after the other lanes."""
        with bind(queue=self._queue.topic, lane=lane):
            try:
                item = await self._first(lane)
                for _ in range(RUN_ITEMS):
                    if item is None:
                        return
                    with bind(item_id=item.id, trace_id=item.trace_id):
                        item = await self._take_step(item)
            except Unavailable as exc:
                # The database's, not the item's: what a delivery raises was dealt with.
                log.warning("queue stalled", reason=exc.reason)
                await self._clock.sleep(AFTER_OUTAGE_S)
            self._lanes.wake(lane)

    async def _first(self, lane: str) -> QueueItem | None:
        now_ms = self._clock.now_ms()
        return await self._database.read(
            lambda tx: queues.next_in_lane(tx, self._queue, lane, now_ms)
        )

    async def _take_step(self, item: QueueItem) -> QueueItem | None:
        """Deliver one item and write what became of it; gives the lane's next that is due."""
        try:
            also = await self._deliver(item)
            following = await self._write_and_take_next(item.lane, self._done(item, also))
        except Unavailable as exc:
            settle = await self._later(item, exc)
        except (Refused, BadInput, NotFound) as exc:
            settle = await self._give_up(item, exc.reason, exc.errcode)
        except Exception as exc:
            log.exception("delivery failed")
            settle = await self._failed(item, exc)
        else:
            self._count("done")
            self._failures.pop(item.id, None)
            return following
        return await self._write_and_take_next(item.lane, settle)

    def _done(self, item: QueueItem, also: Unit[None] | None) -> Unit[None]:
        def settle(tx: Transaction) -> None:
            if also is not None:
                also(tx)
            queues.done(tx, self._queue, item.id)

        return settle

    async def _later(self, item: QueueItem, exc: Unavailable) -> Unit[None]:
        waited_s = (self._clock.now_ms() - item.created_ms) / 1000
        if self._give_up_after_s is not None and waited_s >= self._give_up_after_s:
            return await self._give_up(item, exc.reason, "M_CONNECTION_TIMEOUT")
        log.info("delivery postponed", reason=exc.reason, attempts=item.attempts + 1)
        self._count("postponed")
        return self._retry(item, exc.reason, exc.retry_after_s or 0.0)

    async def _failed(self, item: QueueItem, exc: Exception) -> Unit[None]:
        self._count("failed")
        failures = self._failures.pop(item.id, 0) + 1
        if failures >= self._tries_after_failure:
            return await self._give_up(item, f"internal error: {type(exc).__name__}", "M_UNKNOWN")
        self._failures[item.id] = failures
        return self._retry(item, type(exc).__name__, 0.0)

    def _retry(self, item: QueueItem, reason: str, at_least_s: float) -> Unit[None]:
        delay_s = max(self._backoff.delay_s(item.attempts, self._random), at_least_s)
        next_ms = self._clock.now_ms() + round(delay_s * 1000)

        def settle(tx: Transaction) -> None:
            queues.retry(tx, self._queue, item.id, next_attempt_ms=next_ms, reason=reason)
            tx.wake(self._queue.topic)  # the one who looks must hear of the new time

        return settle

    async def _give_up(self, item: QueueItem, reason: str, errcode: str) -> Unit[None]:
        self._count("parked")
        self._failures.pop(item.id, None)
        log.warning("item parked", reason=reason, attempts=item.attempts)
        also: Unit[None] | None = None
        if self._on_parked is not None:
            try:
                also = await self._on_parked(item, reason, errcode)
            except Unavailable as exc:
                return self._retry(item, exc.reason, exc.retry_after_s or 0.0)
            except Exception:
                log.exception("nobody told of parking")

        def settle(tx: Transaction) -> None:
            if also is not None:
                also(tx)
            queues.park(tx, self._queue, item.id, reason=reason)

        return settle

    async def _write_and_take_next(self, lane: str, settle: Unit[None]) -> QueueItem | None:
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> QueueItem | None:
            settle(tx)
            return queues.next_in_lane(tx, self._queue, lane, now_ms)

        return await self._database.write(unit)

    def _count(self, outcome: str) -> None:
        QUEUE_ITEMS.labels(queue=self._queue.topic, outcome=outcome).inc()

    async def _watch(self) -> None:
        if self._on_waiting is None:
            return
        while True:
            await self._clock.sleep(WATCH_S)
            try:
                await self._tell_waiting(self._on_waiting)
            except Unavailable as exc:
                log.warning("nobody told of waiting", queue=self._queue.topic, reason=exc.reason)

    async def _tell_waiting(self, on_waiting: OnWaiting) -> None:
        now_ms = self._clock.now_ms()
        before_ms = now_ms - round(self._tell_waiting_after_s * 1000)
        waiting = await self._database.read(
            lambda tx: queues.long_waiting(tx, self._queue, before_ms=before_ms, limit=50)
        )
        for item in waiting:
            try:
                await on_waiting(item, (now_ms - item.created_ms) / 1000)
            except Unavailable:
                raise
            except Exception:
                log.exception("nobody told of waiting", item_id=item.id)
            await self._database.write(
                partial(queues.told_waiting, queue=self._queue, item_id=item.id)
            )

    async def _prune(self) -> None:
        while True:
            before_ms = self._clock.now_ms() - round(self._keep_done_s * 1000)
            try:
                count = await self._database.write(
                    partial(queues.prune, queue=self._queue, before_ms=before_ms, limit=PRUNE_ITEMS)
                )
            except Unavailable as exc:
                log.warning("queue not pruned", queue=self._queue.topic, reason=exc.reason)
                count = 0
            await self._clock.sleep(1.0 if count == PRUNE_ITEMS else PRUNE_S)
