"""Order within a chat, no order between chats, and bounds everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from xml.etree import ElementTree as ET

import pytest_asyncio

from bridge.adapters.xmpp.lanes import StanzaLanes
from bridge.adapters.xmpp.stream import Received
from bridge.errors import BadInput
from tests.support.clock import settle


class Worker:
    def __init__(self) -> None:
        self.done: list[str] = []
        self.gate = asyncio.Event()
        self.lanes = StanzaLanes(
            self.work, per_lane=2, total=4, beside=1, lane_bytes=2_000, total_bytes=3_000
        )

    async def work(self, received: Received) -> None:
        await self.gate.wait()
        name = received.element.tag
        if name == "bad":
            raise BadInput("bad")
        if name == "broken":
            raise ValueError("a defect of ours")
        self.done.append(name)

    async def put(self, key: str, name: str, *, text: str = "") -> bool:
        element = ET.Element(name)
        element.text = text
        return await self.lanes.put(key, Received(element=element))


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[Worker]:
    worker = Worker()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(worker.lanes.run())
        await settle()
        yield worker
        task.cancel()


async def test_a_lane_keeps_its_order(worker: Worker) -> None:
    for name in ("a", "b", "c"):
        assert await worker.put("one", name)
        await settle()
    worker.gate.set()
    await settle()
    assert worker.done == ["a", "b", "c"]


async def test_a_full_lane_refuses_and_the_others_go_on(worker: Worker) -> None:
    await worker.put("one", "first")
    await settle()
    assert [await worker.put("one", "x") for _ in range(3)] == [True, True, False]
    assert await worker.put("two", "y")


async def test_a_lane_with_one_large_stanza_is_full_as_well(worker: Worker) -> None:
    await worker.put("one", "first")
    await settle()
    assert await worker.put("one", "large", text="x" * 2_000)
    assert not await worker.put("one", "y")
    assert await worker.put("two", "z")


async def test_a_house_full_of_large_stanzas_makes_whoever_brings_more_wait(worker: Worker) -> None:
    for key in ("1", "2"):
        await worker.put(key, key, text="x" * 1_500)
    async with asyncio.TaskGroup() as group:
        third = group.create_task(worker.put("3", "3"))
        await settle()
        assert not third.done()
        worker.gate.set()
    await settle()
    assert sorted(worker.done) == ["1", "2", "3"]


async def test_a_full_house_makes_whoever_brings_more_wait(worker: Worker) -> None:
    for key in ("1", "2", "3", "4"):
        await worker.put(key, key)
    async with asyncio.TaskGroup() as group:
        fifth = group.create_task(worker.put("5", "5"))
        await settle()
        assert not fifth.done()
        worker.gate.set()
    assert fifth.result()
    await settle()
    assert sorted(worker.done) == ["1", "2", "3", "4", "5"]


async def test_a_stanza_that_fails_ends_alone(worker: Worker) -> None:
    worker.gate.set()
    for name in ("bad", "broken", "good"):
        await worker.put("one", name)
        await settle()
    assert worker.done == ["good"]


async def test_what_goes_on_beside_is_counted(worker: Worker) -> None:
    async def job() -> None:
        await worker.gate.wait()

    assert worker.lanes.spawn(job)
    assert not worker.lanes.spawn(job)
    worker.gate.set()
    await settle()
    assert worker.lanes.spawn(job)
