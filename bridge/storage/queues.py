"""Durable queues: rows of `inbox` and `outbox`, worked off in order, lane by lane.

A waiting item that must be retried holds its lane up (order per chat is kept); a parked or dropped
one steps aside and the rest of the lane goes on. (Signatures; bodies follow.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from bridge.ids import TraceId
from bridge.storage import schema
from bridge.storage.database import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTable:
    """One of the two tables, and the topic that a `put` wakes."""

    table: Table
    topic: str


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
    raise NotImplementedError


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
    raise NotImplementedError


def get(tx: Transaction, queue: QueueTable, item_id: int) -> QueueItem:
    """Raises NotFound."""
    raise NotImplementedError


def lanes_due(tx: Transaction, queue: QueueTable, now_ms: int, limit: int) -> Due:
    raise NotImplementedError


def next_in_lane(tx: Transaction, queue: QueueTable, lane: str, now_ms: int) -> QueueItem | None:
    """The lane's first waiting item, if it is due."""
    raise NotImplementedError


def done(tx: Transaction, queue: QueueTable, item_id: int) -> None:
    raise NotImplementedError


def retry(
    tx: Transaction, queue: QueueTable, item_id: int, *, next_attempt_ms: int, reason: str
) -> None:
    """One attempt more is counted; the lane waits until `next_attempt_ms`."""
    raise NotImplementedError


def park(tx: Transaction, queue: QueueTable, item_id: int, *, reason: str) -> None:
    raise NotImplementedError


def drop(tx: Transaction, queue: QueueTable, item_id: int, *, reason: str) -> None:
    raise NotImplementedError


def requeue(tx: Transaction, queue: QueueTable, item_id: int, *, now_ms: int) -> None:
    """A parked item waits again, at its old place in the lane. Wakes the queue."""
    raise NotImplementedError


def prune(tx: Transaction, queue: QueueTable, *, before_ms: int, limit: int) -> int:
    """Forget done and dropped items made before `before_ms`; returns how many."""
    raise NotImplementedError
