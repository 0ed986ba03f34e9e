"""Files inside events: m.image, m.video, m.audio and m.file, in both forms.

An encrypted file has no place of which a link could be made: it is left to its text.
Spec: client-server, m.room.message msgtypes, media captions; MSC3551, MSC3552, MSC3553, MSC3927.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.content import extensible as blocks
from bridge.content.model import Content, File, Look
from bridge.errors import BadInput
from bridge.ids import parse_mxc

_LOOKS: Mapping[str, Look] = {
    "m.image": "image",
    "m.video": "video",
    "m.audio": "audio",
    "m.voice": "audio",
    "m.file": "file",
    "org.matrix.msc1767.image": "image",
    "org.matrix.msc1767.video": "video",
    "org.matrix.msc1767.audio": "audio",
    "org.matrix.msc1767.file": "file",
}
_SHOWN = ("jpeg", "png", "gif", "webp", "avif")
_MAX_NUMBER = 1 << 53


def look_of(content_type: str) -> Look:
    """How clients show it. A drawing that may contain scripts is a file."""
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    if kind == "image":
        return "image" if subtype in _SHOWN else "file"
    if kind == "video":
        return "video"
    return "audio" if kind == "audio" else "file"


def read_legacy(what: str, content: Content) -> File | None:
    look, mxc = _LOOKS.get(what), _mxc(content.get("url"))
    if look is None or mxc is None:
        return None
    body, name = (_text(content.get(key)) for key in ("body", "filename"))
    info = content.get("info")
    known = info if isinstance(info, Mapping) else {}
    return File(
        look=look,
        mxc=mxc,
        name=name or body or None,
        content_type=_text(known.get("mimetype")) or None,
        size_bytes=_number(known.get("size")),
        width=_number(known.get("w")),
        height=_number(known.get("h")),
        caption=body if name and body != name else "",
    )


def read_extensible(what: str, content: Content) -> File | None:
    look = _LOOKS.get(what)
    block = content.get("m.file", content.get("org.matrix.msc1767.file"))
    if look is None or not isinstance(block, Mapping) or "key" in block:
        return None
    mxc = _mxc(block.get("url"))
    if mxc is None:
        return None
    details = content.get(f"m.{look}_details")
    known = details if isinstance(details, Mapping) else {}
    caption = content.get("m.caption")
    said = blocks.read_text(caption) if isinstance(caption, Mapping) else None
    return File(
        look=look,
        mxc=mxc,
        name=_text(block.get("name")) or None,
        content_type=_text(block.get("mimetype")) or None,
        size_bytes=_number(block.get("size")),
        width=_number(known.get("width")),
        height=_number(known.get("height")),
        caption=said.text if said else "",
    )


def write(file: File, *, extensible: bool) -> tuple[str, dict[str, Any]]:
    """Event type and content; `file.mxc` is set."""
    name = file.name or file.look
    known = {"mimetype": file.content_type, "size": file.size_bytes}
    size = {"width": file.width, "height": file.height}
    if extensible:
        words = [name, *([f"({in_words(file.size_bytes)})"] if file.size_bytes else []), file.url]
        content: dict[str, Any] = {
            "m.text": [{"body": " ".join(word for word in words if word)}],
            "m.file": {"url": file.mxc, "name": name, **_without_none(known)},
            "m.mentions": {},
        }
        if file.look in ("image", "video") and file.width and file.height:
            content[f"m.{file.look}_details"] = size
        if file.caption:
            content["m.caption"] = {"m.text": [{"body": file.caption}]}
        return f"m.{file.look}", content
    return "m.room.message", {
        "msgtype": f"m.{file.look}",
        "body": file.caption or name,
        "filename": name,
        "url": file.mxc,
        "info": _without_none({**known, "w": file.width, "h": file.height}),
        "m.mentions": {},
    }


def in_words(size_bytes: int) -> str:
    """`3.0 MB`."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    for unit, factor in (("KB", 1000), ("MB", 1000**2)):
        if size_bytes < 1000 * factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes / 1000**3:.1f} GB"


def _mxc(value: object) -> str | None:
    try:
        parse_mxc(value)
    except BadInput:
        return None
    return str(value)


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and isinstance(value, int) and 0 <= value < _MAX_NUMBER else None


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
