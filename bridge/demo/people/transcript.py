"""Everything that one person received, in order; waiting for something in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from bridge.errors import IsthmusError

T = TypeVar("T")

_MOST_ITEMS = 100_000
_SHOWN_ITEMS = 40


class NotSeen(IsthmusError):
    """What a person waited for did not come in time; the text ends with what came instead."""


class Transcript(Generic[T]):
    """Items get positions 0, 1, 2, ...; the oldest are forgotten beyond a bound.

    `position` before an action and `since=position` in the wait after it find only what is new.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._items: list[T] = []
        self._first = 0
        self._grown = asyncio.Event()
        self._watchers: list[Callable[[T], None]] = []

    @property
    def position(self) -> int:
        """The position that the next item will get."""
        return self._first + len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> None:
        self._items.append(item)
        if len(self._items) > _MOST_ITEMS:
            surplus = _MOST_ITEMS // 10
            del self._items[:surplus]
            self._first += surplus
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()
        for watcher in self._watchers:
            watcher(item)

    def watch(self, watcher: Callable[[T], None]) -> None:
        """Call `watcher` with each item that comes from now on."""
        self._watchers.append(watcher)

    def since(self, position: int) -> list[T]:
        """The items from `position` on."""
        return self._items[max(0, position - self._first) :]

    def find(self, wanted: Callable[[T], bool], *, since: int = 0) -> T | None:
        """The first item from `since` on that is wanted."""
        return next((item for item in self.since(since) if wanted(item)), None)

    async def wait_for(
        self,
        wanted: Callable[[T], bool],
        *,
        what: str = "something",
        timeout_s: float = 10.0,
        since: int = 0,
    ) -> T:
        """The first wanted item, past or coming; `NotSeen` after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        looked = since
        while True:
            grown, upto = self._grown, self.position
            found = self.find(wanted, since=looked)
            if found is not None:
                return found
            looked = upto
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise self.not_seen(what, timeout_s)
            try:
                async with asyncio.timeout(remaining_s):
                    await grown.wait()
            except TimeoutError:
                continue

    def not_seen(self, what: str, timeout_s: float) -> NotSeen:
        """The error that shows the end of the transcript."""
        shown = "\n".join(f"  {item}" for item in self._items[-_SHOWN_ITEMS:]) or "  (nothing)"
        return NotSeen(
            f"{self.owner} did not see {what} within {timeout_s:g} s; what {self.owner} saw:\n"
            f"{shown}"
        )
