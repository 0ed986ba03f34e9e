"""Events, the edges of the graph, the arrival order, and the IDs of local transactions.

`json` is the canonical text that was hashed; an applied redaction replaces it by the redacted
copy, which has the same event ID.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, bindparam, delete, func, insert, or_, select, update

from bridge.ids import EventId, RoomId, ServerName, TraceId, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import (
    event_edges,
    events,
    local_transactions,
    redactions,
    stream_events,
)

ACCEPTED = "accepted"
SOFT_FAILED = "soft_failed"
REJECTED = "rejected"
_CHUNK = 500

# Statements of the hot path are made once: building one costs more than running it.
_INSERT_EVENT = insert(events)
_INSERT_EDGE = insert(event_edges)
_INSERT_LOCAL_TRANSACTION = insert(local_transactions)
_FIND_EVENT = select(events).where(events.c.event_id == bindparam("event"))
_FIND_EVENTS = select(events).where(events.c.event_id.in_(bindparam("events", expanding=True)))
_FIND_KNOWN = select(events.c.event_id, events.c.outlier).where(
    events.c.event_id.in_(bindparam("events", expanding=True))
)
_FIND_PARENTS = (
    select(event_edges.c.prev_event_id)
    .where(event_edges.c.prev_event_id.in_(bindparam("prev", expanding=True)))
    .distinct()
)
_FIND_TARGETS = (
    select(redactions.c.target_id)
    .where(redactions.c.target_id.in_(bindparam("targets", expanding=True)))
    .distinct()
)
_FIND_CHILD = (
    select(event_edges.c.event_id).where(event_edges.c.prev_event_id == bindparam("prev")).limit(1)
)
_FIND_LOCAL_TRANSACTION = select(local_transactions.c.room_id, local_transactions.c.event_id).where(
    local_transactions.c.transaction_id == bindparam("id")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    event_id: EventId
    room_id: RoomId
    type: str
    state_key: str | None
    sender: UserId
    depth: int
    origin_server_ts: int
    json: str
    verdict: str
    rule: str | None
    outlier: bool
    snapshot_before: int | None
    redacted_by: EventId | None
    received_ms: int
    trace_id: TraceId


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionRow:
    target_id: EventId
    event_id: EventId
    room_id: RoomId
    server: ServerName
    by_power: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedEvent:
    """An event with its place in the arrival order and, if we sent it, the ID it was sent under."""

    position: int
    outgoing: bool
    transaction_id: str | None
    event: EventRow


def insert_events(tx: Transaction, new: Sequence[tuple[EventRow, Sequence[EventId]]]) -> None:
    """New events with their previous events."""
    if not new:
        return
    tx.execute(_INSERT_EVENT, [_values(row) for row, _ in new])
    edges = [
        {"prev_event_id": prev, "event_id": row.event_id}
        for row, prev_events in new
        for prev in dict.fromkeys(prev_events)
    ]
    if edges:
        tx.execute(_INSERT_EDGE, edges)


def promote_outlier(tx: Transaction, row: EventRow, prev_events: Sequence[EventId]) -> None:
    """One that was known as an outlier gets its place in the graph."""
    tx.execute(update(events).where(events.c.event_id == row.event_id).values(**_values(row)))
    tx.execute(delete(event_edges).where(event_edges.c.event_id == row.event_id))
    _insert_edges(tx, row.event_id, prev_events)


def insert_outliers(tx: Transaction, rows: Iterable[EventRow]) -> None:
    """Those that are not known yet."""
    wanted = {row.event_id: row for row in rows}
    known = find_known(tx, wanted)
    fresh = [_values(row) for event_id, row in wanted.items() if event_id not in known]
    for start in range(0, len(fresh), _CHUNK):
        tx.execute(insert(events), fresh[start : start + _CHUNK])


def find(tx: Transaction, event_ids: Collection[EventId]) -> dict[EventId, EventRow]:
    wanted = list(event_ids)
    found: dict[EventId, EventRow] = {}
    if len(wanted) == 1:
        one = tx.execute(_FIND_EVENT, {"event": wanted[0]}).one_or_none()
        return {} if one is None else {wanted[0]: _event(one)}
    for start in range(0, len(wanted), _CHUNK):
        for row in tx.execute(_FIND_EVENTS, {"events": wanted[start : start + _CHUNK]}):
            found[EventId(row.event_id)] = _event(row)
    return found


def find_known(tx: Transaction, event_ids: Collection[EventId]) -> dict[EventId, bool]:
    """Which of them we have, and whether each is an outlier."""
    wanted = list(event_ids)
    found: dict[EventId, bool] = {}
    for start in range(0, len(wanted), _CHUNK):
        rows = tx.execute(_FIND_KNOWN, {"events": wanted[start : start + _CHUNK]})
        found.update((EventId(row.event_id), row.outlier) for row in rows)
    return found


def has_children(tx: Transaction, event_id: EventId) -> bool:
    """Whether an event that we have names it as a previous event."""
    return tx.execute(_FIND_CHILD, {"prev": event_id}).first() is not None


def with_children(tx: Transaction, event_ids: Collection[EventId]) -> frozenset[EventId]:
    """Those that an event that we have names as a previous event."""
    wanted = list(event_ids)
    found: set[EventId] = set()
    for start in range(0, len(wanted), _CHUNK):
        rows = tx.execute(_FIND_PARENTS, {"prev": wanted[start : start + _CHUNK]})
        found.update(EventId(one) for one in rows.scalars())
    return frozenset(found)


def previous(tx: Transaction, event_ids: Collection[EventId]) -> list[EventId]:
    """All previous events of these, without order."""
    query = select(event_edges.c.prev_event_id).where(event_edges.c.event_id.in_(sorted(event_ids)))
    return [EventId(row.prev_event_id) for row in tx.execute(query)]


def lowest_depth(tx: Transaction, room_id: RoomId) -> int:
    """Of the events inside the graph, as far as we have it; 0 for none."""
    query = select(func.min(events.c.depth)).where(
        events.c.room_id == room_id, events.c.outlier.is_(False)
    )
    return tx.execute(query).scalar_one() or 0


def insert_redaction(tx: Transaction, row: RedactionRow) -> None:
    tx.execute(
        insert(redactions).values(
            target_id=row.target_id,
            event_id=row.event_id,
            room_id=row.room_id,
            server=row.server,
            by_power=row.by_power,
        )
    )


def find_redactions(
    tx: Transaction, room_id: RoomId, targets: Mapping[EventId, ServerName]
) -> dict[EventId, EventId]:
    """For each of these events of the room, given with its sender's server, a redaction that
    takes effect on it. However many name an event in vain, one is read."""
    wanted = list(targets)
    named: set[EventId] = set()
    for start in range(0, len(wanted), _CHUNK):
        rows = tx.execute(_FIND_TARGETS, {"targets": wanted[start : start + _CHUNK]})
        named.update(EventId(target) for target in rows.scalars())
    found: dict[EventId, EventId] = {}
    for target in sorted(named):
        query = (
            select(redactions.c.event_id)
            .where(
                redactions.c.target_id == target,
                redactions.c.room_id == room_id,
                or_(redactions.c.by_power, redactions.c.server == targets[target]),
            )
            .order_by(redactions.c.event_id)
            .limit(1)
        )
        one = tx.execute(query).scalar()
        if one is not None:
            found[target] = EventId(one)
    return found


def has_direct_invite(tx: Transaction, room_id: RoomId) -> bool:
    """Whether a member event of the room carried `is_direct` (canonical JSON has one spelling)."""
    query = (
        select(events.c.event_id)
        .where(
            events.c.room_id == room_id,
            events.c.type == "m.room.member",
            events.c.verdict == ACCEPTED,
            events.c.json.contains('"is_direct":true'),
        )
        .limit(1)
    )
    return tx.execute(query).first() is not None


def set_redacted(tx: Transaction, event_id: EventId, *, by: EventId, json: str) -> None:
    tx.execute(
        update(events).where(events.c.event_id == event_id).values(redacted_by=by, json=json)
    )


def find_redacted_by(tx: Transaction, event_ids: Collection[EventId]) -> dict[EventId, EventId]:
    """The redactions that took effect on these events."""
    query = select(events.c.event_id, events.c.redacted_by).where(
        events.c.event_id.in_(sorted(event_ids)), events.c.redacted_by.is_not(None)
    )
    return {EventId(row.event_id): EventId(row.redacted_by) for row in tx.execute(query)}


# --- arrival order --------------------------------------------------------------------------


def streamed(tx: Transaction, event_ids: Collection[EventId]) -> dict[EventId, StreamedEvent]:
    found: dict[EventId, StreamedEvent] = {}
    wanted = list(event_ids)
    for start in range(0, len(wanted), _CHUNK):
        query = _streamed().where(stream_events.c.event_id.in_(wanted[start : start + _CHUNK]))
        for row in tx.execute(query):
            found[EventId(row.event_id)] = _to_streamed(row)
    return found


def positions(tx: Transaction, event_ids: Collection[EventId]) -> dict[EventId, int]:
    """Places in the arrival order of those that have one."""
    query = select(stream_events.c.event_id, stream_events.c.position).where(
        stream_events.c.event_id.in_(sorted(event_ids))
    )
    return {EventId(row.event_id): row.position for row in tx.execute(query)}


def of_members(tx: Transaction, event_ids: Collection[EventId]) -> list[EventId]:
    """Those of them that are memberships."""
    query = select(events.c.event_id).where(
        events.c.event_id.in_(sorted(event_ids)), events.c.type == "m.room.member"
    )
    return [EventId(one) for one in tx.execute(query).scalars()]


def is_streamed(tx: Transaction, event_id: EventId) -> bool:
    query = select(stream_events.c.position).where(stream_events.c.event_id == event_id)
    return tx.execute(query).first() is not None


def timeline(
    tx: Transaction, room_id: RoomId, *, limit: int, before: int | None
) -> list[StreamedEvent]:
    """The newest events up to position `before` (inclusive), oldest first."""
    query = _streamed().where(stream_events.c.room_id == room_id)
    if before is not None:
        query = query.where(stream_events.c.position <= before)
    rows = tx.execute(query.order_by(stream_events.c.position.desc()).limit(limit))
    return [_to_streamed(row) for row in rows][::-1]


def closest(
    tx: Transaction, room_id: RoomId, at_ms: int, *, forwards: bool, limit: int, skip: int
) -> list[EventRow]:
    """Accepted events of the room from that time on, forwards or backwards, the closest first."""
    stamp = events.c.origin_server_ts
    query = select(events).where(
        events.c.room_id == room_id, events.c.verdict == ACCEPTED, events.c.outlier.is_(False)
    )
    if forwards:
        query = query.where(stamp >= at_ms).order_by(stamp, events.c.depth, events.c.event_id)
    else:
        query = query.where(stamp <= at_ms).order_by(
            stamp.desc(), events.c.depth.desc(), events.c.event_id
        )
    return [_event(row) for row in tx.execute(query.limit(limit).offset(skip))]


def newest_position(tx: Transaction, room_id: RoomId) -> int:
    query = select(func.max(stream_events.c.position)).where(stream_events.c.room_id == room_id)
    return tx.execute(query).scalar_one() or 0


def _streamed() -> Select[Any]:
    return (
        select(
            stream_events.c.position,
            stream_events.c.outgoing,
            local_transactions.c.transaction_id,
            events,
        )
        .join(events, events.c.event_id == stream_events.c.event_id)
        .outerjoin(local_transactions, local_transactions.c.event_id == events.c.event_id)
    )


# --- local transactions ---------------------------------------------------------------------


def find_local_transaction(
    tx: Transaction, transaction_id: str
) -> tuple[RoomId, EventId | None] | None:
    row = tx.execute(_FIND_LOCAL_TRANSACTION, {"id": transaction_id}).one_or_none()
    if row is None:
        return None
    return RoomId(row.room_id), None if row.event_id is None else EventId(row.event_id)


def insert_local_transaction(
    tx: Transaction, transaction_id: str, *, room_id: RoomId, event_id: EventId | None, at_ms: int
) -> None:
    tx.execute(
        _INSERT_LOCAL_TRANSACTION,
        {
            "transaction_id": transaction_id,
            "room_id": room_id,
            "event_id": event_id,
            "at_ms": at_ms,
        },
    )


def prune_local_transactions(tx: Transaction, *, before_ms: int, limit: int) -> int:
    """Forget those that stand for an event; what stands for a room is few, and stays."""
    old = (
        select(local_transactions.c.transaction_id)
        .where(local_transactions.c.at_ms < before_ms, local_transactions.c.event_id.is_not(None))
        .limit(limit)
    )
    return tx.execute(
        delete(local_transactions).where(local_transactions.c.transaction_id.in_(old))
    ).rowcount


def forget_local_transaction(tx: Transaction, transaction_id: str) -> None:
    tx.execute(
        delete(local_transactions).where(local_transactions.c.transaction_id == transaction_id)
    )


# --- rows -----------------------------------------------------------------------------------


def _insert_edges(tx: Transaction, event_id: EventId, prev_events: Sequence[EventId]) -> None:
    for prev in dict.fromkeys(prev_events):
        tx.execute(_INSERT_EDGE, {"prev_event_id": prev, "event_id": event_id})


def _values(row: EventRow) -> dict[str, Any]:
    return {
        "event_id": row.event_id,
        "room_id": row.room_id,
        # Columns are for looking things up; PostgreSQL's text has no NUL, the JSON has it escaped.
        "type": row.type.replace("\0", "\ufffd"),
        "state_key": None if row.state_key is None else row.state_key.replace("\0", "\ufffd"),
        "sender": row.sender,
        "depth": row.depth,
        "origin_server_ts": row.origin_server_ts,
        "json": row.json,
        "verdict": row.verdict,
        "rule": row.rule,
        "outlier": row.outlier,
        "snapshot_before": row.snapshot_before,
        "redacted_by": row.redacted_by,
        "received_ms": row.received_ms,
        "trace_id": row.trace_id,
    }


def _event(row: Row[Any]) -> EventRow:
    return EventRow(
        event_id=EventId(row.event_id),
        room_id=RoomId(row.room_id),
        type=row.type,
        state_key=row.state_key,
        sender=UserId(row.sender),
        depth=row.depth,
        origin_server_ts=row.origin_server_ts,
        json=row.json,
        verdict=row.verdict,
        rule=row.rule,
        outlier=row.outlier,
        snapshot_before=row.snapshot_before,
        redacted_by=None if row.redacted_by is None else EventId(row.redacted_by),
        received_ms=row.received_ms,
        trace_id=TraceId(row.trace_id),
    )


def _to_streamed(row: Row[Any]) -> StreamedEvent:
    return StreamedEvent(
        position=row.position,
        outgoing=row.outgoing,
        transaction_id=row.transaction_id,
        event=_event(row),
    )
