"""XMPP clients inside rooms that we serve. Going offline ends a session, never a membership."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Row, delete, select, update

from bridge.ids import RoomId
from bridge.storage.database import Transaction
from bridge.storage.schema import sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    room_id: RoomId
    address: str
    """The full JID of the client."""
    entered_by: str
    """Bare JID of the room, as this client knows it."""
    nickname: str
    since_position: int
    """What stands at or below this position came with the join itself."""
    entered_ms: int


def _session(row: Row[Any]) -> StoredSession:
    return StoredSession(
        room_id=RoomId(row.room_id),
        address=row.address,
        entered_by=row.entered_by,
        nickname=row.nickname,
        since_position=row.since_position,
        entered_ms=row.entered_ms,
    )


def put(tx: Transaction, session: StoredSession) -> None:
    """Who enters again replaces the older row of the same client."""
    tx.execute(tx.dialect.upsert(sessions, ["room_id", "address"]), asdict(session))


def rename(tx: Transaction, *, room_id: RoomId, address: str, nickname: str) -> None:
    tx.execute(
        update(sessions)
        .where(sessions.c.room_id == room_id, sessions.c.address == address)
        .values(nickname=nickname)
    )


def remove(tx: Transaction, *, room_id: RoomId, address: str) -> bool:
    """True when it was there."""
    result = tx.execute(
        delete(sessions).where(sessions.c.room_id == room_id, sessions.c.address == address)
    )
    return bool(result.rowcount)


def list_all(tx: Transaction) -> Sequence[StoredSession]:
    """Every session of every room, in the order of entering."""
    rows = tx.execute(select(sessions).order_by(sessions.c.entered_ms, sessions.c.address))
    return [_session(row) for row in rows]
