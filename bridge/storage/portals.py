"""Portals: which chat is bound to which room, and the rooms that we serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from bridge.ids import RoomId, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import portals

DIRECT = "direct"
SERVED = "served"
ENCRYPTED = "encrypted"
MANAGEMENT = "management"


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    """`kind` says what `chat` and `user_id` mean:

    direct: one address and one Matrix user; served: the room ID and nobody; encrypted: a direct
    room that we cannot read, `chat` is the address; management: a room with the bot, `chat` is
    the room ID.
    """

    portal_id: int
    adapter: str
    kind: str
    chat: str
    user_id: UserId
    room_id: RoomId | None
    status: str
    closed_ms: int | None


def _portal(row: Row[Any]) -> Portal:
    return Portal(
        portal_id=row.portal_id,
        adapter=row.adapter,
        kind=row.kind,
        chat=row.chat,
        user_id=UserId(row.user_id),
        room_id=None if row.room_id is None else RoomId(row.room_id),
        status=row.status,
        closed_ms=row.closed_ms,
    )


def find(tx: Transaction, *, adapter: str, kind: str, chat: str, user_id: UserId) -> Portal | None:
    """The portal of a chat, whatever its status."""
    row = tx.execute(
        select(portals).where(
            portals.c.adapter == adapter,
            portals.c.kind == kind,
            portals.c.chat == chat,
            portals.c.user_id == user_id,
        )
    ).one_or_none()
    return None if row is None else _portal(row)


def of_room(tx: Transaction, room_id: RoomId) -> Sequence[Portal]:
    """Every portal that stands in a room now."""
    rows = tx.execute(
        select(portals)
        .where(portals.c.room_id == room_id, portals.c.status == "open")
        .order_by(portals.c.portal_id)
    ).all()
    return [_portal(row) for row in rows]


def bind(
    tx: Transaction,
    *,
    adapter: str,
    kind: str,
    chat: str,
    user_id: UserId,
    room_id: RoomId,
    now_ms: int,
) -> Portal:
    """Binds a chat to a room, whatever it was bound to before; the portal is open afterwards."""
    tx.execute(
        tx.dialect.insert_ignore(portals).values(
            adapter=adapter,
            kind=kind,
            chat=chat,
            user_id=user_id,
            room_id=room_id,
            status="open",
            created_ms=now_ms,
        )
    )
    tx.execute(
        update(portals)
        .where(
            portals.c.adapter == adapter,
            portals.c.kind == kind,
            portals.c.chat == chat,
            portals.c.user_id == user_id,
        )
        .values(room_id=room_id, status="open")
    )
    found = find(tx, adapter=adapter, kind=kind, chat=chat, user_id=user_id)
    assert found is not None
    return found


def close(tx: Transaction, portal_id: int, *, refused: bool, now_ms: int) -> None:
    """The chat has no room any more; its next message opens another. The row keeps the old
    room's ID, so that opening the next one is idempotent too."""
    tx.execute(
        update(portals)
        .where(portals.c.portal_id == portal_id)
        .values(status="refused" if refused else "closed", closed_ms=now_ms)
    )
