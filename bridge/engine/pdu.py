"""A PDU: the untouched JSON object, its event ID and typed readings of it.

Nothing is rebuilt from parsed fields, because unknown keys are part of hashes and signatures.
The one key taken away is a stray `event_id`, which is computed and never carried.
Spec: rooms/vN, event format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.engine.canonical import JsonObject, check_canonical, encode_canonical
from bridge.engine.format import check_format, check_size, is_rootless_create
from bridge.engine.hashes import event_id_of, redact
from bridge.engine.versions import RoomVersion
from bridge.errors import BadInput
from bridge.ids import EventId, RoomId, ServerName, UserId, server_of

_NOT_OWN = frozenset({"event_id", "unsigned"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pdu:
    """Equal when ID and JSON are: a redacted copy has the ID of the full event."""

    event_id: EventId
    json: JsonObject = field(hash=False, repr=False)
    """Shared; never change it in place."""
    version: RoomVersion = field(compare=False, repr=False)
    rejected: bool = field(default=False, compare=False)
    """Our own verdict, where the event comes from storage."""

    @classmethod
    def parse(cls, json: object, version: RoomVersion) -> Pdu:
        """From outside: canonical values, format and size are checked. Raises `BadInput`.

        Not checked: signatures, content hash, auth rules. Whoever passed the event on wrote its
        `unsigned`, so where that is malformed it goes and the event stays.
        """
        if not isinstance(json, dict):
            raise BadInput("an event is a JSON object")
        own: JsonObject = {name: json[name] for name in json if name not in _NOT_OWN}
        check_canonical(own, strict=version.event_format.strict_json)
        check_format(own, version)
        check_size(own)
        event_id = event_id_of(own, version)
        unsigned = json.get("unsigned")
        if isinstance(unsigned, dict) and _is_canonical(unsigned):
            own["unsigned"] = unsigned
        return cls(event_id=event_id, json=own, version=version)

    @classmethod
    def trusted(
        cls, json: JsonObject, version: RoomVersion, event_id: EventId, *, rejected: bool = False
    ) -> Pdu:
        """From our own storage, where it was checked before."""
        return cls(event_id=event_id, json=json, version=version, rejected=rejected)

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
        return encode_canonical(self.wire())

    @property
    def room_id(self) -> RoomId:
        if is_rootless_create(self.json, self.version):
            return RoomId("!" + self.event_id[1:])
        return RoomId(self.json["room_id"])

    @property
    def type(self) -> str:
        return str(self.json["type"])

    @property
    def sender(self) -> UserId:
        return UserId(self.json["sender"])

    @property
    def sender_server(self) -> ServerName:
        return server_of(self.sender)

    @property
    def state_key(self) -> str | None:
        """None when it is no state event; the empty string is a state key."""
        value = self.json.get("state_key")
        return value if isinstance(value, str) else None

    @property
    def is_state(self) -> bool:
        return "state_key" in self.json

    @property
    def key(self) -> tuple[str, str] | None:
        """(type, state key), or None when it is no state event."""
        state_key = self.state_key
        return None if state_key is None else (self.type, state_key)

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = self.json["content"]
        return content

    @property
    def membership(self) -> str | None:
        """Of a member event, where it is a string."""
        if self.type != "m.room.member":
            return None
        value = self.content.get("membership")
        return value if isinstance(value, str) else None

    @property
    def redacts(self) -> EventId | None:
        """What a redaction names, wherever the version keeps it."""
        if self.type != "m.room.redaction":
            return None
        in_content = self.version.event_format.redacts_in_content
        value = (self.content if in_content else self.json).get("redacts")
        return EventId(value) if isinstance(value, str) else None

    @property
    def depth(self) -> int:
        return int(self.json["depth"])

    @property
    def origin_server_ts(self) -> int:
        return int(self.json["origin_server_ts"])

    @property
    def prev_events(self) -> Sequence[EventId]:
        links: Sequence[EventId] = self.json["prev_events"]
        return links

    @property
    def auth_events(self) -> Sequence[EventId]:
        links: Sequence[EventId] = self.json["auth_events"]
        return links


def _is_canonical(value: object) -> bool:
    try:
        check_canonical(value)
    except BadInput:
        return False
    return True
