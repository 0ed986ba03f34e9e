"""What redaction leaves, by room version, event type and key.

A line of a table is a key and the versions that keep it: from the first to the last. What no line
keeps must go, in every version. Spec: rooms/v1, v6, v8, v9 and v11, redactions; I.1 is as 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from bridge.engine.hashes import redact
from bridge.engine.versions import VERSIONS, get_version
from tests.engine.rooms import ALICE, since

LAST = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The versions in which redaction leaves a key, and where that is written."""

    spec: str
    first: int = 1
    last: int = LAST

    def is_in(self, version_id: str) -> bool:
        return since(version_id, self.first) and not since(version_id, self.last + 1)


ALWAYS = Kept(spec="rooms/v1")
UNTIL_10 = Kept(spec="rooms/v1; rooms/v11 takes it off the list", last=10)
SINCE_11 = Kept(spec="rooms/v11", first=11)

TOP_LEVEL: Mapping[str, Kept] = {
    "event_id": ALWAYS,
    "type": ALWAYS,
    "room_id": ALWAYS,
    "sender": ALWAYS,
    "state_key": ALWAYS,
    "content": ALWAYS,
    "hashes": ALWAYS,
    "signatures": ALWAYS,
    "depth": ALWAYS,
    "prev_events": ALWAYS,
    "prev_state": UNTIL_10,
    "auth_events": ALWAYS,
    "origin": UNTIL_10,
    "origin_server_ts": ALWAYS,
    "membership": UNTIL_10,
}

CONTENT: Mapping[str, Mapping[str, Kept]] = {
    "m.room.member": {
        "membership": ALWAYS,
        "join_authorised_via_users_server": Kept(spec="rooms/v9", first=9),
        "third_party_invite": SINCE_11,  # and of it only NESTED
    },
    "m.room.create": {
        "creator": ALWAYS,
        # "allows all keys"
        "room_version": SINCE_11,
        "predecessor": SINCE_11,
        "type": SINCE_11,
        "m.federate": SINCE_11,
        "additional_creators": SINCE_11,
        "x.unknown": SINCE_11,
    },
    "m.room.join_rules": {
        "join_rule": ALWAYS,
        "allow": Kept(spec="rooms/v8", first=8),
    },
    "m.room.power_levels": {
        "ban": ALWAYS,
        "events": ALWAYS,
        "events_default": ALWAYS,
        "invite": SINCE_11,
        "kick": ALWAYS,
        "redact": ALWAYS,
        "state_default": ALWAYS,
        "users": ALWAYS,
        "users_default": ALWAYS,
    },
    "m.room.aliases": {"aliases": Kept(spec="rooms/v1; rooms/v6 takes it off", last=5)},
    "m.room.history_visibility": {"history_visibility": ALWAYS},
    "m.room.redaction": {"redacts": SINCE_11},
}

NESTED: Mapping[tuple[str, str], Mapping[str, Kept]] = {
    ("m.room.member", "third_party_invite"): {"signed": SINCE_11},
}

EMPTY = (
    *("m.room.message", "m.message", "m.sticker", "m.reaction", "m.room.encrypted", "x.custom"),
    *("m.room.name", "m.room.topic", "m.room.avatar", "m.room.canonical_alias", "m.room.tombstone"),
    *("m.room.third_party_invite", "m.room.server_acl", "m.room.encryption", "m.room.guest_access"),
    *("m.room.pinned_events", "m.space.child", "m.room.member.x", "M.ROOM.MEMBER", ""),
)
"""Types of which no key of the content stays. Beside them stand those of `CONTENT`."""

MORE_TOP_LEVEL = ("unsigned", "redacts", "age_ts", "hub_server", "unknown", "user_id", "replaces")
MORE_CONTENT = (
    *("body", "msgtype", "displayname", "avatar_url", "reason", "is_direct", "name", "topic"),
    *("notifications", "additional", "public_key", "replacement_room", "m.text", "m.relates_to"),
)
ALL_CONTENT: dict[str, Any] = {
    **dict.fromkeys(MORE_CONTENT, 1),
    **{key: 1 for keys in CONTENT.values() for key in keys},
    "third_party_invite": {"signed": {"token": "t", "more": [1]}, "display_name": "b", "x": 1},
}


def full_event(kind: str) -> dict[str, Any]:
    json: dict[str, Any] = {key: f"{key} of it" for key in (*TOP_LEVEL, *MORE_TOP_LEVEL)}
    return {**json, "type": kind, "content": dict(ALL_CONTENT), "sender": ALICE}


every_version = pytest.mark.parametrize("version_id", VERSIONS)


@every_version
@pytest.mark.parametrize("kind", [*CONTENT, *EMPTY])
def test_the_top_level_keeps_these_keys(version_id: str, kind: str) -> None:
    json = full_event(kind)
    kept = redact(json, get_version(version_id))
    assert kept.keys() == {key for key, line in TOP_LEVEL.items() if line.is_in(version_id)}
    assert {key: kept[key] for key in kept if key != "content"} == {
        key: json[key] for key in kept if key != "content"
    }


@every_version
@pytest.mark.parametrize("kind", [*CONTENT, *EMPTY])
def test_the_content_keeps_these_keys(version_id: str, kind: str) -> None:
    kept = redact(full_event(kind), get_version(version_id))["content"]
    lines = CONTENT.get(kind, {})
    expected = {key for key, line in lines.items() if line.is_in(version_id)}
    if "x.unknown" in expected:  # all keys
        assert kept == ALL_CONTENT
        return
    assert kept.keys() == expected
    for key in expected:
        inner = NESTED.get((kind, key))
        if inner is None:
            assert kept[key] == ALL_CONTENT[key]
        else:
            stays = {name for name, line in inner.items() if line.is_in(version_id)}
            assert kept[key] == {name: ALL_CONTENT[key][name] for name in stays}


@every_version
@pytest.mark.parametrize(
    ("value", "kept"), [("x", False), (None, False), ([{}], False), (5, False), ({}, True)]
)
def test_a_nested_key_is_looked_for_in_objects_only(
    version_id: str, value: object, kept: bool
) -> None:
    json = {**full_event("m.room.member"), "content": {"third_party_invite": value}}
    stays = kept and SINCE_11.is_in(version_id)
    expected: dict[str, Any] = {"third_party_invite": {}} if stays else {}
    assert redact(json, get_version(version_id))["content"] == expected


@every_version
@pytest.mark.parametrize("key", list(TOP_LEVEL))
def test_redaction_invents_nothing(version_id: str, key: str) -> None:
    json = full_event("m.room.create")
    del json[key]
    assert redact(json, get_version(version_id)).keys() <= json.keys()


def test_the_tables_know_every_type_and_key_of_the_rules() -> None:
    for version_id, version in VERSIONS.items():
        assert version.redaction.top_level == {
            key for key, line in TOP_LEVEL.items() if line.is_in(version_id)
        }
        for kind, rule in version.redaction.content.items():
            assert rule.keys | rule.nested.keys() <= CONTENT[kind].keys()
