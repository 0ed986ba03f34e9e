"""Ghosts that were used at least once; the only way back from a hashed localpart."""

from __future__ import annotations

from sqlalchemy import select

from bridge.ids import UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import ghosts


def put(tx: Transaction, *, user_id: UserId, adapter: str, address: str, now_ms: int) -> None:
    """Idempotent."""
    tx.execute(
        tx.dialect.insert_ignore(ghosts).values(
            user_id=user_id, adapter=adapter, address=address, created_ms=now_ms
        )
    )


def find_address(tx: Transaction, user_id: UserId) -> str | None:
    row = tx.execute(select(ghosts.c.address).where(ghosts.c.user_id == user_id)).one_or_none()
    return None if row is None else str(row.address)


def find_user(tx: Transaction, *, adapter: str, address: str) -> UserId | None:
    row = tx.execute(
        select(ghosts.c.user_id).where(ghosts.c.adapter == adapter, ghosts.c.address == address)
    ).one_or_none()
    return None if row is None else UserId(row.user_id)
