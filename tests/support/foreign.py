"""The bridge side of a foreign chat, as far as its adapter depends on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.clock import Clock
from bridge.ports.chat import (
    ChatChange,
    ChatDestroyed,
    ChatMessage,
    ChatRenamed,
    GuestEntered,
    GuestRemoved,
    OccupantCame,
    OccupantGone,
    OccupantRoll,
    SubjectChanged,
)
from bridge.storage import chats
from bridge.storage.database import Database
from tests.support.listener import ScriptedListener


@dataclass
class Bridge(ScriptedListener):
    """Keeps what is told in its order, and how far the chat has been read."""

    database: Database
    clock: Clock
    chat: str
    told: list[str] = field(default_factory=list)
    messages: list[ChatMessage] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    async def accept(self, message: ChatMessage) -> bool:
        self._fail("accept")
        name = message.archive_id or f"{message.stanza_id}/{message.fingerprint}/{message.at_ms}"
        if name in self.known:
            self.told.append(f"again {message.message.text}")
            return False
        self.known.add(name)
        self.messages.append(message)
        self.told.append(f"{message.sender_name}: {message.message.text}")
        at_ms = message.at_ms or self.clock.now_ms()
        await self.database.write(
            lambda tx: chats.move_position(
                tx, adapter="xmpp", chat=self.chat, archive_id=message.archive_id, archive_ms=at_ms
            )
        )
        return True

    async def accept_change(self, change: ChatChange) -> None:
        await super().accept_change(change)
        match change:
            case OccupantRoll(occupants=people):
                self.told.append("roll " + ",".join(sorted(p.nickname for p in people)))
            case OccupantCame(occupant=person):
                self.told.append(f"+{person.nickname}")
            case OccupantGone(occupant=person, how=how):
                self.told.append(f"-{person.nickname} {how}")
            case SubjectChanged(text=text):
                self.told.append(f"subject {text}")
            case GuestEntered(nickname=nickname, wanted=wanted):
                self.told.append(f"in as {nickname}, wanted {wanted}")
            case GuestRemoved(user_id=user_id, how=how, actor=actor, reason=reason):
                self.told.append(f"{user_id} {how} by {actor}: {reason}")
            case ChatRenamed(name=name):
                self.told.append(f"name {name}")
            case ChatDestroyed(alternative=where, reason=reason):
                self.told.append(f"destroyed, now {where}: {reason}")

    def take(self) -> list[str]:
        told, self.told = self.told, []
        return told
