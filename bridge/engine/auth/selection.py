"""Which parts of the state authorise an event. Spec: S2S, auth events selection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.engine.state import (
    CREATE,
    JOIN_RULES,
    MEMBER,
    POWER_LEVELS,
    THIRD_PARTY_INVITE,
    StateKey,
)
from bridge.engine.versions.rules import RoomVersion


def auth_event_keys(
    event_type: str,
    sender: str,
    state_key: str | None,
    content: Mapping[str, Any],
    version: RoomVersion,
) -> frozenset[StateKey]:
    """The state keys whose current events, as far as they exist, become `auth_events`.

    Empty for the create event. From version 12 the create event is not among them, though the
    rules still look at it: whoever gathers an auth state adds it.
    """
    if event_type == "m.room.create":
        return frozenset()
    keys = {POWER_LEVELS, (MEMBER, sender)}
    if version.auth.create_in_auth_events:
        keys.add(CREATE)
    if event_type == MEMBER and state_key is not None:
        keys |= _member_keys(state_key, content, version)
    return frozenset(keys)


def auth_state_keys(
    event_type: str,
    sender: str,
    state_key: str | None,
    content: Mapping[str, Any],
    version: RoomVersion,
) -> frozenset[StateKey]:
    """What `check_auth` needs to see: the selection and always the create event."""
    return auth_event_keys(event_type, sender, state_key, content, version) | {CREATE}


def _member_keys(target: str, content: Mapping[str, Any], version: RoomVersion) -> set[StateKey]:
    membership = content.get("membership")
    keys = {(MEMBER, target)}
    if membership in ("join", "invite", "knock"):
        keys.add(JOIN_RULES)
    if membership == "invite":
        token = third_party_token(content)
        if token is not None:
            keys.add((THIRD_PARTY_INVITE, token))
    if membership == "join" and version.auth.restricted_rules:
        voucher = content.get("join_authorised_via_users_server")
        if isinstance(voucher, str):
            keys.add((MEMBER, voucher))
    return keys


def third_party_token(content: Mapping[str, Any]) -> str | None:
    """`third_party_invite.signed.token` of a member event's content, where it is a string."""
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, dict) else None
    token = signed.get("token") if isinstance(signed, dict) else None
    return token if isinstance(token, str) else None
