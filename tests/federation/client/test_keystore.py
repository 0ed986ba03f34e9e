from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.federation.client.keyring import KeyStore, ServerKey
from bridge.federation.client.keystore import DatabaseKeyStore
from bridge.ids import KeyId, ServerName
from bridge.storage import migrate
from bridge.storage.database import Database

KEY = ServerKey(
    server=ServerName("peer.example"),
    key_id=KeyId("ed25519:a"),
    verify_key="AAAA",
    valid_until_ms=2**45,
    fetched_ms=7,
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[KeyStore]:
    url = f"sqlite:///{tmp_path}/keys.sqlite"
    migrate.upgrade(url)
    database = await Database.open(url)
    yield DatabaseKeyStore(database)
    await database.close()


async def test_keys_come_back_as_they_were_put(store: KeyStore) -> None:
    old = replace(KEY, key_id=KeyId("ed25519:old"), expired_ms=5)
    await store.put([KEY, old])
    assert await store.find(KEY.server, KEY.key_id) == KEY
    assert await store.find(KEY.server, old.key_id) == old


async def test_the_newer_answer_replaces_the_older(store: KeyStore) -> None:
    await store.put([KEY])
    await store.put([replace(KEY, expired_ms=9)])
    assert await store.find(KEY.server, KEY.key_id) == replace(KEY, expired_ms=9)


async def test_what_was_never_fetched_is_not_there(store: KeyStore) -> None:
    assert await store.find(KEY.server, KeyId("ed25519:b")) is None
    assert await store.find(ServerName("other.example"), KEY.key_id) is None
