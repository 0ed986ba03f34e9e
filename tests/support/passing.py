"""EDUs between servers of the in-memory network: what one tells, the others hear."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from bridge.errors import BadInput, Refused
from bridge.federation.edu_sources import EduSource, StoredReceipts
from bridge.ids import ServerName
from bridge.rooms.passing import Change
from tests.support.network import Network, Server, wire
from tests.support.openapi import edu_complaints


class Ear:
    """Fits `rooms.passing.EphemeralSink`: everything that was told, in order."""

    def __init__(self) -> None:
        self.heard: list[Change] = []

    def put(self, change: Change) -> None:
        self.heard.append(change)

    def hear(self) -> list[Change]:
        """What is new."""
        new, self.heard = self.heard, []
        return new


class Wire:
    """Carries EDUs between the servers; `told` are those that arrived, with who told whom."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.ears: dict[ServerName, Ear] = {}
        self.woken: dict[ServerName, Counter[ServerName]] = {}
        self.told: list[tuple[ServerName, ServerName, Any]] = []
        self.refused: list[str] = []

    def connect(self, *servers: Server) -> None:
        for server in servers:
            ear = self.ears[server.name] = Ear()
            woken = self.woken[server.name] = Counter()
            server.rooms.ephemeral.outlet.attach(wake=partial(_count, woken), sink=ear)

    async def carry(self) -> list[Any]:
        """Everything that waits, to those it waits for; the EDUs."""
        before = len(self.told)
        for server in list(self.network.servers.values()):
            stored = StoredReceipts(database=server.database)
            sources: list[EduSource] = [stored, *server.rooms.ephemeral.sources]
            for source in sources:
                for peer in list(self.network.servers.values()):
                    if peer is not server:
                        await self._carry(server, peer, source)
        return [edu for _, _, edu in self.told[before:]]

    async def _carry(self, server: Server, peer: Server, source: EduSource) -> None:
        while True:
            edus, token = await source.pending(peer.name, 100)
            if not edus:
                return
            for edu in edus:
                assert edu_complaints(edu) == []
                self.told.append((server.name, peer.name, edu))
                await self.hand_over(server.name, peer, edu)
            await source.sent(peer.name, token)

    async def hand_over(self, origin: ServerName, peer: Server, edu: Any) -> None:
        """To whoever takes its type; what is refused is kept in `refused`."""
        try:
            taker = peer.rooms.ephemeral.takers[edu["edu_type"]]
            await taker.take(origin, wire(edu["content"]))
        except (BadInput, Refused) as exc:
            self.refused.append(exc.reason)


def _count(woken: Counter[ServerName], peer: ServerName) -> None:
    woken[peer] += 1
