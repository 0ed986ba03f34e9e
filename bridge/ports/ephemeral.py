"""What passes between the chat side and the bridge and is never stored: typing, how far somebody
has read, presence. At most once, in memory, bounded; a restart replays nothing.

Part of the chat port. `Told` is what an adapter tells the bridge (`ChatListener.on_ephemeral`),
`Shown` what it is to show (`ChatAdapter.show`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from bridge.ids import RoomId, UserId

Availability: TypeAlias = Literal["available", "away", "xa", "dnd", "unavailable"]
"""The words of RFC 6121, 4.7.2; `xa`: away for long."""

# --- from the chat side -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTyping:
    """Somebody types, or does not any more. One of `to_user`, `to_room`, `to_chat` is set, as in
    `ChatMessage`; who may not be in the room is no occupant, and is not told of."""

    sender: str
    typing: bool
    to_user: UserId | None = None
    to_room: RoomId | None = None
    to_chat: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRead:
    """Somebody has read everything up to a message."""

    sender: str
    message_id: str
    """In a room that we serve the ID that the message bears there; in a foreign chat the chat's own
    ID; one-to-one the id of the stanza."""
    outbox_id: int | None = None
    """One-to-one: the delivery that the message was."""
    to_user: UserId | None = None
    to_room: RoomId | None = None
    to_chat: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPresence:
    """How somebody is there, of all their clients together. Told when it changes."""

    sender: str
    availability: Availability
    status_text: str | None


ChatEphemeral: TypeAlias = ChatTyping | ChatRead | ChatPresence

# --- to the chat side -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowTyping:
    """To one address (`to`), to everybody in a room that we serve, or in a foreign chat."""

    sender: UserId
    typing: bool
    to: str | None = None
    room_id: RoomId | None = None
    chat: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowRead:
    """`sender` has read up to this message: to its author (`to`), or to everybody in a room or a
    foreign chat, by the ID that the message has there."""

    sender: UserId
    message_id: str
    to: str | None = None
    room_id: RoomId | None = None
    chat: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowPresence:
    """To everybody who has asked to see the Matrix user's presence."""

    sender: UserId
    availability: Availability
    status_text: str | None = None
    idle_since_ms: int | None = None


Passing: TypeAlias = ShowTyping | ShowRead | ShowPresence
