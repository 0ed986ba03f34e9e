"""Text that a person wrote. Spec: m.text; MSC1767, m.message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bridge.content import extensible, legacy
from bridge.content.kinds.kind import ContentKind
from bridge.content.model import Content, Message

EVENT_TYPE = "m.message"


def _read_legacy(_msgtype: str, content: Content) -> Message | None:
    return legacy.read_text(content)


def _read_extensible(_event_type: str, content: Content) -> Message | None:
    """A notice is a text with the mixin `m.automated`."""
    message = extensible.read_text(content)
    if message and extensible.is_automated(content):
        return replace(message, kind="notice")
    return message


def _write_legacy(message: Message) -> dict[str, Any]:
    return legacy.write_text(message, "m.text")


def _write_extensible(message: Message) -> tuple[str, dict[str, Any]]:
    return EVENT_TYPE, extensible.write_text(message)


TEXT = ContentKind(
    name="text",
    msgtypes=("m.text",),
    event_types=(EVENT_TYPE, "org.matrix.msc1767.message"),
    read_legacy=_read_legacy,
    read_extensible=_read_extensible,
    write_legacy=_write_legacy,
    write_extensible=_write_extensible,
)
