"""The state that goes with an invite or answers a knock, so that people know what room it is.

It is whole events, which older servers read as stripped ones. Of what others send each whole event
is checked by itself: format, signatures, its room (from version 12 its create event proves the
room's ID). That it is the room's state now, nobody shows us. Events that were stripped by an older
server prove nothing; whether they count is the version's rule.
Spec: client-server API, stripped state; S2S, inviting to a room, knocking upon a room; MSC4311.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridge.engine.pdu import Pdu
from bridge.engine.state import CREATE, JOIN_RULES, MEMBER, StateKey
from bridge.engine.versions import RoomVersion
from bridge.errors import BadInput, Refused, Unavailable
from bridge.ids import RoomId, UserId
from bridge.rooms.load import Room, RoomStates
from bridge.rooms.network import Json
from bridge.rooms.verify import Verifier
from bridge.telemetry.log import get_logger

MAX_LOOKED_AT = 100
MAX_TOLD = 30
"""Events of another server's answer that are looked at for the create event, and at all."""

log = get_logger("rooms")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldState:
    """What was told of a room, after a look at it."""

    whole: Sequence[Json]
    """Good events of this room, the create event first."""
    bare: Sequence[Json]
    """What claims to be no event, only what is left of one."""
    wrong: str | None
    """What is wrong with it where whole events are due."""

    def kept(self, version: RoomVersion) -> Sequence[Json]:
        return self.whole if version.whole_invite_state else (*self.whole, *self.bare)


async def look_at(
    verifier: Verifier, told: Sequence[object], version: RoomVersion, room_id: RoomId
) -> ToldState:
    """An event whose keys cannot be had now is left out, and nothing is wrong with it; a create
    event that proves the room's ID by itself needs none."""
    entries = sorted(
        (one for one in told[:MAX_LOOKED_AT] if isinstance(one, dict)),
        key=lambda one: one.get("type") != CREATE[0],
    )[:MAX_TOLD]
    claimed = [one for one in entries if "signatures" in one]
    bare = [one for one in entries if "signatures" not in one]
    wrong = "not every entry is an event" if bare else None
    good = {pdu.event_id: pdu for pdu in await verifier.check_all(claimed, version, room_id)}
    whole: list[Pdu] = []
    for entry in claimed:
        try:
            pdu = Pdu.parse(entry, version)
            if pdu.room_id != room_id or not pdu.is_state:
                raise BadInput(f"{pdu.event_id} is no state of this room")
            checked = good.get(pdu.event_id) or await verifier.check(pdu)
        except (BadInput, Refused) as exc:
            wrong = exc.reason
            continue
        except Unavailable as exc:
            log.info("no keys for told state", room_id=room_id, reason=exc.reason)
            if pdu.key != CREATE or not version.event_format.room_id_from_create:
                continue
            checked = pdu
        whole.append(checked)
    if all(pdu.key != CREATE for pdu in whole):
        wrong = wrong or "the create event is missing"
    return ToldState(whole=[pdu.wire() for pdu in whole], bare=bare, wrong=wrong)


async def _pick(states: RoomStates, room: Room, *more: StateKey) -> list[dict[str, Any]]:
    found = await states.pick(room.state, (*_KEYS, *more))
    return [pdu.wire() for pdu in found.values()]
