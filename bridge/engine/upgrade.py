"""What a room's successor is made of: the old room's state, written as the new version means it.

Rights are carried by what they allow, never by their spelling, and none is gained by accident: in
the successor nobody may do what they might not do before, but its creators where the version puts
them above every level. Levels keep their order to each other.
Spec: client-server API, room upgrades; rooms/v10, rule 9 (integers); rooms/v12, power levels of
creators; I.1, 3.5 and 7; MSC4289 (the level of tombstones).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from bridge.engine.auth.power_levels import NAMED_LEVELS
from bridge.engine.canonical import MAX_INTEGER, check_canonical
from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels, read_level
from bridge.engine.state import StateKey
from bridge.engine.versions import RoomVersion
from bridge.errors import BadInput
from bridge.ids import EventId, RoomAlias, RoomId, UserId, parse_room_alias, parse_user_id

SPACE: Final = "m.space"
SPACE_CHILD: Final = "m.space.child"
CANONICAL_ALIAS: Final = "m.room.canonical_alias"
TOMBSTONE: Final = "m.room.tombstone"
TOMBSTONE_LEVEL: Final = 150
"""Where creators are privileged: what only they have by default. MSC4289."""

CARRIED: Final[Sequence[StateKey]] = tuple(
    (kind, "")
    for kind in (
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
        "m.room.encryption",
        "m.room.server_acl",
        "m.room.name",
        "m.room.topic",
        "m.room.avatar",
    )
)
"""The recommended state, but the power levels: those come last, see `rooms/upgrade`."""
_EVEN_IF_EMPTY: Final = frozenset({"m.room.server_acl", "m.room.encryption"})
"""Whose absence would let in more than their empty content does."""

MESSAGE: Final = "m.room.message"
STICKER: Final = "m.sticker"
IMAGE: Final = "m.image"
EXTENSIBLE_MESSAGES: Final[Sequence[str]] = (
    "m.message",
    "m.emote",
    "m.file",
    IMAGE,
    "m.video",
    "m.audio",
    "m.voice",
    "m.location",
)
"""What `m.room.message` is split into. Spec: I.1, 3.1 and 3.5."""
POLL: Final = "m.poll.start"
LEGACY_POLL: Final = "org.matrix.msc3381.poll.start"
_SAID: Final = frozenset(
    {MESSAGE, STICKER, *EXTENSIBLE_MESSAGES, POLL, LEGACY_POLL, "m.room.encrypted", "m.reaction"}
)


def successor_create(
    old: Pdu,
    version: RoomVersion,
    *,
    creator: UserId,
    predecessor: RoomId,
    last_event: EventId,
    additional_creators: Sequence[UserId] = (),
) -> dict[str, Any]:
    """The content of the successor's create event; `old` is the old room's.

    Additional creators have no effect where the version knows none, and are never carried over.
    """
    content: dict[str, Any] = {
        "room_version": version.id,
        "predecessor": {"room_id": predecessor, "event_id": last_event},
    }
    if version.auth.creator_in_content:
        content["creator"] = creator
    if version.auth.privileged_creators and additional_creators:
        content["additional_creators"] = list(additional_creators)
    kind = old.content.get("type")
    if isinstance(kind, str):
        content["type"] = kind
    if old.content.get("m.federate") is False:
        content["m.federate"] = False
    return content


def successor_state(
    found: Mapping[StateKey, Pdu], before: RoomVersion, after: RoomVersion
) -> list[tuple[StateKey, dict[str, Any]]]:
    """What of the old state is written again: the recommended events, and a space's children."""
    written: list[tuple[StateKey, dict[str, Any]]] = []
    for key in CARRIED:
        pdu = found.get(key)
        if key[0] == "m.room.join_rules":
            old = {} if pdu is None else pdu.content
            written.append((key, successor_join_rules(old, before, after)))
        elif pdu is not None and (pdu.content or key[0] in _EVEN_IF_EMPTY):
            written.append((key, _canonical_part(pdu.content)))
    for key, pdu in sorted(found.items()):
        # An empty child is one that was taken out of the space.
        if key[0] == SPACE_CHILD and pdu.content:
            written.append((key, _canonical_part(pdu.content)))
    return written


def successor_join_rules(
    old: Mapping[str, Any], before: RoomVersion, after: RoomVersion
) -> dict[str, Any]:
    """The same rule where both versions know it, else the next one that opens no other way in.

    What the old version did not know let nobody in; that becomes `invite`, or the members could
    not follow. Spec: rooms/v7, v8 and v10, authorisation rules.
    """
    rule = old.get("join_rule")
    if not isinstance(rule, str):
        return {"join_rule": "invite"}
    for candidate in _fallbacks(rule, before):
        if candidate in after.auth.restricted_rules:
            allow = old.get("allow")
            kept = {"allow": allow} if isinstance(allow, list) else {}
            return {"join_rule": candidate, **_canonical_part(kept)}
        if candidate == "public" or candidate in after.auth.invite_rules:
            return {"join_rule": candidate}
    return {"join_rule": "invite"}


def _fallbacks(rule: str, before: RoomVersion) -> Iterable[str]:
    rules = before.auth
    if rule == "public" or rule in rules.invite_rules:
        yield rule
    elif rule in rules.restricted_rules:
        yield rule
        if rule in rules.knock_rules:
            yield "restricted"
            yield "knock"


def successor_levels(
    old: PowerLevels,
    before: RoomVersion,
    after: RoomVersion,
    *,
    creators: Collection[UserId],
) -> dict[str, Any]:
    """The content of the successor's power levels event; `creators` are the successor's.

    1. Every level as it counts. 2. Who stood above all levels gets the highest one there is, at
    least 100. 3. Where creators stand above all levels they have no entry, and tombstones need more
    than other state. 4. Levels of messages follow what messages are called. 5. What canonical JSON
    cannot hold is moved, and keeps its order.
    """
    named = {name: old.named(name) for name in NAMED_LEVELS}  # 1
    users = {user: level for user, level in _levels(old, "users").items() if _is_user(user)}
    events, notifications = _levels(old, "events"), _levels(old, "notifications")
    if old.privileged_creators or not old.has_event:  # 2
        every = (named, users, events, notifications)
        highest = max(100, *(level for group in every for level in group.values()))
        users |= {user: highest for user in old.creators if _is_user(user)}
    if after.auth.privileged_creators:  # 3
        for creator in creators:
            users.pop(creator, None)
        if events.get(TOMBSTONE, named["state_default"]) <= named["state_default"]:
            # Its name needs no less where it is no state, either.
            lowest = max(named["state_default"] + 1, named["events_default"])
            events[TOMBSTONE] = max(TOMBSTONE_LEVEL, lowest)
    if before.extensible_events is not after.extensible_events:  # 4
        events |= _split(old, events) if after.extensible_events else _join(old, events)
    groups = {"users": users, "events": events, "notifications": notifications}
    place = _places([named, *groups.values()])  # 5
    content: dict[str, Any] = {name: place[level] for name, level in named.items()}
    for name, levels in groups.items():
        content[name] = {key: place[level] for key, level in levels.items()}
    return content


def _split(old: PowerLevels, events: Mapping[str, int]) -> dict[str, int]:
    """Into a version with extensible events: each kind of message needs what a message needed."""
    level, named = old.event(MESSAGE, is_state=False), MESSAGE in events
    split = {
        kind: max(level, old.event(kind, is_state=False))
        for kind in (*EXTENSIBLE_MESSAGES, POLL)
        if named or kind in events
    }
    if LEGACY_POLL in events or POLL in split:
        split[POLL] = max(split.get(POLL, level), old.event(LEGACY_POLL, is_state=False))
    return split


def _join(old: PowerLevels, events: Mapping[str, int]) -> dict[str, int]:
    """Back: a message may be of any kind, so that it needs what the most guarded kind needed."""
    joined: dict[str, int] = {}
    for kind, kinds in (
        (MESSAGE, (MESSAGE, *EXTENSIBLE_MESSAGES)),
        (STICKER, (STICKER, IMAGE)),
        (LEGACY_POLL, (LEGACY_POLL, POLL)),
    ):
        if any(one in events for one in kinds):
            joined[kind] = max(old.event(one, is_state=False) for one in kinds)
    return joined


def closed_levels(old: PowerLevels) -> dict[str, Any] | None:
    """The old room's power levels such that it falls silent; None when it is silent already.

    `events_default` and `invite` go up to the greater of 50 and `users_default` + 1, and so do
    messages that have a level of their own. Spec: client-server API, room upgrades, 6.
    """
    silent = min(max(50, old.users_default + 1), MAX_INTEGER)
    content = dict(old.content)
    if not old.has_event and not old.privileged_creators:
        content["users"] = {user: 100 for user in sorted(old.creators) if _is_user(user)}
    raised = {name: silent for name in ("events_default", "invite") if old.named(name) < silent}
    events = _levels(old, "events")
    said = {kind: silent for kind, level in events.items() if kind in _SAID and level < silent}
    if not raised and not said:
        return None
    content |= raised
    if said:
        content["events"] = {**content["events"], **said}
    return content


def named_aliases(content: Mapping[str, Any]) -> list[RoomAlias]:
    """Those of a canonical alias event that are aliases."""
    others = content.get("alt_aliases")
    named: list[RoomAlias] = []
    for text in [content.get("alias"), *(others if isinstance(others, list) else ())]:
        try:
            named.append(parse_room_alias(text))
        except BadInput:
            continue
    return named


def split_aliases(
    old: Mapping[str, Any], moved: Collection[RoomAlias]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a canonical alias event: what the successor's names, what the old room's keeps.

    Only what moves goes along: an alias of another server still leads to the old room.
    """
    goes: dict[str, Any] = {}
    stays: dict[str, Any] = {}
    alias = old.get("alias")
    if isinstance(alias, str):
        (goes if alias in moved else stays)["alias"] = alias
    others = old.get("alt_aliases")
    for other in others if isinstance(others, list) else ():
        if isinstance(other, str):
            (goes if other in moved else stays).setdefault("alt_aliases", []).append(other)
    return goes, stays


def _levels(old: PowerLevels, name: str) -> dict[str, int]:
    group = old.content.get(name)
    if not isinstance(group, dict):
        return {}
    read = ((key, read_level(v, integers_only=old.integer_levels)) for key, v in group.items())
    return {key: level for key, level in read if level is not None}


def _places(groups: Iterable[Mapping[str, int]]) -> dict[int, int]:
    """A level of canonical JSON for each of these, in the same order."""
    # Those that count where nothing is written: they must keep their place among the others.
    levels = sorted({0, 50, 100, *(level for group in groups for level in group.values())})
    place: dict[int, int] = {}
    top = MAX_INTEGER
    for level in reversed(levels):
        place[level] = min(level, top)
        top = place[level] - 1
    bottom = -MAX_INTEGER
    for level in levels:
        place[level] = max(place[level], bottom)
        bottom = place[level] + 1
    return place


def _is_user(text: str) -> bool:
    try:
        parse_user_id(text)
    except BadInput:
        return False
    return True


def _canonical_part(content: Mapping[str, Any]) -> dict[str, Any]:
    """Versions before 6 took what is no canonical JSON, and we write none."""
    kept: dict[str, Any] = {}
    for name, value in content.items():
        try:
            check_canonical({name: value})
        except BadInput:
            continue
        kept[name] = value
    return kept
