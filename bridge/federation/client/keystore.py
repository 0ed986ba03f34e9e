"""Fetched keys in the database: `KeyStore` over `storage.server_keys`."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.federation.client.keyring import KeyDocument, ServerKey
from bridge.ids import KeyId, ServerName
from bridge.storage import server_keys
from bridge.storage.database import Database, Transaction


class DatabaseKeyStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, server: ServerName, key_id: KeyId) -> ServerKey | None:
        row = await self._database.read(lambda tx: server_keys.find(tx, server, key_id))
        if row is None:
            return None
        return ServerKey(
            server=row.server,
            key_id=row.key_id,
            verify_key=row.verify_key,
            valid_until_ms=row.valid_until_ms,
            expired_ms=row.expired_ms,
            fetched_ms=row.fetched_ms,
        )

    async def put(self, keys: Sequence[ServerKey], document: KeyDocument | None = None) -> None:
        rows = [
            server_keys.KeyRow(
                server=key.server,
                key_id=key.key_id,
                verify_key=key.verify_key,
                valid_until_ms=key.valid_until_ms,
                expired_ms=key.expired_ms,
                fetched_ms=key.fetched_ms,
            )
            for key in keys
        ]
        published = None
        if document is not None:
            published = server_keys.DocumentRow(
                server=document.server,
                json=document.json,
                valid_until_ms=document.valid_until_ms,
                fetched_ms=document.fetched_ms,
            )

        def unit(tx: Transaction) -> None:
            server_keys.put(tx, rows)
            if published is not None:
                server_keys.put_document(tx, published)

        await self._database.write(unit)

    async def find_documents(self, servers: Sequence[ServerName]) -> Sequence[KeyDocument]:
        rows = await self._database.read(lambda tx: server_keys.find_documents(tx, servers))
        return [
            KeyDocument(
                server=row.server,
                json=row.json,
                valid_until_ms=row.valid_until_ms,
                fetched_ms=row.fetched_ms,
            )
            for row in rows
        ]
