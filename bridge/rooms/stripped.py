"""The state that goes with an invite or answers a knock, so that people know what room it is.

Spec: client-server API, stripped state; S2S, invites (whole events since 1.16, which older servers
read as stripped ones).
"""

from __future__ import annotations

from typing import Any

from bridge.engine.state import CREATE, JOIN_RULES, MEMBER, StateKey
from bridge.ids import UserId
from bridge.rooms.load import Room, RoomStates

_KEYS = (
    CREATE,
    JOIN_RULES,
    ("m.room.canonical_alias", ""),
    ("m.room.avatar", ""),
    ("m.room.name", ""),
    ("m.room.encryption", ""),
    ("m.room.topic", ""),
)


async def invite_state(states: RoomStates, room: Room, inviter: UserId) -> list[dict[str, Any]]:
    """With the member event of who invites."""
    return await _pick(states, room, (MEMBER, inviter))


async def stripped_state(states: RoomStates, room: Room) -> list[dict[str, Any]]:
    """Of no member."""
    return await _pick(states, room)


async def _pick(states: RoomStates, room: Room, *more: StateKey) -> list[dict[str, Any]]:
    found = await states.pick(room.state, (*_KEYS, *more))
    return [pdu.wire() for pdu in found.values()]
