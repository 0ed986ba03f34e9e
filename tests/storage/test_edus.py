"""EDUs that wait for peers: in order, each once; of receipts the newest."""

from __future__ import annotations

import json
from functools import partial

from sqlalchemy import insert

from bridge.ids import EventId, RoomId, ServerName, UserId
from bridge.storage import edus, receipts
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.edus import MAX_WAITING, ReceiptRow
from bridge.storage.rooms import MemberRow
from bridge.storage.schema import outbound_edus

A, B = ServerName("a.example"), ServerName("b.example")
ROOM, OTHER = RoomId("!room:us.example"), RoomId("!other:us.example")
ALICE, CAROL = UserId("@alice:us.example"), UserId("@carol:us.example")


def put(tx: Transaction, edu_id: str, server: ServerName = A, edu_type: str = "m.x") -> bool:
    content = json.dumps({"id": edu_id})
    return edus.put(
        tx, server=server, edu_type=edu_type, edu_id=edu_id, content_json=content, now_ms=1
    )


def read_upto(
    event_id: str,
    *,
    room: RoomId = ROOM,
    user: UserId = ALICE,
    thread: str | None = None,
    at_ms: int = 1,
) -> ReceiptRow:
    return ReceiptRow(
        room_id=room, user_id=user, thread_id=thread, event_id=EventId(event_id), at_ms=at_ms
    )


async def test_every_edu_waits_in_order_until_it_is_with_its_peer(database: Database) -> None:
    for edu_id in ("1", "2", "3"):
        assert await database.write(partial(put, edu_id=edu_id))
    assert await database.write(partial(put, edu_id="1", server=B))
    first = await database.read(partial(edus.due, server=A, limit=2))
    assert [json.loads(row.content_json)["id"] for row in first] == ["1", "2"]
    await database.write(partial(edus.delete_edus, row_ids=[row.row_id for row in first]))
    left = await database.read(partial(edus.due, server=A, limit=10))
    assert [json.loads(row.content_json)["id"] for row in left] == ["3"]
    assert await database.read(edus.servers_with_edus) == {A, B}


async def test_the_same_edu_waits_once_for_each_peer_and_type(database: Database) -> None:
    for edu_type, server in (("m.x", A), ("m.x", A), ("m.y", A), ("m.x", B)):
        assert await database.write(partial(put, edu_id="1", edu_type=edu_type, server=server))
    rows = await database.read(partial(edus.due, server=A, limit=10))
    assert [row.edu_type for row in rows] == ["m.x", "m.y"]


async def test_so_many_edus_may_wait_for_one_peer(database: Database) -> None:
    def fill(tx: Transaction) -> None:
        rows = [
            {"server": A, "edu_type": "t", "edu_id": str(n), "content": "{}", "created_ms": 1}
            for n in range(MAX_WAITING)
        ]
        tx.execute(insert(outbound_edus), rows)

    await database.write(fill)
    assert not await database.write(partial(put, edu_id="more"))
    assert await database.write(partial(put, edu_id="more", server=B))


def enter(tx: Transaction, *places: tuple[RoomId, ServerName]) -> None:
    for room_id in {room_id for room_id, _ in places}:
        members = [
            MemberRow(
                user_id=UserId(f"@somebody:{server}"),
                server=server,
                membership="join",
                event_id=EventId("$join"),
            )
            for of, server in places
            if of == room_id
        ]
        room_rows.set_members(tx, room_id, changed=members)


async def test_a_peer_that_has_left_the_room_is_told_nothing_of_it(database: Database) -> None:
    await database.write(lambda tx: enter(tx, (ROOM, A), (OTHER, A), (ROOM, B)))
    for room in (ROOM, OTHER):
        row = read_upto("$1", room=room)
        await database.write(partial(edus.put_receipt, servers=[A, B], row=row))
    due = await database.read(partial(edus.due_receipts, server=B, limit=10))
    assert [row.room_id for row in due] == [ROOM]
    assert await database.read(partial(edus.has_outside, server=B))
    assert not await database.read(partial(edus.has_outside, server=A))
    await database.write(partial(edus.forget_outside, server=B))
    assert not await database.read(partial(edus.has_outside, server=B))
    await database.write(partial(edus.delete_receipts, server=B, rows=due))
    assert not await database.read(partial(edus.has_waiting, server=B))
    assert len(await database.read(partial(edus.due_receipts, server=A, limit=10))) == 2


async def test_of_the_receipts_of_a_thread_the_newest_waits(database: Database) -> None:
    for row in (
        read_upto("$1"),
        read_upto("$2", at_ms=2),
        read_upto("$3", thread="main"),
        read_upto("$4", user=CAROL),
        read_upto("$5", room=OTHER),
    ):
        await database.write(lambda tx: enter(tx, (ROOM, A), (OTHER, A)))
        await database.write(partial(edus.put_receipt, servers=[A, B], row=row))
    rows = await database.read(partial(edus.due_receipts, server=A, limit=10))
    assert {row.event_id for row in rows} == {"$2", "$3", "$4", "$5"}
    assert await database.read(edus.servers_with_receipts) == {A, B}


async def test_what_was_read_meanwhile_still_waits(database: Database) -> None:
    await database.write(lambda tx: enter(tx, (ROOM, A)))
    old, new = read_upto("$1"), read_upto("$2", at_ms=2)
    await database.write(partial(edus.put_receipt, servers=[A], row=old))
    await database.write(partial(edus.put_receipt, servers=[A], row=new))
    await database.write(partial(edus.delete_receipts, server=A, rows=[old]))
    assert await database.read(partial(edus.due_receipts, server=A, limit=10)) == [new]
    await database.write(partial(edus.delete_receipts, server=A, rows=[new]))
    assert await database.read(edus.servers_with_receipts) == frozenset()


async def test_receipts_are_kept_by_room_user_kind_and_thread(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        receipts.put(tx, [read_upto("$1"), read_upto("$2", thread="$root"), read_upto("$3")])
        receipts.put(tx, [read_upto("$4", user=CAROL)])
        receipts.put(tx, [read_upto("$5")], kind="m.read.private")

    await database.write(unit)
    found = await database.read(partial(receipts.of_room, room_id=ROOM))
    assert [(row.user_id, row.thread_id, row.event_id) for row in found] == [
        (ALICE, None, "$3"),
        (ALICE, "$root", "$2"),
        (CAROL, None, "$4"),
    ]
    hers = await database.read(partial(receipts.of_room, room_id=ROOM, users=[CAROL]))
    assert [row.event_id for row in hers] == ["$4"]
