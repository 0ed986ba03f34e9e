"""Upgrades as another server does them: a successor that names the room, then a tombstone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from bridge.engine.build import Draft, build_pdu
from bridge.engine.pdu import Pdu
from bridge.ids import RoomId, RoomVersionId, UserId
from bridge.rooms import create as room_create
from tests.support.world import ALICE, World

_numbers = iter(range(1, 1_000_000))


@contextmanager
def _naming(predecessor: RoomId | None) -> Iterator[None]:
    """Rooms made meanwhile say that they replace this one."""

    def build(draft: Draft, **more: Any) -> Pdu:
        if draft.type == "m.room.create" and predecessor is not None:
            said = {"room_id": predecessor, "event_id": "$whatever"}
            draft = replace(draft, content={**draft.content, "predecessor": said})
        return build_pdu(draft, **more)

    with mock.patch.object(room_create, "build_pdu", build):
        yield


async def make_successor(
    world: World,
    predecessor: RoomId | None,
    *,
    public: bool = True,
    version: str = "11",
    creator: UserId = ALICE,
) -> RoomId:
    with _naming(predecessor):
        return await world.home.backend.create_room(
            creator=creator,
            txn=f"successor-{next(_numbers)}",
            name="Garden",
            public=public,
            version=RoomVersionId(version),
        )


async def entomb(world: World, room_id: RoomId, successor: object) -> None:
    content = {"body": "moved", "replacement_room": successor}
    await world.state(room_id, "m.room.tombstone", content)


async def upgrade(world: World, room_id: RoomId, *, public: bool = True) -> RoomId:
    """The successor, which nobody but Alice is in yet."""
    successor = await make_successor(world, room_id, public=public)
    await entomb(world, room_id, successor)
    return successor
