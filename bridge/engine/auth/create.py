"""Rule 1: the create event. Spec: rooms/v3, v11 and v12, authorisation rules.

1. Any `prev_events`: reject.
2. Until 11, the room ID's domain is not the sender's: reject. From 12, a `room_id`: reject.
3. `content.room_version` is there and not known: reject.
4. Until 10, no `content.creator`: reject. From 12, `additional_creators` that is no array of valid
   user IDs: reject.
"""

from __future__ import annotations

from bridge.engine.auth.view import refuse
from bridge.engine.pdu import Pdu
from bridge.engine.versions import VERSIONS
from bridge.errors import BadInput
from bridge.ids import RoomVersionId, parse_user_id


def check_create(pdu: Pdu) -> None:
    """Raise `Refused` unless the create event stands by itself."""
    rules = pdu.version.auth
    if pdu.prev_events:  # 1
        refuse("create.prev_events", "a create event has no previous events")
    if pdu.version.event_format.room_id_from_create:  # 2
        if "room_id" in pdu.json:
            refuse("create.room_id", "the room ID is the hash of the create event, not its field")
    elif pdu.room_id.partition(":")[2] != pdu.sender_server:
        refuse("create.room_id", "the room ID belongs to another server than the sender")
    named = pdu.content.get("room_version", _ABSENT)  # 3
    if named is not _ABSENT and not (isinstance(named, str) and RoomVersionId(named) in VERSIONS):
        refuse("create.room_version", f"room version {named!r} is not known here")
    if rules.creator_in_content and "creator" not in pdu.content:  # 4
        refuse("create.creator", "a create event of this version names its creator")
    if rules.privileged_creators and "additional_creators" in pdu.content:
        _check_creators(pdu.content["additional_creators"])


_ABSENT = object()


def _check_creators(creators: object) -> None:
    if not isinstance(creators, list):
        refuse("create.additional_creators", "additional_creators is not an array")
    for creator in creators:
        try:
            parse_user_id(creator)
        except BadInput as exc:
            refuse("create.additional_creators", f"additional_creators: {exc.reason}")
