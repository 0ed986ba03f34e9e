"""How files of strangers are handed out, so that no browser carries out what they contain.

Spec: C2S, content repository, security considerations, serving inline content; RFC 6266; RFC 5987.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

DEFAULT_TYPE = "application/octet-stream"
MAX_NAME_CHARACTERS = 200
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_CHARSET = re.compile(r";\s*charset=\"?([a-z0-9_-]{1,30})\"?", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9!#$&+.^_`|~-]+")
_PARAMETER = re.compile(r";\s*([A-Za-z*]+)\s*=\s*(\"(?:[^\"\\]|\\.)*\"|[^;\s]+)")
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]"
)

INLINE_TYPES = frozenset(
    {
        *("text/css", "text/plain", "text/csv", "application/json", "application/ld+json"),
        *("image/jpeg", "image/gif", "image/png", "image/apng", "image/webp", "image/avif"),
        *("video/mp4", "video/webm", "video/ogg", "video/quicktime"),
        *("audio/mp4", "audio/webm", "audio/aac", "audio/mpeg", "audio/ogg", "audio/wave"),
        *("audio/wav", "audio/x-wav", "audio/x-pn-wav", "audio/flac", "audio/x-flac"),
    }
)

SAFE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf;"
        " style-src 'unsafe-inline'; media-src 'self'; object-src 'self';"
    ),
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow, noarchive, noimageindex",
    "Referrer-Policy": "no-referrer",
}


def clean_type(text: str | None) -> str:
    """A media type that may stand in a header, in small letters and with no parameter but the
    charset of a text; what is none is bytes."""
    bare = (text or "").partition(";")[0].strip().lower()
    if not _TYPE.fullmatch(bare):
        return DEFAULT_TYPE
    charset = _CHARSET.search(text or "") if bare.startswith("text/") else None
    return f"{bare}; charset={charset[1].lower()}" if charset else bare


def bare_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def clean_name(text: str | None) -> str | None:
    """A file name without its folders and without what nobody sees; None where nothing is left."""
    if text is None:
        return None
    last = re.split(r"[/\\]", _UNSEEN.sub("", text))[-1].strip().strip(".")
    return last[:MAX_NAME_CHARACTERS] or None


def disposition(content_type: str, name: str | None) -> str:
    """`inline` for what browsers may show, `attachment` for the rest, with the name."""
    how = "inline" if bare_type(content_type) in INLINE_TYPES else "attachment"
    clean = clean_name(name)
    if clean is None:
        return how
    if _TOKEN.fullmatch(clean):
        return f"{how}; filename={clean}"
    return f"{how}; filename*=utf-8''{quote(clean, safe='')}"


def name_in(header: str | None) -> str | None:
    """The file name of a Content-Disposition."""
    plain: str | None = None
    for found in _PARAMETER.finditer((header or "")[:2_000]):
        key, value = found[1].lower(), found[2]
        if key == "filename*" and value.lower().startswith("utf-8''"):
            return clean_name(unquote(value[7:], errors="replace"))
        if key == "filename":
            quoted = value.startswith('"')
            plain = re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value
    return clean_name(plain)
