"""Aliases of our own server."""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update

from bridge.errors import Refused
from bridge.ids import RoomAlias, RoomId, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import aliases


def find(tx: Transaction, alias: RoomAlias) -> RoomId | None:
    row = tx.execute(select(aliases.c.room_id).where(aliases.c.alias == alias)).one_or_none()
    return None if row is None else RoomId(row.room_id)


def put(tx: Transaction, alias: RoomAlias, *, room_id: RoomId, creator: UserId) -> None:
    """Raises `Refused` with `M_ROOM_IN_USE` when it names another room."""
    there = find(tx, alias)
    if there == room_id:
        return
    if there is not None:
        raise Refused(f"{alias} names another room", errcode="M_ROOM_IN_USE", rule="alias")
    tx.execute(insert(aliases).values(alias=alias, room_id=room_id, creator=creator))


def remove(tx: Transaction, alias: RoomAlias) -> None:
    tx.execute(delete(aliases).where(aliases.c.alias == alias))


def of_room(tx: Transaction, room_id: RoomId) -> list[RoomAlias]:
    rows = tx.execute(
        select(aliases.c.alias).where(aliases.c.room_id == room_id).order_by(aliases.c.alias)
    )
    return [RoomAlias(alias) for alias in rows.scalars()]


def move(tx: Transaction, *, of: RoomId, to: RoomId) -> None:
    """All that name one room name the other from now on."""
    tx.execute(update(aliases).where(aliases.c.room_id == of).values(room_id=to))
