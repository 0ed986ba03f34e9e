"""Keys of strangers are forgotten; those of servers whose rooms we share stay."""

from __future__ import annotations

import pytest

from bridge.ids import EventId, KeyId, RoomId, RoomVersionId, ServerName, UserId
from bridge.storage import rooms, server_keys
from bridge.storage.database import Database, Transaction
from bridge.storage.rooms import MemberRow, RoomRow
from bridge.storage.server_keys import DocumentRow, KeyRow

FRIEND = ServerName("friend.example")
ROOM = RoomId("!room:friend.example")


def put(tx: Transaction, server: ServerName, at_ms: int) -> None:
    server_keys.put(
        tx,
        [
            KeyRow(
                server=server,
                key_id=KeyId("ed25519:1"),
                verify_key="k",
                valid_until_ms=1 << 50,
                expired_ms=None,
                fetched_ms=at_ms,
            )
        ],
    )
    server_keys.put_document(
        tx, DocumentRow(server=server, json="{}", valid_until_ms=1 << 50, fetched_ms=at_ms)
    )


def share_a_room(tx: Transaction) -> None:
    user = UserId(f"@a:{FRIEND}")
    rooms.insert_room(
        tx,
        RoomRow(
            room_id=ROOM,
            version=RoomVersionId("10"),
            position=1,
            snapshot_id=None,
            joined=True,
        ),
    )
    row = MemberRow(user_id=user, server=FRIEND, membership="join", event_id=EventId("$e"))
    rooms.set_members(tx, ROOM, changed=[row])


async def left(database: Database, names: list[ServerName]) -> list[ServerName]:
    def unit(tx: Transaction) -> list[ServerName]:
        documents = {one.server for one in server_keys.find_documents(tx, names)}
        keys = {one for one in names if server_keys.find(tx, one, KeyId("ed25519:1"))}
        assert keys == documents
        return sorted(keys)

    return await database.read(unit)


async def test_strangers_are_forgotten_in_time_and_friends_are_not(database: Database) -> None:
    names = [FRIEND, ServerName("new.example"), ServerName("old.example")]

    def unit(tx: Transaction) -> int:
        share_a_room(tx)
        for name, at_ms in zip(names, (1, 100, 1), strict=True):
            put(tx, name, at_ms)
        return server_keys.prune(tx, before_ms=50, limit=100)

    assert await database.write(unit) == 2
    assert await left(database, names) == names[:2]


@pytest.mark.parametrize("limit", [3, 100])
async def test_whoever_has_many_names_gets_no_more_than_so_many_places(
    database: Database, limit: int
) -> None:
    names = [ServerName(f"n{number}.evil.example") for number in range(9)]

    def unit(tx: Transaction) -> None:
        share_a_room(tx)
        put(tx, FRIEND, 1)
        for number, name in enumerate(names):
            put(tx, name, 100 + number)
        while server_keys.prune(tx, before_ms=50, limit=limit, most=4):
            pass

    await database.write(unit)
    assert await left(database, [FRIEND, *names]) == [FRIEND, *names[-4:]]
