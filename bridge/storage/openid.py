"""Tokens by which third parties learn who somebody is. Only their hashes are stored."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from bridge.ids import UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import openid_tokens


def add(tx: Transaction, *, token_hash: str, user_id: UserId, expires_ms: int) -> None:
    tx.execute(
        insert(openid_tokens).values(token_hash=token_hash, user_id=user_id, expires_ms=expires_ms)
    )


def find(tx: Transaction, token_hash: str, now_ms: int) -> UserId | None:
    """Whom it stands for; None once it has expired."""
    found: str | None = tx.execute(
        select(openid_tokens.c.user_id).where(
            openid_tokens.c.token_hash == token_hash, openid_tokens.c.expires_ms > now_ms
        )
    ).scalar()
    return None if found is None else UserId(found)


def forget_user(tx: Transaction, user_id: UserId) -> None:
    tx.execute(delete(openid_tokens).where(openid_tokens.c.user_id == user_id))


def prune(tx: Transaction, *, before_ms: int, limit: int) -> int:
    """Forget what expired before; how many."""
    old = select(openid_tokens.c.token_hash).where(openid_tokens.c.expires_ms < before_ms)
    return tx.execute(
        delete(openid_tokens).where(openid_tokens.c.token_hash.in_(old.limit(limit)))
    ).rowcount
