"""Incoming stanzas in order: one worker per chat, retired when it has nothing left.

Bounded three times: a full lane refuses (the sender is told), a full house makes `put` wait (and
then we stop reading from the XMPP server), and what a stanza does beside its lane (`spawn`) is
counted, too. Full is what has many stanzas, or few large ones: many small ones, a burst of
messages, are taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp.stream import Received
from bridge.errors import IsthmusError
from bridge.telemetry.log import get_logger

log = get_logger("xmpp")

_BYTES_PER_ELEMENT = 200


def weight_of(element: ET.Element) -> int:
    """About how many bytes of memory a stanza takes."""
    weight = 0
    for node in element.iter():
        weight += _BYTES_PER_ELEMENT + len(node.text or "") + len(node.tail or "")
        weight += sum(len(name) + len(value) for name, value in node.items())
    return weight


@dataclass(slots=True)
class _Lane:
    waiting: deque[tuple[Received, int]] = field(default_factory=deque)
    """With the weight of each."""
    bytes: int = 0


class StanzaLanes:
    """`work` answers errors itself; what it raises is logged and ends one stanza only."""

    def __init__(
        self,
        work: Callable[[Received], Awaitable[None]],
        *,
        per_lane: int,
        total: int,
        beside: int,
        lane_bytes: int,
        total_bytes: int,
    ) -> None:
        self._work = work
        self._per_lane = per_lane
        self._total = total
        self._lane_bytes = lane_bytes
        self._total_bytes = total_bytes
        self._lanes: dict[str, _Lane] = {}
        self._beside = beside
        self._in_hand = 0
        self._bytes_in_hand = 0
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
        while self._in_hand >= self._total or self._bytes_in_hand >= self._total_bytes:
            self._has_room.clear()
            await self._has_room.wait()
        lane = self._lanes.get(key)
        if lane is not None:
            if len(lane.waiting) >= self._per_lane or lane.bytes >= self._lane_bytes:
                return False
        else:
            if self._group is None:
                return False
            self._lanes[key] = lane = _Lane()
            self._group.create_task(self._empty(key))
        weight = weight_of(received.element)
        lane.waiting.append((received, weight))
        lane.bytes += weight
        self._in_hand += 1
        self._bytes_in_hand += weight
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
            while lane.waiting:
                received, weight = lane.waiting.popleft()
                lane.bytes -= weight
                await _guarded(partial(self._work, received))
                self._in_hand -= 1
                self._bytes_in_hand -= weight
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
