"""What a room costs us: a PDU from the body of a transaction to its rows, entering, and whether a
message is dearer in a big or an old room.

CPU of this process, all its threads. That of the PostgreSQL server is told beside it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.demo.servers import PostgreSQL
from bridge.engine.canonical import encode_canonical, parse_json
from bridge.engine.pdu import Pdu
from bridge.ids import EventId, RoomId
from bridge.rooms.assembly import Rooms
from bridge.storage import events as event_rows
from bridge.storage.database import Database
from tests.bench.lone_server import JULIET, PEER, TRACE, RoomPeer, enter, lone_server
from tests.bench.long_room import LongRoom, message_content
from tests.bench.measure import load
from tests.support.database import create_tables

PDUS = 1_000
PER_TRANSACTION = 50
ROUNDS = 5


def transactions(pdus: Sequence[Pdu]) -> list[bytes]:
    """Bodies of /send, as full as they may be."""
    return [
        encode_canonical(
            {
                "origin": PEER,
                "origin_server_ts": 1,
                "pdus": [pdu.wire() for pdu in pdus[start : start + PER_TRANSACTION]],
            }
        )
        for start in range(0, len(pdus), PER_TRANSACTION)
    ]


async def receive(rooms: Rooms, bodies: Sequence[bytes], name: str) -> float:
    """CPU seconds until all verdicts are there; `receiver.run()` works meanwhile."""
    begin = time.process_time()
    for number, body in enumerate(bodies):
        pdus = parse_json(body, max_bytes=8 << 20)["pdus"]
        verdicts = await rooms.receiver.take(PEER, f"{name}{number}", pdus, wait_s=60)
        assert not any(verdicts.values()), verdicts
    return time.process_time() - begin


@asynccontextmanager
async def working(rooms: Rooms) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(rooms.receiver.run())
        try:
            yield
        finally:
            task.cancel()


async def see_stored(database: Database, pdus: Sequence[Pdu]) -> None:
    found = await database.read(lambda tx: event_rows.find(tx, [pdu.event_id for pdu in pdus]))
    assert len(found) == len(pdus)
    assert {row.verdict for row in found.values()} == {event_rows.ACCEPTED}


async def measure_inbound(url: str) -> list[float]:
    """CPU milliseconds for one PDU: in transactions of 50, and one by one."""
    peer = RoomPeer()
    costs: dict[int, list[float]] = {PER_TRANSACTION: [], 1: []}
    async with lone_server(url, peer) as (database, rooms), working(rooms):
        room = LongRoom("12")
        room.fill(50)
        await enter(rooms, peer.offer(room))
        for number in range(ROUNDS):
            pdus = room.talk(PDUS)
            used_s = await receive(rooms, transactions(pdus), f"many{number}")
            await see_stored(database, pdus)
            costs[PER_TRANSACTION].append(1000 * used_s / PDUS)
            pdus = room.talk(100)
            bodies = [body for pdu in pdus for body in transactions([pdu])]
            used_s = await receive(rooms, bodies, f"one{number}")
            costs[1].append(1000 * used_s / len(pdus))
    return [statistics.median(one) for one in costs.values()]


@pytest.mark.bench
@pytest.mark.timeout(600)
async def test_inbound_pdus_on_sqlite(sqlite_database_url: str) -> None:
    """1,000 messages of one room, from the text of the transactions to the rows."""
    many_ms, one_ms = await measure_inbound(sqlite_database_url)
    print(f"\n1,000 inbound PDUs on SQLite ({load()})")
    print(f"  {many_ms:.3f} ms each in transactions of 50, {one_ms:.3f} ms one by one")


@pytest.mark.bench
@pytest.mark.timeout(600)
async def test_inbound_pdus_on_postgresql() -> None:
    """With fsync: an own server, not the one of the other tests."""
    async with PostgreSQL() as server:
        url = server.url(await server.create_database("bench"))
        create_tables(url)
        used_s = family_cpu_s(server.pid)
        many_ms, one_ms = await measure_inbound(url)
        used_s = family_cpu_s(server.pid) - used_s
    count = ROUNDS * (PDUS + 100)
    print(f"\n1,000 inbound PDUs on PostgreSQL ({load()})")
    print(f"  {many_ms:.3f} ms each in transactions of 50, {one_ms:.3f} ms one by one")
    print(f"  the server's own CPU: {1000 * used_s / count:.3f} ms each")


def family_cpu_s(pid: int) -> float:
    """CPU of a process, its children and those of them that have ended."""
    used = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            text = (folder / "stat").read_text("utf-8", "replace")
        except OSError:
            continue  # It has ended meanwhile.
        fields = text.rpartition(")")[2].split()
        if int(folder.name) == pid:
            used += sum(int(one) for one in fields[11:15])
        elif int(fields[1]) == pid:
            used += sum(int(one) for one in fields[11:13])
    return used / 100


@pytest.mark.bench
@pytest.mark.timeout(600)
async def test_taking_in_the_answer_of_send_join(sqlite_template: Path, tmp_path: Path) -> None:
    """Rooms with 2,000 and 10,000 state events, a tenth of which replaced older ones."""
    print(f"\nentering a room ({load()})")
    used: dict[int, list[float]] = {}
    for size, rounds in ((2_000, 3), (10_000, 1)):
        room = LongRoom("12", name=f"of{size}")
        room.fill(size)
        for user in room.members[1 : size // 10]:
            room.send("m.room.member", user, room.membership(user, f"Again {user}"), user)
        for number in range(rounds):
            path = tmp_path / f"{size}-{number}.sqlite"
            path.write_bytes(sqlite_template.read_bytes())
            peer = RoomPeer()
            async with lone_server(f"sqlite:///{path}", peer) as (_, rooms):
                events, state = list(room.events), dict(room.state)
                room_id = peer.offer(room)
                begin = time.process_time()
                await enter(rooms, room_id)
                used.setdefault(size, []).append(time.process_time() - begin)
                room.events, room.state = events, state
    for size, costs in used.items():
        cost_s = statistics.median(costs)
        print(f"  {size} state events: {cost_s:.2f} s of CPU, {1000 * cost_s / size:.3f} ms each")


@pytest.mark.bench
@pytest.mark.timeout(900)
async def test_a_message_in_big_and_old_rooms(sqlite_database_url: str) -> None:
    """Sending and receiving one, in rooms of 10, 2,000 and 10,000 members, and after 100 and
    10,000 events."""
    peer = RoomPeer()
    async with lone_server(sqlite_database_url, peer) as (_, rooms), working(rooms):
        scenes: list[tuple[str, LongRoom, RoomId]] = []
        for members in (10, 2_000, 10_000):
            room = LongRoom("12", name=f"of{members}")
            room.fill(members)
            room_id = peer.offer(room)
            await enter(rooms, room_id)
            await receive(rooms, transactions(room.talk(100)), f"young{members}")
            scenes.append((f"{members} members, 100 events", room, room_id))
        old = LongRoom("12", name="old", server="s1.example")
        old.fill(10)
        old_id = peer.offer(old)
        await enter(rooms, old_id)
        for number in range(10):
            await receive(rooms, transactions(old.talk(1_000)), f"old{number}")
        scenes.append(("10 members, 10,000 events", old, old_id))
        costs: dict[str, tuple[list[float], list[float]]] = {
            name: ([], []) for name, _, _ in scenes
        }
        for number in range(ROUNDS):
            for name, room, room_id in scenes:
                bodies = [body for pdu in room.talk(50) for body in transactions([pdu])]
                used_s = await receive(rooms, bodies, f"{name}{number}")
                costs[name][0].append(1000 * used_s / 50)
                begin = time.process_time()
                sent = [await say(rooms, room_id, number) for _ in range(50)]
                costs[name][1].append(1000 * (time.process_time() - begin) / 50)
                last = await rooms.queries.streamed([sent[-1]])
                room.events.append(last[sent[-1]].pdu)
    print(f"\none message ({load()})")
    for name, (received, sent_ms) in costs.items():
        print(
            f"  {name}: received {statistics.median(received):.2f} ms,"
            f" sent {statistics.median(sent_ms):.2f} ms"
        )


async def say(rooms: Rooms, room_id: RoomId, number: int) -> EventId:
    return await rooms.sender.send(
        room_id=room_id,
        sender=JULIET,
        type="m.room.message",
        content=message_content(number),
        trace_id=TRACE,
    )
