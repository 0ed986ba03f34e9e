"""The name that each member has in a room that we serve: unique after folding, and stable."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import delete, select

from bridge.ids import RoomId, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import nicknames


def find(tx: Transaction, room_id: RoomId, user_id: UserId) -> str | None:
    row = tx.execute(
        select(nicknames.c.nickname).where(
            nicknames.c.room_id == room_id, nicknames.c.user_id == user_id
        )
    ).one_or_none()
    return None if row is None else str(row.nickname)


def find_holder(tx: Transaction, room_id: RoomId, folded: str) -> UserId | None:
    row = tx.execute(
        select(nicknames.c.user_id).where(
            nicknames.c.room_id == room_id, nicknames.c.folded == folded
        )
    ).one_or_none()
    return None if row is None else UserId(row.user_id)


def of_room(tx: Transaction, room_id: RoomId) -> Mapping[UserId, str]:
    rows = tx.execute(
        select(nicknames.c.user_id, nicknames.c.nickname).where(nicknames.c.room_id == room_id)
    )
    return {UserId(row.user_id): str(row.nickname) for row in rows}


def put(
    tx: Transaction, *, room_id: RoomId, user_id: UserId, nickname: str, folded: str
) -> UserId | None:
    """Gives the name to this member. Returns whom it was taken from, who now has none."""
    holder = find_holder(tx, room_id, folded)
    taken_from = None if holder in (None, user_id) else holder
    if taken_from is not None:
        remove(tx, room_id, taken_from)
    tx.execute(
        tx.dialect.upsert(nicknames, ["room_id", "user_id"]),
        {"room_id": room_id, "user_id": user_id, "nickname": nickname, "folded": folded},
    )
    return taken_from


def remove(tx: Transaction, room_id: RoomId, user_id: UserId) -> None:
    tx.execute(
        delete(nicknames).where(nicknames.c.room_id == room_id, nicknames.c.user_id == user_id)
    )
