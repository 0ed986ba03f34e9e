"""The fake clock proves itself."""

from __future__ import annotations

import asyncio

from tests.support.clock import FakeClock, settle


async def test_time_stands_still_until_it_is_advanced(clock: FakeClock) -> None:
    before = clock.now_ms()
    await settle()
    assert clock.now_ms() == before
    await clock.advance(1.5)
    assert clock.now_ms() == before + 1500
    assert clock.monotonic_s() == 1.5


async def test_sleepers_wake_in_the_order_of_their_time(clock: FakeClock) -> None:
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float, times: int = 1) -> None:
        for _ in range(times):
            await clock.sleep(seconds)
            woken.append((name, clock.monotonic_s()))

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(sleep("late", 3))
        group.create_task(sleep("often", 1, times=4))
        await settle()
        assert clock.sleeper_count == 2
        await clock.advance(2.5)
        assert woken == [("often", 1.0), ("often", 2.0)]
        await clock.advance(2)
    assert woken[2:] == [("late", 3.0), ("often", 3.0), ("often", 4.0)]


async def test_a_cancelled_sleeper_is_forgotten(clock: FakeClock) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(clock.sleep(10))
        await settle()
        task.cancel()
    assert clock.sleeper_count == 0
    await clock.advance(20)
