"""EDUs: a bounded parser for what a transaction carries beside PDUs.

Content is checked here; whether the user belongs to the sending server is `belongs_to`, and whether
they are in the room is the shell's to ask. Types that are not parsed here come back as `OtherEdu`.
Spec: S2S, EDUs, typing notifications, receipts, presence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from bridge.engine.canonical import MAX_INTEGER, JsonObject
from bridge.errors import BadInput
from bridge.ids import (
    EventId,
    RoomId,
    ServerName,
    UserId,
    parse_event_id,
    parse_room_id,
    parse_user_id,
    server_of,
)

MAX_EDU_TYPE_BYTES = 255
MAX_RECEIPTS = 1000
"""Per EDU; what comes after is cut off, because the newest wins and will come again."""
MAX_PRESENCES = 1000
MAX_STATUS_CHARACTERS = 1024
_PRESENCES = frozenset({"online", "unavailable", "offline"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TypingEdu:
    """Somebody starts or stops typing."""

    room_id: RoomId
    user_id: UserId
    typing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """How far a user has read."""

    room_id: RoomId
    user_id: UserId
    event_id: EventId
    ts_ms: int
    thread_id: str | None = None
    """Root event or `main`; None when it is unthreaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptEdu:
    """The `m.read` receipts; malformed entries are left out."""

    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """One user's presence."""

    user_id: UserId
    presence: str
    """`online`, `unavailable` or `offline`."""
    status: str | None
    last_active_ago_ms: int | None
    currently_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceEdu:
    """Presence updates; malformed entries are left out."""

    presences: tuple[Presence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherEdu:
    """An EDU of a type that is not read here."""

    type: str
    content: JsonObject


Edu: TypeAlias = TypingEdu | ReceiptEdu | PresenceEdu | OtherEdu


def parse_edu(json: object) -> Edu:
    """Raises `BadInput` when the EDU as a whole cannot be read."""
    if not isinstance(json, dict):
        raise BadInput("an EDU is a JSON object")
    kind, content = json.get("edu_type"), json.get("content")
    if not isinstance(kind, str) or not 0 < len(kind.encode()) <= MAX_EDU_TYPE_BYTES:
        raise BadInput("an EDU has a type")
    if not isinstance(content, dict):
        raise BadInput("the content of an EDU is an object")
    match kind:
        case "m.typing":
            return _typing(content)
        case "m.receipt":
            return ReceiptEdu(receipts=_receipts(content))
        case "m.presence":
            return PresenceEdu(presences=_presences(content))
        case _:
            return OtherEdu(type=kind, content=content)


def belongs_to(user_id: UserId, origin: ServerName) -> bool:
    """Whether a server may speak for the user: only for its own."""
    return server_of(user_id) == origin


def _typing(content: JsonObject) -> TypingEdu:
    typing = content.get("typing")
    if not isinstance(typing, bool):
        raise BadInput("typing is not a boolean")
    return TypingEdu(
        room_id=parse_room_id(content.get("room_id")),
        user_id=parse_user_id(content.get("user_id")),
        typing=typing,
    )


def _receipts(content: JsonObject) -> tuple[Receipt, ...]:
    found: list[Receipt] = []
    for room_id, kinds in content.items():
        read = kinds.get("m.read") if isinstance(kinds, dict) else None
        for user_id, entry in read.items() if isinstance(read, dict) else ():
            if len(found) == MAX_RECEIPTS:
                return tuple(found)
            try:
                found.append(_receipt(room_id, user_id, entry))
            except BadInput:
                continue
    return tuple(found)


def _receipt(room_id: str, user_id: str, entry: Any) -> Receipt:
    event_ids = entry.get("event_ids") if isinstance(entry, dict) else None
    data = entry.get("data") if isinstance(entry, dict) else None
    if not isinstance(event_ids, list) or not event_ids or not isinstance(data, dict):
        raise BadInput("a receipt has an event and data")
    ts, thread_id = data.get("ts"), data.get("thread_id")
    if type(ts) is not int or not 0 <= ts <= MAX_INTEGER:
        raise BadInput("a receipt has a time")
    if thread_id is not None and thread_id != "main":
        thread_id = parse_event_id(thread_id)
    return Receipt(
        room_id=parse_room_id(room_id),
        user_id=parse_user_id(user_id),
        event_id=parse_event_id(event_ids[0]),
        ts_ms=ts,
        thread_id=thread_id,
    )


def _presences(content: JsonObject) -> tuple[Presence, ...]:
    push = content.get("push")
    if not isinstance(push, list):
        raise BadInput("push is not an array")
    found: list[Presence] = []
    for entry in push[:MAX_PRESENCES]:
        try:
            found.append(_presence(entry))
        except BadInput:
            continue
    return tuple(found)


def _presence(entry: Any) -> Presence:
    if not isinstance(entry, dict):
        raise BadInput("a presence is an object")
    presence, status, ago = (
        entry.get("presence"),
        entry.get("status_msg"),
        entry.get("last_active_ago"),
    )
    if not isinstance(presence, str) or presence not in _PRESENCES:
        raise BadInput("unknown presence")
    return Presence(
        user_id=parse_user_id(entry.get("user_id")),
        presence=presence,
        status=status[:MAX_STATUS_CHARACTERS] if isinstance(status, str) else None,
        last_active_ago_ms=ago if type(ago) is int and 0 <= ago <= MAX_INTEGER else None,
        currently_active=entry.get("currently_active") is True,
    )
