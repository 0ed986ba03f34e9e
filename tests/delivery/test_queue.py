"""A durable queue: at least once, in order per lane, and an answer for what cannot be delivered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

from sqlalchemy import insert, select

from bridge.delivery.backoff import Backoff
from bridge.delivery.inbox import Inbox
from bridge.delivery.outbox import Outbox
from bridge.delivery.queue import DurableQueue
from bridge.errors import BadInput, Conflict, Refused, Unavailable
from bridge.ids import TraceId
from bridge.storage import queues
from bridge.storage.database import Database, Transaction, Unit
from bridge.storage.queues import OUTBOX, QueueItem
from bridge.storage.schema import meta, outbox
from tests.support.clock import FakeClock


class World:
    """A queue at work, the ends that it delivers to, and what became of the rows."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.database = database
        self.clock = clock
        self.delivered: list[str] = []
        self.tries: list[tuple[str, int]] = []
        self.fails: dict[str, list[Exception]] = {}
        self.also: dict[str, Unit[None]] = {}
        self.parked: list[tuple[str, str, str]] = []
        self.waiting: list[tuple[str, float]] = []
        self.parking_fails: list[Exception] = []
        self.settings: dict[str, Any] = {}

    async def deliver(self, item: QueueItem) -> Unit[None] | None:
        self.tries.append((item.cause, self.clock.now_ms()))
        if self.fails.get(item.cause):
            raise self.fails[item.cause].pop(0)
        self.delivered.append(item.cause)
        return self.also.get(item.cause)

    async def on_parked(self, item: QueueItem, reason: str, errcode: str) -> Unit[None]:
        if self.parking_fails:
            raise self.parking_fails.pop(0)
        self.parked.append((item.cause, reason, errcode))
        return lambda tx: note(tx, f"told {item.cause}")

    async def on_waiting(self, item: QueueItem, waited_s: float) -> None:
        self.waiting.append((item.cause, waited_s))

    def queue(self) -> DurableQueue:
        return Outbox(
            database=self.database,
            clock=self.clock,
            deliver=self.deliver,
            on_parked=self.on_parked,
            on_waiting=self.on_waiting,
            random=Random(1),
            **self.settings,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            run = tasks.create_task(self.queue().run())
            yield
            run.cancel()

    async def put(self, *causes: str, lane: str = "tea") -> None:
        for cause in causes:
            await self.database.write(
                partial(
                    queues.put_outbox,
                    lane=lane,
                    adapter="xmpp",
                    cause=cause,
                    payload={},
                    trace_id=TraceId(cause),
                    now_ms=self.clock.now_ms(),
                )
            )

    async def rows(self) -> dict[str, str]:
        found = await self.database.read(
            lambda tx: tx.execute(select(outbox.c.cause, outbox.c.status)).all()
        )
        return {row.cause: row.status for row in found}

    async def until(self, condition: Callable[[], bool], *, step_s: float = 0.0) -> None:
        """Lets the database's threads work, and time pass, until the condition holds."""
        while not condition():
            await self.database.read(lambda tx: None)
            await self.clock.advance(step_s)

    async def until_settled(self, statuses: dict[str, str], *, step_s: float = 0.0) -> None:
        while await self.rows() != statuses:
            await self.clock.advance(step_s)


def note(tx: Transaction, key: str) -> None:
    tx.execute(insert(meta).values(key=key, value=""))


async def notes(database: Database) -> set[str]:
    return await database.read(
        lambda tx: set(tx.execute(select(meta.c.key).where(meta.c.key != "epoch")).scalars())
    )


async def test_what_was_put_before_and_during_the_run_is_delivered(
    database: Database, clock: FakeClock
) -> None:
    world = World(database, clock)
    await world.put("before")
    async with world.running():
        await world.until(lambda: world.delivered == ["before"])
        await world.put("during")
        await world.until(lambda: world.delivered == ["before", "during"])
        await world.until_settled({"before": "done", "during": "done"})


async def test_each_lane_keeps_its_order(database: Database, clock: FakeClock) -> None:
    world = World(database, clock)
    for number in range(30):
        await world.put(f"a{number}", lane="a")
        await world.put(f"b{number}", lane="b")
    async with world.running():
        await world.until(lambda: len(world.delivered) == 60)
    for lane in "ab":
        mine = [cause for cause in world.delivered if cause.startswith(lane)]
        assert mine == [f"{lane}{number}" for number in range(30)]


async def test_a_long_lane_is_worked_off_to_its_end(
    sqlite_database: Database, clock: FakeClock
) -> None:
    world = World(sqlite_database, clock)
    await world.put(*(f"c{number}" for number in range(120)))
    async with world.running():
        await world.until(lambda: len(world.delivered) == 120)
    assert world.delivered == [f"c{number}" for number in range(120)]


async def test_what_belongs_to_a_delivery_is_in_its_commit(
    database: Database, clock: FakeClock
) -> None:
    world = World(database, clock)
    world.also["c1"] = lambda tx: note(tx, "map")
    await world.put("c1")
    async with world.running():
        await world.until_settled({"c1": "done"})
    assert await notes(database) == {"map"}


async def test_an_outage_is_waited_for_and_the_lane_waits_with_it(
    database: Database, clock: FakeClock
) -> None:
    world = World(database, clock)
    world.settings["backoff"] = Backoff(first_s=10.0, most_s=40.0)
    world.fails["c1"] = [Unavailable("away") for _ in range(4)]
    await world.put("c1", "c2")
    await world.put("d1", lane="dinner")
    async with world.running():
        await world.until(lambda: "d1" in world.delivered)
        await world.until(lambda: "c2" in world.delivered, step_s=1.0)
    assert world.delivered == ["d1", "c1", "c2"]
    times_ms = [at_ms for cause, at_ms in world.tries if cause == "c1"]
    waits_s = [(after - before) / 1000 for before, after in pairwise(times_ms)]
    # How long at most is the backoff's own test: this clock moves on while the database works.
    for wait_s, full_s in zip(waits_s, (10, 20, 40, 40), strict=True):
        assert wait_s >= full_s / 2


async def test_who_says_when_to_come_back_is_obeyed(database: Database, clock: FakeClock) -> None:
    world = World(database, clock)
    world.fails["c1"] = [Unavailable("slow down", retry_after_s=100.0)]
    await world.put("c1")
    async with world.running():
        await world.until(lambda: world.delivered == ["c1"], step_s=1.0)
    assert world.tries[1][1] - world.tries[0][1] >= 100_000


async def test_a_wait_survives_a_restart(database: Database, clock: FakeClock) -> None:
    world = World(database, clock)
    world.fails["c1"] = [Unavailable("away", retry_after_s=100.0)]
    await world.put("c1")
    async with world.running():
        await world.until(lambda: len(world.tries) == 1)
        while (await database.read(partial(queues.get, queue=OUTBOX, item_id=1))).attempts == 0:
            pass
    async with world.running():
        await world.until(lambda: world.delivered == ["c1"], step_s=1.0)
    assert world.tries[1][1] - world.tries[0][1] >= 100_000


async def test_a_refusal_parks_the_item_and_tells_of_it(
    database: Database, clock: FakeClock
) -> None:
    world = World(database, clock)
    world.fails["c1"] = [Refused("not you")]
    world.fails["c2"] = [BadInput("too long")]
    await world.put("c1", "c2", "c3")
    async with world.running():
        await world.until_settled({"c1": "parked", "c2": "parked", "c3": "done"})
    assert world.parked == [("c1", "not you", "M_FORBIDDEN"), ("c2", "too long", "M_BAD_JSON")]
    assert await notes(database) == {"told c1", "told c2"}
    item = await database.read(partial(queues.get, queue=OUTBOX, item_id=1))
    assert item.reason == "not you"


async def test_nobody_is_parked_before_the_telling_is_possible(
    database: Database, clock: FakeClock
) -> None:
    world = World(database, clock)
    world.fails["c1"] = [Refused("not you"), Refused("not you")]
    world.parking_fails = [Unavailable("the room is away")]
    await world.put("c1")
    async with world.running():
        await world.until(lambda: len(world.parked) == 1, step_s=1.0)
        await world.until_settled({"c1": "parked"})
    assert world.parked == [("c1", "not you", "M_FORBIDDEN")]


async def test_a_mistake_of_ours_is_tried_again_and_then_parked(
    database: Database, clock: FakeClock
) -> None:
    world = World(database, clock)
    world.settings["tries_after_failure"] = 3
    world.fails["c1"] = [ValueError("oops") for _ in range(3)]
    world.fails["c2"] = [ValueError("oops") for _ in range(2)]
    await world.put("c1")
    await world.put("c2", lane="dinner")
    async with world.running():
        await world.until_settled({"c1": "parked", "c2": "done"}, step_s=1.0)
    assert world.parked == [("c1", "internal error: ValueError", "M_UNKNOWN")]


async def test_a_mistake_in_what_belongs_to_the_delivery_ends_the_same_way(
    database: Database, clock: FakeClock
) -> None:
    def broken(tx: Transaction) -> None:
        note(tx, "undone")
        raise ValueError("oops")

    world = World(database, clock)
    world.settings["tries_after_failure"] = 3
    world.also["c1"] = broken
    await world.put("c1", "c2")
    async with world.running():
        await world.until_settled({"c1": "parked", "c2": "done"}, step_s=1.0)
    assert world.delivered == ["c1", "c1", "c1", "c2"]
    assert await notes(database) == {"told c1"}


async def test_a_conflict_in_what_belongs_to_the_delivery_is_tried_again(
    database: Database, clock: FakeClock
) -> None:
    world = World(database, clock)
    conflicts = [Conflict("the room moved on")]

    def also(tx: Transaction) -> None:
        if conflicts:
            raise conflicts.pop()
        note(tx, "written")

    world.also["c1"] = also
    await world.put("c1")
    async with world.running():
        await world.until_settled({"c1": "done"}, step_s=1.0)
    assert await notes(database) == {"written"}


async def test_what_waits_too_long_is_given_up(database: Database, clock: FakeClock) -> None:
    world = World(database, clock)
    world.settings["give_up_after_s"] = 3600.0
    began_ms = clock.now_ms()
    world.settings["backoff"] = Backoff(first_s=600.0, most_s=600.0)
    world.fails["c1"] = [Unavailable("away") for _ in range(100)]
    await world.put("c1")
    async with world.running():
        await world.until_settled({"c1": "parked"}, step_s=60.0)
    assert world.parked == [("c1", "away", "M_CONNECTION_TIMEOUT")]
    assert world.tries[-1][1] - began_ms >= 3_600_000


async def test_who_waits_long_is_told_once(database: Database, clock: FakeClock) -> None:
    world = World(database, clock)
    world.fails["c1"] = [Unavailable("away", retry_after_s=300.0)]
    await world.put("c1")
    async with world.running():
        await world.until(lambda: world.delivered == ["c1"], step_s=5.0)
    ((cause, waited_s),) = world.waiting
    assert cause == "c1"
    assert waited_s >= 60.0


async def test_stopping_finishes_the_item_in_hand(database: Database, clock: FakeClock) -> None:
    world = World(database, clock)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def deliver(item: QueueItem) -> None:
        started.set()
        await go_on.wait()

    queue = Outbox(database=database, clock=clock, deliver=deliver)
    await world.put("c1")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(queue.run())
        await started.wait()
        queue.stop()
        go_on.set()
    assert await world.rows() == {"c1": "done"}


async def test_finished_items_are_forgotten_after_their_time(
    database: Database, clock: FakeClock
) -> None:
    world = World(database, clock)
    world.settings["keep_done_s"] = 7200.0
    await world.put("c1")
    async with world.running():
        await world.until_settled({"c1": "done"})
        await world.until_settled({}, step_s=300.0)
    assert clock.monotonic_s() >= 7200.0


async def test_an_outage_of_the_database_only_delays(
    sqlite_database: Database, clock: FakeClock, monkeypatch: Any
) -> None:
    world = World(sqlite_database, clock)
    world.settings["backoff"] = Backoff(first_s=0.5)
    failures = [Unavailable("the disk is full") for _ in range(4)]
    write = sqlite_database.write

    async def fail(unit: Unit[Any]) -> Any:
        if failures:
            raise failures.pop()
        return await write(unit)

    await world.put("c1", "c2")
    monkeypatch.setattr(sqlite_database, "write", fail)
    async with world.running():
        await world.until_settled({"c1": "done", "c2": "done"}, step_s=1.0)
    assert failures == []
    # Delivered, but not written: so once more.
    assert world.delivered[0] == "c1"
    assert world.delivered[-1] == "c2"


async def test_the_inbox_is_the_same_over_its_own_table(
    database: Database, clock: FakeClock
) -> None:
    got = asyncio.Event()

    async def deliver(item: QueueItem) -> None:
        assert (item.source, item.cause) == ("a@a.test", "s1")
        got.set()

    await database.write(
        partial(
            queues.put_inbox,
            lane="tea",
            adapter="xmpp",
            source="a@a.test",
            source_id="s1",
            payload={},
            trace_id=TraceId("t"),
            now_ms=clock.now_ms(),
        )
    )
    queue = Inbox(database=database, clock=clock, deliver=deliver)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(queue.run())
        await got.wait()
        queue.stop()
