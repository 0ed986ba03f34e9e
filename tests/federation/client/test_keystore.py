from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.federation.client.keyring import KeyDocument, KeyStore, ServerKey
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


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/keys.sqlite"
    found: str = request.getfixturevalue("postgresql_url")
    return found


@pytest.fixture
async def store(url: str) -> AsyncIterator[KeyStore]:
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


async def test_the_newest_document_of_each_server_comes_back(store: KeyStore) -> None:
    first = KeyDocument(server=KEY.server, json='{"a":1}', valid_until_ms=2**45, fetched_ms=1)
    second = replace(first, json='{"a":2}', fetched_ms=2)
    other = replace(first, server=ServerName("other.example"))
    await store.put([KEY], first)
    await store.put([], other)
    await store.put([KEY])
    assert await store.find_documents([KEY.server]) == [first]
    await store.put([], second)
    many = [ServerName(f"s{number}.example") for number in range(1200)]
    found = await store.find_documents([*many, KEY.server, other.server])
    assert {each.server: each for each in found} == {KEY.server: second, other.server: other}
