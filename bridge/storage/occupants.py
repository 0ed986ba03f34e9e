"""People of foreign chats that we visit, as far as Matrix has been told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Row, delete, func, select, update

from bridge.storage.database import Transaction
from bridge.storage.schema import occupants


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOccupant:
    adapter: str
    chat: str
    address: str
    nickname: str
    joined: bool
    """Their ghost is in the room because they are in the chat."""
    absent_ms: int | None = None


def _occupant(row: Row[Any]) -> StoredOccupant:
    return StoredOccupant(
        adapter=row.adapter,
        chat=row.chat,
        address=row.address,
        nickname=row.nickname,
        joined=row.joined,
        absent_ms=row.absent_ms,
    )


def put(tx: Transaction, occupant: StoredOccupant) -> None:
    tx.execute(tx.dialect.upsert(occupants, ["adapter", "chat", "address"]), asdict(occupant))


def find(tx: Transaction, *, adapter: str, chat: str, address: str) -> StoredOccupant | None:
    row = tx.execute(
        select(occupants).where(
            occupants.c.adapter == adapter,
            occupants.c.chat == chat,
            occupants.c.address == address,
        )
    ).one_or_none()
    return None if row is None else _occupant(row)


def of_chat(tx: Transaction, *, adapter: str, chat: str) -> Sequence[StoredOccupant]:
    rows = tx.execute(
        select(occupants)
        .where(occupants.c.adapter == adapter, occupants.c.chat == chat)
        .order_by(occupants.c.address)
    )
    return [_occupant(row) for row in rows]


def count_joined(tx: Transaction, *, adapter: str, chat: str) -> int:
    found: int = tx.execute(
        select(func.count()).where(
            occupants.c.adapter == adapter, occupants.c.chat == chat, occupants.c.joined
        )
    ).scalar_one()
    return found


def count_present(tx: Transaction, *, adapter: str, chat: str) -> int:
    """Who is in the chat now."""
    found: int = tx.execute(
        select(func.count()).where(
            occupants.c.adapter == adapter,
            occupants.c.chat == chat,
            occupants.c.absent_ms.is_(None),
        )
    ).scalar_one()
    return found


def set_absent(
    tx: Transaction, *, adapter: str, chat: str, address: str, absent_ms: int | None
) -> None:
    tx.execute(
        update(occupants)
        .where(
            occupants.c.adapter == adapter,
            occupants.c.chat == chat,
            occupants.c.address == address,
        )
        .values(absent_ms=absent_ms)
    )


def absent_since(tx: Transaction, *, before_ms: int, limit: int) -> Sequence[StoredOccupant]:
    """Who has been away since before `before_ms`, the longest first."""
    rows = tx.execute(
        select(occupants)
        .where(occupants.c.absent_ms.is_not(None), occupants.c.absent_ms < before_ms)
        .order_by(occupants.c.absent_ms)
        .limit(limit)
    )
    return [_occupant(row) for row in rows]


def remove(tx: Transaction, *, adapter: str, chat: str, address: str) -> None:
    tx.execute(
        delete(occupants).where(
            occupants.c.adapter == adapter,
            occupants.c.chat == chat,
            occupants.c.address == address,
        )
    )


def remove_all(tx: Transaction, *, adapter: str, chat: str) -> None:
    tx.execute(delete(occupants).where(occupants.c.adapter == adapter, occupants.c.chat == chat))
