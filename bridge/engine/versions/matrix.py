"""The room versions of the Matrix specification: each is the one before plus what changes."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from bridge.engine.versions.rules import (
    AuthRules,
    EventFormatRules,
    KeptContent,
    RedactionRules,
    RoomVersion,
    SigningRules,
    StateResolutionRules,
)
from bridge.ids import RoomVersionId

_POWER_KEYS = frozenset(
    {
        "ban",
        "events",
        "events_default",
        "kick",
        "redact",
        "state_default",
        "users",
        "users_default",
    }
)
_MEMBER_KEYS = frozenset({"membership", "join_authorised_via_users_server"})

V10 = RoomVersion(
    id=RoomVersionId("10"),
    event_format=EventFormatRules(room_id_from_create=False, redacts_in_content=False),
    redaction=RedactionRules(
        top_level=frozenset(
            {
                "event_id",
                "type",
                "room_id",
                "sender",
                "state_key",
                "content",
                "hashes",
                "signatures",
                "depth",
                "prev_events",
                "prev_state",
                "auth_events",
                "origin",
                "origin_server_ts",
                "membership",
            }
        ),
        content=MappingProxyType(
            {
                "m.room.member": KeptContent(keys=_MEMBER_KEYS),
                "m.room.create": KeptContent(keys=frozenset({"creator"})),
                "m.room.join_rules": KeptContent(keys=frozenset({"join_rule", "allow"})),
                "m.room.power_levels": KeptContent(keys=_POWER_KEYS),
                "m.room.history_visibility": KeptContent(keys=frozenset({"history_visibility"})),
            }
        ),
    ),
    auth=AuthRules(
        create_in_auth_events=True,
        creator_in_content=True,
        privileged_creators=False,
        invite_rules=frozenset({"invite", "knock"}),
        restricted_rules=frozenset({"restricted", "knock_restricted"}),
        knock_rules=frozenset({"knock", "knock_restricted"}),
    ),
    stateres=StateResolutionRules(starts_empty=False, conflicted_subgraph=False),
    signing=SigningRules(),
)

V11 = replace(
    V10,
    id=RoomVersionId("11"),
    event_format=replace(V10.event_format, redacts_in_content=True),
    redaction=RedactionRules(
        top_level=V10.redaction.top_level - {"origin", "membership", "prev_state"},
        content=MappingProxyType(
            {
                **V10.redaction.content,
                "m.room.member": KeptContent(
                    keys=_MEMBER_KEYS,
                    nested=MappingProxyType({"third_party_invite": frozenset({"signed"})}),
                ),
                "m.room.create": KeptContent(everything=True),
                "m.room.power_levels": KeptContent(keys=_POWER_KEYS | {"invite"}),
                "m.room.redaction": KeptContent(keys=frozenset({"redacts"})),
            }
        ),
    ),
    auth=replace(V10.auth, creator_in_content=False),
)

V12 = replace(
    V11,
    id=RoomVersionId("12"),
    event_format=replace(V11.event_format, room_id_from_create=True),
    auth=replace(V11.auth, create_in_auth_events=False, privileged_creators=True),
    stateres=StateResolutionRules(starts_empty=True, conflicted_subgraph=True),
)
