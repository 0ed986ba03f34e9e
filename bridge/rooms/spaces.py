"""One space and its children as we know them, and who may see which of these rooms.

A child counts while its event names servers to join it by. Children stand in the order that the
specification gives them. Another server is shown a room that its users could peek into, join or
knock on, as far as the join rule, the members and the room's ACL tell. Spec: S2S, spaces;
client-server API, spaces, ordering of children within a space; restricted rooms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bridge.engine.canonical import encode_canonical
from bridge.engine.pdu import Pdu
from bridge.engine.state import JOIN_RULES, StateKey
from bridge.errors import BadInput, NotFound
from bridge.ids import RoomAlias, RoomId, ServerName, UserId, parse_room_id, parse_server_name
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.rooms.entries import RoomEntry
from bridge.rooms.listing import LISTED, listing_of
from bridge.rooms.load import Room, RoomStates
from bridge.rooms.network import Json
from bridge.rooms.visibility import ACL, is_server_allowed
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction

SPACE: Final = "m.space"
CHILD: Final = "m.space.child"
ENCRYPTION: Final[StateKey] = ("m.room.encryption", "")
MAX_CHILDREN = 200
"""Of one space."""
MAX_CHILDREN_BYTES = 1 << 20
"""Of their events, in one answer."""
MAX_VIA = 10
MAX_ALLOWED = 50
_ORDER = re.compile(r"[\x20-\x7e]{1,50}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What a space says of one of its rooms. `event`: stripped, with its time."""

    room_id: RoomId
    via: Sequence[ServerName]
    suggested: bool
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A room with its children; a room that is no space has none."""

    entry: RoomEntry
    children: Sequence[Child]


def read_children(events: Iterable[object], *, suggested_only: bool) -> list[Child]:
    """Of stripped events those that count, in their order, each room once."""
    found: dict[RoomId, tuple[tuple[bool, str, int, str], Child]] = {}
    for event in events:
        child = _child(event)
        if child is None or (suggested_only and not child.suggested):
            continue
        order = child.event["content"].get("order")
        is_ordered = isinstance(order, str) and _ORDER.fullmatch(order) is not None
        at_ms = child.event.get("origin_server_ts")
        rank = (
            not is_ordered,
            order if is_ordered else "",
            at_ms if isinstance(at_ms, int) else 0,
            str(child.room_id),
        )
        found.setdefault(child.room_id, (rank, child))
    ordered = sorted(found.values(), key=lambda one: one[0])
    return [child for _, child in ordered[:MAX_CHILDREN]]


def _child(event: object) -> Child | None:
    if not isinstance(event, dict) or event.get("type") != CHILD:
        return None
    content = event.get("content")
    if not isinstance(content, dict) or not isinstance(content.get("via"), list):
        return None
    via = []
    for one in content["via"][:MAX_VIA]:
        try:
            via.append(parse_server_name(one))
        except BadInput:
            continue
    try:
        room_id = parse_room_id(event.get("state_key"))
    except BadInput:
        return None
    if not via:
        return None
    return Child(room_id=room_id, via=via, suggested=content.get("suggested") is True, event=event)


class Spaces:
    """Reads; nothing here asks another server."""

    def __init__(
        self, *, server_name: ServerName, database: Database, states: RoomStates, house: House
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._states = states
        self._house = house

    async def answer(self, origin: ServerName, room_id: RoomId, *, suggested_only: bool) -> Json:
        """`room`, `children` and `inaccessible_children`, as `origin` may see them.

        `NotFound` for a room that we are not in or that it may not see."""
        room = await self._states.find_room(room_id)
        if room is None or not room.joined or not await self.may_see(origin, room):
            raise NotFound(f"room {room_id} is not known")
        space = await self.space(room, suggested_only=suggested_only)
        shown: list[Room] = []
        hidden: list[RoomId] = []
        children = _fitting(space.children)
        for child in children:
            known = await self._states.find_room(child.room_id)
            if known is None or not known.joined:
                continue
            if await self.may_see(origin, known):
                shown.append(known)
            else:
                hidden.append(child.room_id)

        def unit(tx: Transaction) -> list[int]:
            return [room_rows.count_members(tx, one.room_id) for one in shown]

        members = await self._database.read(unit)
        entries = [
            await self.entry(one, members=count) for one, count in zip(shown, members, strict=True)
        ]
        return {
            "room": {
                **space.entry.to_json(),
                "children_state": [dict(child.event) for child in children],
            },
            "children": [entry.to_json() for entry in entries],
            "inaccessible_children": hidden,
        }

    async def find(self, room_id: RoomId, *, suggested_only: bool) -> tuple[Room, Space] | None:
        """A room that we are in."""
        room = await self._states.find_room(room_id)
        if room is None or not room.joined:
            return None
        return room, await self.space(room, suggested_only=suggested_only)

    async def space(self, room: Room, *, suggested_only: bool) -> Space:
        entry = await self.entry(room)
        if entry.room_type != SPACE:
            return Space(entry=entry, children=())
        keys = [key for key in room.state if key[0] == CHILD]
        events = await self._states.pick(room.state, keys)
        stripped = (_stripped(pdu) for pdu in events.values())
        return Space(entry=entry, children=read_children(stripped, suggested_only=suggested_only))

    async def entry(self, room: Room, *, members: int | None = None) -> RoomEntry:
        """`members`: how many are joined, where that is known already."""
        found = await self._states.pick(room.state, (*LISTED, ENCRYPTION))
        listing = listing_of(found)
        if members is None:
            members = await self._database.read(
                lambda tx: room_rows.count_members(tx, room.room_id)
            )
        encryption = found.get(ENCRYPTION)
        algorithm = None if encryption is None else encryption.content.get("algorithm")
        alias = listing.canonical_alias
        return RoomEntry(
            room_id=room.room_id,
            joined_members=members,
            name=listing.name,
            topic=listing.topic,
            canonical_alias=None if alias is None else RoomAlias(alias),
            avatar_url=listing.avatar_url,
            join_rule=listing.join_rule,
            room_type=listing.room_type,
            world_readable=listing.world_readable,
            guest_can_join=listing.guest_can_join,
            allowed_rooms=_allowed(room, found.get(JOIN_RULES)),
            encryption=algorithm if isinstance(algorithm, str) else None,
            version=room.version.id,
        )

    # --- who may see what -------------------------------------------------------------------

    async def may_see(self, origin: ServerName, room: Room) -> bool:
        """Whether users of a server could peek into the room, join it or knock on it."""
        if not self._house.allows_room(room.room_id, Scope.JOINS):
            return False
        found = await self._states.pick(room.state, (*LISTED, ACL))
        listing, acl = listing_of(found), found.get(ACL)
        if acl is not None and not is_server_allowed(acl.content, origin):
            return False
        if not listing.federated and origin != self._server_name:
            return False
        if self._is_open(room, listing.join_rule) or listing.world_readable:
            return True

        allowed = _allowed(room, found.get(JOIN_RULES))

        def unit(tx: Transaction) -> bool:
            return room_rows.has_member_of(tx, room.room_id, origin, ("join", "invite")) or any(
                room_rows.has_member_of(tx, one, origin, ("join",)) for one in allowed
            )

        return await self._database.read(unit)

    def _is_open(self, room: Room, join_rule: str) -> bool:
        return join_rule == "public" or join_rule in room.version.auth.knock_rules

    async def may_view(self, viewer: UserId, entry: RoomEntry) -> bool:
        """As `may_see`, for one user; also of a room that others told us of."""
        is_open = entry.join_rule in ("public", "knock", "knock_restricted") or entry.world_readable

        def unit(tx: Transaction) -> bool:
            own = room_rows.member(tx, entry.room_id, viewer)
            if own is not None and own.membership in ("join", "invite", "ban"):
                return own.membership != "ban"
            others = (room_rows.member(tx, one, viewer) for one in entry.allowed_rooms)
            return is_open or any(one is not None and one.membership == "join" for one in others)

        return await self._database.read(unit)


def _allowed(room: Room, rules: Pdu | None) -> Sequence[RoomId]:
    """Rooms whose members may join, where the join rule and the room's version say so."""
    content = {} if rules is None else rules.content
    join_rule = content.get("join_rule")
    if not isinstance(join_rule, str) or join_rule not in room.version.auth.restricted_rules:
        return ()
    allow = content.get("allow")
    found: list[RoomId] = []
    for condition in allow[:MAX_ALLOWED] if isinstance(allow, list) else ():
        if isinstance(condition, dict) and condition.get("type") == "m.room_membership":
            try:
                found.append(parse_room_id(condition.get("room_id")))
            except BadInput:
                continue
    return tuple(found)


def _stripped(pdu: Pdu) -> dict[str, Any]:
    return {
        "type": pdu.type,
        "state_key": pdu.state_key,
        "sender": pdu.sender,
        "content": dict(pdu.content),
        "origin_server_ts": pdu.origin_server_ts,
    }


def _fitting(children: Sequence[Child]) -> list[Child]:
    kept: list[Child] = []
    size = 0
    for child in children:
        size += len(encode_canonical(child.event["content"], strict=False))
        if kept and size > MAX_CHILDREN_BYTES:
            break
        kept.append(child)
    return kept
