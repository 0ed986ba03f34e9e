"""One room as lists of rooms and spaces show it: ours as JSON, others' read from theirs.

Of what another server says only what has the right type and a bearable size is taken.
Spec: S2S, public room directory, spaces; client-server API, RoomSummary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.errors import BadInput
from bridge.ids import RoomAlias, RoomId, parse_room_alias, parse_room_id
from bridge.storage.published import PublishedRoom

MAX_TEXT = 4_000
"""Characters of a name or topic of another server's room."""
MAX_ALLOWED = 50
MAX_MEMBERS = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomEntry:
    room_id: RoomId
    joined_members: int = 0
    name: str | None = None
    topic: str | None = None
    canonical_alias: RoomAlias | None = None
    avatar_url: str | None = None
    join_rule: str = "public"
    room_type: str | None = None
    world_readable: bool = False
    guest_can_join: bool = False
    allowed_rooms: Sequence[RoomId] = ()
    """Whose members may join, where the join rule says so. This and the rest: of spaces only."""
    encryption: str | None = None
    version: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What is None is left out."""
        known: dict[str, Any] = {
            "room_id": self.room_id,
            "num_joined_members": self.joined_members,
            "name": self.name,
            "topic": self.topic,
            "canonical_alias": self.canonical_alias,
            "avatar_url": self.avatar_url,
            "join_rule": self.join_rule,
            "room_type": self.room_type,
            "world_readable": self.world_readable,
            "guest_can_join": self.guest_can_join,
            "allowed_room_ids": list(self.allowed_rooms) or None,
            "encryption": self.encryption,
            "room_version": self.version,
        }
        return {name: value for name, value in known.items() if value is not None}


def from_published(room: PublishedRoom) -> RoomEntry:
    listing = room.listing
    alias = listing.canonical_alias
    return RoomEntry(
        room_id=room.room_id,
        joined_members=room.joined_members,
        name=listing.name,
        topic=listing.topic,
        canonical_alias=None if alias is None else RoomAlias(alias),
        avatar_url=listing.avatar_url,
        join_rule=listing.join_rule,
        room_type=listing.room_type,
        world_readable=listing.world_readable,
        guest_can_join=listing.guest_can_join,
    )


def from_json(value: object) -> RoomEntry:
    """Raises `BadInput` for what names no room."""
    if not isinstance(value, dict):
        raise BadInput("an entry of the list is no object")
    members = value.get("num_joined_members")
    if not isinstance(members, int) or isinstance(members, bool):
        members = 0
    avatar = _text(value, "avatar_url")
    return RoomEntry(
        room_id=parse_room_id(value.get("room_id")),
        joined_members=max(0, min(members, MAX_MEMBERS)),
        name=_text(value, "name"),
        topic=_text(value, "topic"),
        canonical_alias=_alias(value.get("canonical_alias")),
        avatar_url=avatar if avatar is not None and avatar.startswith("mxc://") else None,
        join_rule=_text(value, "join_rule") or "public",
        room_type=_text(value, "room_type"),
        world_readable=value.get("world_readable") is True,
        guest_can_join=value.get("guest_can_join") is True,
        allowed_rooms=_rooms(value.get("allowed_room_ids")),
        encryption=_text(value, "encryption"),
        version=_text(value, "room_version"),
    )


def _text(value: Mapping[str, Any], name: str) -> str | None:
    found = value.get(name)
    return found[:MAX_TEXT] if isinstance(found, str) and found else None


def _alias(value: object) -> RoomAlias | None:
    try:
        return parse_room_alias(value)
    except BadInput:
        return None


def _rooms(value: object) -> Sequence[RoomId]:
    found = []
    for one in value[:MAX_ALLOWED] if isinstance(value, list) else ():
        try:
            found.append(parse_room_id(one))
        except BadInput:
            continue
    return tuple(found)
