from __future__ import annotations

import asyncio

import pytest

from bridge.federation.client.memory import BoundedMap, Turns


def test_the_map_forgets_what_was_not_asked_for_longest() -> None:
    known: BoundedMap[str, int] = BoundedMap(2)
    known.put("a", 1)
    known.put("b", 2)
    assert known.get("a") == 1
    known.put("c", 3)
    assert (known.get("a"), known.get("b"), known.get("c")) == (1, None, 3)
    known.drop("a")
    known.drop("a")
    assert len(known) == 1


async def test_turns_are_one_at_a_time_per_key_and_leave_nothing_behind() -> None:
    turns: Turns[str] = Turns()
    running: list[str] = []
    most = 0

    async def work(key: str) -> None:
        nonlocal most
        async with turns.turn(key):
            running.append(key)
            most = max(most, running.count("a"))
            await asyncio.sleep(0)
            running.remove(key)

    async with asyncio.TaskGroup() as tasks:
        for key in "aaabab":
            tasks.create_task(work(key))
    assert most == 1
    assert len(turns) == 0


async def test_a_turn_that_fails_or_is_cancelled_passes_on() -> None:
    turns: Turns[str] = Turns()

    async def fail() -> None:
        async with turns.turn("a"):
            raise ValueError("broken")

    async def wait() -> None:
        async with turns.turn("a"):
            pass

    async with asyncio.TaskGroup() as tasks, turns.turn("a"):
        waiting = tasks.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        await fail()
    await wait()
    assert len(turns) == 0
