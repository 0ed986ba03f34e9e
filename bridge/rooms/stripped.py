"""The state that goes with an invite, so that the invited know what they are invited to.

Spec: client-server API, stripped state; S2S, invites (whole events since 1.16, which older servers
read as stripped ones).
"""

from __future__ import annotations

from typing import Any

from bridge.engine.state import CREATE, JOIN_RULES, MEMBER
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
    found = await states.pick(room.state, (*_KEYS, (MEMBER, inviter)))
    return [pdu.wire() for pdu in found.values()]
