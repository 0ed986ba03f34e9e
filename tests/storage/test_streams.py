"""Positions: nobody who reads since a position ever misses a row."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest
from sqlalchemy import delete

from bridge.storage import streams
from bridge.storage.database import Database, Transaction, Unit
from bridge.storage.schema import stream_acceptances, stream_events
from tests.support.clock import FakeClock


def append(event_id: str, room_id: str = "!r") -> Unit[int]:
    return lambda tx: streams.append(
        tx,
        stream_events,
        {"event_id": event_id, "room_id": room_id, "outgoing": True, "historic": False},
    )


def since(after: int, limit: int = 100) -> Unit[list[str]]:
    return lambda tx: [
        row["event_id"] for row in streams.read_since(tx, stream_events, after, limit)
    ]


def head(tx: Transaction) -> int:
    return streams.head(tx, stream_events)


async def test_rows_come_in_the_order_of_their_positions(database: Database) -> None:
    assert await database.read(head) == 0
    assert await database.read(since(0)) == []
    first = await database.write(append("$1"))
    second = await database.write(append("$2"))
    assert first < second
    assert await database.read(since(0)) == ["$1", "$2"]
    assert await database.read(since(first)) == ["$2"]
    assert await database.read(since(second)) == []
    assert await database.read(since(0, limit=1)) == ["$1"]
    assert await database.read(head) == second


async def test_rows_may_be_chosen_by_a_condition(database: Database) -> None:
    await database.write(append("$1", "!a"))
    await database.write(append("$2", "!b"))
    rows = await database.read(
        lambda tx: streams.read_since(
            tx, stream_events, 0, 10, where=stream_events.c.room_id == "!b"
        )
    )
    assert [row["event_id"] for row in rows] == ["$2"]
    assert rows[0]["outgoing"] is True


async def test_several_rows_of_one_unit_appear_together(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        append("$1")(tx)
        append("$2")(tx)

    await database.write(unit)
    assert await database.read(since(0)) == ["$1", "$2"]


async def test_an_append_wakes_the_streams_readers(database: Database) -> None:
    waker = database.waker("stream_events")
    await database.write(append("$1"))
    assert await waker.wait(1.0)


async def test_positions_are_not_given_out_again_after_pruning(database: Database) -> None:
    last = await database.write(append("$1"))
    await database.write(lambda tx: tx.execute(delete(stream_events)).rowcount)
    assert await database.write(append("$2")) > last


async def test_a_row_that_may_still_come_below_holds_the_reader_back(
    postgresql_database_url: str,
) -> None:
    """The first writer draws the lower position and commits last."""
    database = await Database.open(postgresql_database_url)
    await database.write(append("$0"))
    drawn, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> int:
        position = append("$slow")(tx)
        drawn.set()
        go_on.wait(30)
        return position

    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(database.write(slow))
        await asyncio.to_thread(drawn.wait)
        quick = await database.write(append("$quick"))
        assert await database.read(since(0)) == ["$0"]
        assert await database.read(head) < quick
        # Another stream is not concerned.
        other = {"event_id": "$0", "room_id": "!r", "server": "b.test", "error": None}
        position = await database.write(lambda tx: streams.append(tx, stream_acceptances, other))
        assert await database.read(lambda tx: streams.head(tx, stream_acceptances)) == position
        go_on.set()
    assert writing.result() < quick
    assert await database.read(since(0)) == ["$0", "$slow", "$quick"]
    assert await database.read(head) == quick
    await database.close()


async def test_a_reader_that_was_held_back_hears_when_the_writer_gives_up(
    postgresql_database_url: str, clock: FakeClock
) -> None:
    database = await Database.open(postgresql_database_url, clock=clock)
    waker = database.waker("stream_events")
    drawn, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        append("$slow")(tx)
        drawn.set()
        go_on.wait(30)
        raise KeyError

    async def fail() -> None:
        with pytest.raises(KeyError):
            await database.write(slow)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        await asyncio.to_thread(drawn.wait)
        await database.write(append("$quick"))
        while await database.read(since(0)) == [] and not go_on.is_set():
            assert await waker.wait(1000.0)
            go_on.set()
    assert await waker.wait(1000.0)
    assert await database.read(since(0)) == ["$quick"]
    await database.close()


async def test_the_very_first_row_holds_the_reader_back_as_well(
    postgresql_database_url: str,
) -> None:
    database = await Database.open(postgresql_database_url)
    drawn, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        append("$slow")(tx)
        drawn.set()
        go_on.wait(30)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(database.write(slow))
        await asyncio.to_thread(drawn.wait)
        assert await database.read(head) == 0
        await database.write(append("$quick"))
        assert await database.read(head) == 0
        go_on.set()
    assert await database.read(since(0)) == ["$slow", "$quick"]
    await database.close()


async def test_a_writer_that_gave_up_holds_nobody_back(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        append("$undone")(tx)
        raise KeyError

    try:
        await database.write(unit)
    except KeyError:
        await database.write(append("$1"))
    assert await database.read(since(0)) == ["$1"]


async def test_a_reader_that_follows_many_writers_sees_each_row_once_in_order(
    database: Database, clock: FakeClock
) -> None:
    waker = database.waker("stream_events")
    expected = {f"${number}" for number in range(200)}
    seen: list[str] = []
    positions: list[int] = []

    async def follow() -> None:
        position = 0
        while len(seen) < len(expected):
            rows = await database.read(
                partial(streams.read_since, table=stream_events, after=position, limit=7)
            )
            for row in rows:
                seen.append(row["event_id"])
                positions.append(row["position"])
                position = row["position"]
            if not rows:
                await waker.wait(1000.0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        for event_id in expected:
            tasks.create_task(database.write(append(event_id)))
    assert sorted(seen) == sorted(expected)
    assert positions == sorted(positions)


async def test_a_cursor_only_moves_forward(database: Database) -> None:
    def cursor(tx: Transaction) -> int:
        return streams.cursor(tx, "feed")

    assert await database.read(cursor) == 0
    for position in (5, 9, 7):
        await database.write(partial(streams.advance, name="feed", position=position))
    assert await database.read(cursor) == 9
    assert await database.read(lambda tx: streams.cursor(tx, "another")) == 0
