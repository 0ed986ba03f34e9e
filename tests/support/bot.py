"""What commands may do with rooms, for somebody who is in none."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.errors import BadInput, NotFound
from bridge.ids import RoomAlias, RoomId, UserId, parse_room_alias, parse_room_id
from bridge.ports.matrix import RoomInfo


class NoRooms:
    """Fits `bot.context.RoomActions`."""

    async def rooms_of(self, user_id: UserId) -> Sequence[RoomInfo]:
        return ()

    async def find_room(self, target: RoomAlias | RoomId) -> RoomId:
        raise NotFound(f"there is no {target}")

    async def leave(self, *, user_id: UserId, room_id: RoomId) -> None:
        raise NotFound("you are not in this room")

    def room_from_typed(self, text: str) -> RoomAlias | RoomId:
        if text.startswith("!"):
            return parse_room_id(text)
        if text.startswith("#"):
            return parse_room_alias(text)
        raise BadInput(f"{text!r} is not the address of a room")
