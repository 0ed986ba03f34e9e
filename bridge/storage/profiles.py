"""Profiles of our own users, as far as they were set."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from bridge.ids import UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import profiles


def find(tx: Transaction, user_id: UserId) -> tuple[str | None, str | None] | None:
    """Display name and avatar URL."""
    row = tx.execute(select(profiles).where(profiles.c.user_id == user_id)).one_or_none()
    return None if row is None else (row.displayname, row.avatar_url)


def put(
    tx: Transaction, user_id: UserId, *, displayname: str | None, avatar_url: str | None
) -> None:
    tx.execute(delete(profiles).where(profiles.c.user_id == user_id))
    tx.execute(
        insert(profiles).values(user_id=user_id, displayname=displayname, avatar_url=avatar_url)
    )
