"""A clock that moves only when a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools

import pytest

_SETTLE_TURNS = 25


async def settle() -> None:
    """Let every task that can run now do so, a few turns deep."""
    for _ in range(_SETTLE_TURNS):
        await asyncio.sleep(0)


class FakeClock:
    """Fits `bridge.clock.Clock`. Sleepers wake in the order of their time, one after another."""

    def __init__(self, now_ms: int = 1_750_000_000_000) -> None:
        self._start_ms = now_ms
        self._elapsed_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._start_ms + round(self._elapsed_s * 1000)

    def monotonic_s(self) -> float:
        return self._elapsed_s

    @property
    def sleeper_count(self) -> int:
        """How many wait for time to pass."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_s + seconds, next(self._order), future))
        await future

    def shift(self, seconds: float) -> None:
        """Let time pass at once; sleepers wake at the next `advance`."""
        self._elapsed_s += seconds

    async def advance(self, seconds: float) -> None:
        """Let time pass; whoever wakes on the way acts, and may sleep again, before the next."""
        target_s = self._elapsed_s + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= target_s:
            wake_s, _, future = heapq.heappop(self._sleepers)
            self._elapsed_s = max(self._elapsed_s, wake_s)
            if not future.done():
                future.set_result(None)
                await settle()
        self._elapsed_s = max(self._elapsed_s, target_s)
        await settle()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
