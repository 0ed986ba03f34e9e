"""Plumbing: an existing room and a foreign chat become one, and two again, on somebody's word.

Whoever plumbs needs power in the room and ownership or administration of the chat, or is an admin
of this gateway. What nobody says allows nothing. Spec: MSC2346.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.errors import Unavailable
from bridge.ids import RoomAlias, RoomId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalView:
    """A foreign chat and its room, as `list` shows them."""

    kind: str
    """`portal`: the room was made for the chat; `plumbed`: it was there before."""
    chat: str
    room_id: RoomId
    alias: RoomAlias | None
    name: str | None
    guests: int
    """Our people in the chat."""
    occupants: int
    """The chat's own people who are in it now."""


class Plumbing:
    """Answers are words for the caller. What was not done raises Refused, NotFound, BadInput or
    Unavailable, whose reason is the answer."""

    async def list_portals(self) -> Sequence[PortalView]:
        """In the order of their making."""
        raise Unavailable("not ready yet")

    async def find(
        self, *, chat: str | None = None, room_id: RoomId | None = None
    ) -> PortalView | None:
        raise Unavailable("not ready yet")

    async def plumb(self, *, caller: UserId, is_admin: bool, chat: str, room_id: RoomId) -> str:
        raise Unavailable("not ready yet")

    async def unplumb(self, *, caller: UserId, is_admin: bool, chat: str) -> str:
        """Of either kind; a room that was made for the chat is given up."""
        raise Unavailable("not ready yet")

    async def delete(self, *, caller: UserId, is_admin: bool, chat: str) -> str:
        """Gives up a room that was made for the chat."""
        raise Unavailable("not ready yet")
