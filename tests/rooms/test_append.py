"""The append: several processes on one database, both kinds of databases, exact positions."""

from __future__ import annotations

import asyncio

from bridge.ids import RoomId
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database
from tests.support.network import Network, Server
from tests.support.talk import heard, make_room, room_at, say, two_in_a_room


async def position(server: Server, room_id: RoomId) -> int:
    row = await server.database.read(lambda tx: room_rows.find(tx, room_id))
    assert row is not None
    return row.position


async def test_two_processes_on_one_database_lose_nothing(network: Network) -> None:
    first = await network.add("here.example")
    room_id = await make_room(first)
    second = await network.add("here.example")  # The same file, its own memory.
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(say(first, room_id, "maker", f"first {number}"))
                group.create_task(say(second, room_id, "maker", f"second {number}"))
        said = await heard(first, room_id)
        assert sorted(said) == sorted(
            f"{who} {number}" for who in ("first", "second") for number in range(10)
        )
        stored = await room_at(first, room_id)
        assert len(stored.extremities) == 1
        assert await position(first, room_id) == 1 + 20
    finally:
        await first.database.close()


async def test_many_senders_at_once_make_a_straight_line(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(say(here, room_id, "maker", f"{number}"))
    await network.deliver()
    assert await heard(here, room_id) == await heard(there, room_id)
    assert len((await room_at(there, room_id)).extremities) == 1


async def test_a_room_lives_on_postgresql(network: Network, postgresql_database_url: str) -> None:
    here = await network.add("here.example", url=postgresql_database_url)
    there = await network.add("there.example")
    room_id = await make_room(here)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(say(here, room_id, "maker", f"here {number}"))
            group.create_task(say(there, room_id, "guest", f"there {number}"))
    await network.deliver()
    await say(here, room_id, "maker", "last")
    await network.deliver()
    assert sorted(await heard(here, room_id)) == sorted(await heard(there, room_id))
    assert len(await heard(here, room_id)) == 21
    at_here, at_there = await room_at(here, room_id), await room_at(there, room_id)
    assert dict(at_here.state.items()) == dict(at_there.state.items())
    await there.backend.leave(user_id=there.user("guest"), room_id=room_id)
    await network.deliver()
    await here.backend.purge(room_id)
    assert await here.database.read(lambda tx: room_rows.find(tx, room_id)) is None


async def test_a_room_of_two_processes_on_postgresql(
    network: Network, postgresql_database_url: str
) -> None:
    first = await network.add("here.example", url=postgresql_database_url)
    room_id = await make_room(first)
    second = await network.add("here.example", url=postgresql_database_url)
    databases: list[Database] = [first.database]
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(say(first, room_id, "maker", f"first {number}"))
                group.create_task(say(second, room_id, "maker", f"second {number}"))
        assert len(await heard(second, room_id)) == 20
        assert len((await room_at(first, room_id)).extremities) == 1
    finally:
        for database in databases:
            await database.close()
