"""Lanes: serial per key, many keys at once, bounded, and no wake-up lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bridge.delivery.lanes import Lanes
from tests.support.clock import settle


@asynccontextmanager
async def running(lanes: Lanes) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(lanes.run())
        yield
        lanes.stop()


class Recorder:
    """Work that waits for permission, and remembers how many ran at once."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.may_end = asyncio.Event()

    async def work(self, key: str) -> None:
        self.started.append(key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.may_end.wait()
        self.at_once -= 1


async def test_a_key_is_never_worked_on_twice_at_once_and_no_wake_up_is_lost() -> None:
    recorder = Recorder()
    lanes = Lanes(recorder.work, workers=4)
    async with running(lanes):
        lanes.wake("a")
        await settle()
        lanes.wake("a")
        lanes.wake("a")
        await settle()
        assert recorder.started == ["a"]
        recorder.may_end.set()
        await settle()
    assert recorder.started == ["a", "a"]
    assert recorder.most_at_once == 1


async def test_different_keys_run_at_once_up_to_the_number_of_workers() -> None:
    recorder = Recorder()
    lanes = Lanes(recorder.work, workers=3)
    async with running(lanes):
        for key in "abcde":
            lanes.wake(key)
        await settle()
        assert recorder.started == ["a", "b", "c"]
        recorder.may_end.set()
        await settle()
    assert recorder.started == ["a", "b", "c", "d", "e"]
    assert recorder.most_at_once == 3


async def test_a_key_that_comes_again_waits_behind_the_others() -> None:
    order: list[str] = []

    async def work(key: str) -> None:
        order.append(key)
        if order.count(key) < 2:
            lanes.wake(key)

    lanes = Lanes(work, workers=1)
    async with running(lanes):
        lanes.wake("a")
        lanes.wake("b")
        await settle()
    assert order == ["a", "b", "a", "b"]


async def test_a_failing_lane_does_not_disturb_the_others() -> None:
    worked: list[str] = []

    async def work(key: str) -> None:
        if key == "bad":
            raise ValueError("a mistake")
        worked.append(key)

    lanes = Lanes(work, workers=1)
    async with running(lanes):
        lanes.wake("bad")
        lanes.wake("good")
        await settle()
    assert worked == ["good"]


async def test_more_keys_than_the_bound_are_refused() -> None:
    lanes = Lanes(_nothing, workers=1, waiting=2)
    assert [lanes.wake(key) for key in "aba"] == [True, True, True]
    assert not lanes.wake("c")


async def test_stopping_waits_for_the_work_in_hand_and_begins_nothing_new() -> None:
    recorder = Recorder()
    lanes = Lanes(recorder.work, workers=1)
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(lanes.run())
        lanes.wake("a")
        lanes.wake("b")
        await settle()
        lanes.stop()
        await settle()
        assert not run.done()
        recorder.may_end.set()
    assert recorder.started == ["a"]
    assert recorder.at_once == 0


async def _nothing(_key: str) -> None:
    return
