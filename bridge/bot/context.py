"""What a command gets and what it is made of.

Commands see narrow protocols only; `app` fills them. A part that this gateway runs without is
None, and `present` says so to whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from bridge.errors import Unavailable
from bridge.identity.resolver import Resolved
from bridge.ids import KeyId, RoomAlias, RoomId, RoomVersionId, ServerName, UserId
from bridge.policy.rights import Rights
from bridge.policy.rules import Action
from bridge.portals.plumbing import PortalView
from bridge.ports.command import Caller, CommandInfo, Level
from bridge.ports.matrix import RoomInfo
from bridge.storage.queues import Backlog, QueueItem
from bridge.storage.traces import Story

T = TypeVar("T")


class RoomActions(Protocol):
    """What commands may do with rooms; narrower than the Matrix port."""

    async def rooms_of(self, user_id: UserId) -> Sequence[RoomInfo]: ...

    async def find_room(self, target: RoomAlias | RoomId) -> RoomId: ...

    async def leave(self, *, user_id: UserId, room_id: RoomId) -> None:
        """The caller's own membership, or an invite of theirs. NotFound: there is none."""
        ...

    async def is_direct(self, room_id: RoomId) -> bool:
        """A chat of two, which is nobody's to plumb."""
        ...

    def room_from_typed(self, text: str) -> RoomAlias | RoomId:
        """What a person would type for a room. Raises BadInput."""
        ...

    def chat_from_typed(self, text: str) -> str:
        """What a person would type for a foreign chat. Raises BadInput."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One queue: how much waits or is parked, and the rows that an operator looks at first."""

    name: str
    backlog: Backlog
    parked: Sequence[QueueItem]
    """The newest first."""
    oldest: Sequence[QueueItem]
    """What waits, the oldest first."""


class Queues(Protocol):
    """The durable queues, in an operator's hands."""

    async def look(self) -> Sequence[Waiting]: ...

    async def retry(self, typed: str, *, by: UserId) -> str:
        """One row (`outbox 12`) or `all` that is parked: due now. What was done, in words."""
        ...

    async def drop(self, typed: str, *, by: UserId) -> str:
        """Gives up one row that waits or is parked; its author is told."""
        ...


class Portals(Protocol):
    """Foreign chats and their rooms (`portals.plumbing`)."""

    async def list_portals(self, viewer: UserId | None = None) -> Sequence[PortalView]:
        """For a `viewer` those that are no secret to them."""
        ...

    async def plumb(self, *, caller: UserId, is_admin: bool, chat: str, room_id: RoomId) -> str: ...

    async def unplumb(self, *, caller: UserId, is_admin: bool, chat: str) -> str: ...


class Upgrades(Protocol):
    """Rooms and their successors."""

    async def upgrade(
        self,
        *,
        caller: UserId,
        is_admin: bool,
        room_id: RoomId,
        version: RoomVersionId,
        creators: Sequence[UserId],
        anyway: bool,
    ) -> str:
        """`anyway`: also when servers in the room cannot follow."""
        ...


class Listings(Protocol):
    """Lists of rooms for everybody: ours, and those of other servers."""

    async def publish(self, *, caller: UserId, is_admin: bool, room_id: RoomId) -> str: ...

    async def unpublish(self, *, caller: UserId, is_admin: bool, room_id: RoomId) -> str: ...

    async def browse(self, *, caller: UserId, words: Sequence[str]) -> str: ...

    async def browse_space(
        self, *, caller: UserId, space: RoomAlias | RoomId, words: Sequence[str]
    ) -> str: ...


class Keys(Protocol):
    """The keys with which this server signs."""

    def in_use(self) -> Sequence[KeyId]:
        """The one that signs is the last."""
        ...

    def retired(self) -> Sequence[tuple[KeyId, int]]:
        """With the time (ms) until which each counts."""
        ...

    async def rotate(self) -> KeyId:
        """A new key signs from now on, and those before it are retired."""
        ...


class Resolves(Protocol):
    """From what a person types to somebody (`identity.resolver`)."""

    async def resolve(self, typed: str) -> Resolved: ...


class Rules(Protocol):
    """The rules of the house."""

    def denial_of(self, user_id: UserId) -> str | None:
        """Why somebody may not use the bot; None: they may."""
        ...

    async def add(self, action: Action, words: Sequence[str], *, by: UserId) -> str: ...

    async def remove(self, typed: str, *, by: UserId) -> str: ...

    async def listing(self) -> str: ...


class Lists(Protocol):
    """Policy rooms whose rules hold here (`portals.policy_rooms`)."""

    async def subscribe(
        self, target: RoomAlias | RoomId, via: Sequence[ServerName] = (), *, by: UserId
    ) -> str: ...

    async def unsubscribe(self, target: RoomAlias | RoomId, *, by: UserId) -> str: ...

    async def listing(self) -> str:
        """Empty where there is none."""
        ...


class Peers(Protocol):
    """Other servers."""

    async def describe(self, typed: str) -> str: ...


class Journal(Protocol):
    async def find(self, typed: str) -> Sequence[Story]:
        """What became of the messages that this names; empty where there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    lines: Sequence[str]


class Status(Protocol):
    async def sections(self) -> Sequence[Section]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One call of one command."""

    caller: Caller
    level: Level
    address: str | None
    """Of somebody of the chat side."""
    arguments: tuple[str, ...]
    commands: Sequence[CommandInfo]
    """What the caller may use."""
    rights: Rights | None
    address_of: Callable[[UserId], str | None]
    rooms: RoomActions
    portals: Portals | None = None
    upgrades: Upgrades | None = None
    listings: Listings | None = None
    resolver: Resolves | None = None
    queues: Queues | None = None
    keys: Keys | None = None
    journal: Journal | None = None
    status: Status | None = None
    rules: Rules | None = None
    lists: Lists | None = None
    peers: Peers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`run` answers in words; it raises Refused, NotFound, BadInput or Unavailable, whose reason is
    the answer."""

    info: CommandInfo
    run: Callable[[Context], Awaitable[str]]


def present(part: T | None) -> T:
    if part is None:
        raise Unavailable("this gateway runs without what this command needs")
    return part
