"""What somebody does, told in the third person (`/me`). Spec: m.emote; MSC3954."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bridge.content import extensible, legacy
from bridge.content.kinds.kind import ContentKind
from bridge.content.model import Content, Message

EVENT_TYPE = "m.emote"


def _read_legacy(_msgtype: str, content: Content) -> Message | None:
    message = legacy.read_text(content)
    return message and replace(message, kind="emote")


def _read_extensible(_event_type: str, content: Content) -> Message | None:
    message = extensible.read_text(content)
    return message and replace(message, kind="emote")


def _write_legacy(message: Message) -> dict[str, Any]:
    return legacy.write_text(message, "m.emote")


def _write_extensible(message: Message) -> tuple[str, dict[str, Any]]:
    return EVENT_TYPE, extensible.write_text(message)


EMOTE = ContentKind(
    name="emote",
    msgtypes=("m.emote",),
    event_types=(EVENT_TYPE, "org.matrix.msc1767.emote"),
    read_legacy=_read_legacy,
    read_extensible=_read_extensible,
    write_legacy=_write_legacy,
    write_extensible=_write_extensible,
)
