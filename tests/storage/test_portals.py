"""Which chat is in which room: one at a time, the former ones kept, each room found."""

from __future__ import annotations

from bridge.ids import RoomId, UserId
from bridge.storage import portals
from bridge.storage.database import Database, Transaction
from bridge.storage.portals import (
    DIRECT,
    ENCRYPTED,
    FORMER,
    MANAGEMENT,
    PLUMBED,
    PORTAL,
    SERVED,
)

A, B, C = RoomId("!a:x"), RoomId("!b:x"), RoomId("!c with space")
ALICE = UserId("@alice:x")


async def bind(database: Database, kind: str, room_id: RoomId, chat: str = "j@c") -> None:
    await database.write(
        lambda tx: portals.bind(
            tx,
            adapter="loopback",
            kind=kind,
            chat=chat,
            user_id=ALICE,
            room_id=room_id,
            now_ms=1,
        )
    )


async def kinds(database: Database, room_id: RoomId) -> list[tuple[str, str]]:
    found = await database.read(lambda tx: portals.of_room(tx, room_id))
    return [(portal.kind, portal.chat) for portal in found]


async def test_a_direct_chat_that_moves_keeps_its_former_room(database: Database) -> None:
    for room_id in (A, C, B):
        await bind(database, DIRECT, room_id)
    assert await kinds(database, A) == [(FORMER, "j@c")]
    assert await kinds(database, C) == [(FORMER, "j@c")]
    assert await kinds(database, B) == [(DIRECT, "j@c")]

    def former(tx: Transaction) -> list[RoomId | None]:
        found = portals.former(tx, adapter="loopback", chat="j@c", user_id=ALICE)
        return [portal.room_id for portal in found]

    assert await database.read(former) == [C, A]
    await bind(database, DIRECT, A)
    assert await kinds(database, A) == [(DIRECT, "j@c")]
    assert await kinds(database, B) == [(FORMER, "j@c")]
    assert await database.read(former) == [B, C]


async def test_binding_again_changes_nothing(database: Database) -> None:
    for _ in range(2):
        await bind(database, DIRECT, A)
        await bind(database, SERVED, A)
    assert await kinds(database, A) == [(DIRECT, "j@c"), (SERVED, "j@c")]


async def test_a_room_that_becomes_encrypted_is_no_direct_chat_any_more(
    database: Database,
) -> None:
    await bind(database, DIRECT, A)
    await bind(database, DIRECT, A, chat="other@c")
    await bind(database, ENCRYPTED, A)
    assert sorted(await kinds(database, A)) == [(DIRECT, "other@c"), (ENCRYPTED, "j@c")]
    await bind(database, ENCRYPTED, B)
    assert await kinds(database, B) == [(ENCRYPTED, "j@c")]
    assert (ENCRYPTED, "j@c") in await kinds(database, A)


async def test_a_closed_chat_remembers_its_room_and_why(database: Database) -> None:
    await bind(database, DIRECT, A)
    await bind(database, MANAGEMENT, A, chat=A)

    def close(tx: Transaction) -> None:
        for portal in portals.of_room(tx, A):
            portals.close(tx, portal.portal_id, refused=portal.kind == DIRECT, now_ms=7)

    def find(tx: Transaction) -> tuple[str, RoomId | None, int | None]:
        found = portals.find(tx, adapter="loopback", kind=DIRECT, chat="j@c", user_id=ALICE)
        assert found is not None
        return found.status, found.room_id, found.closed_ms

    await database.write(close)
    assert await kinds(database, A) == []
    assert await database.read(find) == ("refused", A, 7)
    await bind(database, DIRECT, B)
    assert await database.read(find) == ("open", B, None)
    assert await kinds(database, A) == []


async def test_a_foreign_chat_has_one_open_room_and_is_let_go_in_two_steps(
    database: Database,
) -> None:
    def bind_chat(tx: Transaction) -> None:
        portals.bind(
            tx,
            adapter="loopback",
            kind=PLUMBED,
            chat="tea@muc",
            user_id=UserId(""),
            room_id=A,
            now_ms=1,
            since_position=7,
        )

    await database.write(bind_chat)
    found = await database.read(lambda tx: portals.of_chat(tx, adapter="loopback", chat="tea@muc"))
    assert found is not None
    assert (found.kind, found.room_id, found.since_position) == (PLUMBED, A, 7)
    await database.write(lambda tx: portals.begin_closing(tx, found.portal_id))
    assert await kinds(database, A) == []
    left = await database.read(lambda tx: portals.closing(tx, adapter="loopback"))
    assert [one.portal_id for one in left] == [found.portal_id]
    await database.write(lambda tx: portals.close(tx, found.portal_id, refused=False, now_ms=2))
    assert await database.read(lambda tx: portals.closing(tx, adapter="loopback")) == []
    assert await database.read(lambda tx: portals.all_chats(tx, adapter="loopback")) == []


async def test_what_is_bound_without_a_position_begins_at_the_beginning(
    database: Database,
) -> None:
    await bind(database, PORTAL, A)
    (portal,) = await database.read(lambda tx: portals.of_room(tx, A))
    assert portal.since_position == 0
