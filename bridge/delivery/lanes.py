"""Lanes: one serial worker per key, many keys at once, bounded.

A lane carries no items: what there is to do for a key is stored elsewhere (rows), and a wake-up
says only "look". So a lost or doubled wake-up costs nothing, and memory holds keys only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bridge.telemetry.log import get_logger
from bridge.telemetry.metrics import LANE_FAILURES

log = get_logger("delivery")


class Lanes:
    """Runs `work(key)` once for each wake-up of the key, never twice at the same time.

    `work` takes whatever is stored for the key and returns; a wake-up during its run makes it run
    once more, after the other keys that wait by then. A worker is born for a run and gone with it.
    What `work` does not catch is logged and counted, and the key rests until it is woken again.
    """

    def __init__(
        self,
        work: Callable[[str], Awaitable[None]],
        *,
        workers: int,
        waiting: int = 10_000,
        name: str = "lanes",
    ) -> None:
        self._work = work
        self._workers = workers
        self._most_waiting = waiting
        self._name = name
        self._waiting: dict[str, None] = {}
        self._running: set[str] = set()
        self._changed = asyncio.Event()
        self._stopping = False

    def wake(self, key: str) -> bool:
        """False when too many keys wait: look for the work again later."""
        if key in self._waiting:
            return True
        if len(self._waiting) >= self._most_waiting:
            return False
        self._waiting[key] = None
        self._changed.set()
        return True

    @property
    def running(self) -> int:
        """How many keys are being worked on."""
        return len(self._running)

    async def run(self) -> None:
        """Until cancelled, or until `stop` and the end of what is in hand."""
        async with asyncio.TaskGroup() as tasks:
            while not self._stopping:
                self._changed.clear()
                self._begin(tasks)
                await self._changed.wait()

    def stop(self) -> None:
        """Begin nothing new; `run` returns when the work in hand is finished."""
        self._stopping = True
        self._changed.set()

    def _begin(self, tasks: asyncio.TaskGroup) -> None:
        free = self._workers - len(self._running)
        if free <= 0:
            return
        ready: list[str] = []
        for key in self._waiting:
            if key not in self._running:
                ready.append(key)
                if len(ready) == free:
                    break
        for key in ready:
            del self._waiting[key]
            self._running.add(key)
            tasks.create_task(self._run_once(key))

    async def _run_once(self, key: str) -> None:
        try:
            await self._work(key)
        except Exception:
            LANE_FAILURES.labels(lanes=self._name).inc()
            log.exception("lane failed", lanes=self._name, lane=key)
        finally:
            self._running.discard(key)
            self._changed.set()
