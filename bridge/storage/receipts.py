"""How far people have read: one row for each room, user, kind of receipt and thread.

Newest wins, by arrival: nobody can order two events of which we may not even know one. Spec: C2S,
receipts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import select

from bridge.ids import EventId, RoomId, UserId
from bridge.storage.database import Transaction
from bridge.storage.edus import UNTHREADED, ReceiptRow
from bridge.storage.schema import receipts

READ = "m.read"


def put(tx: Transaction, rows: Sequence[ReceiptRow], *, kind: str = READ) -> None:
    """Each in the place of what was known for its thread."""
    for row in rows:
        tx.execute(
            tx.dialect.upsert(receipts, ("room_id", "user_id", "kind", "thread_id")).values(
                room_id=row.room_id,
                user_id=row.user_id,
                kind=kind,
                thread_id=row.thread_id or UNTHREADED,
                event_id=row.event_id,
                at_ms=row.at_ms,
            )
        )


def of_room(
    tx: Transaction, room_id: RoomId, *, kind: str = READ, users: Collection[UserId] | None = None
) -> list[ReceiptRow]:
    """By user and thread; of all users by default."""
    statement = select(receipts).where(receipts.c.room_id == room_id, receipts.c.kind == kind)
    if users is not None:
        statement = statement.where(receipts.c.user_id.in_(sorted(users)))
    rows = tx.execute(statement.order_by(receipts.c.user_id, receipts.c.thread_id))
    return [
        ReceiptRow(
            room_id=RoomId(row.room_id),
            user_id=UserId(row.user_id),
            thread_id=row.thread_id or None,
            event_id=EventId(row.event_id),
            at_ms=row.at_ms,
        )
        for row in rows
    ]
