"""Entering a big room: its state is stored part by part, and a crash between leaves nothing behind
that could do harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from bridge.ids import RoomId
from bridge.rooms import accept, handshake
from bridge.storage import rooms as room_rows
from bridge.storage.database import Transaction
from bridge.storage.schema import events
from tests.support.crash import Crash, crash_at
from tests.support.network import Network, Server, trace
from tests.support.talk import make_room

PART = 3
FRIENDS = 10


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "STAGED", PART)
    monkeypatch.setattr(handshake, "STAGED", PART)


async def crowd(network: Network) -> tuple[Server, Server, RoomId]:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, "12")
    for number in range(FRIENDS):
        await here.backend.join(user_id=here.user(f"friend{number}"), room_id=room_id, via=[])
    return here, there, room_id


async def enter(there: Server, room_id: RoomId, here: Server) -> None:
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])


async def stored(server: Server, room_id: RoomId) -> set[str]:
    def unit(tx: Transaction) -> set[str]:
        wanted = select(events.c.event_id).where(events.c.room_id == room_id)
        return set(tx.execute(wanted).scalars())

    return await server.database.read(unit)


async def test_others_get_their_turn_between_the_parts(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, room_id = await crowd(network)
    seen: list[int] = []
    write = there.database.write

    async def watched(unit: Callable[[Transaction], Any]) -> Any:
        done = await write(unit)
        seen.append(len(await stored(there, room_id)))
        return done

    monkeypatch.setattr(there.database, "write", watched)
    await enter(there, room_id, here)
    grown = [later - earlier for earlier, later in zip([0, *seen], seen, strict=False)]
    assert max(grown) <= PART + 1
    members = await there.backend.members(room_id)
    assert len(members) == FRIENDS + 2


@pytest.mark.parametrize("when", ["before", "within", "after"])
async def test_after_a_crash_at_any_write_the_room_is_entered_or_can_be(
    network: Network, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, room_id = await crowd(network)
    expected = {one.user_id for one in await here.backend.members(room_id)}
    expected.add(there.user("guest"))
    crashes = 0
    for number in range(100):
        crash_at(monkeypatch, there, number, when)
        try:
            await enter(there, room_id, here)
        except Crash:
            crashes += 1
            there = await network.restart(there)
            continue
        break
    assert crashes >= FRIENDS // PART
    there = await network.restart(there)
    assert {one.user_id for one in await there.backend.members(room_id)} == expected
    await there.backend.send(
        room_id=room_id,
        sender=there.user("guest"),
        type="m.room.message",
        content={"msgtype": "m.text", "body": "in"},
        txn="in",
        trace=trace(),
    )


async def test_what_an_entry_that_was_cut_off_left_is_purged(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, room_id = await crowd(network)
    crash_at(monkeypatch, there, 2, "before")
    with pytest.raises(Crash):
        await enter(there, room_id, here)
    there = await network.restart(there)
    assert await stored(there, room_id)
    assert await there.backend.joined_rooms(there.user("guest")) == []
    later_ms = network.clock.now_ms() + 1
    await there.database.write(
        lambda tx: room_rows.purge_strangers(tx, before_ms=later_ms, limit=10)
    )
    assert await stored(there, room_id) == set()
    await enter(there, room_id, here)
    assert len(await there.backend.members(room_id)) == FRIENDS + 2
