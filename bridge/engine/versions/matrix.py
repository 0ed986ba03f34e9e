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


def _but(rules: RedactionRules, **kinds: KeptContent) -> RedactionRules:
    """The rules with other entries for some event types, named without `m.room.`."""
    changed = {f"m.room.{kind}": kept for kind, kept in kinds.items()}
    return replace(rules, content=MappingProxyType({**rules.content, **changed}))


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

V1 = RoomVersion(
    id=RoomVersionId("1"),
    creatable=False,
    # S2S, PUT /v1/invite
    invited_by_v1=True,
    # rooms/v1, event IDs, event format and canonical JSON
    event_format=EventFormatRules(
        named_by_sender=True,
        links_with_hashes=True,
        room_id_from_create=False,
        redacts_in_content=False,
        url_safe_event_ids=False,
        strict_json=False,
    ),
    # rooms/v1, redactions
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
                "m.room.member": KeptContent(keys=frozenset({"membership"})),
                "m.room.create": KeptContent(keys=frozenset({"creator"})),
                "m.room.join_rules": KeptContent(keys=frozenset({"join_rule"})),
                "m.room.power_levels": KeptContent(keys=_POWER_KEYS),
                "m.room.aliases": KeptContent(keys=frozenset({"aliases"})),
                "m.room.history_visibility": KeptContent(keys=frozenset({"history_visibility"})),
            }
        ),
    ),
    # rooms/v1, authorisation rules, and deprecated event content schemas
    auth=AuthRules(
        create_in_auth_events=True,
        creator_in_content=True,
        privileged_creators=False,
        invite_rules=frozenset({"invite"}),
        restricted_rules=frozenset(),
        knock_rules=frozenset(),
        check_redactions=True,
        aliases_by_server=True,
        check_notifications=False,
        integer_levels=False,
    ),
    # rooms/v1, state resolution
    stateres=StateResolutionRules(algorithm="v1", starts_empty=False, conflicted_subgraph=False),
    # Not before rooms/v5, signing key validity period
    signing=SigningRules(enforce_key_validity=False),
)

V2 = replace(
    V1,
    id=RoomVersionId("2"),
    # rooms/v2, state resolution
    stateres=replace(V1.stateres, algorithm="v2"),
)

V3 = replace(
    V2,
    id=RoomVersionId("3"),
    creatable=True,
    invited_by_v1=False,
    # rooms/v3, event IDs and event format
    event_format=replace(V2.event_format, named_by_sender=False, links_with_hashes=False),
    # rooms/v3, authorisation rules and handling redactions
    auth=replace(V2.auth, check_redactions=False),
)

V4 = replace(
    V3,
    id=RoomVersionId("4"),
    # rooms/v4, event IDs
    event_format=replace(V3.event_format, url_safe_event_ids=True),
)

V5 = replace(
    V4,
    id=RoomVersionId("5"),
    # rooms/v5, signing key validity period
    signing=replace(V4.signing, enforce_key_validity=True),
)

V6 = replace(
    V5,
    id=RoomVersionId("6"),
    # rooms/v6, event format and canonical JSON
    event_format=replace(V5.event_format, strict_json=True),
    # rooms/v6, redactions
    redaction=_but(V5.redaction, aliases=KeptContent()),
    # rooms/v6, authorisation rules: 4 is removed, and 9.4 and 9.5 are widened
    auth=replace(V5.auth, aliases_by_server=False, check_notifications=True),
)

V7 = replace(
    V6,
    id=RoomVersionId("7"),
    # rooms/v7, authorisation rules: 4.2.4 and 4.6
    auth=replace(
        V6.auth,
        invite_rules=frozenset({"invite", "knock"}),
        knock_rules=frozenset({"knock"}),
    ),
)

V8 = replace(
    V7,
    id=RoomVersionId("8"),
    # rooms/v8, redactions
    redaction=_but(V7.redaction, join_rules=KeptContent(keys=frozenset({"join_rule", "allow"}))),
    # rooms/v8, authorisation rules: 4.2 and 4.3.5
    auth=replace(V7.auth, restricted_rules=frozenset({"restricted"})),
)

V9 = replace(
    V8,
    id=RoomVersionId("9"),
    # rooms/v9, redactions
    redaction=_but(V8.redaction, member=KeptContent(keys=_MEMBER_KEYS)),
)

V10 = replace(
    V9,
    id=RoomVersionId("10"),
    # rooms/v10, authorisation rules: 4.3.5 and 4.7.1; 9.1 to 9.3
    auth=replace(
        V9.auth,
        restricted_rules=V9.auth.restricted_rules | {"knock_restricted"},
        knock_rules=V9.auth.knock_rules | {"knock_restricted"},
        integer_levels=True,
    ),
)

V11 = replace(
    V10,
    id=RoomVersionId("11"),
    # rooms/v11, event format
    event_format=replace(V10.event_format, redacts_in_content=True),
    # rooms/v11, redactions
    redaction=_but(
        replace(
            V10.redaction,
            top_level=V10.redaction.top_level - {"origin", "membership", "prev_state"},
        ),
        member=KeptContent(
            keys=_MEMBER_KEYS,
            nested=MappingProxyType({"third_party_invite": frozenset({"signed"})}),
        ),
        create=KeptContent(everything=True),
        power_levels=KeptContent(keys=_POWER_KEYS | {"invite"}),
        redaction=KeptContent(keys=frozenset({"redacts"})),
    ),
    # rooms/v11, authorisation rules: 1
    auth=replace(V10.auth, creator_in_content=False),
)

V12 = replace(
    V11,
    id=RoomVersionId("12"),
    # rooms/v12, room IDs, and event format
    event_format=replace(V11.event_format, room_id_from_create=True),
    # rooms/v12, authorisation rules: 1, 2, 3 and 10.4
    auth=replace(V11.auth, create_in_auth_events=False, privileged_creators=True),
    # rooms/v12, state resolution
    stateres=StateResolutionRules(starts_empty=True, conflicted_subgraph=True),
    # S2S, PUT /v2/invite
    whole_invite_state=True,
)
