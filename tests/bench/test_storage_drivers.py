"""Which PostgreSQL driver: psycopg on threads, or asyncpg through SQLAlchemy's `run_sync`?

Both run the same units of work, the same SQLAlchemy Core statements, against one private
PostgreSQL, turn by turn, so that the ratios of one run mean something on any machine. Both have
four connections. `clients` is how many callers wait for a unit at the same time.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.ext.asyncio import create_async_engine

from bridge.demo.servers import PostgreSQL
from bridge.storage.database import Database
from bridge.storage.schema import METADATA, events, forward_extremities, rooms, stream_events

Run = Callable[[Callable[[Any], Any]], Awaitable[Any]]
ROUNDS = 5
_numbers = iter(range(10**9))


def event_row() -> dict[str, Any]:
    number = next(_numbers)
    return {
        "event_id": f"$event{number}",
        "room_id": "!room",
        "type": "m.room.message",
        "state_key": None,
        "sender": "@a:a.test",
        "depth": number,
        "origin_server_ts": number,
        "json": "{" + " " * 600 + "}",
        "verdict": "accepted",
        "rule": None,
        "outlier": False,
        "snapshot_before": 1,
        "redacted_by": None,
        "received_ms": number,
        "trace_id": "trace",
    }


def insert_one(tx: Any) -> None:
    tx.execute(insert(events), event_row())


def insert_fifty(tx: Any) -> None:
    tx.execute(insert(events), [event_row() for _ in range(50)])


def append(tx: Any) -> None:
    """What an append does: lock the room, compare, write the event, its edges and position."""
    row = event_row()
    room = f"!room{row['depth'] % 8}"
    tx.execute(select(rooms.c.position).where(rooms.c.room_id == room).with_for_update()).scalar()
    tx.execute(insert(events), row)
    tx.execute(insert(forward_extremities), {"room_id": room, "event_id": row["event_id"]})
    tx.execute(update(rooms).where(rooms.c.room_id == room).values(position=rooms.c.position + 1))
    tx.execute(
        insert(stream_events)
        .values(room_id=room, event_id=row["event_id"], outgoing=True, historic=False)
        .returning(stream_events.c.position)
    ).scalar()


def read_one(tx: Any) -> None:
    tx.execute(select(rooms).where(rooms.c.room_id == "!room1")).all()


UNITS: tuple[tuple[str, Callable[[Any], Any], int], ...] = (
    ("insert one row", insert_one, 400),
    ("insert 50 rows", insert_fifty, 80),
    ("append (5 statements)", append, 200),
    ("read one row", read_one, 400),
)


async def rate(
    run: Run, unit: Callable[[Any], Any], count: int, clients: int
) -> tuple[float, float]:
    """Units a second, and units a second of this process's CPU."""
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            await run(unit)

    used = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())
    wall_s = time.perf_counter() - began
    now = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return count / wall_s, count / cpu_s


async def compare(url: str) -> None:
    engine = create_async_engine(
        url.replace("postgresql:", "postgresql+asyncpg:"), pool_size=4, max_overflow=0
    )
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        await connection.execute(
            insert(rooms),
            [
                {"room_id": f"!room{number}", "version": "12", "position": 0, "joined": True}
                for number in range(8)
            ],
        )
        await connection.execute(text("SELECT 1"))
    database = await Database.open(url)

    def on_connection(unit: Callable[[Any], Any]) -> Callable[[Connection], Any]:
        return unit

    async def with_asyncpg(unit: Callable[[Any], Any]) -> None:
        async with engine.begin() as connection:
            await connection.run_sync(on_connection(unit))

    async def with_psycopg(unit: Callable[[Any], Any]) -> None:
        await (database.read if unit is read_one else database.write)(unit)

    print("| unit | callers | asyncpg /s | psycopg /s | ratio | ratio per CPU second |")
    print("|---|---|---|---|---|---|")
    for name, unit, count in UNITS:
        for clients in (1, 16):
            results: dict[str, list[tuple[float, float]]] = {"asyncpg": [], "psycopg": []}
            for _ in range(ROUNDS):
                results["asyncpg"].append(await rate(with_asyncpg, unit, count, clients))
                results["psycopg"].append(await rate(with_psycopg, unit, count, clients))
            wall = {key: statistics.median(w for w, _ in value) for key, value in results.items()}
            cpu = {key: statistics.median(c for _, c in value) for key, value in results.items()}
            print(
                f"| {name} | {clients} | {wall['asyncpg']:.0f} | {wall['psycopg']:.0f}"
                f" | {wall['psycopg'] / wall['asyncpg']:.2f}"
                f" | {cpu['psycopg'] / cpu['asyncpg']:.2f} |"
            )
    await database.close()
    await engine.dispose()


@pytest.mark.bench
@pytest.mark.timeout(900)
async def test_psycopg_on_threads_beside_asyncpg() -> None:
    """With fsync: an own server, not the one of the other tests."""
    async with PostgreSQL() as server:
        await compare(server.url(await server.create_database("bench")))
