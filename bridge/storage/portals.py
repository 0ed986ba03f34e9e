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
FORMER = "former"
MANAGEMENT = "management"
PORTAL = "portal"
PLUMBED = "plumbed"
OF_CHAT = (PORTAL, PLUMBED)
"""Kinds that bind a foreign chat to its one room."""
_OF_TWO = frozenset({DIRECT, ENCRYPTED, FORMER})
_OF_ROOM = frozenset({SERVED, MANAGEMENT})
"""Their chat is the room itself."""
_PER_ROOM = frozenset({ENCRYPTED, FORMER})
"""One address and one user may have several of these; their rows begin with the room's ID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    """`kind` says what `chat` and `user_id` mean:

    direct: one address and one Matrix user, at most one room; former: another direct room of the
    two, what is written there is delivered, too; encrypted: a direct room that we cannot read;
    served: the room ID and nobody; management: a room with the bot, `chat` is the room ID;
    portal: a foreign chat and the room that was made for it; plumbed: a foreign chat and a room
    that was there before.
    """

    portal_id: int
    adapter: str
    kind: str
    chat: str
    user_id: UserId
    room_id: RoomId | None
    status: str
    closed_ms: int | None
    since_position: int = 0
    """What happened in the room up to here, before it was bound, is no business of the chat's."""


def _portal(row: Row[Any]) -> Portal:
    return Portal(
        portal_id=row.portal_id,
        adapter=row.adapter,
        kind=row.kind,
        chat=row.chat.removeprefix(f"{row.room_id} ") if row.kind in _PER_ROOM else row.chat,
        user_id=UserId(row.user_id),
        room_id=None if row.room_id is None else RoomId(row.room_id),
        status=row.status,
        closed_ms=row.closed_ms,
        since_position=row.since_position or 0,
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


def of_chat(tx: Transaction, *, adapter: str, chat: str) -> Portal | None:
    """The open portal of a foreign chat, of either kind."""
    row = tx.execute(
        select(portals)
        .where(
            portals.c.adapter == adapter,
            portals.c.kind.in_(OF_CHAT),
            portals.c.chat == chat,
            portals.c.status == "open",
        )
        .order_by(portals.c.portal_id)
        .limit(1)
    ).one_or_none()
    return None if row is None else _portal(row)


def management(
    tx: Transaction, *, adapter: str, user_id: UserId | None = None, limit: int
) -> Sequence[Portal]:
    """Open chats between the bot and a user, or anybody, in the order of their making."""
    query = select(portals).where(
        portals.c.adapter == adapter, portals.c.kind == MANAGEMENT, portals.c.status == "open"
    )
    if user_id is not None:
        query = query.where(portals.c.user_id == user_id)
    return [_portal(row) for row in tx.execute(query.order_by(portals.c.portal_id).limit(limit))]


def all_chats(tx: Transaction, *, adapter: str) -> Sequence[Portal]:
    """Every open portal of a foreign chat, in the order of their making."""
    rows = tx.execute(
        select(portals)
        .where(
            portals.c.adapter == adapter,
            portals.c.kind.in_(OF_CHAT),
            portals.c.status == "open",
        )
        .order_by(portals.c.portal_id)
    ).all()
    return [_portal(row) for row in rows]


def begin_closing(tx: Transaction, portal_id: int) -> None:
    """From now on nothing is bridged; what stands in the room because of it is still to go."""
    tx.execute(update(portals).where(portals.c.portal_id == portal_id).values(status="closing"))


def closing(tx: Transaction, *, adapter: str) -> Sequence[Portal]:
    """Portals of foreign chats that somebody began to close."""
    rows = tx.execute(
        select(portals)
        .where(
            portals.c.adapter == adapter,
            portals.c.kind.in_(OF_CHAT),
            portals.c.status == "closing",
        )
        .order_by(portals.c.portal_id)
    ).all()
    return [_portal(row) for row in rows]


def former(tx: Transaction, *, adapter: str, chat: str, user_id: UserId) -> Sequence[Portal]:
    """The other open direct rooms of an address and a user, the newest first."""
    rows = tx.execute(
        select(portals)
        .where(
            portals.c.adapter == adapter,
            portals.c.kind == FORMER,
            portals.c.user_id == user_id,
            portals.c.status == "open",
        )
        .order_by(portals.c.portal_id.desc())
    ).all()
    return [portal for portal in map(_portal, rows) if portal.chat == chat]


def bind(
    tx: Transaction,
    *,
    adapter: str,
    kind: str,
    chat: str,
    user_id: UserId,
    room_id: RoomId,
    now_ms: int,
    since_position: int = 0,
) -> None:
    """Binds a chat to a room; the portal is open afterwards.

    A direct chat that moves keeps its old room as a former one, so that nothing that is still
    written there is lost. A room has one of the three direct kinds for the same two.
    """
    if kind == DIRECT:
        current = find(tx, adapter=adapter, kind=DIRECT, chat=chat, user_id=user_id)
        if current is not None and current.status == "open":
            old = current.room_id
            if old is not None and old != room_id:
                _open(tx, adapter, FORMER, chat, user_id, old, now_ms)
    if kind in _OF_TWO:
        for portal in of_room(tx, room_id):
            is_same = (portal.adapter, portal.chat, portal.user_id) == (adapter, chat, user_id)
            if is_same and portal.kind != kind and portal.kind in _OF_TWO:
                close(tx, portal.portal_id, refused=False, now_ms=now_ms)
    _open(tx, adapter, kind, chat, user_id, room_id, now_ms, since_position)


def move(tx: Transaction, portal: Portal, room_id: RoomId, *, now_ms: int) -> None:
    """The portal stands in the successor of its room from now on, and not in its room any more.
    Nothing that happened in the successor is too old for it."""
    chat = room_id if portal.kind in _OF_ROOM else portal.chat
    key = f"{room_id} {chat}" if portal.kind in _PER_ROOM else chat
    if key != portal.chat or portal.kind in _PER_ROOM:
        close(tx, portal.portal_id, refused=False, now_ms=now_ms)
    _open(tx, portal.adapter, portal.kind, chat, portal.user_id, room_id, now_ms)


def _open(
    tx: Transaction,
    adapter: str,
    kind: str,
    chat: str,
    user_id: UserId,
    room_id: RoomId,
    now_ms: int,
    since_position: int = 0,
) -> None:
    key = f"{room_id} {chat}" if kind in _PER_ROOM else chat
    tx.execute(
        tx.dialect.insert_ignore(portals).values(
            adapter=adapter,
            kind=kind,
            chat=key,
            user_id=user_id,
            room_id=room_id,
            status="open",
            created_ms=now_ms,
            since_position=since_position,
        )
    )
    tx.execute(
        update(portals)
        .where(
            portals.c.adapter == adapter,
            portals.c.kind == kind,
            portals.c.chat == key,
            portals.c.user_id == user_id,
        )
        .values(room_id=room_id, status="open", closed_ms=None, since_position=since_position)
    )


def close(tx: Transaction, portal_id: int, *, refused: bool, now_ms: int) -> None:
    """The chat has no room any more; its next message opens another. The row keeps the old
    room's ID, so that opening the next one is idempotent too."""
    tx.execute(
        update(portals)
        .where(portals.c.portal_id == portal_id)
        .values(status="refused" if refused else "closed", closed_ms=now_ms)
    )
