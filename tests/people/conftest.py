"""Two servers in memory whose alice and bob share a room, and what goes between them."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest_asyncio

from bridge.engine.canonical import JsonObject
from bridge.errors import BadInput, Refused
from bridge.ids import DeviceId, RoomId, ServerName, UserId
from bridge.storage import device_lists, edus, to_device
from bridge.storage.device_lists import RemoteList
from bridge.storage.edus import EduRow
from tests.support.clock import FakeClock
from tests.support.network import Network, Server, open_network

PHONE, LAPTOP = DeviceId("PHONE"), DeviceId("LAPTOP")


def device_keys(user_id: UserId, device_id: str, note: str = "") -> JsonObject:
    return {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {f"ed25519:{device_id}": f"ed{note}", f"curve25519:{device_id}": f"cu{note}"},
        "signatures": {user_id: {f"ed25519:{device_id}": f"sig{note}"}},
    }


def signing_key(user_id: UserId, usage: str, public: str) -> JsonObject:
    return {
        "user_id": user_id,
        "usage": [usage],
        "keys": {f"ed25519:{public}": public},
        "signatures": {user_id: {"ed25519:MASTER": "sig"}},
    }


class Scene:
    """alice of `ours` and bob of `theirs` are in `room`."""

    def __init__(self, network: Network, ours: Server, theirs: Server, clock: FakeClock) -> None:
        self.network, self.ours, self.theirs, self.clock = network, ours, theirs, clock
        self.alice, self.bob = ours.user("alice"), theirs.user("bob")
        self.room = RoomId("")
        self._numbers = itertools.count()
        self.lost: set[ServerName] = set()
        """Servers that get nothing: what is for them is gone."""

    async def open_room(self, *more: UserId) -> RoomId:
        room = await self.ours.backend.create_room(
            creator=self.alice, txn=f"room{next(self._numbers)}", public=True
        )
        for user in (self.bob, *more):
            await self.join(room, user)
        return room

    async def join(self, room: RoomId, user: UserId) -> None:
        server = self.network.servers[ServerName(user.partition(":")[2])]
        await server.backend.join(user_id=user, room_id=room, via=[self.ours.name])
        await self.network.deliver()

    async def leave(self, room: RoomId, user: UserId) -> None:
        server = self.network.servers[ServerName(user.partition(":")[2])]
        await server.backend.leave(user_id=user, room_id=room)
        await self.network.deliver()

    async def waiting(self, server: Server, peer: Server) -> list[EduRow]:
        return list(await server.database.read(partial(edus.due, server=peer.name, limit=1_000)))

    async def contents(self, server: Server, peer: Server, edu_type: str) -> list[Any]:
        rows = await self.waiting(server, peer)
        return [json.loads(one.content_json) for one in rows if one.edu_type == edu_type]

    async def carry(self) -> list[str]:
        """EDUs that wait go where they should, in order; what went, by type."""
        went: list[str] = []
        for server in list(self.network.servers.values()):
            for peer in list(self.network.servers.values()):
                rows = await self.waiting(server, peer)
                for one in rows if not peer.down else ():
                    went.append(one.edu_type)
                    if peer.name not in self.lost:
                        await self.hand_over(
                            server, peer, one.edu_type, json.loads(one.content_json)
                        )
                    await server.database.write(partial(edus.delete_edus, row_ids=[one.row_id]))
        return went

    async def hand_over(
        self, server: Server, peer: Server, edu_type: str, content: JsonObject
    ) -> None:
        """As a transaction does it: what makes no sense is skipped."""
        try:
            await peer.people.takers[edu_type].take(server.name, content)
        except (BadInput, Refused):
            return

    async def look(self) -> None:
        """Everybody notices who shares a room with whom."""
        for server in self.network.servers.values():
            while await server.people.company.look():
                continue

    async def fetch(self) -> None:
        """Stale device lists are fetched, as far as that is due."""
        for server in self.network.servers.values():
            for peer in self.network.servers.values():
                await server.people.resync.serve(peer.name)

    async def list_of(self, server: Server, user: UserId) -> RemoteList | None:
        return await server.database.read(lambda tx: device_lists.find(tx, user))

    async def names(self, server: Server, user: UserId) -> dict[str, str | None]:
        """Devices of a remote user as a server keeps them, with their names."""
        rows = await server.database.read(lambda tx: device_lists.devices_of(tx, user))
        return {one.device_id: one.display_name for one in rows}

    async def kept(self, server: Server, user: UserId) -> dict[str, tuple[str | None, str | None]]:
        """The same, with their keys too."""
        rows = await server.database.read(lambda tx: device_lists.devices_of(tx, user))
        return {one.device_id: (one.display_name, one.keys) for one in rows}

    async def inbox(self, server: Server, user: UserId, device: DeviceId) -> list[Any]:
        rows = await server.database.read(
            partial(to_device.read_since, user_id=user, device_id=device, after=0, limit=1_000)
        )
        return [(one.sender, one.type, json.loads(one.content)) for one in rows]


@pytest_asyncio.fixture
async def scene(clock: FakeClock, tmp_path: Path, sqlite_template: Path) -> AsyncIterator[Scene]:
    async with open_network(clock, tmp_path, sqlite_template) as network:
        ours = await network.add("ours.example")
        theirs = await network.add("theirs.example")
        scene = Scene(network, ours, theirs, clock)
        scene.room = await scene.open_room()
        await scene.look()
        yield scene
