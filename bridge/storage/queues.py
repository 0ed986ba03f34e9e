"""Durable queues: rows of `inbox` and `outbox`, worked off in order, lane by lane.

A waiting item that must be retried holds its lane up (order per chat is kept); a parked or dropped
one steps aside and the rest of the lane goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import BindParameter, Row, Select, Table, bindparam, delete, func, select, update
from sqlalchemy.sql.elements import ColumnElement

from bridge.errors import NotFound
from bridge.ids import TraceId
from bridge.storage import schema
from bridge.storage.database import Transaction
from bridge.storage.keys import bounded


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTable:
    """One of the two tables, and the topic that a `put` wakes."""

    table: Table
    topic: str

    @property
    def id(self) -> ColumnElement[int]:
        return self.table.c[f"{self.topic}_id"]


OPEN = ("waiting", "parked")
"""Of these an operator may still decide."""

INBOX = QueueTable(table=schema.inbox, topic="inbox")
OUTBOX = QueueTable(table=schema.outbox, topic="outbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueItem:
    """A row of inbox or outbox."""

    id: int
    lane: str
    adapter: str
    source: str
    """Inbox: who says so (with `cause` the idempotence key); outbox: empty."""
    cause: str
    """Inbox: the source's own ID of the message; outbox: what made this row."""
    payload: Mapping[str, Any]
    status: str
    attempts: int
    next_attempt_ms: int
    reason: str | None
    trace_id: TraceId
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Lanes whose first waiting item is due, oldest first; when the next other one will be."""

    lanes: Sequence[str]
    next_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How much waits, since when, and how much is parked."""

    waiting: int
    oldest_ms: int | None
    parked: int


def put_inbox(
    tx: Transaction,
    *,
    lane: str,
    adapter: str,
    source: str,
    source_id: str,
    payload: Mapping[str, Any],
    trace_id: TraceId,
    now_ms: int,
) -> int | None:
    """The new row's ID, or None when (source, source_id) is already there. Wakes `inbox`."""
    values = {
        "lane": lane,
        "adapter": adapter,
        "source": source,
        "source_id": bounded(source_id),
    }
    return _put(tx, INBOX, values, payload, trace_id, now_ms)


def put_outbox(
    tx: Transaction,
    *,
    lane: str,
    adapter: str,
    cause: str,
    payload: Mapping[str, Any],
    trace_id: TraceId,
    now_ms: int,
) -> int | None:
    """The new row's ID, or None when `cause` is already there. Wakes `outbox`."""
    values = {"lane": lane, "adapter": adapter, "cause": cause}
    return _put(tx, OUTBOX, values, payload, trace_id, now_ms)


def _put(
    tx: Transaction,
    queue: QueueTable,
    values: Mapping[str, Any],
    payload: Mapping[str, Any],
    trace_id: TraceId,
    now_ms: int,
) -> int | None:
    found: int | None = tx.execute(
        tx.dialect.insert_ignore(queue.table)
        .values(
            **values,
            payload=orjson.dumps(payload).decode(),
            status="waiting",
            attempts=0,
            next_attempt_ms=now_ms,
            told_waiting=False,
            trace_id=trace_id,
            created_ms=now_ms,
        )
        .returning(queue.id)
    ).scalar()
    if found is not None:
        tx.wake(queue.topic)
    return found


def get(tx: Transaction, queue: QueueTable, item_id: int) -> QueueItem:
    """Raises NotFound."""
    row = tx.execute(select(queue.table).where(queue.id == item_id)).one_or_none()
    if row is None:
        raise NotFound(f"no item {item_id} in {queue.topic}")
    return _to_item(row)


def find_inbox(tx: Transaction, *, source: str, source_id: str) -> QueueItem | None:
    """What this source said under this ID."""
    table = INBOX.table
    row = tx.execute(
        select(table).where(table.c.source == source, table.c.source_id == bounded(source_id))
    ).one_or_none()
    return None if row is None else _to_item(row)


def lanes_due(tx: Transaction, queue: QueueTable, now_ms: int, limit: int) -> Due:
    """Costs a few index look-ups per waiting lane, however long the lanes are."""
    lanes, following = _LANES_DUE[queue.topic]
    lane_names = list(tx.execute(lanes, {"now": now_ms, "most": limit}).scalars())
    next_ms: int | None = tx.execute(following, {"now": now_ms}).scalar()
    return Due(lanes=lane_names, next_ms=next_ms)


def _lanes_due(queue: QueueTable) -> tuple[Select[Any], Select[Any]]:
    """The lanes whose first waiting item is due, and when the next one will be."""
    table = queue.table
    waiting = table.c.status == "waiting"
    lanes = select(func.min(table.c.lane).label("lane")).where(waiting).cte("lanes", recursive=True)
    following = (
        select(func.min(table.c.lane)).where(waiting, table.c.lane > lanes.c.lane).scalar_subquery()
    )
    lanes = lanes.union_all(select(following).where(lanes.c.lane.is_not(None)))
    first = (
        select(func.min(queue.id))
        .where(waiting, table.c.lane == lanes.c.lane)
        .scalar_subquery()
        .correlate(lanes)
    )
    heads = select(first.label("id")).where(lanes.c.lane.is_not(None)).cte("heads")
    now: BindParameter[int] = bindparam("now")
    at = table.c.next_attempt_ms
    return (
        select(table.c.lane)
        .join_from(heads, table, heads.c.id == queue.id)
        .where(at <= now)
        .order_by(queue.id)
        .limit(bindparam("most")),
        select(func.min(at)).join_from(heads, table, heads.c.id == queue.id).where(at > now),
    )


def _next_in_lane(queue: QueueTable) -> Select[Any]:
    table = queue.table
    return (
        select(table)
        .where(table.c.status == "waiting", table.c.lane == bindparam("of"))
        .order_by(queue.id)
        .limit(1)
    )


# Made once: building a statement costs more than running it.
_LANES_DUE = {queue.topic: _lanes_due(queue) for queue in (INBOX, OUTBOX)}
_NEXT_IN_LANE = {queue.topic: _next_in_lane(queue) for queue in (INBOX, OUTBOX)}


def next_in_lane(tx: Transaction, queue: QueueTable, lane: str, now_ms: int) -> QueueItem | None:
    """The lane's first waiting item, if it is due."""
    row = tx.execute(_NEXT_IN_LANE[queue.topic], {"of": lane}).one_or_none()
    if row is None or row.next_attempt_ms > now_ms:
        return None
    return _to_item(row)


def waiting_in_lane(tx: Transaction, queue: QueueTable, lane: str, limit: int) -> list[int]:
    """IDs of what waits in a lane, due or not, in order."""
    table = queue.table
    rows = tx.execute(
        select(queue.id)
        .where(table.c.status == "waiting", table.c.lane == lane)
        .order_by(queue.id)
        .limit(limit)
    )
    return list(rows.scalars())


def is_full(tx: Transaction, queue: QueueTable, lane: str, *, bound: int) -> bool:
    """Whether as many rows as that wait in a lane. Only the index is read."""
    table = queue.table
    last = (
        select(queue.id)
        .where(table.c.status == "waiting", table.c.lane == lane)
        .order_by(queue.id)
        .offset(bound - 1)
        .limit(1)
    )
    return tx.execute(last).scalar() is not None


def done(tx: Transaction, queue: QueueTable, item_id: int) -> None:
    _set(tx, queue, item_id, status="done", reason=None)


def retry(
    tx: Transaction, queue: QueueTable, item_id: int, *, next_attempt_ms: int, reason: str
) -> None:
    """One attempt more is counted; the lane waits until `next_attempt_ms`."""
    _set(
        tx,
        queue,
        item_id,
        attempts=queue.table.c.attempts + 1,
        next_attempt_ms=next_attempt_ms,
        reason=reason,
    )


def hasten(tx: Transaction, queue: QueueTable, lane: str, *, now_ms: int) -> None:
    """What the lane waited for has come: its waiting items are due now. Wakes the queue."""
    table = queue.table
    tx.execute(
        update(table)
        .where(table.c.status == "waiting", table.c.lane == lane, table.c.next_attempt_ms > now_ms)
        .values(next_attempt_ms=now_ms)
    )
    tx.wake(queue.topic)


def hasten_adapter(tx: Transaction, queue: QueueTable, adapter: str, *, now_ms: int) -> None:
    """The adapter is connected again: all that waited for it is due now. Wakes the queue."""
    table = queue.table
    tx.execute(
        update(table)
        .where(
            table.c.status == "waiting",
            table.c.adapter == adapter,
            table.c.next_attempt_ms > now_ms,
        )
        .values(next_attempt_ms=now_ms)
    )
    tx.wake(queue.topic)


def park(tx: Transaction, queue: QueueTable, item_id: int, *, reason: str) -> None:
    """Set aside for the admin to see; the rest of the lane goes on."""
    _set(tx, queue, item_id, status="parked", reason=reason)


def drop(tx: Transaction, queue: QueueTable, item_id: int, *, reason: str) -> None:
    _set(tx, queue, item_id, status="dropped", reason=reason)


def drop_lane(
    tx: Transaction,
    queue: QueueTable,
    lane: str,
    *,
    statuses: Sequence[str],
    reason: str,
    before_id: int | None = None,
) -> int:
    """Gives up what stands in a lane with one of these statuses; of rows before `before_id`, if
    given. Returns how many."""
    table = queue.table
    where = [table.c.lane == lane, table.c.status.in_(statuses)]
    if before_id is not None:
        where.append(queue.id < before_id)
    return tx.execute(update(table).where(*where).values(status="dropped", reason=reason)).rowcount


def requeue(tx: Transaction, queue: QueueTable, item_id: int, *, now_ms: int) -> None:
    """A parked item waits again, at its old place in the lane, for as long as a new one. Wakes the
    queue."""
    _set(tx, queue, item_id, status="waiting", next_attempt_ms=now_ms, created_ms=now_ms)
    tx.wake(queue.topic)


def long_waiting(
    tx: Transaction, queue: QueueTable, *, before_ms: int, limit: int
) -> list[QueueItem]:
    """Items made before `before_ms` that still wait, and whose author has not been told so."""
    table = queue.table
    rows = tx.execute(
        select(table)
        .where(
            table.c.status == "waiting",
            table.c.told_waiting.is_(False),
            table.c.created_ms <= before_ms,
        )
        .order_by(queue.id)
        .limit(limit)
    )
    return [_to_item(row) for row in rows]


def told_waiting(tx: Transaction, queue: QueueTable, item_id: int) -> None:
    _set(tx, queue, item_id, told_waiting=True)


def backlog(tx: Transaction, queue: QueueTable) -> Backlog:
    table = queue.table
    waiting = tx.execute(
        select(func.count().label("many"), func.min(table.c.created_ms).label("oldest_ms")).where(
            table.c.status == "waiting"
        )
    ).one()
    parked = tx.execute(select(func.count()).where(table.c.status == "parked")).scalar_one()
    return Backlog(waiting=waiting.many, oldest_ms=waiting.oldest_ms, parked=parked)


def parked(tx: Transaction, queue: QueueTable, limit: int) -> list[QueueItem]:
    """The newest parked items first."""
    table = queue.table
    rows = tx.execute(
        select(table).where(table.c.status == "parked").order_by(queue.id.desc()).limit(limit)
    )
    return [_to_item(row) for row in rows]


def oldest(tx: Transaction, queue: QueueTable, limit: int) -> list[QueueItem]:
    """What has waited longest."""
    table = queue.table
    rows = tx.execute(
        select(table).where(table.c.status == "waiting").order_by(queue.id).limit(limit)
    )
    return [_to_item(row) for row in rows]


def prune(tx: Transaction, queue: QueueTable, *, before_ms: int, limit: int) -> int:
    """Forget what is finished or given up, made before `before_ms`; returns how many."""
    table = queue.table
    old = (
        select(queue.id)
        .where(table.c.status.in_(("done", "dropped", "parked")), table.c.created_ms < before_ms)
        .limit(limit)
    )
    return tx.execute(delete(table).where(queue.id.in_(old))).rowcount


def _set(tx: Transaction, queue: QueueTable, item_id: int, **values: Any) -> None:
    changed = tx.execute(update(queue.table).where(queue.id == item_id).values(**values))
    if changed.rowcount == 0:
        raise NotFound(f"no item {item_id} in {queue.topic}")


def _to_item(row: Row[Any]) -> QueueItem:
    fields = row._mapping
    return QueueItem(
        id=row[0],
        lane=fields["lane"],
        adapter=fields["adapter"],
        source=fields.get("source", ""),
        cause=fields["source_id"] if "source_id" in fields else fields["cause"],
        payload=orjson.loads(fields["payload"]),
        status=fields["status"],
        attempts=fields["attempts"],
        next_attempt_ms=fields["next_attempt_ms"],
        reason=fields["reason"],
        trace_id=TraceId(fields["trace_id"]),
        created_ms=fields["created_ms"],
    )
