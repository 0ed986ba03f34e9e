"""Who may see what: server ACLs, who is in a room, and the history visibility.

Spec: S2S, server access control lists; client-server API, m.room.history_visibility.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from bridge.engine.pdu import Pdu
from bridge.engine.state import MEMBER, StateMap
from bridge.errors import NotFound, Refused
from bridge.ids import ServerName, UserId, server_of, split_server_name
from bridge.rooms.load import KnownEvent, Room, RoomStates

ACL = ("m.room.server_acl", "")
HISTORY = ("m.room.history_visibility", "")


def is_server_allowed(acl: Mapping[str, Any] | None, server: ServerName) -> bool:
    """No ACL: everybody. Otherwise literal IP, `deny`, `allow`, and nobody else, in this order."""
    if acl is None:
        return True
    host, _ = split_server_name(server)
    if acl.get("allow_ip_literals") is False and _is_ip(host):
        return False
    if _matches(acl.get("deny"), host):
        return False
    return _matches(acl.get("allow"), host)


async def check_server(states: RoomStates, room: Room, server: ServerName) -> None:
    """Raise `Refused` when the room's ACL keeps the server out."""
    acl = (await states.pick(room.state, (ACL,))).get(ACL)
    if acl is not None and not is_server_allowed(acl.content, server):
        raise Refused(f"{server} is not allowed in this room", rule="server_acl")


async def check_in_room(states: RoomStates, room: Room, server: ServerName) -> None:
    """Raise `Refused` unless the ACL allows the server and one of its users is joined."""
    await check_server(states, room, server)
    if not await states.has_joined(room.room_id, server):
        raise Refused(f"{server} is not in the room", rule="server.membership")


async def check_was_in_room(states: RoomStates, room: Room, server: ServerName) -> bool:
    """As `check_in_room`, but whoever has left may ask, too. True: it is in."""
    await check_server(states, room, server)
    if await states.has_joined(room.room_id, server):
        return True
    if not await states.has_left(room.room_id, server):
        raise Refused(f"{server} is not in the room", rule="server.membership")
    return False


async def has_member(
    states: RoomStates, state: StateMap, server: ServerName, kinds: tuple[str, ...]
) -> bool:
    """Whether a user of the server has one of these memberships in the state."""
    ids = [
        event_id
        for (kind, key), event_id in state.items()
        if kind == MEMBER and server_of(UserId(key)) == server
    ]
    for start in range(0, len(ids), 100):
        found = await states.events(ids[start : start + 100])
        if any(known.pdu.membership in kinds for known in found.values()):
            return True
    return False


async def visible_form(
    states: RoomStates,
    room: Room,
    known: KnownEvent,
    server: ServerName,
    was_in: dict[int, bool] | None = None,
) -> Pdu | None:
    """The event as a server in the room may have it: whole, or redacted where the history was
    not visible to it. None: it has no place in the graph here. Rejected ones are given too: they
    may be somebody's previous events.

    `was_in`: what was found out for one answer, by the state's row.
    """
    if known.outlier:
        return known.pdu if known.pdu.is_state else None
    if known.pdu.is_state:
        return known.pdu  # State is known to whoever is in the room.
    before = await states.before(known)
    history = (await states.pick(before.state, (HISTORY,))).get(HISTORY)
    value = "shared" if history is None else history.content.get("history_visibility")
    if value not in ("invited", "joined"):
        return known.pdu
    if before.is_same(room.snapshot):
        return known.pdu
    found = None if was_in is None or before.row_id is None else was_in.get(before.row_id)
    if found is None:
        kinds = ("join", "invite") if value == "invited" else ("join",)
        found = await has_member(states, before.state, server, kinds)
        if was_in is not None and before.row_id is not None:
            was_in[before.row_id] = found
    return known.pdu if found else known.pdu.redacted()


async def is_visible(
    states: RoomStates,
    room: Room,
    known: KnownEvent,
    server: ServerName,
    was_in: dict[int, bool] | None = None,
) -> bool:
    """Whether a server in the room may have the event whole."""
    return await visible_form(states, room, known, server, was_in) is known.pdu


async def may_read(
    states: RoomStates, known: KnownEvent, user_id: UserId, *, is_joined: bool
) -> bool:
    """Whether the history visibility shows the event to this user. `is_joined`: now.

    Deviates: who has left is shown no shared history of times when they were not in the room,
    though they may have been in it later. Spec: client-server API, m.room.history_visibility,
    server behaviour.
    """
    pdu, own = known.pdu, (MEMBER, user_id)
    if known.outlier:
        return pdu.key == own  # An invite from outside, or its end.
    try:
        before = await states.before(known)
    except NotFound:
        return False
    around = [before]
    if pdu.key in (HISTORY, own) and not known.is_rejected:
        around.append(before.with_event(pdu))
    for snapshot in around:
        found = await states.pick(snapshot.state, (HISTORY, own))
        history, member = found.get(HISTORY), found.get(own)
        value = "shared" if history is None else history.content.get("history_visibility")
        membership = None if member is None else member.membership
        if value == "world_readable" or membership == "join":
            return True
        if value == "invited" and membership == "invite":
            return True
        if value not in ("invited", "joined") and is_joined:
            return True
    return False


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _matches(patterns: object, host: str) -> bool:
    if not isinstance(patterns, list):
        return False
    # All of them, as many as an event can hold: one that is not looked at would let somebody in.
    return any(_glob(pattern, host) for pattern in patterns if isinstance(pattern, str))


def _glob(pattern: str, host: str) -> bool:
    """`*` any run of characters, `?` exactly one; case does not matter in host names."""
    # A run of stars is one star: no pattern may take more than quadratic time.
    text = re.sub(r"\*+", "*", pattern.lower())
    return _glob_at(text, host.lower())


def _glob_at(pattern: str, text: str) -> bool:
    """The usual two-pointer match, in time of both lengths multiplied."""
    at = star = mark = 0
    index, star = 0, -1
    while index < len(text):
        if at < len(pattern) and pattern[at] in (text[index], "?"):
            at, index = at + 1, index + 1
        elif at < len(pattern) and pattern[at] == "*":
            star, mark, at = at, index, at + 1
        elif star >= 0:
            at, mark = star + 1, mark + 1
            index = mark
        else:
            return False
    return not pattern[at:].strip("*")
