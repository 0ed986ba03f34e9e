"""Typing, receipts and presence, together: what other servers tell, and what is told to them.

Nothing here goes through the PDU queue, and nobody waits for the bridge side. DESIGN of the house:
EDUs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from bridge.clock import Clock
from bridge.errors import IsthmusError
from bridge.ids import ServerName
from bridge.policy.house import House
from bridge.rooms.load import RoomStates
from bridge.rooms.network import EduTaker
from bridge.rooms.passing import Door, Outlet, PassingEdus
from bridge.rooms.presence import Presences
from bridge.rooms.query import RoomQueries
from bridge.rooms.receipts import Receipts
from bridge.rooms.typing_notices import TypingNotices
from bridge.storage.database import Database
from bridge.telemetry.log import get_logger

TICK_S = 1.0

log = get_logger("rooms")


class Ephemerals:
    """`run()` is the one long-lived task. Silent until `outlet.attach`."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        states: RoomStates,
        queries: RoomQueries,
        house: House,
        clock: Clock,
        with_presence: bool = True,
    ) -> None:
        self._clock = clock
        self.outlet = Outlet(server_name=server_name, house=house)
        door = Door(server_name=server_name, database=database, states=states, house=house)
        self.typing = TypingNotices(
            server_name=server_name, door=door, queries=queries, outlet=self.outlet, clock=clock
        )
        self.receipts = Receipts(
            server_name=server_name,
            database=database,
            door=door,
            queries=queries,
            outlet=self.outlet,
            clock=clock,
        )
        self.presence = Presences(
            server_name=server_name,
            database=database,
            door=door,
            queries=queries,
            outlet=self.outlet,
            clock=clock,
            enabled=with_presence,
        )

    @property
    def takers(self) -> Mapping[str, EduTaker]:
        """Of EDUs, by type."""
        return {
            "m.typing": self.typing,
            "m.receipt": self.receipts,
            "m.presence": self.presence,
        }

    @property
    def sources(self) -> Sequence[PassingEdus[Any]]:
        """For the sender, the most important first."""
        return self.typing.source, self.presence.source

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick_forever())
            if self.presence.enabled:
                tasks.create_task(self.presence.watch())

    async def tick(self) -> None:
        await self.typing.tick()
        await self.receipts.tick()
        await self.presence.tick()

    async def _tick_forever(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            try:
                await self.tick()
            except IsthmusError as exc:
                log.warning("what passes is not told for now", reason=exc.reason)
