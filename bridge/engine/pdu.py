"""A PDU: the untouched JSON object, its event ID and typed readings of it.

Nothing is rebuilt from parsed fields, because unknown keys are part of hashes and signatures.
The one key taken away is a stray `event_id`: where IDs are hashes it is computed, never carried.
Where senders choose them, two events may have one ID: `is_same` tells them apart.
Spec: rooms/vN, event format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.engine.canonical import JsonObject, check_canonical, encode_canonical
from bridge.engine.format import check_format, check_size
from bridge.engine.hashes import event_id_of, redact, reference_hash, signed_bytes
from bridge.engine.versions import RoomVersion
from bridge.errors import BadInput
from bridge.ids import EventId, RoomId, ServerName, UserId, parse_event_id, server_of

_NOT_OWN = frozenset({"event_id", "unsigned"})
_NOT_OWN_WHERE_NAMED = frozenset({"unsigned"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pdu:
    """Equal when ID and JSON are: a redacted copy has the ID of the full event."""

    event_id: EventId
    json: JsonObject = field(hash=False, repr=False)
    """Shared; never change it in place."""
    version: RoomVersion = field(compare=False, repr=False)
    rejected: bool = field(default=False, compare=False)
    """Our own verdict, where the event comes from storage."""
    signed: bytes | None = field(default=None, compare=False, repr=False)
    """Its `signed_bytes`, fresh from `parse`: whoever checks signatures next has them at hand."""

    # Read far oftener than made.
    type: str = field(init=False, compare=False, repr=False)
    sender: UserId = field(init=False, compare=False, repr=False)
    room_id: RoomId = field(init=False, compare=False, repr=False)
    content: dict[str, Any] = field(init=False, compare=False, repr=False)
    state_key: str | None = field(init=False, compare=False, repr=False)
    """None when it is no state event; the empty string is a state key."""
    key: tuple[str, str] | None = field(init=False, compare=False, repr=False)
    """(type, state key), or None when it is no state event."""
    auth_events: Sequence[EventId] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        json, rules = self.json, self.version.event_format
        kind, state_key = json.get("type"), json.get("state_key")
        if not isinstance(state_key, str):
            state_key = None
        room_id = json.get("room_id")
        if rules.room_id_from_create and kind == "m.room.create":
            room_id = "!" + self.event_id[1:]
        links = json.get("auth_events")
        put = object.__setattr__  # The dataclass is frozen for everybody else.
        put(self, "type", kind)
        put(self, "sender", json.get("sender"))
        put(self, "room_id", room_id)
        put(self, "content", json.get("content"))
        put(self, "state_key", state_key)
        put(self, "key", None if state_key is None else (kind, state_key))
        put(self, "auth_events", linked_ids(links) if rules.links_with_hashes else links)

    @classmethod
    def parse(cls, json: object, version: RoomVersion) -> Pdu:
        """From outside: canonical values, format and size are checked. Raises `BadInput`.

        Not checked: signatures, content hash, auth rules. Whoever passed the event on wrote its
        `unsigned`, so where that is malformed it goes and the event stays.
        """
        if not isinstance(json, dict):
            raise BadInput("an event is a JSON object")
        named = version.event_format.named_by_sender
        not_own = _NOT_OWN_WHERE_NAMED if named else _NOT_OWN
        own: JsonObject = dict(json)
        for name in not_own:
            own.pop(name, None)
        check_canonical(own, strict=version.event_format.strict_json)
        check_format(own, version)
        check_size(own)
        signed = signed_bytes(own, version)
        event_id = event_id_of(own, version, signed=signed)
        unsigned = json.get("unsigned")
        if isinstance(unsigned, dict) and _is_canonical(unsigned):
            own["unsigned"] = unsigned
        return cls(event_id=event_id, json=own, version=version, signed=signed)

    @classmethod
    def trusted(
        cls, json: JsonObject, version: RoomVersion, event_id: EventId, *, rejected: bool = False
    ) -> Pdu:
        """From our own storage, where it was checked before."""
        return cls(event_id=event_id, json=json, version=version, rejected=rejected)

    def is_same(self, other: Pdu) -> bool:
        """Whether it is one event, redacted or not, by its reference hash, that of the room and of
        the content included. Where IDs are hashes an equal ID says so already."""
        if self.event_id != other.event_id:
            return False
        if not self.version.event_format.named_by_sender:
            return True
        return reference_hash(self.json, self.version) == reference_hash(other.json, other.version)

    def redacted(self) -> Pdu:
        """The redacted copy; same event ID."""
        return Pdu(
            event_id=self.event_id,
            json=redact(self.json, self.version),
            version=self.version,
            rejected=self.rejected,
        )

    def wire(self) -> JsonObject:
        """What goes to peers: everything but `unsigned`."""
        return {name: value for name, value in self.json.items() if name != "unsigned"}

    def canonical(self) -> bytes:
        """The text that is stored: canonical JSON of `wire()`."""
        return encode_canonical(self.wire() if "unsigned" in self.json else self.json)

    @property
    def sender_server(self) -> ServerName:
        return server_of(self.sender)

    @property
    def is_state(self) -> bool:
        return "state_key" in self.json

    @property
    def membership(self) -> str | None:
        """Of a member event, where it is a string."""
        if self.type != "m.room.member":
            return None
        value = self.content.get("membership")
        return value if isinstance(value, str) else None

    @property
    def redacts(self) -> EventId | None:
        """What a redaction names, wherever the version keeps it; None where it is no event ID."""
        if self.type != "m.room.redaction":
            return None
        in_content = self.version.event_format.redacts_in_content
        value = (self.content if in_content else self.json).get("redacts")
        try:
            return parse_event_id(value)
        except BadInput:
            return None

    @property
    def depth(self) -> int:
        return int(self.json["depth"])

    @property
    def origin_server_ts(self) -> int:
        return int(self.json["origin_server_ts"])

    @property
    def prev_events(self) -> Sequence[EventId]:
        links: Sequence[EventId] = self.json["prev_events"]
        return linked_ids(links) if self.version.event_format.links_with_hashes else links


def linked_ids(links: object) -> list[EventId]:
    """The event IDs of `prev_events` or `auth_events`, alone or with hashes; from a template too,
    which nobody has checked: what is none is left out."""
    entries = links if isinstance(links, list) else []
    ids = [entry[0] if isinstance(entry, list) and entry else entry for entry in entries]
    return [EventId(one) for one in ids if isinstance(one, str)]


def _is_canonical(value: object) -> bool:
    try:
        check_canonical(value)
    except BadInput:
        return False
    return True
