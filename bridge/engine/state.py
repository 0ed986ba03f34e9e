"""State maps: which event holds each (type, state key). Spec: S2S, room state resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from bridge.engine.pdu import Pdu
from bridge.ids import EventId

StateKey: TypeAlias = tuple[str, str]
StateMap: TypeAlias = Mapping[StateKey, EventId]
AuthState: TypeAlias = Mapping[StateKey, Pdu]
"""The part of a state that the auth rules look at, with the events themselves."""

CREATE: Final[StateKey] = ("m.room.create", "")
POWER_LEVELS: Final[StateKey] = ("m.room.power_levels", "")
JOIN_RULES: Final[StateKey] = ("m.room.join_rules", "")
MEMBER: Final = "m.room.member"
THIRD_PARTY_INVITE: Final = "m.room.third_party_invite"


def state_after(state: StateMap, pdu: Pdu) -> StateMap:
    """State after an accepted event, given the state before it; the same map for no state event."""
    key = pdu.key
    if key is None:
        return state
    return {**state, key: pdu.event_id}
