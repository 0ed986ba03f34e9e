"""The message map: what is awaited, what was said about it, and both once."""

from __future__ import annotations

import random
import string
from dataclasses import replace

from bridge.ids import EventId, RoomId, TraceId, UserId
from bridge.storage import ghosts, messages, queues, streams
from bridge.storage.database import Database, Transaction
from bridge.storage.messages import MappedMessage
from bridge.storage.queues import INBOX
from bridge.storage.schema import stream_acceptances

ROOM = RoomId("!a:x")


def mapped(number: int, *, chat: str = "@alice:x", at_ms: int = 0) -> MappedMessage:
    return MappedMessage(
        adapter="loopback",
        room_id=ROOM,
        event_id=EventId(f"$e{number}"),
        part=0,
        chat=chat,
        sender="j@c",
        stanza_id=f"s{number}",
        origin_id=None,
        origin="chat",
        receipt_due=True,
        session="j@c/here",
        sent_to="@alice:x",
        pending=True,
        noticed_ms=None,
        at_ms=at_ms,
    )


async def put(database: Database, *rows: MappedMessage) -> None:
    def unit(tx: Transaction) -> None:
        for row in rows:
            messages.put(tx, row)

    await database.write(unit)


async def test_a_message_is_settled_once(database: Database) -> None:
    for _ in range(2):
        await put(database, mapped(1))
    event_id = EventId("$e1")
    found = await database.write(lambda tx: messages.settle(tx, event_id))
    assert found == [mapped(1)]
    assert await database.write(lambda tx: messages.settle(tx, event_id)) == []
    (row,) = await database.read(lambda tx: messages.of_event(tx, event_id))
    assert (row.pending, row.receipt_due) == (False, False)


async def test_a_refusal_counts_only_while_nobody_took_the_event(database: Database) -> None:
    event_id = EventId("$e1")

    def answer(tx: Transaction, server: str, error: str | None) -> None:
        values = {"event_id": event_id, "room_id": ROOM, "server": server, "error": error}
        streams.append(tx, stream_acceptances, values)

    def look(tx: Transaction) -> tuple[bool, str | None]:
        return messages.is_accepted(tx, event_id), messages.find_refusal(tx, event_id)

    assert await database.read(look) == (False, None)
    await database.write(lambda tx: answer(tx, "one.example", "spam"))
    assert await database.read(look) == (False, "spam")
    await database.write(lambda tx: answer(tx, "two.example", None))
    assert await database.read(look) == (True, None)


async def test_an_author_is_told_of_a_chat_once_in_a_while(database: Database) -> None:
    await put(database, mapped(1, at_ms=10), mapped(2, at_ms=20), mapped(3, chat="@bob:x"))

    def waiting(tx: Transaction, before_ms: int, noticed_before_ms: int) -> list[str]:
        found = messages.pending_since(
            tx, before_ms=before_ms, noticed_before_ms=noticed_before_ms, limit=10
        )
        return [row.stanza_id for row in found]

    def notice(tx: Transaction, now_ms: int) -> int | None:
        return messages.noticed(
            tx, adapter="loopback", chat="@alice:x", sender="j@c", now_ms=now_ms
        )

    assert await database.read(lambda tx: waiting(tx, 15, 0)) == ["s1", "s3"]
    assert await database.write(lambda tx: notice(tx, 100)) is None
    await put(database, mapped(4, at_ms=30))
    assert await database.read(lambda tx: waiting(tx, 200, 50)) == ["s3", "s4"]
    assert await database.write(lambda tx: notice(tx, 200)) == 100
    assert await database.read(lambda tx: waiting(tx, 300, 150)) == ["s3"]
    assert await database.read(lambda tx: waiting(tx, 300, 250)) == ["s1", "s2", "s3", "s4"]


async def test_a_room_is_forgotten_with_what_never_arrived(database: Database) -> None:
    await put(database, mapped(1), mapped(2))
    await database.write(lambda tx: messages.settle(tx, EventId("$e1")))
    lost = await database.write(lambda tx: messages.forget_room(tx, ROOM))
    assert [row.stanza_id for row in lost] == ["s2"]
    assert await database.read(lambda tx: messages.of_event(tx, EventId("$e2"))) == []


async def test_a_ghost_is_found_both_ways(database: Database) -> None:
    ghost = UserId("@=40=40=40hash:x")
    for _ in range(2):
        await database.write(
            lambda tx: ghosts.put(tx, user_id=ghost, adapter="a", address="j@c", now_ms=1)
        )
    assert await database.read(lambda tx: ghosts.find_address(tx, ghost)) == "j@c"
    assert await database.read(lambda tx: ghosts.find_user(tx, adapter="a", address="j@c")) == ghost
    assert await database.read(lambda tx: ghosts.find_user(tx, adapter="b", address="j@c")) is None


async def test_what_waits_in_a_lane_is_listed_in_order(database: Database) -> None:
    def unit(tx: Transaction) -> list[int]:
        ids = [
            queues.put_inbox(
                tx,
                lane="one",
                adapter="a",
                source="s",
                source_id=f"{number}",
                payload={},
                trace_id=TraceId("t"),
                now_ms=1,
            )
            for number in range(4)
        ]
        queues.park(tx, INBOX, ids[0] or 0, reason="no")
        queues.retry(tx, INBOX, ids[1] or 0, next_attempt_ms=10**15, reason="later")
        assert queues.waiting_in_lane(tx, INBOX, "one", 2) == ids[1:3]
        assert queues.waiting_in_lane(tx, INBOX, "two", 2) == []
        return []

    await database.write(unit)


async def test_ids_of_any_length_are_stored_and_found(database: Database) -> None:
    """An author chooses them; an index of PostgreSQL takes less than 3,000 bytes."""
    name = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=9_000))
    await put(database, replace(mapped(1), stanza_id=name, origin_id=name))
    found = await database.read(
        lambda tx: messages.of_stanza(
            tx, adapter="loopback", chat="@alice:x", sender="j@c", stanza_id=name
        )
    )
    assert [one.event_id for one in found] == ["$e1"]

    def unit(tx: Transaction) -> int | None:
        return queues.put_inbox(
            tx,
            lane="tea",
            adapter="loopback",
            source="j@c",
            source_id=name,
            payload={},
            trace_id=TraceId("t"),
            now_ms=1,
        )

    inbox_id = await database.write(unit)
    assert inbox_id is not None
    assert await database.write(unit) is None
    first = await database.read(lambda tx: queues.find_inbox(tx, source="j@c", source_id=name))
    assert first is not None
    assert first.id == inbox_id
