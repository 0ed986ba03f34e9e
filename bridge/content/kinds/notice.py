"""Text that a machine wrote; bots do not answer it. Spec: m.notice; MSC3955, m.automated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bridge.content import extensible, legacy
from bridge.content.kinds.kind import ContentKind
from bridge.content.model import Content, Message

_OLD_NAME = "org.matrix.msc1767.notice"


def _read_legacy(_msgtype: str, content: Content) -> Message | None:
    message = legacy.read_text(content)
    return message and replace(message, kind="notice")


def _read_extensible(_event_type: str, content: Content) -> Message | None:
    message = extensible.read_text(content)
    return message and replace(message, kind="notice")


def _write_legacy(message: Message) -> dict[str, Any]:
    return legacy.write_text(message, "m.notice")


def _write_extensible(message: Message) -> tuple[str, dict[str, Any]]:
    return "m.message", {**extensible.write_text(message), "m.automated": True}


NOTICE = ContentKind(
    name="notice",
    msgtypes=("m.notice", "m.server_notice"),
    event_types=(_OLD_NAME,),
    read_legacy=_read_legacy,
    read_extensible=_read_extensible,
    write_legacy=_write_legacy,
    write_extensible=_write_extensible,
)
