"""Incoming stanzas in order: one worker per chat, retired when it has nothing left.

Bounded three times: a full lane refuses (the sender is told), a full house makes `put` wait (and
then we stop reading from the XMPP server), and what a stanza does beside its lane (`spawn`) is
counted, too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

from bridge.adapters.xmpp.stream import Received
from bridge.errors import IsthmusError
from bridge.telemetry.log import get_logger

log = get_logger("xmpp")


class StanzaLanes:
    """`work` answers errors itself; what it raises is logged and ends one stanza only."""

    def __init__(
        self,
        work: Callable[[Received], Awaitable[None]],
        *,
        per_lane: int,
        total: int,
        beside: int,
    ) -> None:
        self._work = work
        self._per_lane = per_lane
        self._total = total
        self._lanes: dict[str, deque[Received]] = {}
        self._beside = beside
        self._in_hand = 0
        self._running_beside = 0
        self._has_room = asyncio.Event()
        self._emptied = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None

    async def put(self, key: str, received: Received) -> bool:
        """False: this lane is full."""
        while self._in_hand >= self._total:
            self._has_room.clear()
            await self._has_room.wait()
        lane = self._lanes.get(key)
        if lane is not None:
            if len(lane) >= self._per_lane:
                return False
            lane.append(received)
        else:
            if self._group is None:
                return False
            self._lanes[key] = deque([received])
            self._group.create_task(self._empty(key))
        self._in_hand += 1
        return True

    @property
    def is_empty(self) -> bool:
        return not self._lanes

    async def wait_empty(self) -> None:
        """Until no stanza is in any lane; what runs beside them does not count."""
        while self._lanes:
            self._emptied.clear()
            await self._emptied.wait()

    def spawn(self, job: Callable[[], Awaitable[None]]) -> bool:
        """Runs beside the lanes. False: too much does already."""
        if self._group is None or self._running_beside >= self._beside:
            return False
        self._running_beside += 1
        self._group.create_task(self._run_beside(job))
        return True

    async def _run_beside(self, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await _guarded(job)
        finally:
            self._running_beside -= 1

    async def _empty(self, key: str) -> None:
        lane = self._lanes[key]
        try:
            while lane:
                await _guarded(partial(self._work, lane.popleft()))
                self._in_hand -= 1
                self._has_room.set()
        finally:
            del self._lanes[key]
            self._emptied.set()


async def _guarded(job: Callable[[], Awaitable[None]]) -> None:
    """The border of one stanza: nothing that it meets ends the adapter."""
    try:
        await job()
    except IsthmusError as exc:
        log.info("stanza dropped", reason=exc.reason)
    except Exception:
        log.exception("stanza failed")
