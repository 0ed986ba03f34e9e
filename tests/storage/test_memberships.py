"""Who is joined where, as those ask who judge what others tell of somebody. On both databases."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import insert

from bridge.ids import EventId, RoomId, ServerName, UserId
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.rooms import MemberRow
from bridge.storage.schema import rooms

GARDEN, ATTIC, GONE = RoomId("!garden:a"), RoomId("!attic:a"), RoomId("!gone:a")
ALICE, BOB, CAROL, DAVE = (UserId(f"@{name}") for name in ("alice:a", "bob:b", "carol:c", "dave:d"))


def member(user_id: UserId, membership: str = "join") -> MemberRow:
    return MemberRow(
        user_id=user_id,
        server=ServerName(user_id.partition(":")[2]),
        membership=membership,
        event_id=EventId(f"${user_id}"),
    )


@pytest.fixture
async def people(database: Database) -> Database:
    def unit(tx: Transaction) -> None:
        for room_id, joined in ((GARDEN, True), (ATTIC, True), (GONE, False)):
            values = {"room_id": room_id, "version": "12", "position": 1, "joined": joined}
            tx.execute(insert(rooms).values(values))
        room_rows.set_members(
            tx, GARDEN, changed=[member(ALICE), member(BOB), member(CAROL, "leave")]
        )
        room_rows.set_members(tx, ATTIC, changed=[member(ALICE), member(CAROL)])
        room_rows.set_members(tx, GONE, changed=[member(ALICE), member(DAVE)])

    await database.write(unit)
    return database


async def test_of_many_users_in_many_rooms_the_joined_are_found(people: Database) -> None:
    everybody = [ALICE, BOB, CAROL, DAVE, *(UserId(f"@u{n}:x") for n in range(500))]
    asked = {GARDEN: everybody, ATTIC: [BOB, CAROL], GONE: [ALICE], RoomId("!x:x"): [ALICE]}
    found = await people.read(partial(room_rows.joined_among, users=asked))
    assert found == {(GARDEN, ALICE), (GARDEN, BOB), (ATTIC, CAROL)}
    assert await people.read(partial(room_rows.joined_among, users={})) == frozenset()


async def test_whom_we_share_a_room_with(people: Database) -> None:
    everybody = [ALICE, BOB, CAROL, DAVE]
    found = await people.read(partial(room_rows.joined_anywhere, users=everybody))
    assert found == {ALICE, BOB, CAROL}
