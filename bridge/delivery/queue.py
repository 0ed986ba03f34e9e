"""A durable queue: rows of inbox or outbox, delivered lane by lane. (Signatures; bodies follow.)"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bridge.clock import Clock
from bridge.storage.database import Database, Unit
from bridge.storage.queues import QueueItem, QueueTable

Deliver = Callable[[QueueItem], Awaitable[Unit[None] | None]]
"""Delivers an item. Returns what must be written in the same commit as its `done`, if anything.
Raises Unavailable (the lane tries again later), Refused, BadInput or NotFound (parked)."""

OnParked = Callable[[QueueItem, str], Awaitable[Unit[None] | None]]
"""Told that the item is given up, with the reason; what it returns is written with the parking."""

OnWaiting = Callable[[QueueItem, float], Awaitable[None]]
"""Told once that an item has waited for that many seconds."""


class DurableQueue:
    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        queue: QueueTable,
        deliver: Deliver,
        on_parked: OnParked | None = None,
        on_waiting: OnWaiting | None = None,
        workers: int = 64,
    ) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        raise NotImplementedError
