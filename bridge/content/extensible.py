"""The MSC1767 family: what extensible rooms (I.1) carry.

`m.text` is an ordered array of representations; invalid ones are skipped, a block of the wrong JSON
type counts as absent. Stable names are written, unstable ones are read too.
Spec: I.1, 3.1 to 3.3 and D13; MSC1767; MSC3554 (language); MSC3955 (automated).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from bridge.content import html
from bridge.content.legacy import clean_html
from bridge.content.model import Content, Message
from bridge.content.richtext import to_plain

_TEXT = ("m.text", "org.matrix.msc1767.text")
_AUTOMATED = ("m.automated", "org.matrix.msc1767.automated")
_LANGUAGE = ("lang", "org.matrix.msc3554.lang")


class _Representation(NamedTuple):
    mimetype: str
    body: str
    language: str | None


def read_text(content: Content) -> Message | None:
    """The text block; None where no representation is text."""
    found = [r for r in _representations(content) if r.body.strip()]
    formatted = next((clean_html(r.body) for r in found if r.mimetype == "text/html"), None)
    for choice in ("text/plain", "text/html", "text/"):
        for entry in found:
            if not entry.mimetype.startswith(choice):
                continue
            text = entry.body
            if entry.mimetype == "text/html":
                text = to_plain(html.from_html(formatted)) if formatted else ""
            if text.strip():
                return Message(text=text, html=formatted, language=entry.language)
    return None


def write_text(message: Message) -> dict[str, Any]:
    """The content with its text block, richest representation first."""
    blocks: list[dict[str, Any]] = []
    if message.html is not None:
        blocks.append({"mimetype": "text/html", "body": message.html})
    blocks.append({"body": message.text})
    if message.language is not None:
        blocks = [{**block, "lang": message.language} for block in blocks]
    return {"m.text": blocks, "m.mentions": {}}


def is_automated(content: Content) -> bool:
    """Anything but a boolean counts as false."""
    return any(content.get(name) is True for name in _AUTOMATED)


def is_edit(content: Content) -> bool:
    relation = content.get("m.relates_to")
    return isinstance(relation, dict) and relation.get("rel_type") == "m.replace"


def _representations(content: Content) -> Iterator[_Representation]:
    stable, unstable = (content.get(name) for name in _TEXT)
    block = stable if isinstance(stable, list) else unstable
    if isinstance(block, str):  # an older draft, under its own name only
        block = [{"body": block}]
    for entry in block if isinstance(block, list) else ():
        if not isinstance(entry, dict):
            continue
        mimetype, body = entry.get("mimetype", "text/plain"), entry.get("body")
        if not isinstance(mimetype, str) or not isinstance(body, str):
            continue
        language = next((v for k in _LANGUAGE if isinstance(v := entry.get(k), str)), None)
        yield _Representation(mimetype.partition(";")[0].strip().lower(), body, language)
