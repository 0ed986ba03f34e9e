"""What an entry of `KINDS` says about one kind of message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bridge.content.model import Content, KindName, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentKind:
    """Readers return None for content that does not fit; writers get messages of this kind."""

    name: KindName
    msgtypes: tuple[str, ...]
    """Of m.room.message in legacy rooms."""
    event_types: tuple[str, ...]
    """In extensible rooms, unstable names included."""
    read_legacy: Callable[[str, Content], Message | None]
    """Gets the msgtype (or the type of an event that is no m.room.message) and the content."""
    read_extensible: Callable[[str, Content], Message | None]
    """Gets the event type and the content."""
    write_legacy: Callable[[Message], dict[str, Any]]
    """The content of an m.room.message."""
    write_extensible: Callable[[Message], tuple[str, dict[str, Any]]]
    """Event type and content."""
