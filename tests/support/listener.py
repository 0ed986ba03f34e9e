"""A bridge side that does what a test says: fills `ChatListener`, without any Matrix behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from bridge.content.model import Message
from bridge.errors import IsthmusError, NotFound
from bridge.ids import EventId, RoomAlias, RoomId, RoomVersionId, UserId
from bridge.ports.chat import (
    ChatChange,
    ChatMessage,
    HistoryMessage,
    Replaced,
    RoomMember,
    RoomMessage,
    RoomPower,
    RoomSubject,
    RoomView,
)
from bridge.ports.command import Answer, Caller, CommandInfo, Outcome
from bridge.ports.ephemeral import ChatEphemeral
from bridge.ports.matrix import Member, PublicRoom, PublicRooms, RoomInfo

NOW_MS = 1_750_000_000_000


class FlatPower:
    """`levels` by user; what needs more than 0 is listed here."""

    NEEDED: ClassVar[dict[str, int]] = {"kick": 50, "ban": 50, "state:m.room.power_levels": 100}

    def __init__(self, levels: dict[UserId, float]) -> None:
        self._levels = levels

    def level(self, user_id: UserId) -> float:
        return self._levels.get(user_id, 0)

    def needed(self, action: str) -> int:
        return self.NEEDED.get(action, 0)

    def may(self, user_id: UserId, action: str, target: UserId | None = None) -> bool:
        if target is not None and self.level(target) >= self.level(user_id):
            return False
        return self.level(user_id) >= self.needed(action)


@dataclass
class ScriptedRoom:
    """A room of the double. Its methods make the deliveries that the real bridge would make."""

    room_id: RoomId
    alias: RoomAlias
    name: str | None = "The garden"
    topic: str | None = "Roses"
    topic_sender: UserId | None = None
    join_rule: str = "public"
    replacement: RoomId | None = None
    first_room: RoomId | None = None
    position: int = 100
    members: dict[UserId, str | None] = field(default_factory=dict)
    history: list[HistoryMessage] = field(default_factory=list)
    levels: dict[UserId, float] = field(default_factory=dict)

    def info(self) -> RoomInfo:
        return RoomInfo(
            room_id=self.room_id,
            version=RoomVersionId("12"),
            extensible=False,
            name=self.name,
            topic=self.topic,
            topic_sender=self.topic_sender,
            topic_ts=NOW_MS,
            canonical_alias=self.alias,
            join_rule=self.join_rule,
            encrypted=False,
            direct=False,
            replacement=self.replacement,
            position=self.position,
        )

    def view(self) -> RoomView:
        return RoomView(
            info=self.info(),
            power=FlatPower(dict(self.levels)),
            members=[
                Member(user_id=user_id, membership="join", displayname=name)
                for user_id, name in self.members.items()
            ],
            history=[],
            first_room=self.first_room,
        )

    def past(self, sender: UserId, text: str) -> None:
        number = len(self.history) + 1
        self.history.append(
            HistoryMessage(
                event_id=EventId(f"$past{number}"),
                sender=sender,
                at_ms=NOW_MS - 60_000 + number,
                message=Message(text=text),
            )
        )

    def said(self, sender: UserId, text: str, *, stanza_id: str | None = None) -> RoomMessage:
        self.position += 1
        return RoomMessage(
            room_id=self.room_id,
            position=self.position,
            event_id=EventId(f"$event{self.position}"),
            sender=sender,
            at_ms=NOW_MS,
            message=Message(text=text),
            stanza_id=stanza_id,
        )

    def came(self, user_id: UserId, displayname: str | None = None) -> RoomMember:
        previous = "join" if user_id in self.members else "leave"
        self.members[user_id] = displayname
        return self._member(user_id, "join", previous, displayname, user_id, None)

    def went(
        self,
        user_id: UserId,
        *,
        by: UserId | None = None,
        membership: str = "leave",
        reason: str | None = None,
    ) -> RoomMember:
        self.members.pop(user_id, None)
        return self._member(user_id, membership, "join", None, by or user_id, reason)

    def _member(
        self,
        user_id: UserId,
        membership: str,
        previous: str,
        displayname: str | None,
        actor: UserId,
        reason: str | None,
    ) -> RoomMember:
        self.position += 1
        return RoomMember(
            room_id=self.room_id,
            position=self.position,
            user_id=user_id,
            membership=membership,
            previous=previous,
            displayname=displayname,
            actor=actor,
            reason=reason,
        )

    def power(self, user_id: UserId, level: float) -> RoomPower:
        self.position += 1
        self.levels[user_id] = level
        return RoomPower(room_id=self.room_id, position=self.position)

    def subject(self, sender: UserId, text: str) -> RoomSubject:
        self.position += 1
        self.topic, self.topic_sender = text, sender
        return RoomSubject(
            room_id=self.room_id,
            position=self.position,
            sender=sender,
            at_ms=NOW_MS,
            text=text,
        )


@dataclass(frozen=True)
class Bounced:
    outbox_id: int
    condition: str
    text: str | None


class ScriptedListener:
    """`failures[method]` is raised by that method; `gate` holds `enter` back while it is set."""

    def __init__(self, user_of: dict[str, UserId] | None = None) -> None:
        self.rooms: dict[RoomId, ScriptedRoom] = {}
        self.accepted: asyncio.Queue[ChatMessage] = asyncio.Queue()
        self.bounced: asyncio.Queue[Bounced] = asyncio.Queue()
        self.topics: asyncio.Queue[str] = asyncio.Queue()
        self.left: asyncio.Queue[tuple[str, RoomId, str | None]] = asyncio.Queue()
        self.entered: list[tuple[str, str]] = []
        self.failures: dict[str, IsthmusError] = {}
        self.changes: list[ChatChange] = []
        self.passing: list[ChatEphemeral] = []
        self.visited: set[str] = set()
        self.replaced: dict[RoomId, RoomAlias | RoomId] = {}
        """Rooms that everybody has left behind, and where they go on."""
        self.aliases: dict[RoomAlias, RoomId] = {}
        """Aliases that lead elsewhere than their rooms say."""
        self.gate: asyncio.Event | None = None
        self.at_gate = asyncio.Event()
        self.ghosts = user_of or {}
        self.listed: list[PublicRoom] = []

    def room(self, room: ScriptedRoom) -> ScriptedRoom:
        self.rooms[room.room_id] = room
        return room

    def _find(self, target: RoomAlias | RoomId) -> ScriptedRoom:
        target = self.aliases.get(RoomAlias(target), target)
        for room in self.rooms.values():
            if target in (room.room_id, room.alias):
                return room
        raise NotFound(f"there is no room {target}")

    def _fail(self, method: str) -> None:
        if method in self.failures:
            raise self.failures[method]

    async def accept(self, message: ChatMessage) -> bool:
        self._fail("accept")
        self.accepted.put_nowait(message)
        return True

    async def accept_change(self, change: ChatChange) -> None:
        self._fail("accept_change")
        self.changes.append(change)

    def on_ephemeral(self, change: ChatEphemeral) -> None:
        self.passing.append(change)

    async def is_visited(self, chat: str) -> bool:
        return chat in self.visited

    async def find_room(self, target: RoomAlias | RoomId) -> RoomId:
        self._fail("find_room")
        room_id = self._find(target).room_id
        if room_id in self.replaced:
            raise Replaced("this room was replaced", successor=self.replaced[room_id])
        return room_id

    async def describe_room(
        self, target: RoomAlias | RoomId, *, address: str | None = None
    ) -> RoomInfo | None:
        return self._find(target).info()

    async def enter(
        self, *, address: str, target: RoomAlias | RoomId, nickname: str, history_limit: int
    ) -> RoomView:
        self.at_gate.set()
        if self.gate is not None:
            await self.gate.wait()
        self._fail("enter")
        room = self._find(target)
        self.entered.append((address, nickname))
        if address in self.ghosts:
            room.members.setdefault(self.ghosts[address], nickname)
        past = room.history[len(room.history) - history_limit :] if history_limit else []
        return replace(room.view(), history=past)

    async def view_room(self, room_id: RoomId) -> RoomView:
        self._fail("view_room")
        return self._find(room_id).view()

    async def leave(self, *, address: str, room_id: RoomId, reason: str | None) -> None:
        self.left.put_nowait((address, room_id, reason))

    async def set_topic(self, *, address: str, room_id: RoomId, topic: str, txn: str) -> None:
        self._fail("set_topic")
        self.topics.put_nowait(topic)

    async def rooms_of(self, address: str) -> Sequence[RoomInfo]:
        return [room.info() for room in self.rooms.values()]

    async def public_rooms(
        self,
        *,
        limit: int,
        after: RoomId | None = None,
        before: RoomId | None = None,
        from_end: bool = False,
    ) -> PublicRooms:
        self._fail("public_rooms")
        ids = [one.room_id for one in self.listed]
        if not {after, before} - {None} <= set(ids):
            raise NotFound("it is not listed any more")
        start = 0 if after is None else ids.index(after) + 1
        end = len(ids) if before is None else ids.index(before)
        backwards = before is not None or from_end
        first = max(start, end - limit) if backwards else start
        last = end if backwards else min(end, start + limit)
        return PublicRooms(
            rooms=self.listed[first:last],
            next="more" if last < len(ids) else None,
            previous="more" if first else None,
            total=len(ids),
        )

    async def find_member_name(self, user_id: UserId) -> str | None:
        return "Alice Liddell" if user_id.startswith("@alice") else None

    async def on_bounced(
        self, *, address: str, outbox_id: int, condition: str, text: str | None
    ) -> None:
        self.bounced.put_nowait(Bounced(outbox_id, condition, text))

    async def on_command(self, *, address: str, text: str) -> str:
        return f"{address} said {text}"


class LeaveOnly:
    """A command table with the one command that every table has."""

    def __init__(self) -> None:
        self.called: list[tuple[Caller, str]] = []

    def commands(self) -> Sequence[CommandInfo]:
        leave = CommandInfo(name="leave", usage="leave [room]", summary="Leave", in_room=True)
        return [leave, replace(leave, name="list", summary="My rooms", in_room=False)]

    def commands_of(self, caller: Caller) -> Sequence[CommandInfo]:
        return self.commands()

    async def greet(self, caller: Caller) -> str:
        return f"Hello {caller.user_id}, I am the bot."

    async def answer(self, caller: Caller, line: str) -> Answer:
        self.called.append((caller, line))
        return Answer(outcome=Outcome.DONE, text="You have left the room.")
