"""Rooms that were upgraded: which room follows which, as rows of `portals` (kind `moved`).

`chat` is the old room, `room_id` its successor, `since_position` where the tombstone stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from bridge.ids import RoomId
from bridge.storage.database import Transaction
from bridge.storage.schema import portals

KIND = "moved"
MOVING = "moving"
MOVED = "moved"
REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """`status`: moving (not decided or not finished yet), moved, refused (nobody follows)."""

    room_id: RoomId
    successor: RoomId
    status: str
    position: int
    """Of the tombstone."""
    seen_ms: int


def _move(row: Row[Any]) -> Move:
    return Move(
        room_id=RoomId(row.chat),
        successor=RoomId(row.room_id),
        status=row.status,
        position=row.since_position or 0,
        seen_ms=row.created_ms,
    )


def begin(tx: Transaction, *, adapter: str, move: Move) -> None:
    """A tombstone was seen; a later one takes the place of one that was not followed."""
    key = {"adapter": adapter, "kind": KIND, "chat": move.room_id, "user_id": ""}
    values = {
        "room_id": move.successor,
        "status": move.status,
        "created_ms": move.seen_ms,
        "closed_ms": None,
        "since_position": move.position,
    }
    tx.execute(tx.dialect.upsert(portals, ["adapter", "kind", "chat", "user_id"]), key | values)


def finish(
    tx: Transaction, *, adapter: str, room_id: RoomId, successor: RoomId, status: str, now_ms: int
) -> None:
    """Decided; nothing happens where another tombstone has come meanwhile."""
    tx.execute(
        update(portals)
        .where(
            portals.c.adapter == adapter,
            portals.c.kind == KIND,
            portals.c.chat == room_id,
            portals.c.room_id == successor,
        )
        .values(status=status, closed_ms=now_ms)
    )


def of_room(tx: Transaction, *, adapter: str, room_id: RoomId) -> Move | None:
    """What became of an upgraded room."""
    row = tx.execute(
        select(portals).where(
            portals.c.adapter == adapter,
            portals.c.kind == KIND,
            portals.c.chat == room_id,
            portals.c.user_id == "",
        )
    ).one_or_none()
    return None if row is None else _move(row)


def into_room(tx: Transaction, *, adapter: str, room_id: RoomId) -> Sequence[Move]:
    """The rooms that this one replaces, or is said to."""
    rows = tx.execute(
        select(portals)
        .where(
            portals.c.room_id == room_id,
            portals.c.adapter == adapter,
            portals.c.kind == KIND,
        )
        .order_by(portals.c.portal_id)
    )
    return [_move(row) for row in rows]


def successors(tx: Transaction, *, adapter: str, room_id: RoomId, most: int) -> Sequence[RoomId]:
    """The rooms that followed, in order, as far as everybody has moved; at most so many."""
    found: list[RoomId] = []
    move = of_room(tx, adapter=adapter, room_id=room_id)
    while move is not None and move.status == MOVED and len(found) < most:
        if move.successor == room_id or move.successor in found:
            break
        found.append(move.successor)
        move = of_room(tx, adapter=adapter, room_id=move.successor)
    return found


def predecessors(tx: Transaction, *, adapter: str, room_id: RoomId, most: int) -> Sequence[Move]:
    """The moves that led here, the newest first; at most so many."""
    found: list[Move] = []
    while len(found) < most:
        before = [m for m in into_room(tx, adapter=adapter, room_id=room_id) if m.status == MOVED]
        if not before or any(before[0].room_id == one.room_id for one in found):
            break
        found.append(before[0])
        room_id = before[0].room_id
    return found
