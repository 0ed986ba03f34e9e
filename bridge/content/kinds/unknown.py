"""Whatever we have no form for yet: its own text fallback, else an honest line in its place.

Files of the legacy family read `[image: name] caption`, and bring the file along
(`content.files`); extensible events bring their `m.text`; a
type without any text is `[unsupported: TYPE]`. Written on, it is an ordinary text.
Spec: I.1, 3.3; client-server, media captions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bridge.content import extensible, files, legacy
from bridge.content.kinds.kind import ContentKind
from bridge.content.model import Content, Message

_LABELS = {
    "m.image": "image",
    "m.file": "file",
    "m.audio": "audio",
    "m.video": "video",
    "m.voice": "voice message",
    "m.location": "location",
    "m.sticker": "sticker",
}


def unsupported(what: str) -> Message:
    """The line for something that people wrote and that has no text at all."""
    return Message(kind="unknown", text=f"[unsupported: {what}]", stands_for=what)


def _read_legacy(what: str, content: Content) -> Message | None:
    label = _LABELS.get(what)
    if label is None:
        message = legacy.read_text(content) or extensible.read_text(content)
        return message and replace(message, kind="unknown", stands_for=what)
    body, name, geo = (_string(content.get(key)) for key in ("body", "filename", "geo_uri"))
    parts = [f"[{label}: {name or body}]" if name or body else f"[{label}]"]
    if name and body and body != name:
        parts.append(body)
    if what == "m.location" and geo and geo not in body:
        parts.append(geo)
    file = files.read_legacy(what, content)
    return Message(kind="unknown", text=" ".join(parts), stands_for=what, file=file)


def _read_extensible(what: str, content: Content) -> Message | None:
    message = extensible.read_text(content)
    shared = files.read_extensible(what, content)
    if message:
        return replace(message, kind="unknown", stands_for=what, file=shared)
    file = content.get("m.file")
    if isinstance(file, dict):
        label, name = _LABELS.get(what, "file"), _string(file.get("name"))
        text = f"[{label}: {name}]" if name else f"[{label}]"
        return Message(kind="unknown", text=text, stands_for=what, file=shared)
    return None


def _string(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _write_legacy(message: Message) -> dict[str, Any]:
    return legacy.write_text(message, "m.text")


def _write_extensible(message: Message) -> tuple[str, dict[str, Any]]:
    return "m.message", extensible.write_text(message)


UNKNOWN = ContentKind(
    name="unknown",
    msgtypes=(),
    event_types=(),
    read_legacy=_read_legacy,
    read_extensible=_read_extensible,
    write_legacy=_write_legacy,
    write_extensible=_write_extensible,
)
