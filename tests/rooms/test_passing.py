"""What passes and waits for a peer: bounded, the newest of a kind, never old."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge.ids import ServerName
from bridge.rooms import passing
from bridge.rooms.passing import PassingEdus
from tests.support.clock import FakeClock

A, B, C = (ServerName(f"{name}.example") for name in "abc")


def source(clock: FakeClock, *, per_edu: int = 1) -> PassingEdus[int]:
    def to_edu(values: Sequence[int]) -> dict[str, Any]:
        return {"edu_type": "t", "content": {"values": list(values)}}

    return PassingEdus(clock=clock, to_edu=to_edu, max_age_s=10.0, per_edu=per_edu)


async def values(edus: PassingEdus[int], server: ServerName, limit: int = 100) -> list[list[int]]:
    made, _ = await edus.pending(server, limit)
    return [edu["content"]["values"] for edu in made]


async def test_each_peer_has_its_own_and_several_share_an_edu(clock: FakeClock) -> None:
    edus = source(clock, per_edu=2)
    for number in range(5):
        edus.put(A, number, number)
    edus.put(B, 0, 7)
    assert await values(edus, A) == [[0, 1], [2, 3], [4]]
    assert await values(edus, A, 1) == [[0, 1]]
    assert await values(edus, B) == [[7]]
    assert await values(edus, C) == []
    assert await edus.waiting() == ()  # nobody is tried for it


async def test_what_a_peer_has_is_gone_and_what_is_newer_stays(clock: FakeClock) -> None:
    edus = source(clock)
    edus.put(A, "x", 1)
    edus.put(A, "y", 2)
    _, token = await edus.pending(A, 100)
    edus.put(A, "x", 1)  # the same value, told anew
    await edus.sent(A, token)
    await edus.sent(A, token)
    assert await values(edus, A) == [[1]]


async def test_of_too_many_for_one_peer_the_oldest_go(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "MAX_PER_PEER", 3)
    edus = source(clock)
    for number in range(5):
        edus.put(A, number, number)
    edus.put(A, 2, 20)
    assert await values(edus, A) == [[3], [4], [20]]


async def test_of_too_many_for_all_peers_those_of_the_first_peer_go(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "MAX_HELD", 3)
    edus = source(clock)
    for server in (A, A, B, C):
        edus.put(server, object(), 1)
    assert await values(edus, A) == []
    assert await values(edus, B) == await values(edus, C) == [[1]]


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 3), st.integers(0, 9))))
async def test_the_newest_of_each_kind_is_told(puts: list[tuple[ServerName, int, int]]) -> None:
    edus = source(FakeClock())
    wanted: dict[ServerName, dict[int, int]] = {A: {}, B: {}}
    for server, key, value in puts:
        edus.put(server, key, value)
        wanted[server].pop(key, None)
        wanted[server][key] = value
    for server, held in wanted.items():
        assert await values(edus, server) == [[value] for value in held.values()]


class Counting(RuleBasedStateMachine):
    """Whatever is done, the count is what is held: the bound over all peers rests on it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.edus = source(self.clock)
        self.tokens: list[tuple[ServerName, object]] = []

    @rule(server=st.sampled_from([A, B, C]), key=st.integers(0, 3))
    def put(self, server: ServerName, key: int) -> None:
        self.edus.put(server, key, key)

    @rule(server=st.sampled_from([A, B, C]), limit=st.integers(0, 3))
    def look(self, server: ServerName, limit: int) -> None:
        _, token = run(self.edus.pending(server, limit))
        self.tokens.append((server, token))

    @rule()
    def send(self) -> None:
        if self.tokens:
            run(self.edus.sent(*self.tokens.pop()))

    @rule(server=st.sampled_from([A, B, C]))
    def drop(self, server: ServerName) -> None:
        self.edus.dropped(server)

    @rule(seconds=st.integers(1, 12))
    def wait(self, seconds: int) -> None:
        self.clock.shift(seconds)

    @invariant()
    def counted(self) -> None:
        held = self.edus._held
        assert self.edus._count == sum(map(len, held.values()))
        assert all(held.values())


def run(work: Any) -> Any:
    """These never wait for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


TestCounting = Counting.TestCase
