"""Format and size of a PDU: step 1 of the checks on receipt.

Only what the room version's schema and the size limits ask for, because whatever we drop here and
others keep becomes a gap. Links with hashes are read for their event IDs. Whether the hash is that
of the named event is not checked: the specification asks for no such check, and nobody makes it.
Deviates: the schema of rooms/v1 wants `sha256` in a link. Rooms made by Synapse have links with no
hash at all, `[ID, {}]`, among their first events, and everybody took those.
Spec: rooms/vN, event format; client-server API, size limits.
"""

from __future__ import annotations

from bridge.engine.canonical import (
    MAX_INTEGER,
    MAX_LENIENT_INTEGER,
    JsonObject,
    encode_canonical,
)
from bridge.engine.versions import RoomVersion
from bridge.errors import BadInput
from bridge.ids import (
    fits,
    parse_event_id,
    parse_event_id_with_server,
    parse_room_id,
    parse_user_id,
)

MAX_PDU_BYTES = 65536
MAX_KEY_BYTES = 255
"""Of `type` and of `state_key`, in UTF-8."""


def check_format(json: JsonObject, version: RoomVersion) -> None:
    """Raise `BadInput` unless a parsed canonical value has the shape of a PDU."""
    rules = version.event_format
    if rules.named_by_sender:
        parse_event_id_with_server(json.get("event_id"))
    kind = _text(json, "type")
    _check_bytes(kind, "type")
    if "state_key" in json:
        _check_bytes(_text(json, "state_key"), "state_key")
    parse_user_id(json.get("sender"))
    if "room_id" in json or not is_rootless_create(json, version):
        parse_room_id(json.get("room_id"))
    _object(json, "content")
    largest = max_integer(version)
    _check_integer(json, "origin_server_ts", largest)
    if _check_integer(json, "depth", largest) < 0:
        raise BadInput("depth is negative")
    check_links = _check_links_with_hashes if rules.links_with_hashes else _check_links
    check_links(json, "prev_events", rules.max_prev_events)
    check_links(json, "auth_events", rules.max_auth_events)
    _text(_object(json, "hashes"), "sha256")
    _check_signatures(_object(json, "signatures"))


def check_size(json: JsonObject) -> None:
    """Raise `BadInput` over 65536 bytes of canonical JSON, signatures included.

    `unsigned` does not count: every server writes its own.
    """
    counted = json
    if "unsigned" in json:
        counted = {name: value for name, value in json.items() if name != "unsigned"}
    if len(encode_canonical(counted)) > MAX_PDU_BYTES:
        raise BadInput(f"event over {MAX_PDU_BYTES} bytes", errcode="M_TOO_LARGE")


def max_integer(version: RoomVersion) -> int:
    """The largest integer, and so the largest depth, of the version's events."""
    return MAX_INTEGER if version.event_format.strict_json else MAX_LENIENT_INTEGER


def is_rootless_create(json: JsonObject, version: RoomVersion) -> bool:
    """Whether it is a create event of a version whose create events have no `room_id`."""
    return version.event_format.room_id_from_create and json.get("type") == "m.room.create"


def _text(json: JsonObject, name: str) -> str:
    value = json.get(name)
    if not isinstance(value, str):
        raise BadInput(f"{name} is not a string")
    return value


def _object(json: JsonObject, name: str) -> JsonObject:
    value = json.get(name)
    if not isinstance(value, dict):
        raise BadInput(f"{name} is not an object")
    return value


def _check_bytes(text: str, name: str) -> None:
    if not fits(text, MAX_KEY_BYTES):
        raise BadInput(f"{name} over {MAX_KEY_BYTES} bytes")


def _check_integer(json: JsonObject, name: str, largest: int) -> int:
    value = json.get(name)
    if type(value) is not int or not -largest <= value <= largest:
        raise BadInput(f"{name} is not an integer in range")
    return value


def _check_links(json: JsonObject, name: str, limit: int) -> None:
    links = json.get(name)
    if not isinstance(links, list):
        raise BadInput(f"{name} is not an array")
    if len(links) > limit:
        raise BadInput(f"more than {limit} {name}")
    for link in links:
        parse_event_id(link)


def _check_links_with_hashes(json: JsonObject, name: str, limit: int) -> None:
    links = json.get(name)
    if not isinstance(links, list):
        raise BadInput(f"{name} is not an array")
    if len(links) > limit:
        raise BadInput(f"more than {limit} {name}")
    for link in links:
        if not isinstance(link, list) or len(link) != 2 or not isinstance(link[1], dict):
            raise BadInput(f"{name} holds what is no pair of event ID and hashes")
        # Of IDs that somebody chose an event could name its own.
        if parse_event_id(link[0]) == json.get("event_id"):
            raise BadInput(f"the event stands in its own {name}")


def _check_signatures(signatures: JsonObject) -> None:
    for by_key in signatures.values():
        if not isinstance(by_key, dict) or not all(isinstance(s, str) for s in by_key.values()):
            raise BadInput("signatures are not objects of strings")
