"""What a command gets and what it is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.ids import RoomAlias, RoomId, UserId
from bridge.ports.command import Caller, CommandInfo
from bridge.ports.matrix import RoomInfo


class RoomActions(Protocol):
    """What commands may do with rooms; narrower than the Matrix port."""

    async def rooms_of(self, user_id: UserId) -> Sequence[RoomInfo]: ...

    async def find_room(self, target: RoomAlias | RoomId) -> RoomId: ...

    async def leave(self, *, user_id: UserId, room_id: RoomId) -> None:
        """The caller's own membership, or an invite of theirs. NotFound: there is none."""
        ...

    def room_from_typed(self, text: str) -> RoomAlias | RoomId:
        """What a person would type for a room. Raises BadInput."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One call of one command."""

    caller: Caller
    arguments: tuple[str, ...]
    rooms: RoomActions
    commands: Sequence[CommandInfo]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`run` answers in words; it raises Refused, NotFound, BadInput or Unavailable, whose reason is
    the answer."""

    info: CommandInfo
    run: Callable[[Context], Awaitable[str]]
