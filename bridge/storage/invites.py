"""Invites of our users to rooms that we are not in, with the stripped state that came along.

A knock of ours on such a room is remembered in the same way, by the server that took it: it waits
for an invite. Which of the two a row is, the membership says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Row, delete, func, insert, select

from bridge.ids import EventId, RoomId, ServerName, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import invites, memberships


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteRow:
    room_id: RoomId
    user_id: UserId
    event_id: EventId
    origin: ServerName
    room_state: Sequence[dict[str, Any]]
    received_ms: int


def put(tx: Transaction, row: InviteRow) -> None:
    """The newest invite or knock of this user in this room counts."""
    remove(tx, row.room_id, row.user_id)
    tx.execute(
        insert(invites).values(
            room_id=row.room_id,
            user_id=row.user_id,
            event_id=row.event_id,
            origin=row.origin,
            room_state=orjson.dumps(row.room_state).decode(),
            received_ms=row.received_ms,
        )
    )


def find(tx: Transaction, room_id: RoomId, user_id: UserId) -> InviteRow | None:
    row = tx.execute(
        select(invites).where(invites.c.room_id == room_id, invites.c.user_id == user_id)
    ).one_or_none()
    return None if row is None else _invite(row)


def of_room(tx: Transaction, room_id: RoomId) -> list[InviteRow]:
    return [_invite(row) for row in tx.execute(select(invites).where(invites.c.room_id == room_id))]


def count(
    tx: Transaction,
    *,
    membership: str,
    origin: ServerName | None = None,
    user_id: UserId | None = None,
) -> int:
    """Open invites (or knocks, by `membership`) from this server or any, of this user or of all."""
    query = (
        select(func.count())
        .select_from(invites)
        .join(
            memberships,
            (memberships.c.room_id == invites.c.room_id)
            & (memberships.c.user_id == invites.c.user_id),
        )
        .where(memberships.c.membership == membership)
    )
    if origin is not None:
        query = query.where(invites.c.origin == origin)
    if user_id is not None:
        query = query.where(invites.c.user_id == user_id)
    return int(tx.execute(query).scalar_one())


def remove(tx: Transaction, room_id: RoomId, user_id: UserId) -> None:
    tx.execute(delete(invites).where(invites.c.room_id == room_id, invites.c.user_id == user_id))


def remove_all(tx: Transaction, room_id: RoomId) -> None:
    tx.execute(delete(invites).where(invites.c.room_id == room_id))


def _invite(row: Row[Any]) -> InviteRow:
    return InviteRow(
        room_id=RoomId(row.room_id),
        user_id=UserId(row.user_id),
        event_id=EventId(row.event_id),
        origin=ServerName(row.origin),
        room_state=orjson.loads(row.room_state),
        received_ms=row.received_ms,
    )
