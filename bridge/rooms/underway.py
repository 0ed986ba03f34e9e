"""Invites that another server may have taken already while we have not stored them yet.

Whoever is invited may join at once: their server asks us for the join before its answer to the
invite has reached us. Such a question waits a little. Nothing here is needed after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from bridge.ids import RoomId, UserId

WAIT_S = 10.0


@dataclass(slots=True)
class _Invites:
    count: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Underway:
    def __init__(self) -> None:
        self._invites: dict[tuple[RoomId, UserId], _Invites] = {}

    @contextmanager
    def inviting(self, room_id: RoomId, user_id: UserId) -> Iterator[None]:
        """Around the time between asking the invited's server and storing its answer."""
        key = (room_id, user_id)
        invites = self._invites.setdefault(key, _Invites())
        invites.count += 1
        try:
            yield
        finally:
            invites.count -= 1
            if invites.count == 0:
                del self._invites[key]
                invites.over.set()

    async def settled(self, room_id: RoomId, user_id: UserId) -> None:
        """Returns when no such invite is under way, or after a while."""
        invites = self._invites.get((room_id, user_id))
        if invites is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await invites.over.wait()
