"""The database is away for a moment, or one row is broken: everything else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bridge.backends.native.feed import ACCEPTANCE_CURSOR, CURSOR, NativeFeed
from bridge.errors import Unavailable
from bridge.rooms.bounds import DEFAULTS
from bridge.storage import inbound, streams
from tests.support.clock import FakeClock
from tests.support.network import Network, Server
from tests.support.talk import forge, heard, say, two_in_a_room

PATIENCE_S = 10.0


class Outage:
    """While it lasts, no unit of work is taken."""

    def __init__(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        self.refused = 0
        for name in ("read", "write"):
            monkeypatch.setattr(server.database, name, self._between(server, name))

    def _between(self, server: Server, name: str) -> Callable[[Any], Any]:
        inner = getattr(server.database, name)

        async def work(unit: Any) -> Any:
            if self.on:
                self.refused += 1
                raise Unavailable("the database is away")
            return await inner(unit)

        return work


async def until(true: Callable[[], bool], clock: FakeClock) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.002)
            await clock.advance(0.5)


async def test_the_receiver_outlives_an_outage_of_the_database(
    network: Network, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, room_id = await two_in_a_room(network)
    pdu = await forge(network, there, room_id, there.user("guest"))
    outage = Outage(here, monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(here.rooms.receiver.run())
        await here.rooms.receiver.take(there.name, "t1", [pdu.wire()], wait_s=0)
        outage.on = True
        await until(lambda: outage.refused > 3, clock)
        assert not running.done()
        outage.on = False
        said: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while said != ["forged"]:
                await clock.advance(0.5)
                said = await heard(here, room_id)
        running.cancel()


async def test_the_feed_outlives_an_outage_of_the_database(
    network: Network, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _, room_id = await two_in_a_room(network)
    outage = Outage(here, monkeypatch)
    outage.on = True
    feed = NativeFeed(
        server_name=here.name,
        database=here.database,
        queries=here.rooms.queries,
        listener=here.listener,
        clock=clock,
    )

    def bodies() -> list[str]:
        return [one.content.get("body", "") for one in here.listener.events if not one.state_key]

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(feed.run())
        await until(lambda: outage.refused > 3, clock)
        outage.on = False
        await until(lambda: len(here.listener.events) > 5, clock)
        outage.on = True
        refused = outage.refused
        await until(lambda: outage.refused > refused + 5, clock)
        assert not running.done()
        outage.on = False
        await say(here, room_id, "maker", "after it")
        await until(lambda: "after it" in bodies(), clock)
        newest = here.listener.events[-1].position
        saved = 0
        async with asyncio.timeout(PATIENCE_S):
            while saved < newest:
                await clock.advance(0.5)
                saved = await here.database.read(lambda tx: streams.cursor(tx, CURSOR))
        running.cancel()
    told = [one.event_id for one in here.listener.events]
    assert len(told) == len(set(told))
    assert await here.database.read(lambda tx: streams.cursor(tx, ACCEPTANCE_CURSOR)) >= 0


async def test_a_broken_row_does_not_stand_in_the_rooms_way(
    network: Network, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, room_id = await two_in_a_room(network)
    bad = await forge(network, there, room_id, there.user("guest"))
    good = await forge(
        network, there, room_id, there.user("guest"), content={"msgtype": "m.text", "body": "good"}
    )
    acceptor = here.rooms.receiver._acceptor
    accept = acceptor.accept

    async def fail(room: Any, pdu: Any, **more: Any) -> Any:
        if pdu.event_id == bad.event_id:
            raise RuntimeError("unforeseen")
        return await accept(room, pdu, **more)

    async def fail_together(room: Any, queued: Any) -> int:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(acceptor, "accept", fail)
    monkeypatch.setattr(acceptor, "accept_group", fail_together)
    answer: Any = await network.hand_over(there.name, here.name, [bad.wire(), good.wire()])
    assert answer == {bad.event_id: {}, good.event_id: {}}
    assert await heard(here, room_id) == ["good"]
    for _ in range(DEFAULTS.attempts):
        clock.shift(3_600)
        await here.rooms.receiver.work_off_due()
    answer = await here.rooms.receiver.take(there.name, "again", [bad.wire()], wait_s=0)
    assert answer == {bad.event_id: {}}  # It may try again, from the beginning.
    assert await here.database.read(lambda tx: inbound.count_waiting(tx, room_id=room_id)) == 1
