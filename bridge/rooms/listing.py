"""What a room's state says to strangers: the fields of a room list, event by event.

Values of the wrong type are none; so is an alias or an avatar that cannot be one. Spec: S2S, public
room directory; client-server API, m.room.topic, types (of rooms), guest access.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bridge.engine.canonical import encode_canonical
from bridge.engine.pdu import Pdu
from bridge.engine.state import CREATE, JOIN_RULES, StateKey
from bridge.errors import BadInput
from bridge.ids import parse_room_alias
from bridge.rooms.visibility import ACL, HISTORY
from bridge.storage.published import Listing

NAME: Final[StateKey] = ("m.room.name", "")
TOPIC: Final[StateKey] = ("m.room.topic", "")
ALIAS: Final[StateKey] = ("m.room.canonical_alias", "")
AVATAR: Final[StateKey] = ("m.room.avatar", "")
GUESTS: Final[StateKey] = ("m.room.guest_access", "")
LISTED: Final = (CREATE, NAME, TOPIC, ALIAS, AVATAR, JOIN_RULES, HISTORY, GUESTS, ACL)
"""The state that a listing is made of."""


def fields_of(key: StateKey, pdu: Pdu | None) -> dict[str, Any]:
    """The fields of a `Listing` that this state key decides; `pdu`: None where it has no event."""
    content = {} if pdu is None else pdu.content
    if key == CREATE:
        return {
            "room_type": _text(content, "type"),
            "federated": content.get("m.federate") is not False,
        }
    if key == NAME:
        return {"name": _text(content, "name")}
    if key == TOPIC:
        return {"topic": plain_topic(content)}
    if key == ALIAS:
        return {"canonical_alias": _alias(content.get("alias"))}
    if key == AVATAR:
        url = _text(content, "url")
        return {"avatar_url": url if url is not None and url.startswith("mxc://") else None}
    if key == JOIN_RULES:
        return {"join_rule": _text(content, "join_rule") or "invite"}
    if key == HISTORY:
        return {"world_readable": content.get("history_visibility") == "world_readable"}
    if key == GUESTS:
        return {"guest_can_join": content.get("guest_access") == "can_join"}
    if pdu is None:
        return {"acl": None}
    strict = pdu.version.event_format.strict_json
    return {"acl": encode_canonical(content, strict=strict).decode()}


def listing_of(state: Mapping[StateKey, Pdu]) -> Listing:
    found: dict[str, Any] = {}
    for key in LISTED:
        found |= fields_of(key, state.get(key))
    return Listing(**found)


def plain_topic(content: Mapping[str, Any]) -> str | None:
    """Its `text/plain` form; None where it has forms, and this is none of them."""
    block = content.get("m.topic")
    forms = block.get("m.text") if isinstance(block, dict) else None
    if isinstance(forms, list) and forms:
        for form in forms:
            if isinstance(form, dict) and form.get("mimetype", "text/plain") == "text/plain":
                return _text(form, "body")
        return None
    return _text(content, "topic")


def _text(content: Mapping[str, Any], name: str) -> str | None:
    """An empty text is none."""
    value = content.get(name)
    return value if isinstance(value, str) and value else None


def _alias(value: object) -> str | None:
    try:
        return parse_room_alias(value)
    except BadInput:
        return None
