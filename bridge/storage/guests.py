"""Our people inside foreign chats. A row says who is to be in; whether they are, the chat knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Row, delete, func, select

from bridge.ids import UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import guests


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGuest:
    adapter: str
    chat: str
    user_id: UserId
    nickname: str
    entered_ms: int


def _guest(row: Row[Any]) -> StoredGuest:
    return StoredGuest(
        adapter=row.adapter,
        chat=row.chat,
        user_id=UserId(row.user_id),
        nickname=row.nickname,
        entered_ms=row.entered_ms,
    )


def put(tx: Transaction, guest: StoredGuest) -> None:
    """Who enters again replaces the older row."""
    tx.execute(tx.dialect.upsert(guests, ["adapter", "chat", "user_id"]), asdict(guest))


def remove(tx: Transaction, *, adapter: str, chat: str, user_id: UserId) -> bool:
    """True when it was there."""
    result = tx.execute(
        delete(guests).where(
            guests.c.adapter == adapter, guests.c.chat == chat, guests.c.user_id == user_id
        )
    )
    return bool(result.rowcount)


def list_all(tx: Transaction, *, adapter: str) -> Sequence[StoredGuest]:
    """In the order of entering."""
    rows = tx.execute(
        select(guests)
        .where(guests.c.adapter == adapter)
        .order_by(guests.c.entered_ms, guests.c.chat, guests.c.user_id)
    )
    return [_guest(row) for row in rows]


def remove_all(tx: Transaction, *, adapter: str, chat: str) -> None:
    tx.execute(delete(guests).where(guests.c.adapter == adapter, guests.c.chat == chat))


def count_in(tx: Transaction, *, adapter: str, chat: str) -> int:
    found: int = tx.execute(
        select(func.count())
        .select_from(guests)
        .where(guests.c.adapter == adapter, guests.c.chat == chat)
    ).scalar_one()
    return found
