"""What a hundred rooms of two thousand members take when their states are in memory."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from bridge.ids import EventId, RoomId, RoomVersionId
from bridge.storage import rooms as room_rows
from bridge.storage import snapshots as snapshot_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.snapshots import Change
from tests.bench.measure import load

ROOMS = 100
MEMBERS = 2_000
PEOPLE = 50_000
"""Who might be in the rooms; so most are in several."""
PROGRAM = Path(__file__).with_name("resident.py")
CHECKOUT = Path(__file__).resolve().parents[2]


def insert_room(tx: Transaction, number: int) -> None:
    room_id = RoomId(f"!room{number}:a.example")
    people = [(number * 499 + 7 * one) % PEOPLE for one in range(MEMBERS)]
    delta: list[Change] = [
        ("m.room.member", f"@a.usual.name{one}:server{one % 997}.example", event_id())
        for one in people
    ]
    for kind in ("create", "power_levels", "join_rules", "history_visibility", "name", "topic"):
        delta.append((f"m.room.{kind}", "", event_id()))
    snapshot_id = snapshot_rows.insert_snapshot(tx, room_id, parent_id=None, hops=0, delta=delta)
    room_rows.insert_room(
        tx,
        room_rows.RoomRow(
            room_id=room_id,
            version=RoomVersionId("12"),
            position=1,
            snapshot_id=snapshot_id,
            joined=True,
        ),
    )


def event_id() -> EventId:
    return EventId("$" + secrets.token_urlsafe(32))


@pytest.mark.bench
@pytest.mark.timeout(300)
async def test_a_hundred_rooms_of_two_thousand(
    sqlite_database: Database, sqlite_database_url: str
) -> None:
    for number in range(ROOMS):
        await sqlite_database.write(partial(insert_room, number=number))
    done = subprocess.run(
        [sys.executable, PROGRAM, sqlite_database_url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=CHECKOUT,
        env={"PYTHONPATH": str(CHECKOUT)},
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["rooms"] == ROOMS
    assert told["entries"] >= ROOMS * MEMBERS
    print(f"\n{ROOMS} rooms of {MEMBERS} members ({load()})")
    print(
        f"  Rss {told['before_mb']:.0f} MB before, {told['after_mb']:.0f} MB with their states,"
        f" {(told['after_mb'] - told['before_mb']) * 1024 * 1024 / told['entries']:.0f} bytes"
        " for an entry"
    )
