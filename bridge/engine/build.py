"""Building our own events: draft -> JSON -> hashes -> signature -> PDU.

Also the two other ways our signature gets under an event: completing a template that a resident
server gave us (make_join and its like), and signing beside another server (invites, restricted
joins). Spec: S2S, adding hashes and signatures to outgoing events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.engine.canonical import MAX_INTEGER, JsonObject, check_canonical
from bridge.engine.format import max_integer
from bridge.engine.hashes import content_hash
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.signing import sign_event
from bridge.engine.versions import RoomVersion
from bridge.errors import BadInput
from bridge.ids import EventId, RoomId, ServerName, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event before hashing and signing."""

    room_id: RoomId | None
    """None exactly for the create event of a version whose room ID is that event's hash."""
    type: str
    sender: UserId
    content: Mapping[str, Any]
    state_key: str | None = None
    redacts: EventId | None = None
    """Put where the version keeps it."""
    at_ms: int | None = None
    """When it was written; None: when it is built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrevEvent:
    """A forward extremity that a new event builds on."""

    event_id: EventId
    depth: int


def next_depth(depths: Sequence[int], limit: int = MAX_INTEGER) -> int:
    """One more than the deepest, capped at the largest depth; 1 for the first."""
    return min(max(depths, default=0) + 1, limit)


def event_template(
    draft: Draft,
    *,
    prev_events: Sequence[PrevEvent],
    auth_events: Sequence[EventId],
    version: RoomVersion,
    origin_server_ts: int,
) -> JsonObject:
    """The event without hashes and signatures, as make_join and its like hand it out."""
    content = dict(draft.content)
    json: JsonObject = {
        "type": draft.type,
        "sender": draft.sender,
        "content": content,
        "origin_server_ts": origin_server_ts,
        "depth": next_depth([prev.depth for prev in prev_events], max_integer(version)),
        "prev_events": [prev.event_id for prev in prev_events],
        "auth_events": list(auth_events),
    }
    if draft.room_id is not None:
        json["room_id"] = draft.room_id
    if draft.state_key is not None:
        json["state_key"] = draft.state_key
    if draft.redacts is not None:
        if version.event_format.redacts_in_content:
            content["redacts"] = draft.redacts
        else:
            json["redacts"] = draft.redacts
    return json


def build_pdu(
    draft: Draft,
    *,
    prev_events: Sequence[PrevEvent],
    auth_events: Sequence[EventId],
    version: RoomVersion,
    key: SigningKey,
    server: ServerName,
    origin_server_ts: int,
) -> Pdu:
    """A signed PDU. Raises `BadInput` when the draft breaks a format or size limit."""
    if not version.event_format.strict_json:
        # What others may send, we need not.
        check_canonical(draft.content)
    template = event_template(
        draft,
        prev_events=prev_events,
        auth_events=auth_events,
        version=version,
        origin_server_ts=origin_server_ts,
    )
    return complete(template, version=version, key=key, server=server)


def complete(template: object, *, version: RoomVersion, key: SigningKey, server: ServerName) -> Pdu:
    """Hash and sign a template, which may be another server's. Raises `BadInput`.

    Check before that the template says what was asked for (room, sender, membership): this signs
    whatever has the format of an event.
    """
    if not isinstance(template, dict):
        raise BadInput("an event template is a JSON object")
    dropped = ("event_id", "unsigned", "signatures", "hashes")
    json: JsonObject = {name: value for name, value in template.items() if name not in dropped}
    strict = version.event_format.strict_json
    check_canonical(json, strict=strict)
    json["hashes"] = {"sha256": content_hash(json, strict=strict)}
    return Pdu.parse(sign_event(json, version, server=server, key=key), version)


def prototype(template: JsonObject, version: RoomVersion) -> Pdu:
    """A template as a PDU for `check_auth`, without hashes, signatures and a true event ID."""
    return Pdu.trusted(template, version, EventId("$template"))


def countersign(pdu: Pdu, *, key: SigningKey, server: ServerName) -> Pdu:
    """The same event with our signature beside the others; its ID does not change."""
    json = sign_event(pdu.json, pdu.version, server=server, key=key)
    return Pdu.parse(json, pdu.version)
