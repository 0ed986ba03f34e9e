"""How far people have read: one row for each room, user, kind of receipt and thread.

Newest wins. The event need not be known. Spec: C2S, receipts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, delete, select

from bridge.ids import EventId, RoomId, UserId
from bridge.storage.database import Transaction
from bridge.storage.edus import UNTHREADED, ReceiptRow
from bridge.storage.schema import receipts

READ = "m.read"
MAX_THREADS = 200
"""Receipts of one user in one room; of more, the oldest is forgotten."""

# Made once: building a statement costs more than running it.
_FIND = select(receipts).where(
    receipts.c.room_id == bindparam("room"),
    receipts.c.user_id == bindparam("user"),
    receipts.c.kind == bindparam("of"),
    receipts.c.thread_id == bindparam("thread"),
)
_PUT: dict[str, Any] = {}
"""By database."""


def find(
    tx: Transaction, room_id: RoomId, user_id: UserId, thread_id: str | None, *, kind: str = READ
) -> ReceiptRow | None:
    wanted = {"room": room_id, "user": user_id, "of": kind, "thread": thread_id or UNTHREADED}
    row = tx.execute(_FIND, wanted).one_or_none()
    return None if row is None else _receipt(row)


def put_newer(tx: Transaction, rows: Sequence[ReceiptRow]) -> list[ReceiptRow]:
    """Those of them that are news: not older than what is known, and of another event."""
    fresh: list[ReceiptRow] = []
    for row in rows:
        before = find(tx, row.room_id, row.user_id, row.thread_id)
        if before is None or (before.at_ms <= row.at_ms and before.event_id != row.event_id):
            put(tx, [row])
            fresh.append(row)
    return fresh


def put(tx: Transaction, rows: Sequence[ReceiptRow], *, kind: str = READ) -> None:
    """Each in the place of what was known for its thread."""
    for row in rows:
        if row.thread_id is not None:
            _make_room(tx, row, kind)
        tx.execute(
            _put(tx),
            {
                "room_id": row.room_id,
                "user_id": row.user_id,
                "kind": kind,
                "thread_id": row.thread_id or UNTHREADED,
                "event_id": row.event_id,
                "at_ms": row.at_ms,
            },
        )


def of_room(
    tx: Transaction, room_id: RoomId, *, kind: str = READ, users: Collection[UserId] | None = None
) -> list[ReceiptRow]:
    """By user and thread; of all users by default."""
    statement = select(receipts).where(receipts.c.room_id == room_id, receipts.c.kind == kind)
    if users is not None:
        statement = statement.where(receipts.c.user_id.in_(sorted(users)))
    rows = tx.execute(statement.order_by(receipts.c.user_id, receipts.c.thread_id))
    return [_receipt(row) for row in rows]


def _put(tx: Transaction) -> Any:
    if tx.dialect.name not in _PUT:
        key = ("room_id", "user_id", "kind", "thread_id")
        _PUT[tx.dialect.name] = tx.dialect.upsert(receipts, key)
    return _PUT[tx.dialect.name]


def _make_room(tx: Transaction, row: ReceiptRow, kind: str) -> None:
    mine = (
        receipts.c.room_id == row.room_id,
        receipts.c.user_id == row.user_id,
        receipts.c.kind == kind,
    )
    threads = tx.execute(
        select(receipts.c.thread_id).where(*mine).order_by(receipts.c.at_ms, receipts.c.thread_id)
    ).scalars()
    known = [one for one in threads if one != UNTHREADED]
    if row.thread_id not in known and len(known) >= MAX_THREADS:
        tx.execute(delete(receipts).where(*mine, receipts.c.thread_id == known[0]))


def _receipt(row: Row[Any]) -> ReceiptRow:
    return ReceiptRow(
        room_id=RoomId(row.room_id),
        user_id=UserId(row.user_id),
        thread_id=row.thread_id or None,
        event_id=EventId(row.event_id),
        at_ms=row.at_ms,
    )
