"""Message <-> Matrix event. The form is picked by the room version, never by the event seen.

Reading an event, in this order:
1. State is never rendered, whatever blocks it carries.
2. Encrypted events are their own outcome: the person is told.
3. Signalling between clients is nothing to show; a redacted event has no content left.
4. Extensible rooms: the deprecated family is unrenderable by force.
5. The kind that claims the type (or msgtype) reads it; unknown types by their text fallback.
6. What people wrote and nothing could read is `[unsupported: TYPE]`, never silence.
Spec: I.1, 3.1 to 3.3; client-server, instant messaging; MSC1767.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bridge.content import extensible as blocks
from bridge.content import files, legacy
from bridge.content.kinds import KINDS
from bridge.content.kinds.kind import ContentKind
from bridge.content.kinds.unknown import UNKNOWN, unsupported
from bridge.content.model import Content, Encrypted, Message, NotRendered, Outcome

MAX_CONTENT_BYTES = 60_000
"""Of the 65536 bytes of an event; the rest is for what surrounds the content."""
_OVERHEAD_BYTES = 1_000

_ENCRYPTED = frozenset({"m.room.encrypted", "m.encrypted", "org.matrix.msc1767.encrypted"})
_BANNED = frozenset({"m.room.message", "m.sticker", "m.room.message.feedback"})
_SIGNALLING = frozenset(
    {
        *("m.reaction", "m.room.redaction", "m.room.message.feedback", "m.dummy", "m.beacon"),
        *("m.poll.response", "org.matrix.msc3381.poll.response", "org.matrix.msc3672.beacon"),
        *("m.room_key", "m.forwarded_room_key", "m.room_key_request", "m.room_key.withheld"),
    }
)
_SIGNALLING_FAMILIES = (
    *("m.call.", "org.matrix.call.", "m.key.verification.", "m.secret.", "m.rtc."),
    *("org.matrix.msc3401.", "org.matrix.msc4075.", "org.matrix.msc4143.", "org.matrix.msc4310."),
)

_BY_NAME: Mapping[str, ContentKind] = {kind.name: kind for kind in KINDS}
_BY_MSGTYPE: Mapping[str, ContentKind] = {m: kind for kind in KINDS for m in kind.msgtypes}
_BY_TYPE: Mapping[str, ContentKind] = {t: kind for kind in KINDS for t in kind.event_types}


def to_event(message: Message, *, extensible: bool) -> tuple[str, dict[str, Any]]:
    """Type and content. `extensible`: the room's version says extensible_events."""
    if message.file is not None and message.file.mxc is not None:
        return files.write(message.file, extensible=extensible)
    kind = _BY_NAME[message.kind]
    if extensible:
        return kind.write_extensible(message)
    return legacy.EVENT_TYPE, kind.write_legacy(message)


def from_event(
    event_type: str, content: Content, *, extensible: bool, is_state: bool = False
) -> Outcome:
    """What an event says to people; the steps are in the module's docstring."""
    if is_state:  # 1
        return NotRendered(reason="state")
    if not content:  # 3
        return NotRendered(reason="no-content")
    if event_type in _ENCRYPTED:  # 2
        return Encrypted()
    if is_signalling(event_type, content):  # 3
        return NotRendered(reason="signalling")
    if extensible:
        if event_type in _BANNED:  # 4
            return NotRendered(reason="banned-type")
        return _read_extensible(event_type, content) or unsupported(event_type)
    what = event_type
    kind = UNKNOWN
    if event_type == legacy.EVENT_TYPE and isinstance(content.get("msgtype"), str):
        what = str(content["msgtype"])
        kind = _BY_MSGTYPE.get(what, UNKNOWN)
    return kind.read_legacy(what, content) or unsupported(what)


def is_signalling(event_type: str, content: Content) -> bool:
    """Whether clients talk to each other here, not people."""
    if event_type == legacy.EVENT_TYPE:
        return content.get("msgtype") == "m.key.verification.request"
    return event_type in _SIGNALLING or event_type.startswith(_SIGNALLING_FAMILIES)


def _read_extensible(event_type: str, content: Content) -> Message | None:
    kind = _BY_TYPE.get(event_type, UNKNOWN)
    message = kind.read_extensible(event_type, content)
    if message and blocks.is_edit(content):
        # Shown as the legacy family writes it: a correction must not look like a new line.
        html = None if message.html is None else f"* {message.html}"
        return replace(message, text=f"* {message.text}", html=html, file=None)
    return message


def split_message(message: Message, *, extensible: bool) -> tuple[Message, ...]:
    """The same message in parts that each fit into one event; most often itself.

    An over-long one is split at borders of paragraphs, lines or words and loses its HTML, not a
    character of its text. Deviates from CONTENT G5 (a text file with the first part as its
    caption) until files are bridged.
    """
    _, content = to_event(message, extensible=extensible)
    if _json_size(content) <= MAX_CONTENT_BYTES:
        return (message,)
    parts = split_text(message.text, MAX_CONTENT_BYTES - _OVERHEAD_BYTES)
    return tuple(replace(message, text=part, html=None) for part in parts if part.strip())


def split_text(text: str, limit_bytes: int) -> tuple[str, ...]:
    """Parts of at most `limit_bytes` as JSON, cut at the best border in their second half.

    Joined they are the text.
    """
    parts: list[str] = []
    start = size = 0
    for at, char in enumerate(text):
        cost = _json_size(char) - 2
        while size + cost > limit_bytes and at > start:
            end = _border(text, start, at)
            parts.append(text[start:end])
            size = _json_size(text[end:at]) - 2
            start = end
        size += cost
    return (*parts, text[start:])


def _border(text: str, start: int, end: int) -> int:
    half = start + (end - start) // 2
    for mark in ("\n\n", "\n", " "):
        found = text.rfind(mark, half, end)
        if found >= 0:
            return found + len(mark)
    return end


def _json_size(value: object) -> int:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode("utf-8", "surrogatepass"))
