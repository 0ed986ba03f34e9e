"""Foreign chats that we visit: how their occupants are known, and how far they have been read."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select, update

from bridge.storage.database import Transaction
from bridge.storage.schema import chats


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChat:
    """`identity`: `address`, `occupant-id` or `nickname`; None until it was first seen."""

    identity: str | None = None
    archive_id: str | None = None
    archive_ms: int | None = None


def find(tx: Transaction, *, adapter: str, chat: str) -> StoredChat:
    row = tx.execute(
        select(chats).where(chats.c.adapter == adapter, chats.c.chat == chat)
    ).one_or_none()
    if row is None:
        return StoredChat()
    return StoredChat(identity=row.identity, archive_id=row.archive_id, archive_ms=row.archive_ms)


def put_identity(tx: Transaction, *, adapter: str, chat: str, identity: str) -> None:
    _ensure(tx, adapter, chat)
    _set(tx, adapter, chat, identity=identity)


def move_position(
    tx: Transaction, *, adapter: str, chat: str, archive_id: str | None, archive_ms: int
) -> None:
    """Everything up to this message is stored. Call it in the order of the archive."""
    _ensure(tx, adapter, chat)
    _set(tx, adapter, chat, archive_id=archive_id, archive_ms=archive_ms)


def forget(tx: Transaction, *, adapter: str, chat: str) -> None:
    tx.execute(delete(chats).where(chats.c.adapter == adapter, chats.c.chat == chat))


def _ensure(tx: Transaction, adapter: str, chat: str) -> None:
    tx.execute(tx.dialect.insert_ignore(chats).values(adapter=adapter, chat=chat))


def _set(tx: Transaction, adapter: str, chat: str, **values: object) -> None:
    tx.execute(
        update(chats).where(chats.c.adapter == adapter, chats.c.chat == chat).values(**values)
    )
