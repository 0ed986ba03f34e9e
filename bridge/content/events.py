"""Message <-> Matrix event. The form is picked by the room version, never by the event seen."""

from __future__ import annotations

from typing import Any

from bridge.content.model import Content, Message, Outcome


def to_event(message: Message, *, extensible: bool) -> tuple[str, dict[str, Any]]:
    """Type and content. `extensible`: the room's version says extensible_events."""
    raise NotImplementedError


def from_event(
    event_type: str, content: Content, *, extensible: bool, is_state: bool = False
) -> Outcome:
    """What an event says to people. Spec: I.1, 3.1 to 3.3; client-server, m.room.message."""
    raise NotImplementedError


def split_message(message: Message, *, extensible: bool) -> tuple[Message, ...]:
    """The same message in parts that each fit into one event; most often itself."""
    raise NotImplementedError
