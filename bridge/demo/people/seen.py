"""What the client-server API answers: the events of a `/sync`, and errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bridge.errors import IsthmusError

Section = Literal["invite", "state", "timeline", "left", "ephemeral", "account", "presence"]

_SHOWN_CHARACTERS = 300


class MatrixFailed(IsthmusError):
    """The homeserver answered with an error."""

    def __init__(self, status: int, errcode: str, reason: str, *, path: str) -> None:
        super().__init__(f"{path}: {status} {errcode} {reason}", errcode=errcode)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEvent:
    """An event as `/sync` showed it, and in which part of the answer.

    `invite` holds stripped state; `left` is the timeline of a room that we are out of.
    """

    section: Section
    room_id: str
    event: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.event.get("type", ""))

    @property
    def sender(self) -> str:
        return str(self.event.get("sender", ""))

    @property
    def event_id(self) -> str:
        return str(self.event.get("event_id", ""))

    @property
    def state_key(self) -> str | None:
        key = self.event.get("state_key")
        return key if isinstance(key, str) else None

    @property
    def content(self) -> dict[str, Any]:
        content = self.event.get("content")
        return content if isinstance(content, dict) else {}

    @property
    def body(self) -> str | None:
        """Text of either form: the legacy body, or the first plain `m.text`. Spec: MSC1767."""
        body = self.content.get("body")
        if isinstance(body, str):
            return body
        return _plain_text(self.content.get("m.text"))

    @property
    def membership(self) -> str | None:
        """For member events."""
        value = self.content.get("membership")
        return value if self.type == "m.room.member" and isinstance(value, str) else None

    def __str__(self) -> str:
        text = json.dumps(self.event, ensure_ascii=False)
        surplus = len(text) - _SHOWN_CHARACTERS
        cut = text if surplus <= 0 else f"{text[:_SHOWN_CHARACTERS]}... ({surplus} more)"
        return f"[{self.section} {self.room_id}] {cut}"


def _plain_text(blocks: object) -> str | None:
    if not isinstance(blocks, list):
        return None
    for block in blocks:
        if isinstance(block, dict) and block.get("mimetype", "text/plain") == "text/plain":
            text = block.get("body")
            return text if isinstance(text, str) else None
    return None


def events_of(sync: Mapping[str, Any]) -> Iterable[SeenEvent]:
    """The events of a `/sync` answer: account data, presence, then room by room."""
    for event in sync.get("account_data", {}).get("events", []):
        yield SeenEvent(section="account", room_id="", event=event)
    for event in sync.get("presence", {}).get("events", []):
        yield SeenEvent(section="presence", room_id="", event=event)
    rooms = sync.get("rooms", {})
    for room_id, room in rooms.get("invite", {}).items():
        for event in room.get("invite_state", {}).get("events", []):
            yield SeenEvent(section="invite", room_id=room_id, event=event)
    sections: Sequence[tuple[str, str, Section]] = (
        ("join", "state", "state"),
        ("join", "timeline", "timeline"),
        ("join", "ephemeral", "ephemeral"),
        ("leave", "state", "left"),
        ("leave", "timeline", "left"),
    )
    for kind, part, section in sections:
        for room_id, room in rooms.get(kind, {}).items():
            for event in room.get(part, {}).get("events", []):
                yield SeenEvent(section=section, room_id=room_id, event=event)
