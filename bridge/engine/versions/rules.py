"""What may differ between room versions: one documented field per difference.

A room version is data. Code asks a rule for its answer and never compares version strings.
Spec: rooms (the sections named at each field).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from bridge.ids import RoomVersionId


def _nothing() -> Mapping[str, frozenset[str]]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFormatRules:
    """The shape of a PDU. Spec: rooms/vN, event format."""

    room_id_from_create: bool
    """The create event has no `room_id`; the room ID is its event ID with `!`. From 12."""
    redacts_in_content: bool
    """`redacts` of a redaction stands in `content`, not at the top level. From 11."""
    named_by_sender: bool = False
    """The server that makes an event chooses its ID, `$opaque:domain`, which stands in the event as
    `event_id`; that domain's server has to sign. Until 2, later ones are hashes.
    Spec: rooms/v1 and rooms/v3, event IDs; S2S, validating hashes and signatures."""
    links_with_hashes: bool = False
    """`prev_events` and `auth_events` are pairs of an event ID and `{"sha256": reference hash}`.
    Until 2. Spec: rooms/v1 and rooms/v3, event format."""
    max_prev_events: int = 20
    max_auth_events: int = 10
    url_safe_event_ids: bool = True
    """Event IDs are hashes in the URL-safe alphabet; before 4 in the standard one.
    Spec: rooms/v3 and rooms/v4, event IDs."""
    strict_json: bool = True
    """Only canonical JSON is taken; before 6, floats and integers of 64 bits are taken as well.
    Spec: rooms/v3, canonical JSON; rooms/v6, canonical JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptContent:
    """What redaction leaves of one event type's `content`."""

    keys: frozenset[str] = frozenset()
    nested: Mapping[str, frozenset[str]] = field(default_factory=_nothing)
    """Key -> the keys kept inside its object; the object stays, even when it becomes empty."""
    everything: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionRules:
    """The redaction algorithm as two lists. Spec: rooms/vN, redactions."""

    top_level: frozenset[str]
    content: Mapping[str, KeptContent]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthRules:
    """Spec: rooms/vN, authorisation rules."""

    create_in_auth_events: bool
    """Every event names the create event among its auth events. Until 11."""
    creator_in_content: bool
    """`content.creator` of the create event is required and names the creator. Until 10."""
    privileged_creators: bool
    """Creators (`additional_creators` too) stand above every power level. From 12."""
    invite_rules: frozenset[str]
    """Join rules by which only the invited may join."""
    restricted_rules: frozenset[str]
    """Join rules by which a member with the right to invite may vouch for a join. From 8."""
    knock_rules: frozenset[str]
    """Join rules that let people knock. From 7."""
    check_redactions: bool = False
    """A redaction needs the redact level or an ID of the redacted event's server, and takes effect
    when it is accepted. Until 2 (rule 11); from 3 the same decides about the effect alone.
    Spec: rooms/v1, authorisation rules; rooms/v3, handling redactions."""
    aliases_by_server: bool = False
    """`m.room.aliases` is each server's own under its name, whoever sends it. Until 5 (rule 4)."""
    check_notifications: bool = True
    """Nobody changes levels of `notifications` above their own. From 6 (rules 9.4 and 9.5)."""
    integer_levels: bool = True
    """Power levels are integers; before 10, strings that are integers, and floats, count too.
    Spec: rooms/v3, deprecated event content schemas; rooms/v10, rules 9.1 to 9.3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateResolutionRules:
    """Which algorithm, and the refinement 2.1 of the second. Spec: rooms/v1, v2 and v12."""

    starts_empty: bool
    """The first iterative auth checks begin with an empty state map (2.1)."""
    conflicted_subgraph: bool
    """The full conflicted set includes the conflicted state subgraph (2.1)."""
    algorithm: Literal["v1", "v2"] = "v2"
    """`v1` knows nothing of the other fields. Spec: rooms/v1 and rooms/v2, state resolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRules:
    """Spec: rooms/v5, signing key validity period."""

    enforce_key_validity: bool = True
    max_key_validity_ms: int = 7 * 24 * 3600 * 1000
    """`valid_until_ts` counts at most this far into the future."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomVersion:
    """One room version: its identifier and its rules."""

    id: RoomVersionId
    event_format: EventFormatRules
    redaction: RedactionRules
    auth: AuthRules
    stateres: StateResolutionRules
    signing: SigningRules
    extensible_events: bool = False
    """Messages are extensible events (MSC1767), and only those are sent."""
    creatable: bool = True
    """We make rooms of it. Those of 1 and 2 we only enter: their event IDs can clash, and the state
    of 1 may fall back. Spec: rooms/v1, state resolution; rooms/v3, event IDs."""
    invited_by_v1: bool = False
    """Invites into its rooms may come by the first endpoint, which names no version.
    Spec: S2S, PUT /v1/invite."""
    whole_invite_state: bool = False
    """An invite is refused unless the state beside it is whole events of the room with its create
    event; of a knock's answer only such events count. From 12; before, servers may.
    Spec: S2S, PUT /v2/invite; PUT /v1/send_knock; MSC4311."""
