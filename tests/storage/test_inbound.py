"""The inbound queue and the transactions that filled it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bridge.ids import EventId, RoomId, ServerName, TraceId
from bridge.storage import inbound, transactions
from bridge.storage.database import Database, Transaction

A, B = RoomId("!a:a.example"), RoomId("!b:a.example")
NEAR, FAR = ServerName("near.example"), ServerName("far.example")


def row(event_id: str, room_id: RoomId = A, json: str = "{}") -> inbound.NewRow:
    return inbound.NewRow(
        room_id=room_id, event_id=EventId(event_id), json=json, trace_id=TraceId("t")
    )


async def test_what_waits_is_found_by_room_time_and_origin(database: Database) -> None:
    def fill(tx: Transaction) -> None:
        for number, (room_id, origin) in enumerate(((B, NEAR), (A, NEAR), (B, FAR), (A, FAR))):
            inbound.put_all(tx, [row(f"${number}", room_id)], origin=origin, received_ms=number)

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


async def test_what_waits_is_not_stored_again_and_what_failed_may_try_again(
    database: Database,
) -> None:
    def put(tx: Transaction, json: str, *event_ids: str) -> None:
        rows = [row(event_id, json=json) for event_id in event_ids]
        inbound.put_all(tx, rows, origin=NEAR, received_ms=1)

    await database.write(lambda tx: put(tx, "1", "$waits", "$failed"))
    await database.write(partial(inbound.finish, event_id=EventId("$failed"), outcome="no"))
    await database.write(lambda tx: put(tx, "2", "$waits", "$failed", "$new", "$new"))
    due = await database.read(partial(inbound.due, room_id=A, now_ms=10, limit=10))
    assert [(one.event_id, one.json) for one in due] == [
        ("$waits", "1"),
        ("$failed", "2"),
        ("$new", "2"),
    ]


async def test_several_are_finished_at_once(database: Database) -> None:
    rows = [row("$1"), row("$2"), row("$3")]
    await database.write(partial(inbound.put_all, rows=rows, origin=NEAR, received_ms=1))
    outcomes = [(EventId("$1"), ""), (EventId("$2"), "no")]
    await database.write(partial(inbound.finish_all, outcomes=outcomes))
    ids = [EventId("$1"), EventId("$2"), EventId("$3")]
    found = await database.read(partial(inbound.outcomes, event_ids=ids))
    assert found == {"$2": "no", "$3": None}


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
        new = replace(row("$1:near.example", json=json), displaces=origin == NEAR)
        return inbound.put_all(tx, [new], origin=origin, received_ms=1)

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
