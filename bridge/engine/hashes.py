"""Content hashes, reference hashes, event IDs, and the redaction they rest on.

Spec: S2S, signing events; rooms/v3 and rooms/v4, event IDs; rooms/vN, redactions.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from bridge.engine.canonical import JsonObject, encode_canonical
from bridge.engine.keys import decode_base64, encode_base64
from bridge.engine.versions import RoomVersion
from bridge.engine.versions.rules import KeptContent
from bridge.errors import BadInput
from bridge.ids import EventId

_NOT_HASHED = frozenset({"unsigned", "signatures", "hashes"})
_NOT_SIGNED = frozenset({"unsigned", "signatures"})


def redact(json: JsonObject, version: RoomVersion) -> JsonObject:
    """A copy with only what the version's redaction algorithm keeps; shares the kept values."""
    rules = version.redaction
    kept: JsonObject = {name: json[name] for name in json if name in rules.top_level}
    content = json.get("content")
    if isinstance(content, dict):
        kind = json.get("type")
        kept["content"] = _keep(content, rules.content.get(kind) if isinstance(kind, str) else None)
    return kept


def _keep(content: JsonObject, kept: KeptContent | None) -> JsonObject:
    if kept is None:
        return {}
    if kept.everything:
        return content
    result: dict[str, Any] = {name: content[name] for name in content if name in kept.keys}
    for name, inner_keys in kept.nested.items():
        inner = content.get(name)
        # The object itself stays, also when it becomes empty: others hash it like this.
        if isinstance(inner, dict):
            result[name] = {key: inner[key] for key in inner if key in inner_keys}
    return result


def content_hash(json: JsonObject, *, strict: bool = True) -> str:
    """SHA-256 over everything but `unsigned`, `signatures`, `hashes`; unpadded Base64.

    `strict`: the room version's `strict_json`.
    """
    return encode_base64(_content_digest(json, strict))


def _content_digest(json: JsonObject, strict: bool) -> bytes:
    hashed = {name: value for name, value in json.items() if name not in _NOT_HASHED}
    return hashlib.sha256(encode_canonical(hashed, strict=strict)).digest()


def check_content_hash(json: JsonObject, *, strict: bool = True) -> bool:
    """Whether `hashes.sha256` is the content's. False where there is none."""
    hashes = json.get("hashes")
    claimed = hashes.get("sha256") if isinstance(hashes, dict) else None
    if not isinstance(claimed, str):
        return False
    try:
        return decode_base64(claimed) == _content_digest(json, strict)
    except BadInput:
        return False


def signed_bytes(json: JsonObject, version: RoomVersion) -> bytes:
    """What signatures and the reference hash cover: redacted, without signatures and unsigned."""
    covered = redact(json, version)
    for name in _NOT_SIGNED:
        covered.pop(name, None)
    return encode_canonical(covered, strict=version.event_format.strict_json)


def reference_hash(json: JsonObject, version: RoomVersion) -> bytes:
    """SHA-256 over `signed_bytes`. The same for the event and its redacted copy."""
    return hashlib.sha256(signed_bytes(json, version)).digest()


def event_id_of(json: JsonObject, version: RoomVersion, *, signed: bytes | None = None) -> EventId:
    """`$` and the reference hash in unpadded Base64, URL-safe where the version says so.

    Where the sender names its events, the name, which `check_format` has looked at.
    `signed`: its `signed_bytes`, where they are at hand.
    """
    if version.event_format.named_by_sender:
        return EventId(json["event_id"])
    digest = hashlib.sha256(signed_bytes(json, version) if signed is None else signed).digest()
    if not version.event_format.url_safe_event_ids:
        return EventId("$" + encode_base64(digest))
    return EventId("$" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii"))
