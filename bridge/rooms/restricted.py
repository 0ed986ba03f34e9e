"""Restricted joins: who of us may vouch for somebody who is a member of an allowed room.

Spec: S2S, restricted rooms; rooms/v8, restricted join rules.
"""

from __future__ import annotations

from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels
from bridge.engine.state import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS
from bridge.errors import Refused
from bridge.ids import RoomId, ServerName, UserId, server_of
from bridge.rooms.load import Room, RoomStates

MAX_CONDITIONS = 50
"""Entries of `allow` that are looked at."""


async def needs_voucher(states: RoomStates, room: Room, user_id: UserId) -> bool:
    """Whether the room's join rule lets this user in only with a member's word."""
    found = await states.pick(room.state, (JOIN_RULES, (MEMBER, user_id)))
    rules = found.get(JOIN_RULES)
    rule = None if rules is None else rules.content.get("join_rule")
    if not isinstance(rule, str) or rule not in room.version.auth.restricted_rules:
        return False
    member = found.get((MEMBER, user_id))
    return member is None or member.membership not in ("join", "invite")


async def find_voucher(
    states: RoomStates, room: Room, user_id: UserId, server: ServerName
) -> UserId:
    """A user of `server` (ours) who may invite. Raises `Refused` with the specification's codes."""
    rules = (await states.pick(room.state, (JOIN_RULES,)))[JOIN_RULES]
    await _check_conditions(states, rules, user_id)
    for (kind, key), event_id in room.state.items():
        if kind != MEMBER or server_of(UserId(key)) != server:
            continue
        member = (await states.events([event_id])).get(event_id)
        if member is None or member.pdu.membership != "join":
            continue
        found = await states.pick(room.state, (CREATE, POWER_LEVELS))
        power = PowerLevels.of(found.get(POWER_LEVELS), found.get(CREATE))
        if power.may_invite(key):
            return UserId(key)
    raise Refused(
        "nobody here may vouch for the join",
        errcode="M_UNABLE_TO_GRANT_JOIN",
        rule="restricted.voucher",
    )


async def _check_conditions(states: RoomStates, rules: Pdu, user_id: UserId) -> None:
    allow = rules.content.get("allow")
    unknown = False
    for condition in allow[:MAX_CONDITIONS] if isinstance(allow, list) else ():
        if not isinstance(condition, dict) or condition.get("type") != "m.room_membership":
            continue
        room_id = condition.get("room_id")
        if not isinstance(room_id, str):
            continue
        room = await states.find_room(RoomId(room_id))
        if room is None or not room.joined:
            unknown = True
            continue
        member = (await states.pick(room.state, ((MEMBER, user_id),))).get((MEMBER, user_id))
        if member is not None and member.membership == "join":
            return
    if unknown:
        raise Refused(
            "we are not in the rooms that would allow it",
            errcode="M_UNABLE_TO_AUTHORISE_JOIN",
            rule="restricted.unknown",
        )
    raise Refused("no condition of the room allows the join", rule="restricted")
