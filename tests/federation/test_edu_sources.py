"""Receipts put together into EDUs, and stored EDUs cut to what one transaction holds."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from bridge.federation import edu_sources
from bridge.federation.edu_sources import MAX_BYTES, StoredEdus, to_receipt_edus
from bridge.ids import EventId, RoomId, ServerName, UserId
from bridge.storage import edus
from bridge.storage.database import Database
from bridge.storage.edus import ReceiptRow
from tests.support.openapi import edu_complaints

A = ServerName("a.example")

rows = st.builds(
    ReceiptRow,
    room_id=st.sampled_from([RoomId("!a:x"), RoomId("!b:x")]),
    user_id=st.sampled_from([UserId(f"@u{n}:x") for n in range(4)]),
    thread_id=st.sampled_from([None, "main", "$one", "$two"]),
    event_id=st.sampled_from([EventId("$1"), EventId("$2")]),
    at_ms=st.integers(0, 10),
)
one_of_each = st.lists(rows, unique_by=lambda row: (row.room_id, row.user_id, row.thread_id))


@given(one_of_each, st.integers(1, 5))
def test_every_receipt_stands_in_one_edu_and_none_over_another(
    wanted: list[ReceiptRow], limit: int
) -> None:
    made, taken = to_receipt_edus(wanted, limit)
    assert len(made) <= limit
    assert [complaint for edu in made for complaint in edu_complaints(edu)] == []
    told = Counter(
        (
            room_id,
            user_id,
            entry["data"].get("thread_id"),
            entry["event_ids"][0],
            entry["data"]["ts"],
        )
        for edu in made
        for room_id, kinds in edu["content"].items()
        for user_id, entry in kinds["m.read"].items()
    )
    assert told == Counter(
        (row.room_id, row.user_id, row.thread_id, row.event_id, row.at_ms) for row in taken
    )
    threads = Counter((row.room_id, row.user_id) for row in wanted)
    if max(threads.values(), default=0) <= limit:
        assert sorted(map(str, taken)) == sorted(map(str, wanted))


def test_an_edu_holds_so_many_receipts() -> None:
    many = [
        ReceiptRow(
            room_id=RoomId("!a:x"),
            user_id=UserId(f"@u{number}:x"),
            thread_id=None,
            event_id=EventId("$1"),
            at_ms=1,
        )
        for number in range(edu_sources.MAX_RECEIPTS_PER_EDU + 1)
    ]
    made, taken = to_receipt_edus(many, 10)
    assert [len(edu["content"]["!a:x"]["m.read"]) for edu in made] == [
        edu_sources.MAX_RECEIPTS_PER_EDU,
        1,
    ]
    assert taken == many


async def test_of_big_edus_as_many_go_as_one_transaction_holds(database: Database) -> None:
    source = StoredEdus(database=database)
    for number in range(3):
        content = json.dumps({"text": "x" * (MAX_BYTES // 2 - 100), "number": number})
        await database.write(
            partial(
                edus.put,
                server=A,
                edu_type="m.direct_to_device",
                edu_id=str(number),
                content_json=content,
                now_ms=1,
            )
        )
    sent: list[list[int]] = []
    while True:
        some, token = await source.pending(A, 100)
        if not some:
            break
        sent.append([edu["content"]["number"] for edu in some])
        await source.sent(A, token)
    assert sent == [[0, 1], [2]]


async def test_one_that_is_too_big_goes_alone(database: Database) -> None:
    source = StoredEdus(database=database)
    content = json.dumps({"text": "x" * (MAX_BYTES + 1)})
    await database.write(
        partial(edus.put, server=A, edu_type="t", edu_id="1", content_json=content, now_ms=1)
    )
    some, _ = await source.pending(A, 100)
    assert len(some) == 1
