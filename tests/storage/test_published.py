"""The rows of our list of rooms: a page reads no more than its rows, whatever the list holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from sqlalchemy import event

from bridge.errors import Conflict
from bridge.ids import EventId, RoomId, RoomVersionId, ServerName, UserId
from bridge.storage import published, rooms
from bridge.storage.database import Database, Transaction
from bridge.storage.published import Listing, Place, Wanted

MAKER = UserId("@maker:here.example")


@asynccontextmanager
async def opened(folder: Path, template: Path) -> AsyncIterator[Database]:
    copyfile(template, folder / "db.sqlite")
    database = await Database.open(f"sqlite:///{folder}/db.sqlite")
    try:
        yield database
    finally:
        await database.close()


def fill(tx: Transaction, rooms: int) -> None:
    for number in range(rooms):
        listing = Listing(name=f"Room {number}", topic="tea", join_rule="public")
        room_id = RoomId(f"!{number:05}")
        published.put(tx, room_id, listing, joined=True, by=MAKER, now_ms=1)


async def test_a_page_is_read_along_the_index(tmp_path: Path, sqlite_template: Path) -> None:
    async with opened(tmp_path, sqlite_template) as database:
        await database.write(lambda tx: fill(tx, 50))
        said: list[tuple[str, Any]] = []

        def unit(tx: Transaction) -> list[str]:
            def note(_c: Any, _cur: Any, sql: str, values: Any, _ctx: Any, _many: bool) -> None:
                said.append((sql, values))

            connection = tx._connection
            event.listen(connection, "before_cursor_execute", note)
            for forwards in (True, False):
                at = Place(joined_members=0, room_id="!00025")
                published.page(tx, Wanted(), after=at, forwards=forwards, limit=5)
            event.remove(connection, "before_cursor_execute", note)
            plan: list[str] = []
            for sql, values in said:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
                plan += [str(row[3]) for row in rows]
            return plan

        plan = await database.read(unit)
        assert len(said) == 2
        used = [line for line in plan if "ix_published_rooms_joined_members_room_id" in line]
        assert len(used) == 2
        assert not any("TEMP B-TREE" in line for line in plan)


async def test_rooms_of_one_size_have_an_order_of_their_own(database: Database) -> None:
    await database.write(lambda tx: fill(tx, 9))

    def unit(tx: Transaction, at: Place | None, forwards: bool) -> list[str]:
        found = published.page(tx, Wanted(), after=at, forwards=forwards, limit=4)
        return [one.room_id for one in found]

    middle = Place(joined_members=0, room_id="!00004")
    assert await database.read(lambda tx: unit(tx, middle, True)) == [
        "!00003", "!00002", "!00001", "!00000",
    ]  # fmt: skip
    assert await database.read(lambda tx: unit(tx, middle, False)) == [
        "!00005", "!00006", "!00007", "!00008",
    ]  # fmt: skip
    assert (await database.read(lambda tx: unit(tx, None, False)))[0] == "!00000"


async def test_a_row_follows_its_room(database: Database) -> None:
    room_id = RoomId("!tea")

    def names(tx: Transaction, wanted: Wanted) -> list[tuple[str | None, int]]:
        found = published.page(tx, wanted, after=None, forwards=True, limit=9)
        assert published.count(tx, wanted) == len(found)
        return [(one.listing.name, one.joined_members) for one in found]

    def enter(tx: Transaction) -> None:
        who = [UserId(f"@{name}:here.example") for name in "abc"]
        rooms.set_members(
            tx,
            room_id,
            changed=[
                rooms.MemberRow(
                    user_id=one,
                    server=ServerName("here.example"),
                    membership="ban" if one == who[2] else "join",
                    event_id=EventId(f"${one}"),
                )
                for one in who
            ],
        )
        published.recount(tx, room_id, joined=True)

    listing = Listing(name="100%\0 Tea_house", join_rule="knock", room_type="m.space")
    await database.write(
        lambda tx: published.put(tx, room_id, listing, joined=True, by=MAKER, now_ms=1)
    )
    await database.write(enter)
    for wanted, is_found in (
        (Wanted(), True),
        (Wanted(all_networks=True), True),
        (Wanted(network="xmpp"), False),
        (Wanted(words=["TEA_", "100%"]), True),
        (Wanted(words=["tea%house"]), False),
        (Wanted(room_types=["m.space"]), True),
        (Wanted(room_types=[None]), False),
        (Wanted(room_types=[None, "m.space"]), True),
    ):
        found = await database.read(partial(names, wanted=wanted))
        assert found == ([("100%\ufffd Tea_house", 2)] if is_found else []), wanted
    await database.write(lambda tx: published.change(tx, room_id, {"join_rule": "invite"}))
    assert await database.read(lambda tx: names(tx, Wanted())) == []
    await database.write(lambda tx: published.change(tx, room_id, {"world_readable": True}))
    assert len(await database.read(lambda tx: names(tx, Wanted()))) == 1
    await database.write(lambda tx: published.recount(tx, room_id, joined=False))
    assert await database.read(lambda tx: names(tx, Wanted())) == []
    # What concerns a room that is not listed finds nothing to do.
    await database.write(lambda tx: published.change(tx, RoomId("!other"), {"name": "x"}))
    await database.write(lambda tx: published.move(
        tx, of=room_id, to=RoomId("!next"), listing=Listing(name="next", join_rule="public")
    ))  # fmt: skip
    assert await database.read(lambda tx: names(tx, Wanted())) == [("next", 0)]
    assert await database.write(lambda tx: published.remove(tx, RoomId("!next")))
    assert not await database.write(lambda tx: published.remove(tx, RoomId("!next")))


async def test_a_room_is_held_only_where_it_was_seen(database: Database) -> None:
    row = rooms.RoomRow(
        room_id=RoomId("!tea"), version=RoomVersionId("12"), position=3, snapshot_id=None,
        joined=True,
    )  # fmt: skip
    await database.write(lambda tx: rooms.insert_room(tx, row))
    await database.write(partial(rooms.hold, room_id=row.room_id, expected=3))
    for room_id, expected in ((row.room_id, 2), (RoomId("!other"), 3)):
        with pytest.raises(Conflict):
            await database.write(partial(rooms.hold, room_id=room_id, expected=expected))
