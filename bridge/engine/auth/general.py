"""The authorisation rules in their order. `check_auth` judges against a state, and
`check_auth_events` judges the choice of auth events.

Numbers are those of versions 6 to 11; version 12 inserts one after the first. Versions 1 to 5 have
one about `m.room.aliases` after the third, versions 1 and 2 one about redactions before the last.

1. The create event by itself.   2. The auth events (`check_auth_events`), and from 12: the room ID
names the create event.   3. `m.federate`.   4. Member events.   5. The sender is in the room.
6. Third-party invites.   7. The level for the type.   8. State keys that are user IDs.
9. Power levels.   10. Otherwise allow.

Spec: rooms/v1, v3, v6, v7, v8, v10, v11 and v12, authorisation rules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bridge.engine.auth.create import check_create
from bridge.engine.auth.membership import check_member
from bridge.engine.auth.power_levels import check_power_levels
from bridge.engine.auth.selection import auth_event_keys
from bridge.engine.auth.view import AuthView, create_of, refuse
from bridge.engine.pdu import Pdu
from bridge.engine.state import CREATE, THIRD_PARTY_INVITE, AuthState, StateKey
from bridge.ids import EventId, server_of


def check_auth(pdu: Pdu, auth_state: AuthState) -> None:
    """Raise `Refused` with its `rule` unless the state allows the event.

    `auth_state` holds at least what `auth_state_keys` names, as far as it exists, and always the
    create event. Not checked: signatures, and the auth events that the event names.
    """
    if pdu.type == "m.room.create":  # 1
        check_create(pdu)
        return
    create = create_of(auth_state)
    if create.room_id != pdu.room_id:  # 2
        refuse("room_id", "the create event is another room's")
    if create.rejected and pdu.version.event_format.room_id_from_create:
        refuse("create.rejected", "the room's create event was rejected")
    view = AuthView.of(auth_state, create)
    federate = create.content.get("m.federate")
    if federate is False and pdu.sender_server != create.sender_server:  # 3
        refuse("federate", "the room is not federated")
    if pdu.type == "m.room.aliases" and pdu.version.auth.aliases_by_server:
        _check_aliases(pdu)
        return
    if pdu.type == "m.room.member":  # 4
        check_member(pdu, view)
        return
    if view.membership(pdu.sender) != "join":  # 5
        refuse("sender.membership", "the sender is not in the room")
    if pdu.type == THIRD_PARTY_INVITE:  # 6
        if not view.power.may_invite(pdu.sender):
            refuse("third_party_invite.level", "the sender may not invite")
        return
    if not view.power.may_send(pdu.sender, pdu.type, is_state=pdu.is_state):  # 7
        refuse("level", f"the sender may not send {pdu.type}")
    state_key = pdu.state_key
    if state_key is not None and state_key.startswith("@") and state_key != pdu.sender:  # 8
        refuse("state_key", "the state key is another user's ID")
    if pdu.type == "m.room.power_levels":  # 9
        check_power_levels(pdu, view)
    elif pdu.type == "m.room.redaction" and pdu.version.auth.check_redactions:
        _check_redaction(pdu, view)


def _check_aliases(pdu: Pdu) -> None:
    # Neither membership nor level of the sender matters.
    if pdu.state_key is None:
        refuse("aliases.state_key", "the aliases of a server are a state event")
    if pdu.state_key != pdu.sender_server:
        refuse("aliases.server", "the aliases are another server's")


def _check_redaction(pdu: Pdu, view: AuthView) -> None:
    # The servers are those of the event IDs, and the redacted event need not be known.
    if view.power.may_redact(pdu.sender):
        return
    if pdu.redacts is None or server_of(pdu.redacts) != server_of(pdu.event_id):
        refuse("redaction.level", "the sender may not redact events of other servers")


def check_auth_events(
    pdu: Pdu, auth_events: Mapping[EventId, Pdu], *, rejected: Collection[EventId] = ()
) -> None:
    """Raise `Refused` unless the event names the right auth events (rule 2, from 12 rule 3).

    `auth_events` holds the named events; fetch what is missing first, because an unknown one is
    refused. Rejected are those in `rejected` and those marked so themselves.
    """
    if pdu.type == "m.room.create":
        return
    wanted = auth_event_keys(pdu.type, pdu.sender, pdu.state_key, pdu.content, pdu.version)
    seen: set[StateKey] = set()
    for event_id in pdu.auth_events:
        event = auth_events.get(event_id)
        if event is None:
            refuse("auth_events.unknown", f"auth event {event_id} is not known")
        key = event.key
        if key is None or key not in wanted:  # 2.2
            refuse("auth_events.selection", f"{event_id} does not authorise this event")
        if key in seen:  # 2.1
            refuse("auth_events.duplicate", f"two auth events for {key}")
        seen.add(key)
        if event.rejected or event_id in rejected:  # 2.3
            refuse("auth_events.rejected", f"auth event {event_id} was rejected")
        if event.room_id != pdu.room_id:  # 2.5
            refuse("auth_events.room_id", f"auth event {event_id} is another room's")
    if pdu.version.auth.create_in_auth_events and CREATE not in seen:  # 2.4
        refuse("auth_events.create", "the create event is not among the auth events")
