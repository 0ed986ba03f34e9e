"""The feed: in order per room, at least once, nobody waits for another room's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bridge.backends.native.feed import CURSOR, NativeFeed
from bridge.errors import Unavailable
from bridge.ports.matrix import RoomEvent
from bridge.storage import streams
from tests.support.clock import FakeClock
from tests.support.network import Network, Server
from tests.support.talk import make_room, say, two_in_a_room

PATIENCE_S = 10.0


@asynccontextmanager
async def feeding(server: Server, clock: FakeClock) -> AsyncIterator[NativeFeed]:
    feed = NativeFeed(
        server_name=server.name,
        database=server.database,
        queries=server.rooms.queries,
        listener=server.listener,
        clock=clock,
    )
    task = asyncio.TaskGroup()
    async with task:
        running = task.create_task(feed.run())
        yield feed
        running.cancel()


async def until(true: Callable[[], bool], clock: FakeClock) -> None:
    """Let the threads of the database and our tasks work, and time pass, until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.005)
            await clock.advance(0.3)


def bodies(events: list[RoomEvent]) -> list[str]:
    return [one.content["body"] for one in events if one.type == "m.room.message"]


async def test_events_are_told_in_order_with_what_surrounds_them(
    network: Network, clock: FakeClock
) -> None:
    here, there, room_id = await two_in_a_room(network)
    for number in range(20):
        await say(here, room_id, "maker", f"{number}", txn=f"txn{number}")
    await network.deliver()
    async with feeding(here, clock), feeding(there, clock):
        await until(lambda: len(bodies(here.listener.events)) == 20, clock)
        await until(lambda: len(bodies(there.listener.events)) == 20, clock)
    assert bodies(here.listener.events) == [f"{number}" for number in range(20)]
    assert bodies(there.listener.events) == bodies(here.listener.events)
    mine, theirs = here.listener.events[-1], there.listener.events[-1]
    assert (mine.own, mine.transaction_id) == (True, "txn19")
    assert (theirs.own, theirs.transaction_id) == (False, None)
    joined = [one for one in here.listener.events if one.state_key == there.user("guest")]
    assert [(one.content["membership"], one.previous_membership) for one in joined] == [
        ("join", None)
    ]


async def test_what_is_new_is_told_at_once(network: Network, clock: FakeClock) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here)
    async with feeding(here, clock) as feed:
        await until(lambda: len(here.listener.events) > 5, clock)
        await say(here, room_id, "maker", "now")
        async with asyncio.timeout(PATIENCE_S):
            while bodies(here.listener.events) != ["now"]:
                await asyncio.sleep(0.005)
        assert feed.told_to == here.listener.events[-1].position


async def test_a_room_in_trouble_delays_no_other_and_is_told_later(
    network: Network, clock: FakeClock
) -> None:
    here = await network.add("here.example")
    good = await make_room(here, "12")
    bad = await make_room(here, "11")
    trouble = True

    def refuse(event: RoomEvent) -> Exception | None:
        return Unavailable("not now") if trouble and event.room_id == bad else None

    here.listener.refuse = refuse
    await say(here, bad, "maker", "waits")
    await say(here, good, "maker", "goes")
    async with feeding(here, clock) as feed:
        await until(lambda: bodies(here.listener.events) == ["goes"], clock)
        first_bad = (await here.backend.timeline(bad, limit=100))[0].position
        assert feed.told_to == first_bad - 1
        trouble = False
        await until(lambda: bodies(here.listener.events) == ["goes", "waits"], clock)
        newest = max(one.position for one in here.listener.events)
        await until(lambda: feed.told_to == newest, clock)
    told = [one.event_id for one in here.listener.events]
    assert len(told) == len(set(told))


async def test_after_a_restart_nothing_is_skipped(network: Network, clock: FakeClock) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here)
    await say(here, room_id, "maker", "one")
    async with feeding(here, clock):
        await until(lambda: bodies(here.listener.events) == ["one"], clock)
        saved = 0
        async with asyncio.timeout(PATIENCE_S):
            while saved < here.listener.events[-1].position:
                await clock.advance(0.3)
                await asyncio.sleep(0.005)
                saved = await here.database.read(lambda tx: streams.cursor(tx, CURSOR))
    here = await network.restart(here)
    await say(here, room_id, "maker", "two")
    async with feeding(here, clock):
        await until(lambda: bodies(here.listener.events) == ["two"], clock)


async def test_an_event_whose_telling_fails_for_good_does_not_stop_the_room(
    network: Network, clock: FakeClock
) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here)

    def refuse(event: RoomEvent) -> Exception | None:
        return ValueError("a mistake") if event.content.get("body") == "bad" else None

    here.listener.refuse = refuse
    await say(here, room_id, "maker", "bad")
    await say(here, room_id, "maker", "good")
    async with feeding(here, clock):
        await until(lambda: bodies(here.listener.events) == ["good"], clock)


async def test_invites_and_acceptances_are_told(network: Network, clock: FakeClock) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, public=False)
    guest = there.user("guest")
    await here.backend.invite(
        room_id=room_id, sender=here.user("maker"), target=guest, txn="i", is_direct=True
    )
    async with feeding(here, clock), feeding(there, clock):
        await until(lambda: bool(there.listener.events), clock)
        await until(lambda: bool(here.listener.acceptances), clock)
    (invite,) = there.listener.events
    assert invite.content["is_direct"] is True
    assert {"type": "m.room.name", "state_key": "", "content": {"name": "Garden"}}.items() <= next(
        one for one in invite.invite_state if one["type"] == "m.room.name"
    ).items()
    accepted = here.listener.acceptances[0]
    assert (accepted.server, accepted.event_id) == (there.name, invite.event_id)
