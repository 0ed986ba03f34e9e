"""Keys of other servers that we fetched, and the documents in which they published them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Table, delete, func, insert, select

from bridge.ids import KeyId, ServerName
from bridge.storage.database import Transaction
from bridge.storage.schema import key_documents, memberships, server_keys

BATCH = 500
MOST_STRANGERS = 10_000
"""Rows of servers with which we share no room; beyond, the oldest go before their time. Whoever has
a domain can ask us under as many names as they like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """`verify_key` is unpadded Base64; `expired_ms` is set for an old key."""

    server: ServerName
    key_id: KeyId
    verify_key: str
    valid_until_ms: int
    expired_ms: int | None
    fetched_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRow:
    """`json` is the canonical text that the server signed, with its own signatures."""

    server: ServerName
    json: str
    valid_until_ms: int
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


def find_documents(tx: Transaction, servers: Sequence[ServerName]) -> list[DocumentRow]:
    """Of those servers that we have one of, in no order."""
    found: list[DocumentRow] = []
    for start in range(0, len(servers), BATCH):
        rows = tx.execute(
            select(key_documents).where(key_documents.c.server.in_(servers[start : start + BATCH]))
        )
        found.extend(
            DocumentRow(
                server=ServerName(row.server),
                json=row.json,
                valid_until_ms=row.valid_until_ms,
                fetched_ms=row.fetched_ms,
            )
            for row in rows
        )
    return found


def put_document(tx: Transaction, document: DocumentRow) -> None:
    """Replaces the server's."""
    tx.execute(delete(key_documents).where(key_documents.c.server == document.server))
    tx.execute(
        insert(key_documents).values(
            server=document.server,
            json=document.json,
            valid_until_ms=document.valid_until_ms,
            fetched_ms=document.fetched_ms,
        )
    )


def prune(tx: Transaction, *, before_ms: int, limit: int, most: int = MOST_STRANGERS) -> int:
    """Of servers with which we share no room, what was fetched before; how many rows went. They are
    asked again when they come again."""
    return sum(_prune(tx, table, before_ms, limit, most) for table in (key_documents, server_keys))


def _prune(tx: Transaction, table: Table, before_ms: int, limit: int, most: int) -> int:
    is_stranger = table.c.server.not_in(select(memberships.c.server))
    count = tx.execute(select(func.count()).select_from(table).where(is_stranger)).scalar_one()
    oldest = select(table.c.server, table.c.fetched_ms).where(is_stranger)
    found = tx.execute(oldest.order_by(table.c.fetched_ms).limit(limit)).all()
    over = max(0, int(count) - most)
    gone = {
        row.server
        for number, row in enumerate(found)
        if row.fetched_ms < before_ms or number < over
    }
    if not gone:
        return 0
    return int(tx.execute(delete(table).where(table.c.server.in_(sorted(gone)))).rowcount)
