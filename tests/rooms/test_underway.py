from __future__ import annotations

import asyncio

from bridge.ids import RoomId, UserId
from bridge.rooms.underway import Underway

ROOM = RoomId("!r:a.example")
ALICE = UserId("@alice:b.example")
BOB = UserId("@bob:b.example")


async def test_nothing_under_way_is_settled() -> None:
    await Underway().settled(ROOM, ALICE)


async def test_a_question_waits_until_the_last_invite_is_stored() -> None:
    underway = Underway()
    order: list[str] = []

    async def invite(release: asyncio.Event) -> None:
        with underway.inviting(ROOM, ALICE):
            await release.wait()
            order.append("stored")

    async def ask() -> None:
        await underway.settled(ROOM, ALICE)
        order.append("answered")

    first, second = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(invite(first))
        group.create_task(invite(second))
        await asyncio.sleep(0)
        group.create_task(ask())
        await underway.settled(ROOM, BOB)
        first.set()
        await asyncio.sleep(0)
        assert order == ["stored"]
        second.set()
    assert order == ["stored", "stored", "answered"]


async def test_an_invite_that_failed_is_settled() -> None:
    underway = Underway()
    try:
        with underway.inviting(ROOM, ALICE):
            raise LookupError
    except LookupError:
        pass
    await underway.settled(ROOM, ALICE)
