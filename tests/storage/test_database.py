"""Units of work: committed whole or not at all, heard of after the commit."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from bridge.demo.servers import PostgreSQL
from bridge.errors import BadInput, Conflict, Misconfigured, Unavailable
from bridge.storage import workers
from bridge.storage.database import WRITERS, Database, Transaction, Unit
from bridge.storage.schema import meta
from tests.support.clock import FakeClock, settle


def put(key: str, value: str = "there") -> Unit[None]:
    def unit(tx: Transaction) -> None:
        tx.execute(insert(meta).values(key=key, value=value))

    return unit


def keys(tx: Transaction) -> set[str]:
    return set(tx.execute(select(meta.c.key).where(meta.c.key != "epoch")).scalars())


@asynccontextmanager
async def busy_writers(database: Database) -> AsyncIterator[asyncio.TaskGroup]:
    """Every writing thread is busy inside the block, so what is written there waits in line."""
    go_on = threading.Event()
    started = threading.Semaphore(0)

    def hold(_: Transaction) -> None:
        started.release()
        go_on.wait(30)

    count = 1 if database.dialect.one_writer else WRITERS
    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(database.write(hold))
        for _ in range(count):
            await asyncio.to_thread(started.acquire)
        yield tasks
        await settle()
        go_on.set()


async def test_what_a_unit_wrote_is_read_afterwards(database: Database) -> None:
    await database.write(put("a"))
    assert await database.read(keys) == {"a"}


async def test_a_unit_gives_its_result(database: Database) -> None:
    assert await database.write(lambda tx: 7) == 7


async def test_a_unit_that_raises_leaves_nothing_and_raises_at_its_caller(
    database: Database,
) -> None:
    def unit(tx: Transaction) -> None:
        put("a")(tx)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await database.write(unit)
    assert await database.read(keys) == set()


async def test_of_units_that_share_a_commit_only_the_failing_one_is_undone(
    database: Database,
) -> None:
    failures: list[str] = []

    def failing(tx: Transaction) -> None:
        put("undone")(tx)
        put("undone")(tx)

    async def fail() -> None:
        try:
            await database.write(failing)
        except Conflict:
            failures.append("heard")

    async with busy_writers(database) as tasks:
        tasks.create_task(database.write(put("before")))
        tasks.create_task(fail())
        tasks.create_task(database.write(put("after")))
    assert failures == ["heard"]
    assert await database.read(keys) == {"before", "after"}


async def test_waiting_units_share_one_commit_on_sqlite(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    answer = sqlite_database._writer._answer

    def count(jobs: Sequence[workers.Job[Any]]) -> None:
        groups.append(len(jobs))
        answer(jobs)

    monkeypatch.setattr(sqlite_database._writer, "_answer", count)
    async with busy_writers(sqlite_database) as tasks:
        for number in range(10):
            tasks.create_task(sqlite_database.write(put(f"k{number}")))
    assert groups == [11]


async def test_when_the_shared_commit_fails_each_unit_is_committed_alone(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk is full for all together: those that fit alone are kept."""
    real = workers.GroupWriter._fill

    def fill(self: workers.GroupWriter, *arguments: object) -> bool:
        real(self, *arguments)  # type: ignore[arg-type]
        return False

    monkeypatch.setattr(workers.GroupWriter, "_fill", fill)
    async with busy_writers(sqlite_database) as tasks:
        for number in range(3):
            tasks.create_task(sqlite_database.write(put(f"k{number}")))
    assert await sqlite_database.read(keys) == {"k0", "k1", "k2"}


async def test_an_error_that_a_unit_swallows_still_undoes_it(database: Database) -> None:
    await database.write(put("a"))

    def unit(tx: Transaction) -> None:
        put("b")(tx)
        with pytest.raises(Conflict):
            put("a")(tx)

    with pytest.raises(Conflict):
        await database.write(unit)
    assert await database.read(keys) == {"a"}


async def test_a_caller_that_goes_away_does_not_harm_the_unit_that_runs(
    database: Database,
) -> None:
    started, go_on = threading.Event(), threading.Event()

    def unit(tx: Transaction) -> None:
        put("a")(tx)
        started.set()
        go_on.wait(30)

    async with asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(database.write(unit))
        await asyncio.to_thread(started.wait)
        caller.cancel()
    go_on.set()
    await database.write(put("b"))
    await database.close()
    assert caller.cancelled()
    # Begun, hence finished.
    assert await _keys_of(database) == {"a", "b"}


async def test_a_unit_whose_caller_went_away_before_it_began_is_left_out(
    database: Database,
) -> None:
    async with busy_writers(database) as tasks:
        caller = tasks.create_task(database.write(put("a")))
        await settle()
        caller.cancel()
    assert await database.read(keys) == set()


async def _keys_of(closed: Database) -> set[str]:
    engine = closed.dialect.engine("read")
    with engine.connect() as connection:
        found = keys(Transaction(connection, closed.dialect))
    engine.dispose()
    return found


async def test_closing_finishes_what_was_handed_in_and_refuses_the_rest(
    database: Database,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(database.write(put(f"k{number}")))
        await settle()
        await database.close()
    assert len(await _keys_of(database)) == 20
    with pytest.raises(Unavailable):
        await database.write(put("late"))


async def test_many_callers_at_once_are_all_served(database: Database) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(300):
            tasks.create_task(database.write(put(f"k{number}")))
    assert len(await database.read(keys)) == 300


@pytest.mark.parametrize("value", ["a\ud800b", 2**80])
async def test_what_the_database_cannot_hold_is_bad_input(
    database: Database, value: object
) -> None:
    def unit(tx: Transaction) -> None:
        if isinstance(value, int):
            tx.execute(select(meta).limit(value)).all()
        else:
            tx.execute(insert(meta).values(key="bad", value=value))

    with pytest.raises(BadInput):
        await database.write(unit)
    await database.write(put("good"))


async def test_a_unit_that_reads_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)read.?only"):
        await database.read(put("a"))
    assert await database.read(keys) == set()


async def test_the_epoch_stays_until_it_is_renewed(database: Database, database_url: str) -> None:
    first = database.epoch
    again = await Database.open(database_url)
    assert first == again.epoch != ""
    await again.renew_epoch()
    third = await Database.open(database_url)
    assert third.epoch == again.epoch != first
    await again.close()
    await third.close()


# --- wake-ups ------------------------------------------------------------------------------


def woken(topic: str, then: Callable[[], None] = lambda: None) -> Unit[None]:
    def unit(tx: Transaction) -> None:
        tx.wake(topic)
        then()

    return unit


async def test_a_wake_up_before_the_wait_is_not_lost(database: Database) -> None:
    waker = database.waker("tea")
    await database.write(woken("tea"))
    assert await waker.wait(1.0)


async def test_a_wake_up_during_the_wait_ends_it(database: Database) -> None:
    waker = database.waker("tea")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(waker.wait(1000.0))
        await settle()
        await database.write(woken("tea"))
    assert waiting.result()


async def test_without_a_wake_up_the_wait_ends_with_its_time(
    database: Database, clock: FakeClock
) -> None:
    waker, other = database.waker("tea"), database.waker("coffee")
    await database.write(woken("coffee"))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(waker.wait(5.0))
        await clock.advance(5.0)
    assert not waiting.result()
    assert await other.wait(5.0)


async def test_one_wake_up_ends_one_wait(database: Database, clock: FakeClock) -> None:
    waker = database.waker("tea")
    await database.write(woken("tea"))
    assert await waker.wait(1.0)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(waker.wait(5.0))
        await clock.advance(5.0)
    assert not waiting.result()


async def test_a_unit_that_fails_wakes_nobody(database: Database, clock: FakeClock) -> None:
    def fail() -> None:
        raise KeyError("mine")

    waker = database.waker("tea")
    with pytest.raises(KeyError):
        await database.write(woken("tea", fail))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(waker.wait(5.0))
        await clock.advance(5.0)
    assert not waiting.result()


async def test_on_postgresql_another_process_is_woken(
    postgresql_database_url: str,
) -> None:
    one = await Database.open(postgresql_database_url)
    other = await Database.open(postgresql_database_url)
    waker = other.waker("tea")
    await one.write(woken("tea"))
    assert await waker.wait(30.0)
    await one.close()
    await other.close()


# --- outages -------------------------------------------------------------------------------


async def test_a_connection_that_died_while_idle_costs_nothing(
    postgresql_database_url: str, postgresql: PostgreSQL
) -> None:
    database = await Database.open(postgresql_database_url)
    for _ in range(20):
        await database.write(lambda tx: None)
    await database.read(keys)
    name = postgresql_database_url.rpartition("/")[2]
    await postgresql.query(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    for number in range(20):
        await database.write(put(f"k{number}"))
    assert len(await database.read(keys)) == 20
    await database.close()


async def test_a_deadlock_is_resolved_by_running_a_unit_again(
    postgresql_database_url: str,
) -> None:
    database = await Database.open(postgresql_database_url)
    await database.write(put("a", "0"))
    await database.write(put("b", "0"))
    meeting = threading.Barrier(2, timeout=30)
    runs: list[str] = []

    def crossing(first: str, second: str) -> Unit[None]:
        def unit(tx: Transaction) -> None:
            runs.append(first)
            tx.execute(update(meta).where(meta.c.key == first).values(value=meta.c.value + "1"))
            if runs.count(first) == 1:
                meeting.wait()
            tx.execute(update(meta).where(meta.c.key == second).values(value=meta.c.value + "1"))

        return unit

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(database.write(crossing("a", "b")))
        tasks.create_task(database.write(crossing("b", "a")))
    # Who lost may be quick enough to stand in the other's way once more.
    assert len(runs) >= 3
    values = await database.read(
        lambda tx: set(tx.execute(select(meta.c.value).where(meta.c.key != "epoch")).scalars())
    )
    assert values == {"011"}
    await database.close()


async def test_a_full_disk_is_an_outage_and_passes(sqlite_database: Database) -> None:
    """The page limit is SQLite's own way to say that the disk is full."""

    def fill(tx: Transaction) -> None:
        tx.execute(insert(meta).values(key="big", value="x" * 1_000_000))

    def limit(pages: str) -> Unit[None]:
        def unit(tx: Transaction) -> None:
            tx.execute(text(f"PRAGMA max_page_count = {pages}"))

        return unit

    await sqlite_database.write(limit("1"))  # cannot go below what is used
    with pytest.raises(Unavailable):
        await sqlite_database.write(fill)
    assert await sqlite_database.read(keys) == set()
    await sqlite_database.write(limit("1000000"))
    await sqlite_database.write(fill)
    assert await sqlite_database.read(keys) == {"big"}


async def test_a_full_disk_costs_the_others_of_the_group_nothing(
    sqlite_database: Database,
) -> None:
    heard: list[str] = []

    async def fill() -> None:
        try:
            await sqlite_database.write(put("big", "x" * 1_000_000))
        except Unavailable:
            heard.append("full")

    def limit(tx: Transaction) -> None:
        pages = tx.execute(text("PRAGMA page_count")).scalar_one()
        tx.execute(text(f"PRAGMA max_page_count = {pages + 5}"))

    await sqlite_database.write(limit)
    async with busy_writers(sqlite_database) as tasks:
        tasks.create_task(sqlite_database.write(put("before")))
        tasks.create_task(fill())
        tasks.create_task(sqlite_database.write(put("after")))
    assert heard == ["full"]
    assert await sqlite_database.read(keys) == {"before", "after"}


async def test_a_file_locked_by_another_process_is_an_outage(
    sqlite_database: Database, sqlite_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sqlite_database.write(lambda tx: tx.execute(text("PRAGMA busy_timeout = 1")).all())
    other = sqlite3.connect(sqlite_database_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        await sqlite_database.write(put("a"))
    other.execute("ROLLBACK")
    other.close()
    await sqlite_database.write(put("a"))


# --- opening -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "no url", "sqlite:////no/dir/x"]
)
async def test_a_url_that_cannot_work_is_a_misconfiguration(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"database\.url"):
        await Database.open(url)


async def test_a_database_without_tables_is_a_misconfiguration(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="tables"):
        await Database.open(f"sqlite:///{tmp_path}/empty.sqlite")


async def test_a_database_without_tables_is_a_misconfiguration_on_postgresql_too(
    postgresql_url: str,
) -> None:
    with pytest.raises(Misconfigured, match="tables"):
        await Database.open(postgresql_url)


async def test_a_server_that_is_not_there_is_an_outage() -> None:
    with pytest.raises(Unavailable):
        await Database.open("postgresql://nobody@127.0.0.1:1/nothing")


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    with pytest.raises(Misconfigured):
        await Database.open(f"sqlite:///{path}")
    assert path.stat().st_mode & 0o777 == 0o600
