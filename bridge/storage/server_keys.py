"""Keys of other servers that we fetched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from bridge.ids import KeyId, ServerName
from bridge.storage.database import Transaction
from bridge.storage.schema import server_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """`verify_key` is unpadded Base64; `expired_ms` is set for an old key."""

    server: ServerName
    key_id: KeyId
    verify_key: str
    valid_until_ms: int
    expired_ms: int | None
    fetched_ms: int


def find(tx: Transaction, server: ServerName, key_id: KeyId) -> KeyRow | None:
    row = tx.execute(
        select(server_keys).where(server_keys.c.server == server, server_keys.c.key_id == key_id)
    ).one_or_none()
    if row is None:
        return None
    return KeyRow(
        server=ServerName(row.server),
        key_id=KeyId(row.key_id),
        verify_key=row.verify_key,
        valid_until_ms=row.valid_until_ms,
        expired_ms=row.expired_ms,
        fetched_ms=row.fetched_ms,
    )


def put(tx: Transaction, keys: Iterable[KeyRow]) -> None:
    """The newest answer about a key replaces the older one."""
    for key in keys:
        tx.execute(
            delete(server_keys).where(
                server_keys.c.server == key.server, server_keys.c.key_id == key.key_id
            )
        )
        tx.execute(
            insert(server_keys).values(
                server=key.server,
                key_id=key.key_id,
                verify_key=key.verify_key,
                valid_until_ms=key.valid_until_ms,
                expired_ms=key.expired_ms,
                fetched_ms=key.fetched_ms,
            )
        )
