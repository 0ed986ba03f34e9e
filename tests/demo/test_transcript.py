"""What a scripted person saw, and waiting for more of it."""

from __future__ import annotations

import asyncio

import pytest

from bridge.demo.people import NotSeen, Transcript


async def test_what_is_past_is_found_from_a_position_on() -> None:
    transcript: Transcript[str] = Transcript("alice")
    transcript.add("one")
    mark = transcript.position
    transcript.add("two")
    assert await transcript.wait_for(lambda item: "o" in item) == "one"
    assert await transcript.wait_for(lambda item: "o" in item, since=mark) == "two"
    assert transcript.since(mark) == ["two"]


async def test_several_wait_for_what_comes() -> None:
    transcript: Transcript[int] = Transcript("alice")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waits = [group.create_task(transcript.wait_for(number.__eq__)) for number in range(3)]
        for number in (2, 0, 1):
            await asyncio.sleep(0)
            transcript.add(number)
    assert [wait.result() for wait in waits] == [0, 1, 2]


async def test_waiting_in_vain_tells_what_came() -> None:
    transcript: Transcript[str] = Transcript("alice")
    transcript.add("something else")
    with pytest.raises(NotSeen, match="alice did not see tea") as failure:
        await transcript.wait_for(lambda item: item == "tea", what="tea", timeout_s=0.01)
    assert "something else" in failure.value.reason


def test_a_watcher_sees_each_item_once() -> None:
    transcript: Transcript[str] = Transcript("alice")
    transcript.add("before")
    seen: list[str] = []
    transcript.watch(seen.append)
    transcript.add("after")
    assert seen == ["after"]


def test_positions_stay_when_the_oldest_are_forgotten() -> None:
    transcript: Transcript[int] = Transcript("alice")
    for number in range(100_001):
        transcript.add(number)
    assert len(transcript) < 100_001
    assert transcript.position == 100_001
    assert transcript.since(100_000) == [100_000]
    assert transcript.find(lambda item: item == 99_999) == 99_999
