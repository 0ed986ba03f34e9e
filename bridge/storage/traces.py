"""What is known of a message: the journal under its traces, its rows, and which peers have it.

Only read, for `why`. The chain: a message of the chat side is born with a trace, which its inbox
row, its event and what the journal says of it carry; an event of another server is born with one,
too, and gives it to its outbox rows. What is answered about an event later (its acceptance by a
peer) stands under the event's own ID. From trace to rows leads the journal, which names each row
that it stored; a row counts only if it carries the trace.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Row, select

from bridge.errors import NotFound
from bridge.ids import EventId, ServerName, TraceId
from bridge.storage import events, journal, queues
from bridge.storage.database import Transaction
from bridge.storage.events import EventRow
from bridge.storage.journal import Entry
from bridge.storage.keys import bounded
from bridge.storage.queues import INBOX, OUTBOX, QueueItem, QueueTable
from bridge.storage.schema import (
    inbound_pdus,
    memberships,
    messages,
    peer_rooms,
    peers,
    stream_acceptances,
    stream_events,
)

MAX_FOUND = 20
"""Messages that one ID may name: a stanza id is unique for its author only."""
MAX_ROWS = 50
MAX_TRACES = 10
MAX_PEERS = 1_000
_STORED = re.compile(r"(inbox|outbox) ([0-9]{1,18})")
_SENT = re.compile(r"\$\S+(?: \$\S+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arriving:
    """An event from another server that is not (or never became) part of its room here."""

    event_id: EventId
    sender: str
    """Who is said to have written it; nobody has checked that yet."""
    origin: ServerName
    attempts: int
    next_attempt_ms: int
    outcome: str | None
    """Why it was refused; None while it waits."""
    trace_id: TraceId


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A peer that has not been sent an event of ours yet."""

    server: ServerName
    next_attempt_ms: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An event of ours on its way to the other servers."""

    event_id: EventId
    taken: Sequence[ServerName]
    refused: Sequence[tuple[ServerName, str]]
    owed: Sequence[Owed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Everything about one message, as far as it is still kept."""

    traces: Sequence[TraceId]
    entries: Sequence[Entry]
    """Of all its traces, in the order of time."""
    events: Sequence[EventRow]
    arriving: Sequence[Arriving]
    inbox: Sequence[QueueItem]
    outbox: Sequence[QueueItem]
    given: Sequence[Given]

    @property
    def is_empty(self) -> bool:
        return not (self.entries or self.events or self.arriving or self.inbox or self.outbox)


def of_row(tx: Transaction, queue: QueueTable, item_id: int) -> Sequence[TraceId]:
    try:
        return [queues.get(tx, queue, item_id).trace_id]
    except NotFound:
        return []


def of_stanza(tx: Transaction, stanza_id: str) -> Sequence[TraceId]:
    """The traces of all messages with this stanza id or origin-id, the newest first."""
    found: dict[TraceId, None] = {}
    for column in (messages.c.stanza_id, messages.c.origin_id):
        rows = tx.execute(
            select(messages.c.event_id)
            .where(column == bounded(stanza_id))
            .order_by(messages.c.message_id.desc())
            .limit(MAX_FOUND)
        ).scalars()
        for row in events.find(tx, [EventId(one) for one in rows]).values():
            found[row.trace_id] = None
    # What has become no event stands in the inbox alone; what waits there is little.
    table = INBOX.table
    rows = tx.execute(
        select(table.c.trace_id)
        .where(
            table.c.status.in_((*queues.OPEN, "dropped")),
            table.c.source_id.startswith(f"{stanza_id}/", autoescape=True),
        )
        .order_by(INBOX.id.desc())
        .limit(MAX_FOUND)
    ).scalars()
    for trace in rows:
        found[TraceId(trace)] = None
    return list(found)[:MAX_FOUND]


def read(tx: Transaction, trace: TraceId) -> Story:
    """The whole story behind one trace, or an event's ID; empty where nothing is known."""
    entries: list[Entry] = []
    rows: dict[str, dict[int, QueueItem]] = {INBOX.topic: {}, OUTBOX.topic: {}}
    found: dict[EventId, EventRow] = {}
    arriving = _arriving(tx, trace)
    traces = list(dict.fromkeys([trace, *(one.trace_id for one in arriving)]))
    for one in traces:  # it grows on the way
        written = journal.read(tx, one)
        entries.extend(written)
        for queue in (INBOX, OUTBOX):
            items = [*_named_rows(tx, queue, written), *_open_rows(tx, queue, one)]
            rows[queue.topic].update((item.id, item) for item in items if item.trace_id == one)
        seen = [EventId(one), *_named_events(written, rows[OUTBOX.topic].values())]
        for row in events.find(tx, seen[:MAX_ROWS]).values():
            if row.trace_id in traces or str(row.event_id) == one:
                found[row.event_id] = row
                more = (row.trace_id, TraceId(row.event_id))
                traces.extend(new for new in more if new not in traces)
        if len(traces) > MAX_TRACES:
            del traces[MAX_TRACES:]
    entries.sort(key=lambda entry: entry.at_ms)
    return Story(
        traces=traces,
        entries=entries,
        events=list(found.values()),
        arriving=arriving,
        inbox=[rows[INBOX.topic][key] for key in sorted(rows[INBOX.topic])],
        outbox=[rows[OUTBOX.topic][key] for key in sorted(rows[OUTBOX.topic])],
        given=[given for row in found.values() if (given := _given(tx, row)) is not None],
    )


def _named_rows(
    tx: Transaction, queue: QueueTable, entries: Iterable[Entry]
) -> Iterable[QueueItem]:
    """Only what a step said of its own row: reasons are other people's words."""
    numbers = [
        int(match[2])
        for entry in entries
        if entry.decision == "stored"
        and (match := _STORED.fullmatch(entry.detail)) is not None
        and match[1] == queue.topic
    ]
    for number in numbers[:MAX_ROWS]:
        try:
            yield queues.get(tx, queue, number)
        except NotFound:
            continue  # done, and forgotten since


def _open_rows(tx: Transaction, queue: QueueTable, trace: TraceId) -> Iterable[QueueItem]:
    """Found among what waits or is parked, which is little beside what is done."""
    table = queue.table
    numbers = tx.execute(
        select(queue.id)
        .where(table.c.status.in_(queues.OPEN), table.c.trace_id == trace)
        .order_by(queue.id)
        .limit(MAX_ROWS)
    ).scalars()
    return [queues.get(tx, queue, number) for number in list(numbers)]


def _named_events(entries: Iterable[Entry], items: Iterable[QueueItem]) -> list[EventId]:
    named = [
        event_id
        for entry in entries
        if entry.decision == "sent" and _SENT.fullmatch(entry.detail) is not None
        for event_id in entry.detail.split()
    ]
    named.extend(str(item.payload["event_id"]) for item in items if item.payload.get("event_id"))
    return [EventId(event_id) for event_id in dict.fromkeys(named)]


def _arriving(tx: Transaction, trace: TraceId) -> list[Arriving]:
    """By the event's ID, or by its trace while it waits."""
    rows = tx.execute(
        select(inbound_pdus)
        .where(
            (inbound_pdus.c.event_id == trace)
            | (inbound_pdus.c.outcome.is_(None) & (inbound_pdus.c.trace_id == trace))
        )
        .order_by(inbound_pdus.c.inbound_id)
        .limit(MAX_ROWS)
    )
    return [
        Arriving(
            event_id=EventId(row.event_id),
            sender=_sender(row.json),
            origin=ServerName(row.origin),
            attempts=row.attempts,
            next_attempt_ms=row.next_attempt_ms,
            outcome=row.outcome,
            trace_id=TraceId(row.trace_id),
        )
        for row in rows
    ]


def _sender(json: str) -> str:
    """Of a refused event only the reason is kept."""
    pdu: object = orjson.loads(json) if json else None
    return str(pdu.get("sender", "")) if isinstance(pdu, dict) else ""


def _given(tx: Transaction, event: EventRow) -> Given | None:
    """None for what is not ours to send."""
    place: Row[Any] | None = tx.execute(
        select(stream_events.c.position, stream_events.c.outgoing).where(
            stream_events.c.event_id == event.event_id
        )
    ).one_or_none()
    if place is None or not place.outgoing:
        return None
    answers = tx.execute(
        select(stream_acceptances.c.server, stream_acceptances.c.error)
        .where(stream_acceptances.c.event_id == event.event_id)
        .order_by(stream_acceptances.c.position)
        .limit(MAX_PEERS)
    ).all()
    there = (
        select(memberships.c.server)
        .where(memberships.c.room_id == event.room_id)
        .distinct()
        .scalar_subquery()
    )
    owed = tx.execute(
        select(peer_rooms.c.server, peers.c.next_attempt_ms, peers.c.last_error)
        .select_from(peer_rooms.outerjoin(peers, peers.c.server == peer_rooms.c.server))
        .where(
            peer_rooms.c.room_id == event.room_id,
            peer_rooms.c.server.in_(there),
            peer_rooms.c.sent_position < place.position,
            peer_rooms.c.newest_position >= place.position,
        )
        .order_by(peer_rooms.c.server)
        .limit(MAX_PEERS)
    ).all()
    return Given(
        event_id=event.event_id,
        taken=[ServerName(row.server) for row in answers if row.error is None],
        refused=[(ServerName(row.server), row.error) for row in answers if row.error is not None],
        owed=[
            Owed(
                server=ServerName(row.server),
                next_attempt_ms=row.next_attempt_ms or 0,
                error=row.last_error,
            )
            for row in owed
        ],
    )
