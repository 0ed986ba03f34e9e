"""The inbound queue and the transactions that filled it."""

from __future__ import annotations

from functools import partial

from bridge.ids import EventId, RoomId, ServerName, TraceId
from bridge.storage import inbound, transactions
from bridge.storage.database import Database, Transaction

A, B = RoomId("!a:a.example"), RoomId("!b:a.example")
NEAR, FAR = ServerName("near.example"), ServerName("far.example")


async def test_what_waits_is_found_by_room_time_and_origin(database: Database) -> None:
    def fill(tx: Transaction) -> None:
        for number, (room_id, origin) in enumerate(((B, NEAR), (A, NEAR), (B, FAR), (A, FAR))):
            assert inbound.put(
                tx,
                room_id=room_id,
                event_id=EventId(f"${number}"),
                origin=origin,
                json="{}",
                received_ms=number,
                trace_id=TraceId("t"),
            )

    await database.write(fill)
    rooms = partial(inbound.due_rooms, busy=(), limit=10)
    assert await database.read(partial(rooms, now_ms=10)) == [B, A]
    assert await database.read(partial(rooms, now_ms=0)) == [B]
    assert await database.read(partial(rooms, now_ms=10, busy=(B,), limit=1)) == [A]
    due = await database.read(partial(inbound.due, room_id=A, now_ms=10, limit=10))
    assert [row.event_id for row in due] == ["$1", "$3"]
    assert [row.origin for row in due] == [NEAR, FAR]
    one = await database.read(partial(inbound.due, room_id=A, now_ms=10, limit=1))
    assert [row.event_id for row in one] == ["$1"]
    await database.write(
        partial(inbound.postpone, inbound_id=due[0].inbound_id, next_attempt_ms=20)
    )
    await database.write(partial(inbound.finish, event_id=EventId("$3"), outcome="no"))
    assert await database.read(partial(inbound.due, room_id=A, now_ms=10, limit=10)) == []
    assert await database.read(partial(inbound.count_waiting, origin=NEAR)) == 2
    assert await database.read(partial(inbound.count_waiting, origin=FAR)) == 1
    assert await database.read(partial(inbound.count_waiting, room_id=A)) == 1


async def test_a_transaction_is_remembered_for_a_while(database: Database) -> None:
    pdus = [(EventId("$1"), None), (EventId("$2"), "no")]
    await database.write(
        partial(transactions.put, origin=NEAR, transaction_id="t", pdus=pdus, received_ms=5)
    )
    find = partial(transactions.find, transaction_id="t")
    assert await database.read(partial(find, origin=NEAR)) == pdus
    assert await database.read(partial(find, origin=FAR)) is None
    await database.write(partial(transactions.forget, before_ms=6))
    assert await database.read(partial(find, origin=NEAR)) is None


async def test_a_refusal_is_of_one_row_and_not_of_what_displaced_it(database: Database) -> None:
    def fill(tx: Transaction, json: str, origin: ServerName) -> bool:
        return inbound.put(
            tx,
            room_id=A,
            event_id=EventId("$1:near.example"),
            origin=origin,
            json=json,
            received_ms=1,
            trace_id=TraceId("t"),
            displaces=origin == NEAR,
        )

    assert await database.write(partial(fill, json='{"forged":1}', origin=FAR))
    (forged,) = await database.read(partial(inbound.due, room_id=A, now_ms=10, limit=10))
    assert await database.write(partial(fill, json='{"true":1}', origin=NEAR))
    await database.write(
        partial(
            inbound.finish,
            event_id=forged.event_id,
            outcome="forged",
            inbound_id=forged.inbound_id,
        )
    )
    (left,) = await database.read(partial(inbound.due, room_id=A, now_ms=10, limit=10))
    assert left.json == '{"true":1}'
    assert left.origin == NEAR
