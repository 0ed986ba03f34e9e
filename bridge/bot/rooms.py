"""What commands may do with rooms, over the Matrix port."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bridge.errors import BadInput, NotFound, Refused
from bridge.identity.links import parse_matrix_to, parse_matrix_uri
from bridge.identity.resolver import Conversions
from bridge.ids import RoomAlias, RoomId, UserId, parse_room_alias, parse_room_id, server_of
from bridge.ports.matrix import MatrixBackend, RoomInfo

MAX_SHOWN = 80

RoomAddress = Callable[[str], RoomAlias | RoomId | None]
"""What an adapter reads in a typed address; None where it is none of its own."""


class BackendRooms:
    """Fills `bot.context.RoomActions`."""

    def __init__(
        self,
        *,
        backend: MatrixBackend,
        addresses: Sequence[RoomAddress],
        conversions: Conversions | None = None,
    ) -> None:
        self._backend = backend
        self._addresses = tuple(addresses)
        self._conversions = conversions

    async def rooms_of(self, user_id: UserId) -> Sequence[RoomInfo]:
        self._check_ours(user_id)
        found: list[RoomInfo] = []
        for room_id in await self._backend.joined_rooms(user_id):
            try:
                info = await self._backend.room(room_id)
            except NotFound:
                continue  # left in the meantime
            if not info.direct:
                found.append(info)
        return found

    def _check_ours(self, user_id: UserId) -> None:
        if server_of(user_id) != self._backend.server_name:
            raise Refused("you are on Matrix yourself: your own client shows and leaves your rooms")

    async def find_room(self, target: RoomAlias | RoomId) -> RoomId:
        if target.startswith("!"):
            return RoomId(target)
        room_id, _ = await self._backend.resolve_alias(RoomAlias(target))
        return room_id

    async def leave(self, *, user_id: UserId, room_id: RoomId) -> None:
        self._check_ours(user_id)
        member = await self._backend.member(room_id, user_id)
        if member is None or member.membership not in ("join", "invite", "knock"):
            raise NotFound("you are not in this room")
        await self._backend.leave(user_id=user_id, room_id=room_id)

    async def is_direct(self, room_id: RoomId) -> bool:
        return (await self._backend.room(room_id)).direct

    def room_from_typed(self, text: str) -> RoomAlias | RoomId:
        for read in self._addresses:
            found = read(text)
            if found is not None:
                return found
        if text.startswith("!"):
            return parse_room_id(text)
        if text.startswith("#"):
            return parse_room_alias(text)
        linked = _linked(text)
        if linked is not None and not linked.startswith("@"):
            return RoomAlias(linked) if linked.startswith("#") else RoomId(linked)
        raise BadInput(f"{text[:MAX_SHOWN]!r} is not the address of a room")

    def chat_from_typed(self, text: str) -> str:
        """An address of the chat side, a link to it, or the alias under which it is a room."""
        if self._conversions is None:
            raise BadInput("there are no foreign chats here")
        linked = parse_room_alias(text) if text.startswith("#") else _linked(text)
        try:
            if linked is not None:
                text = self._conversions.to_address(linked)
            found = self._conversions.parse_typed(text)
        except NotFound as exc:
            raise BadInput(f"{text[:MAX_SHOWN]!r} is no chat of XMPP") from exc
        if found.domain == self._conversions.own_domain:
            raise BadInput(f"{text[:MAX_SHOWN]!r} is on Matrix: I need a chat of XMPP here")
        if not found.local:
            raise BadInput(f"{text[:MAX_SHOWN]!r} is no chat: write it like tea@muc.example.org")
        return found.address


def _linked(text: str) -> UserId | RoomAlias | RoomId | None:
    """What a matrix.to or matrix: link leads to."""
    if text[:7].lower() == "matrix:":
        return parse_matrix_uri(text)
    return parse_matrix_to(text) if "matrix.to/#/" in text else None
