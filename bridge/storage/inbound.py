"""PDUs from transactions, stored before they are understood; one lane per room works them off."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, func, insert, select, update

from bridge.ids import EventId, RoomId, ServerName, TraceId
from bridge.storage.database import Transaction
from bridge.storage.schema import inbound_pdus

# Made once: building a statement costs more than running it.
_DELETE = delete(inbound_pdus).where(inbound_pdus.c.event_id == bindparam("event"))
_INSERT = insert(inbound_pdus)
_WAITS = inbound_pdus.c.outcome.is_(None)
_DUE_ROOMS = (
    select(inbound_pdus.c.room_id, func.min(inbound_pdus.c.inbound_id).label("first"))
    .where(_WAITS, inbound_pdus.c.next_attempt_ms <= bindparam("now"))
    .group_by(inbound_pdus.c.room_id)
    .order_by("first")
    .limit(bindparam("most"))
)
_DUE = (
    select(inbound_pdus)
    .where(
        inbound_pdus.c.room_id == bindparam("room"),
        _WAITS,
        inbound_pdus.c.next_attempt_ms <= bindparam("now"),
    )
    .order_by(inbound_pdus.c.inbound_id)
    .limit(bindparam("most"))
)
_FIND_WAITING = select(inbound_pdus.c.event_id, inbound_pdus.c.outcome, inbound_pdus.c.json).where(
    inbound_pdus.c.event_id.in_(bindparam("events", expanding=True))
)
_FIND_OUTCOMES = select(inbound_pdus.c.event_id, inbound_pdus.c.outcome).where(
    inbound_pdus.c.event_id.in_(bindparam("events", expanding=True))
)
_COUNT = select(func.count()).select_from(inbound_pdus).where(_WAITS)
_COUNT_OF_ORIGIN = _COUNT.where(inbound_pdus.c.origin == bindparam("of"))
_COUNT_OF_ROOM = _COUNT.where(inbound_pdus.c.room_id == bindparam("room"))


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundRow:
    inbound_id: int
    room_id: RoomId
    event_id: EventId
    origin: ServerName
    json: str
    received_ms: int
    attempts: int
    trace_id: TraceId


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRow:
    room_id: RoomId
    event_id: EventId
    json: str
    trace_id: TraceId
    displaces: bool = False
    """Another event with the same ID that waits was not the true one."""


def put_all(
    tx: Transaction, rows: Sequence[NewRow], *, origin: ServerName, received_ms: int
) -> bool:
    """Those that neither wait nor were taken already. One that failed may try again.

    Returns whether there were any.
    """
    wanted: dict[str, NewRow] = {}
    for row in rows:
        if row.displaces or row.event_id not in wanted:
            wanted[row.event_id] = row
    if not wanted:
        return False
    failed: list[EventId] = []
    for there in tx.execute(_FIND_WAITING, {"events": sorted(wanted)}).all():
        row = wanted[there.event_id]
        if there.outcome or (row.displaces and there.json != row.json):
            failed.append(row.event_id)
        else:
            del wanted[there.event_id]
    if failed:
        tx.execute(_DELETE, [{"event": event_id} for event_id in failed])
    if wanted:
        tx.execute(
            _INSERT,
            [
                {
                    "room_id": row.room_id,
                    "event_id": row.event_id,
                    "origin": origin,
                    "json": row.json,
                    "received_ms": received_ms,
                    "attempts": 0,
                    "next_attempt_ms": received_ms,
                    "trace_id": row.trace_id,
                }
                for row in wanted.values()
            ],
        )
    return bool(wanted)


def due_rooms(
    tx: Transaction, *, now_ms: int, busy: Collection[RoomId], limit: int
) -> list[RoomId]:
    """Rooms with something to do now, the longest waiting first."""
    rows = tx.execute(_DUE_ROOMS, {"now": now_ms, "most": limit + len(busy)})
    rooms = [RoomId(row.room_id) for row in rows]
    return [room for room in rooms if room not in busy][:limit]


def due(tx: Transaction, room_id: RoomId, *, now_ms: int, limit: int) -> list[InboundRow]:
    return [
        InboundRow(
            inbound_id=row.inbound_id,
            room_id=RoomId(row.room_id),
            event_id=EventId(row.event_id),
            origin=ServerName(row.origin),
            json=row.json,
            received_ms=row.received_ms,
            attempts=row.attempts,
            trace_id=TraceId(row.trace_id),
        )
        for row in tx.execute(_DUE, {"room": room_id, "now": now_ms, "most": limit})
    ]


def finish_all(tx: Transaction, outcomes: Iterable[tuple[EventId, str]]) -> None:
    """As `finish`, for several."""
    good: list[EventId] = []
    for event_id, outcome in outcomes:
        if outcome:
            finish(tx, event_id, outcome)
        else:
            good.append(event_id)
    if good:
        tx.execute(_DELETE, [{"event": event_id} for event_id in good])


def finish(
    tx: Transaction, event_id: EventId, outcome: str, *, inbound_id: int | None = None
) -> None:
    """`outcome` is the answer for this PDU. "" means accepted or already known: nothing is left to
    remember, the event itself is there. A refusal is kept for a while, for replays.

    `inbound_id`: only if this row still waits; another with its event ID may have displaced it.
    """
    if not outcome:
        tx.execute(_DELETE, {"event": event_id})
        return
    waiting = update(inbound_pdus).where(
        inbound_pdus.c.event_id == event_id, inbound_pdus.c.outcome.is_(None)
    )
    if inbound_id is not None:
        waiting = waiting.where(inbound_pdus.c.inbound_id == inbound_id)
    tx.execute(waiting.values(outcome=outcome, json=""))


def postpone(tx: Transaction, inbound_id: int, *, next_attempt_ms: int) -> None:
    tx.execute(
        update(inbound_pdus)
        .where(inbound_pdus.c.inbound_id == inbound_id)
        .values(attempts=inbound_pdus.c.attempts + 1, next_attempt_ms=next_attempt_ms)
    )


def outcomes(tx: Transaction, event_ids: Collection[EventId]) -> dict[EventId, str | None]:
    """None: it waits; a text: it was refused. What was accepted is left out."""
    rows = tx.execute(_FIND_OUTCOMES, {"events": sorted(event_ids)})
    return {EventId(row.event_id): row.outcome for row in rows}


def count_waiting(
    tx: Transaction, *, origin: ServerName | None = None, room_id: RoomId | None = None
) -> int:
    """Of one origin or of one room."""
    if origin is not None:
        return int(tx.execute(_COUNT_OF_ORIGIN, {"of": origin}).scalar_one())
    return int(tx.execute(_COUNT_OF_ROOM, {"room": room_id}).scalar_one())


def forget(tx: Transaction, *, before_ms: int) -> None:
    """Drop what was worked off long ago."""
    tx.execute(
        delete(inbound_pdus).where(
            inbound_pdus.c.outcome.is_not(None), inbound_pdus.c.received_ms < before_ms
        )
    )
