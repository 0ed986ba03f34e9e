"""Load the state of every room of a database as after a start, and tell what it takes.

Run as a program of its own: `resident.py URL`. Prints a line of JSON: how many rooms and state
entries, and Rss in MB before (everything imported) and after.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys

from sqlalchemy import select

from bridge import app
from bridge.ids import RoomId
from bridge.rooms.load import RoomStates
from bridge.storage.database import Database
from bridge.storage.schema import rooms
from tests.bench.measure import memory_mb


async def main(url: str) -> None:
    assert app.__name__  # All that a gateway imports is there before.
    database = await Database.open(url)
    states = RoomStates(database=database)
    gc.collect()
    before = memory_mb(os.getpid())["Rss"]
    found = await database.read(lambda tx: list(tx.execute(select(rooms.c.room_id)).scalars()))
    entries = 0
    for room_id in found:
        room = await states.find_room(RoomId(room_id))
        assert room is not None
        entries += len(room.state)
    # The caches hold them: nothing else refers to the rooms any more.
    gc.collect()
    after = memory_mb(os.getpid())["Rss"]
    told = {"rooms": len(found), "entries": entries, "before_mb": before, "after_mb": after}
    print(json.dumps(told), flush=True)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
