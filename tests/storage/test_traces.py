"""The story of a message: by whatever names it, with its rows and peers, and nothing of others."""

from __future__ import annotations

from functools import partial
from typing import Any

from bridge.ids import EventId, RoomId, ServerName, TraceId, UserId
from bridge.storage import events, inbound, journal, messages, peers, queues, streams, traces
from bridge.storage.database import Database, Transaction
from bridge.storage.events import EventRow
from bridge.storage.messages import MappedMessage
from bridge.storage.peers import Mark
from bridge.storage.queues import INBOX, OUTBOX
from bridge.storage.schema import memberships, stream_acceptances, stream_events
from bridge.storage.traces import Story

ROOM = RoomId("!r:m.example")
NOW = 1_000


def event(event_id: str, trace: str, **changed: Any) -> EventRow:
    values: dict[str, Any] = {
        "event_id": EventId(event_id),
        "room_id": ROOM,
        "type": "m.room.message",
        "state_key": None,
        "sender": UserId("@alice:m.example"),
        "depth": 1,
        "origin_server_ts": NOW,
        "json": "{}",
        "verdict": events.ACCEPTED,
        "rule": None,
        "outlier": False,
        "snapshot_before": None,
        "redacted_by": None,
        "received_ms": NOW,
        "trace_id": TraceId(trace),
    }
    return EventRow(**{**values, **changed})


def put_event(tx: Transaction, event_id: str, trace: str, **changed: Any) -> None:
    events.insert_events(tx, [(event(event_id, trace, **changed), [])])


def put_outbox(tx: Transaction, trace: str, cause: str = "c", **payload: Any) -> int:
    found = queues.put_outbox(
        tx, lane="tea", adapter="x", cause=cause, payload=payload, trace_id=TraceId(trace),
        now_ms=NOW,
    )  # fmt: skip
    assert found is not None
    return found


def put_inbox(tx: Transaction, trace: str, source_id: str) -> int:
    found = queues.put_inbox(
        tx, lane="tea", adapter="x", source="x:a>b", source_id=source_id, payload={},
        trace_id=TraceId(trace), now_ms=NOW,
    )  # fmt: skip
    assert found is not None
    return found


def note(tx: Transaction, trace: str, step: str, decision: str, detail: str) -> None:
    journal.record(tx, TraceId(trace), step, decision, detail, NOW)


def put_message(tx: Transaction, event_id: str, stanza_id: str, origin_id: str | None) -> None:
    messages.put(
        tx,
        MappedMessage(
            adapter="x", room_id=ROOM, event_id=EventId(event_id), part=0, chat="c", sender="a@b",
            stanza_id=stanza_id, origin_id=origin_id, origin="chat", receipt_due=False,
            session="a@b/1", sent_to="c", pending=False, noticed_ms=None, at_ms=NOW,
        ),
    )  # fmt: skip


async def read(database: Database, trace: str) -> Story:
    return await database.read(partial(traces.read, trace=TraceId(trace)))


async def test_what_is_not_known_has_an_empty_story(database: Database) -> None:
    for name in ("$nothing", "t", ""):
        assert (await read(database, name)).is_empty


async def test_a_message_of_matrix_is_told_from_its_event_to_its_row(database: Database) -> None:
    def unit(tx: Transaction) -> int:
        put_event(tx, "$e", "t1")
        row = put_outbox(tx, "t1", event_id="$e")
        note(tx, "t1", "to chat", "stored", f"outbox {row}")
        queues.done(tx, OUTBOX, row)
        return row

    row = await database.write(unit)
    for name in ("$e", "t1"):
        story = await read(database, name)
        assert [one.event_id for one in story.events] == ["$e"]
        assert [(item.id, item.status) for item in story.outbox] == [(row, "done")]
        assert [entry.detail for entry in story.entries] == [f"outbox {row}"]
        assert set(story.traces) == {"$e", "t1"}
    assert list(await database.read(partial(traces.of_row, queue=OUTBOX, item_id=row))) == ["t1"]
    assert list(await database.read(partial(traces.of_row, queue=INBOX, item_id=row))) == []


async def test_a_message_of_the_chat_side_is_told_to_its_events_and_their_acceptance(
    database: Database,
) -> None:
    def unit(tx: Transaction) -> None:
        row = put_inbox(tx, "t1", "s1/x")
        note(tx, "t1", "accept", "stored", f"inbox {row}")
        queues.done(tx, INBOX, row)
        put_event(tx, "$e1", "t1")
        put_event(tx, "$e2", "t1")
        note(tx, "t1", "bridge", "sent", "$e1 $e2")
        note(tx, "$e2", "accepted", "refused", "their word")
        put_message(tx, "$e1", "s1", "o1")

    await database.write(unit)
    for name in ("t1", "$e1"):
        story = await read(database, name)
        assert {one.event_id for one in story.events} == {"$e1", "$e2"}
        assert [item.cause for item in story.inbox] == ["s1/x"]
        assert "their word" in [entry.detail for entry in story.entries]
    for name in ("s1", "o1"):
        assert list(await database.read(partial(traces.of_stanza, stanza_id=name))) == ["t1"]


async def test_what_waits_is_found_though_no_step_has_named_it(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        put_outbox(tx, "t1", "waits")
        queues.park(tx, OUTBOX, put_outbox(tx, "t1", "parked"), reason="no")
        put_outbox(tx, "t2", "another's")
        put_inbox(tx, "t3", "s%_/x")
        put_inbox(tx, "t4", "sab/x")

    await database.write(unit)
    assert [item.cause for item in (await read(database, "t1")).outbox] == ["waits", "parked"]
    assert list(await database.read(partial(traces.of_stanza, stanza_id="s%_"))) == ["t3"]


async def test_other_peoples_words_lead_to_no_row(database: Database) -> None:
    """A reason may be a peer's text: it must not open somebody else's row."""

    def unit(tx: Transaction) -> None:
        row = put_outbox(tx, "theirs", "c1", to="juliet@capulet.lit")
        put_event(tx, "$theirs", "theirs")
        for decision in ("refused", "stored", "sent"):
            note(tx, "mine", "bridge", decision, f"outbox {row}")
            note(tx, "mine", "bridge", decision, "$theirs")

    await database.write(unit)
    story = await read(database, "mine")
    assert (list(story.outbox), list(story.events)) == ([], [])
    assert len(story.entries) == 6


async def test_an_event_that_arrives_or_was_refused_is_known_by_its_id(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        for event_id, trace in (("$waits", "t1"), ("$refused", "t2")):
            row = inbound.NewRow(
                room_id=ROOM,
                event_id=EventId(event_id),
                json='{"sender":"@alice:m.example"}',
                trace_id=TraceId(trace),
            )
            inbound.put_all(tx, [row], origin=ServerName("m.example"), received_ms=NOW)
        inbound.finish(tx, EventId("$refused"), "bad signature")

    await database.write(unit)
    for name in ("$waits", "t1"):
        (arriving,) = (await read(database, name)).arriving
        assert (arriving.sender, arriving.outcome) == ("@alice:m.example", None)
    (arriving,) = (await read(database, "$refused")).arriving
    assert arriving.outcome == "bad signature"


async def test_who_has_taken_an_event_of_ours_and_who_has_not(database: Database) -> None:
    servers = [ServerName(f"{name}.example") for name in ("has", "refuses", "lacks", "left")]

    def unit(tx: Transaction) -> int:
        put_event(tx, "$e", "t1")
        values = {"room_id": ROOM, "event_id": "$e", "outgoing": True, "historic": False}
        position = streams.append(tx, stream_events, values)
        for server in servers[:3]:
            tx.execute(
                memberships.insert().values(
                    room_id=ROOM, user_id=f"@x:{server}", server=server, membership="join",
                    event_id="$m",
                )
            )  # fmt: skip
        marks = [
            Mark(server=server, room_id=ROOM, first=position, newest=position) for server in servers
        ]
        peers.mark(tx, marks)
        for server, error in ((servers[0], None), (servers[1], "no")):
            peers.sent(tx, server, ROOM, position)
            values = {"event_id": "$e", "room_id": ROOM, "server": server, "error": error}
            streams.append(tx, stream_acceptances, values)
        peers.failed(tx, servers[2], next_attempt_ms=5_000, error="down")
        return position

    await database.write(unit)
    (given,) = (await read(database, "$e")).given
    assert list(given.taken) == ["has.example"]
    assert list(given.refused) == [("refuses.example", "no")]
    assert [(one.server, one.next_attempt_ms, one.error) for one in given.owed] == [
        ("lacks.example", 5_000, "down")
    ]
    down = await database.read(partial(peers.down, limit=5))
    assert [one.server for one in down] == ["lacks.example"]


async def test_an_event_of_others_is_given_to_nobody(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        put_event(tx, "$e", "t1")
        values = {"room_id": ROOM, "event_id": "$e", "outgoing": False, "historic": False}
        streams.append(tx, stream_events, values)

    await database.write(unit)
    assert list((await read(database, "$e")).given) == []
