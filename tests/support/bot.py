"""What commands are given in tests: parts that know little and remember what they were asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.bot.context import Section, Waiting
from bridge.bot.dispatch import Dispatch
from bridge.errors import BadInput, NotFound
from bridge.identity.resolver import Resolved
from bridge.ids import (
    KeyId,
    RoomAlias,
    RoomId,
    ServerName,
    UserId,
    parse_room_alias,
    parse_room_id,
    parse_server_name,
)
from bridge.policy.rights import Rights
from bridge.policy.rules import Action
from bridge.portals.plumbing import PortalView
from bridge.ports.matrix import RoomInfo
from bridge.storage.queues import Backlog
from bridge.storage.traces import Story

GATEWAY = ServerName("gw.example")
ADMIN = UserId("@admin:matrix.example")
ALICE = UserId("@alice:matrix.example")
JULIET = UserId("@juliet=40capulet.lit:gw.example")
NOBODY = UserId("@nobody:elsewhere.example")
RIGHTS = Rights(
    {str(ADMIN): "admin", "matrix.example": "user", "capulet.lit": "user"}, own_server=GATEWAY
)
TEA = PortalView(
    kind="plumbed",
    chat="tea@muc.example",
    room_id=RoomId("!tea:matrix.example"),
    alias=None,
    name="Tea",
    guests=2,
    occupants=1,
)
DIRECT = RoomId("!direct:matrix.example")
EMPTY = Backlog(waiting=0, oldest_ms=None, parked=0)


class NoRooms:
    """Fits `bot.context.RoomActions`, for somebody who is in none."""

    async def rooms_of(self, user_id: UserId) -> Sequence[RoomInfo]:
        return ()

    async def find_room(self, target: RoomAlias | RoomId) -> RoomId:
        if target.startswith("!"):
            return RoomId(target)
        raise NotFound(f"there is no {target}")

    async def leave(self, *, user_id: UserId, room_id: RoomId) -> None:
        raise NotFound("you are not in this room")

    async def is_direct(self, room_id: RoomId) -> bool:
        return room_id == DIRECT

    def room_from_typed(self, text: str) -> RoomAlias | RoomId:
        if text.startswith("!"):
            return parse_room_id(text)
        if text.startswith("#"):
            return parse_room_alias(text)
        raise BadInput(f"{text!r} is not the address of a room")

    def chat_from_typed(self, text: str) -> str:
        if "@" not in text:
            raise BadInput(f"{text!r} is no chat")
        return text


class FakePortals:
    """Fits `bot.context.Portals`; `asked` is what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def list_portals(self, viewer: UserId | None = None) -> Sequence[PortalView]:
        return [TEA]

    async def plumb(self, *, caller: UserId, is_admin: bool, chat: str, room_id: RoomId) -> str:
        self.asked.append(("plumb", caller, is_admin, chat, room_id))
        return "They are one now."

    async def unplumb(self, *, caller: UserId, is_admin: bool, chat: str) -> str:
        self.asked.append(("unplumb", caller, is_admin, chat))
        return "They are two again."


class FakeUpgrades:
    """Fits `bot.context.Upgrades`; `asked` is what was asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def upgrade(self, **asked: Any) -> str:
        self.asked.append(asked)
        return "It is replaced."


class FakeListings:
    """Fits `bot.context.Listings`; `asked` is what was asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def publish(self, **asked: Any) -> str:
        self.asked.append({"what": "publish", **asked})
        return "It is listed."

    async def unpublish(self, **asked: Any) -> str:
        self.asked.append({"what": "unpublish", **asked})
        return "It is not listed."

    async def browse(self, **asked: Any) -> str:
        self.asked.append({"what": "browse", **asked})
        return "No rooms."

    async def browse_space(self, **asked: Any) -> str:
        self.asked.append({"what": "browse_space", **asked})
        return "No rooms in it."


class FakeResolver:
    """Fits `bot.context.Resolves`: Matrix users, Juliet, a room and a number."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, typed: str) -> Resolved:
        self.asked.append(typed)
        if typed == "+1 555 123 4567":
            return Resolved(user_id=UserId("@15551234567:example.org"), source="templates")
        if typed in ("juliet@capulet.lit", JULIET):
            return Resolved(user_id=JULIET, address="juliet@capulet.lit", source="links")
        if typed.startswith("#"):
            return Resolved(room=RoomAlias(typed), address="garden@gw.example", source="links")
        if typed.startswith("@"):
            return Resolved(user_id=UserId(typed), address="them@gw.example", source="links")
        raise NotFound(f"I know nobody under {typed}")


class FakeQueues:
    """Fits `bot.context.Queues`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, UserId]] = []

    async def look(self) -> Sequence[Waiting]:
        return [
            Waiting(name=name, backlog=EMPTY, parked=(), oldest=()) for name in ("inbox", "outbox")
        ]

    async def retry(self, typed: str, *, by: UserId) -> str:
        self.asked.append(("retry", typed, by))
        return "Tried."

    async def drop(self, typed: str, *, by: UserId) -> str:
        self.asked.append(("drop", typed, by))
        return "Dropped."


class FakeKeys:
    """Fits `bot.context.Keys`; `rotations` is how often they were replaced."""

    def __init__(self) -> None:
        self.rotations = 0

    def in_use(self) -> Sequence[KeyId]:
        return [KeyId(f"ed25519:k{self.rotations}")]

    def retired(self) -> Sequence[tuple[KeyId, int]]:
        return [(KeyId(f"ed25519:k{number}"), 0) for number in range(self.rotations)]

    async def rotate(self) -> KeyId:
        self.rotations += 1
        return self.in_use()[0]


class FakeJournal:
    """Fits `bot.context.Journal`: knows the stories that it is given."""

    def __init__(self, *stories: Story) -> None:
        self.stories = stories

    async def find(self, typed: str) -> Sequence[Story]:
        return self.stories


class FakeRules:
    """Fits `bot.context.Rules`; whoever stands in `denied` may not use the bot."""

    def __init__(self, *denied: UserId) -> None:
        self.denied = denied
        self.asked: list[tuple[Any, ...]] = []

    def denial_of(self, user_id: UserId) -> str | None:
        return f"{user_id} is denied here by bot rule 1" if user_id in self.denied else None

    async def add(self, action: Action, words: Sequence[str], *, by: UserId) -> str:
        self.asked.append((action, tuple(words), by))
        return "Rule 1."

    async def remove(self, typed: str, *, by: UserId) -> str:
        self.asked.append(("remove", typed, by))
        return "Rule 1 is gone."

    async def listing(self) -> str:
        return "There are no rules."


class FakeLists:
    """Fits `bot.context.Lists`; `asked` is what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def subscribe(
        self, target: RoomAlias | RoomId, via: Sequence[ServerName] = (), *, by: UserId
    ) -> str:
        self.asked.append(("subscribe", target, tuple(via), by))
        return "I follow it."

    async def unsubscribe(self, target: RoomAlias | RoomId, *, by: UserId) -> str:
        self.asked.append(("unsubscribe", target, by))
        return "I follow it no more."

    async def listing(self) -> str:
        return "Policy room !list:x: 2 rules"


class FakePeers:
    """Fits `bot.context.Peers`."""

    async def describe(self, typed: str) -> str:
        return f"{parse_server_name(typed)}: 0 rooms shared."


class FakeStatus:
    async def sections(self) -> Sequence[Section]:
        return [Section(title="Gateway", lines=["XMPP: connected"])]


def ghosts_of_domains(user_id: UserId) -> str | None:
    """The address behind a ghost whose name is plain."""
    local, _, server = user_id[1:].partition(":")
    return local.replace("=40", "@").replace("=2f", "/") if server == GATEWAY else None


def bench(**parts: Any) -> Dispatch:
    """A table of all commands over these parts."""
    given: Mapping[str, Any] = {
        "rooms": NoRooms(),
        "rights": RIGHTS,
        "address_of": ghosts_of_domains,
        "portals": FakePortals(),
        "upgrades": FakeUpgrades(),
        "listings": FakeListings(),
        "resolver": FakeResolver(),
        "queues": FakeQueues(),
        "keys": FakeKeys(),
        "journal": FakeJournal(),
        "status": FakeStatus(),
        "rules": FakeRules(),
        "lists": FakeLists(),
        "peers": FakePeers(),
    }
    return Dispatch(**{**given, **parts})
