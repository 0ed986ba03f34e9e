"""Building our own events: draft -> JSON -> hashes -> signature -> PDU.

Also the two other ways our signature gets under an event: completing a template that a resident
server gave us (make_join and its like), and signing beside another server (invites, restricted
joins). Spec: S2S, adding hashes and signatures to outgoing events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bridge.engine.canonical import MAX_INTEGER, JsonObject, check_canonical
from bridge.engine.format import max_integer
from bridge.engine.hashes import content_hash, reference_hash
from bridge.engine.keys import Signer, encode_base64
from bridge.engine.pdu import Pdu
from bridge.engine.signing import sign_event
from bridge.engine.versions import RoomVersion
from bridge.errors import BadInput
from bridge.ids import EventId, RoomId, ServerName, UserId

_NO_EVENTS: Mapping[EventId, Pdu] = MappingProxyType({})


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


def chosen_event_id(
    version: RoomVersion, server: ServerName, random_text: Callable[[], str]
) -> EventId | None:
    """The ID of a new event of ours where the server chooses it; None where it is a hash."""
    if not version.event_format.named_by_sender:
        return None
    return EventId(f"${random_text()}:{server}")


def event_template(
    draft: Draft,
    *,
    prev_events: Sequence[PrevEvent],
    auth_events: Sequence[EventId],
    version: RoomVersion,
    origin_server_ts: int,
    linked: Mapping[EventId, Pdu] = _NO_EVENTS,
) -> JsonObject:
    """The event without hashes and signatures, as make_join and its like hand it out.

    `linked`: all previous and auth events, where links carry their hashes; else not looked at.
    """
    content = dict(draft.content)
    json: JsonObject = {
        "type": draft.type,
        "sender": draft.sender,
        "content": content,
        "origin_server_ts": origin_server_ts,
        "depth": next_depth([prev.depth for prev in prev_events], max_integer(version)),
        "prev_events": _links([prev.event_id for prev in prev_events], version, linked),
        "auth_events": _links(auth_events, version, linked),
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


def _links(
    event_ids: Sequence[EventId], version: RoomVersion, linked: Mapping[EventId, Pdu]
) -> list[Any]:
    if not version.event_format.links_with_hashes:
        return list(event_ids)
    return [
        [one, {"sha256": encode_base64(reference_hash(linked[one].json, version))}]
        for one in event_ids
    ]


def build_pdu(
    draft: Draft,
    *,
    prev_events: Sequence[PrevEvent],
    auth_events: Sequence[EventId],
    version: RoomVersion,
    key: Signer,
    server: ServerName,
    origin_server_ts: int,
    event_id: EventId | None = None,
    linked: Mapping[EventId, Pdu] = _NO_EVENTS,
) -> Pdu:
    """A signed PDU. Raises `BadInput` when the draft breaks a format or size limit.

    `event_id` as for `complete`, `linked` as for `event_template`.
    """
    if not version.event_format.strict_json:
        # What others may send, we need not.
        check_canonical(draft.content)
    template = event_template(
        draft,
        prev_events=prev_events,
        auth_events=auth_events,
        version=version,
        origin_server_ts=origin_server_ts,
        linked=linked,
    )
    return complete(template, version=version, key=key, server=server, event_id=event_id)


def complete(
    template: object,
    *,
    version: RoomVersion,
    key: Signer,
    server: ServerName,
    event_id: EventId | None = None,
) -> Pdu:
    """Hash and sign a template, which may be another server's. Raises `BadInput`.

    `event_id`: from `chosen_event_id`; what the template says is never taken. Check before that
    the template says what was asked for (room, sender, membership): this signs whatever has the
    format of an event.
    """
    if not isinstance(template, dict):
        raise BadInput("an event template is a JSON object")
    dropped = ("event_id", "unsigned", "signatures", "hashes")
    json: JsonObject = {name: value for name, value in template.items() if name not in dropped}
    if event_id is not None:
        json["event_id"] = event_id
    strict = version.event_format.strict_json
    check_canonical(json, strict=strict)
    json["hashes"] = {"sha256": content_hash(json, strict=strict)}
    return Pdu.parse(sign_event(json, version, server=server, key=key), version)


def prototype(template: JsonObject, version: RoomVersion) -> Pdu:
    """A template as a PDU for `check_auth`, without hashes, signatures and a true event ID."""
    return Pdu.trusted(template, version, EventId("$template"))


def countersign(pdu: Pdu, *, key: Signer, server: ServerName) -> Pdu:
    """The same event with our signature beside the others; its ID does not change."""
    json = sign_event(pdu.json, pdu.version, server=server, key=key)
    return Pdu.parse(json, pdu.version)
