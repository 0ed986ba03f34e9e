"""The m.room.message family: what rooms of version 1 to 12 carry.

Spec: client-server, m.room.message; rich replies (fallbacks of older senders are cut off).
"""

from __future__ import annotations

import re
from typing import Any

from bridge.content import html
from bridge.content.model import Content, Message

EVENT_TYPE = "m.room.message"
HTML_FORMAT = "org.matrix.custom.html"
_REPLY_FALLBACK = re.compile(r"> (?:\* )?<[@!#][^\n]*\n(?:>[^\n]*\n)*\n?")
_REPLY_TAG = re.compile(r"<mx-reply[\s>]", re.IGNORECASE)


def read_text(content: Content) -> Message | None:
    """Body and formatted body; None where there is no usable body."""
    body = content.get("body")
    if not isinstance(body, str):
        return None
    formatted = content.get("formatted_body")
    if content.get("format") != HTML_FORMAT or not isinstance(formatted, str):
        formatted = ""
    if is_reply(content) and (not formatted or _REPLY_TAG.search(formatted)):
        body = _REPLY_FALLBACK.sub("", body, count=1) if _REPLY_FALLBACK.match(body) else body
    if not body.strip():
        return None
    return Message(text=body, html=clean_html(formatted))


def write_text(message: Message, msgtype: str) -> dict[str, Any]:
    """The content of an event of that msgtype."""
    content: dict[str, Any] = {"msgtype": msgtype, "body": message.text, "m.mentions": {}}
    if message.html is not None:
        content |= {"format": HTML_FORMAT, "formatted_body": message.html}
    return content


def clean_html(untrusted: str) -> str | None:
    """Sanitised; None where nothing is left to see."""
    safe = html.sanitise(untrusted).strip() if untrusted else ""
    return safe if safe and html.from_html(safe) else None


def is_reply(content: Content) -> bool:
    relation = content.get("m.relates_to")
    return isinstance(relation, dict) and isinstance(relation.get("m.in_reply_to"), dict)
