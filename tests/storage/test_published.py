"""The rows of our list of rooms: a page reads no more than its rows, whatever the list holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copyfile
from typing import Any

from sqlalchemy import event

from bridge.ids import RoomId, UserId
from bridge.storage import published
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


async def test_rooms_of_one_size_have_an_order_of_their_own(
    tmp_path: Path, sqlite_template: Path
) -> None:
    async with opened(tmp_path, sqlite_template) as database:
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
