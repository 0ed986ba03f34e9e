"""Sessions, nicknames and subscriptions as rows, on both databases."""

from __future__ import annotations

from dataclasses import replace

from bridge.ids import RoomId, UserId
from bridge.storage import nicknames, sessions, subscriptions
from bridge.storage.database import Database, Transaction
from bridge.storage.sessions import StoredSession

ROOM = RoomId("!r:m")
ALICE, BOB = UserId("@alice:m"), UserId("@bob:m")
SESSION = StoredSession(
    room_id=ROOM,
    address="romeo@a/x",
    entered_by="r@gw",
    nickname="Romeo",
    since_position=5,
    entered_ms=1,
)


async def test_a_session_that_enters_again_is_one_row(database: Database) -> None:
    again = replace(SESSION, since_position=9, entered_ms=2)
    await database.write(lambda tx: sessions.put(tx, SESSION))
    await database.write(lambda tx: sessions.put(tx, again))
    assert await database.read(sessions.list_all) == [again]


async def test_a_session_can_be_renamed_and_removed(database: Database) -> None:
    await database.write(lambda tx: sessions.put(tx, SESSION))
    await database.write(
        lambda tx: sessions.rename(tx, room_id=ROOM, address=SESSION.address, nickname="R")
    )
    assert [s.nickname for s in await database.read(sessions.list_all)] == ["R"]

    async def remove() -> bool:
        return await database.write(
            lambda tx: sessions.remove(tx, room_id=ROOM, address=SESSION.address)
        )

    assert await remove()
    assert not await remove()


async def test_a_nickname_belongs_to_one_member(database: Database) -> None:
    async def put(user_id: UserId, nickname: str) -> UserId | None:
        return await database.write(
            lambda tx: nicknames.put(
                tx, room_id=ROOM, user_id=user_id, nickname=nickname, folded=nickname.lower()
            )
        )

    assert await put(ALICE, "Al") is None
    assert await put(ALICE, "AL") is None
    assert await put(BOB, "al") == ALICE
    assert await database.read(lambda tx: nicknames.of_room(tx, ROOM)) == {BOB: "al"}
    assert await database.read(lambda tx: nicknames.find(tx, ROOM, ALICE)) is None
    assert await database.read(lambda tx: nicknames.find_holder(tx, ROOM, "al")) == BOB
    await database.write(lambda tx: nicknames.remove(tx, ROOM, BOB))
    assert await database.read(lambda tx: nicknames.of_room(tx, ROOM)) == {}


async def test_a_subscription_changes_and_ends(database: Database) -> None:
    async def state() -> str:
        return await database.read(lambda tx: subscriptions.find(tx, "romeo@a", ALICE))

    assert await state() == "none"
    await database.write(lambda tx: subscriptions.put(tx, "romeo@a", ALICE, "to"))
    await database.write(lambda tx: subscriptions.put(tx, "romeo@a", ALICE, "both"))
    assert await state() == "both"
    await database.write(lambda tx: subscriptions.put(tx, "juliet@a", ALICE, "from"))
    assert await database.read(lambda tx: subscriptions.who_see(tx, ALICE)) == ["romeo@a"]
    await database.write(lambda tx: subscriptions.put(tx, "romeo@a", ALICE, "none"))
    assert await state() == "none"


async def test_whoever_lets_any_of_ours_see_them_is_listed_once_page_by_page(
    database: Database,
) -> None:
    def unit(tx: Transaction) -> None:
        subscriptions.put(tx, "romeo@a", BOB, "both")
        subscriptions.put(tx, "romeo@a", ALICE, "from")
        subscriptions.put(tx, "juliet@a", BOB, "from")
        subscriptions.put(tx, "nurse@a", ALICE, "to")

    await database.write(unit)

    async def page(after: str) -> list[tuple[str, UserId]]:
        return list(
            await database.read(lambda tx: subscriptions.seen_by_us(tx, after=after, limit=1))
        )

    assert await page("") == [("juliet@a", BOB)]
    assert await page("juliet@a") == [("romeo@a", ALICE)]
    assert await page("romeo@a") == []
