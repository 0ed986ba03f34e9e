"""What a successor is made of: join rules, levels, aliases; and that nobody gains a right."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.engine.canonical import MAX_INTEGER, check_canonical
from bridge.engine.power import INFINITE, PowerLevels
from bridge.engine.upgrade import (
    EXTENSIBLE_MESSAGES,
    LEGACY_POLL,
    POLL,
    closed_levels,
    named_aliases,
    split_aliases,
    successor_join_rules,
    successor_levels,
    successor_state,
)
from bridge.engine.versions import VERSIONS, RoomVersion
from bridge.ids import RoomAlias, RoomVersionId, UserId

PAIRS = [(a, b) for a, b in product(VERSIONS.values(), repeat=2) if b.creatable]
USERS = [UserId(f"@{name}:m.example") for name in ("a", "b", "c", "maker", "second")]
CREATORS = (USERS[3], USERS[4])
KINDS = ["m.room.name", "m.room.tombstone", "m.room.power_levels", "m.room.message", "m.sticker",
         POLL, LEGACY_POLL, "m.reaction", "m.room.encrypted", *EXTENSIBLE_MESSAGES]  # fmt: skip
NAMED = ["users_default", "events_default", "state_default", "ban", "kick", "redact", "invite"]


def version(name: str) -> RoomVersion:
    return VERSIONS[RoomVersionId(name)]


def power_of(
    content: dict[str, Any],
    rules: RoomVersion,
    creators: tuple[UserId, ...],
    has_event: bool = True,
) -> PowerLevels:
    return PowerLevels(
        content=content,
        creators=frozenset(creators),
        privileged_creators=rules.auth.privileged_creators,
        has_event=has_event,
        integer_levels=rules.auth.integer_levels,
    )


def carried(
    content: dict[str, Any],
    before: str,
    after: str,
    *,
    old: tuple[UserId, ...] = (USERS[0],),
    new: tuple[UserId, ...] = (USERS[3],),
) -> dict[str, Any]:
    return successor_levels(
        power_of(content, version(before), old), version(before), version(after), creators=new
    )


# --- join rules ---------------------------------------------------------------------------------

ALLOW = [{"type": "m.room_membership", "room_id": "!club:m.example"}]


@pytest.mark.parametrize(
    ("rule", "before", "after", "wanted"),
    [
        ("public", "3", "12", "public"),
        ("invite", "12", "3", "invite"),
        ("knock", "7", "12", "knock"),
        ("knock", "12", "6", "invite"),
        ("knock", "6", "12", "invite"),
        ("restricted", "8", "12", "restricted"),
        ("restricted", "12", "7", "invite"),
        ("restricted", "7", "12", "invite"),
        ("knock_restricted", "10", "I.1", "knock_restricted"),
        ("knock_restricted", "12", "9", "restricted"),
        ("knock_restricted", "12", "8", "restricted"),
        ("knock_restricted", "12", "7", "knock"),
        ("knock_restricted", "12", "6", "invite"),
        ("knock_restricted", "9", "12", "invite"),
        ("private", "3", "12", "invite"),
        ("org.example.open", "12", "12", "invite"),
    ],
)
def test_a_join_rule_never_becomes_a_more_open_one(
    rule: str, before: str, after: str, wanted: str
) -> None:
    found = successor_join_rules(
        {"join_rule": rule, "allow": ALLOW}, version(before), version(after)
    )
    restricted = {"allow": ALLOW} if "restricted" in wanted else {}
    assert found == {"join_rule": wanted, **restricted}


@pytest.mark.parametrize("content", [{}, {"join_rule": 1}, {"join_rule": None}])
def test_without_a_join_rule_it_is_by_invitation(content: dict[str, Any]) -> None:
    assert successor_join_rules(content, version("3"), version("12")) == {"join_rule": "invite"}


def test_conditions_that_are_no_list_are_left_out() -> None:
    rules = {"join_rule": "restricted", "allow": "everybody"}
    found = successor_join_rules(rules, version("9"), version("12"))
    assert found == {"join_rule": "restricted"}


def test_a_room_without_join_rules_gets_them() -> None:
    assert successor_state({}, version("3"), version("12")) == [
        (("m.room.join_rules", ""), {"join_rule": "invite"})
    ]


# --- levels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["10", "11", "12", "I.1"])
def test_levels_that_were_text_or_fractions_are_integers(after: str) -> None:
    old = {
        "users": {USERS[0]: "100", USERS[1]: 50.9, "nobody": 5, USERS[2]: "high"},
        "events": {"m.room.name": " 60 ", "m.room.topic": None},
        "ban": "70",
        "kick": [],
        "notifications": {"room": "20"},
    }
    found = carried(old, "9", after)
    assert found["users"] == {USERS[0]: 100, USERS[1]: 50}
    assert found["events"]["m.room.name"] == 60
    assert "m.room.topic" not in found["events"]
    assert (found["ban"], found["kick"], found["notifications"]) == (70, 50, {"room": 20})


def test_creators_of_12_get_the_highest_level_of_the_room() -> None:
    both = (USERS[0], USERS[1])
    assert carried({}, "12", "11", old=both)["users"] == {USERS[0]: 100, USERS[1]: 100}
    guarded = {"events": {"m.room.tombstone": 150}, "users": {USERS[2]: 90}}
    found = carried(guarded, "12", "11", old=both)["users"]
    assert found == {USERS[0]: 150, USERS[1]: 150, USERS[2]: 90}
    lone = carried({"users": {USERS[2]: 9000}}, "12", "I.1", old=both)["users"]
    assert lone == {USERS[0]: 9000, USERS[1]: 9000, USERS[2]: 9000}


def test_creators_of_a_successor_of_12_have_no_entry() -> None:
    old = {"users": {USERS[3]: 100, USERS[4]: 50, USERS[0]: 100}}
    assert carried(old, "11", "12", new=CREATORS)["users"] == {USERS[0]: 100}
    again = carried({}, "12", "12", old=(USERS[0], USERS[3]), new=(USERS[3],))
    assert again["users"] == {USERS[0]: 100}


def test_only_creators_of_12_may_upgrade_where_every_moderator_might() -> None:
    assert carried({}, "11", "12")["events"]["m.room.tombstone"] == 150
    high = carried({"state_default": 200}, "11", "12")
    assert high["events"]["m.room.tombstone"] == 201
    kept = carried({"events": {"m.room.tombstone": 100}}, "11", "12")
    assert kept["events"]["m.room.tombstone"] == 100
    assert "m.room.tombstone" not in carried({}, "11", "11")["events"]


def test_without_a_power_levels_event_the_creator_had_100() -> None:
    old = power_of({}, version("9"), (USERS[0], UserId("nobody")), has_event=False)
    found = successor_levels(old, version("9"), version("11"), creators=())
    assert found["users"] == {USERS[0]: 100}


def test_the_level_of_messages_is_that_of_each_kind_of_extensible_events() -> None:
    events = carried({"events": {"m.room.message": 30}}, "10", "I.1")["events"]
    assert {kind: events[kind] for kind in (*EXTENSIBLE_MESSAGES, POLL)} == dict.fromkeys(
        (*EXTENSIBLE_MESSAGES, POLL), 30
    )
    back = carried({"events": events}, "I.1", "11")["events"]
    assert back["m.room.message"] == 30
    assert carried({}, "10", "I.1")["events"] == {}
    assert carried({}, "I.1", "10")["events"] == {}


def test_a_poll_needs_what_a_poll_needed_under_its_old_name() -> None:
    events = {"events": {"m.room.message": 0, "m.poll.start": 0}, "events_default": 1}
    assert carried(events, "7", "I.1")["events"]["m.poll.start"] == 1


def test_a_tombstone_needs_no_less_than_any_message() -> None:
    assert carried({"events_default": 151}, "10", "12")["events"]["m.room.tombstone"] == 151


def test_a_message_needs_what_the_most_guarded_kind_needed() -> None:
    events = carried({"events": {"m.file": 50, "m.message": 0}}, "I.1", "11")["events"]
    assert events["m.room.message"] == 50


def test_levels_beyond_canonical_json_keep_their_order() -> None:
    huge = {
        "users": {USERS[0]: 2**62, USERS[1]: 2**61, USERS[2]: MAX_INTEGER},
        "ban": 2**62,
        "kick": str(2**70),
        "users_default": -(2**62),
        "invite": -(2**61),
    }
    found = carried(huge, "5", "11")
    check_canonical(found)
    levels = [found["kick"], found["ban"], *(found["users"][user] for user in USERS[1:3])]
    assert levels == [MAX_INTEGER - n for n in range(4)]
    assert found["users"][USERS[0]] == found["ban"]
    assert found["users_default"] < found["invite"] < 0


# --- nobody gains a right -----------------------------------------------------------------------

raw_levels: st.SearchStrategy[Any] = st.one_of(
    st.integers(-5, 200),
    st.sampled_from([0, 50, 100, 150, MAX_INTEGER, -MAX_INTEGER, 2**60, -(2**60)]),
    st.integers(-5, 200).map(str),
    st.floats(-5, 200),
    st.sampled_from([None, True, "x", [], {}]),
)
contents = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(NAMED, raw_levels),
        "users": st.dictionaries(st.sampled_from([*USERS, "x"]), raw_levels),
        "events": st.dictionaries(st.sampled_from(KINDS), raw_levels),
        "notifications": st.dictionaries(st.sampled_from(["room", "more"]), raw_levels),
    },
)


def possible(content: Any, rules: RoomVersion) -> Any:
    """As far as an event of this version can hold it."""
    if isinstance(content, dict):
        return {key: possible(value, rules) for key, value in content.items()}
    if type(content) is int and rules.event_format.strict_json:
        return max(-MAX_INTEGER, min(content, MAX_INTEGER))
    return content


def rights(power: PowerLevels, rules: RoomVersion) -> set[tuple[str, ...]]:
    """All that anybody may do. What is said counts under the name that the version knows it by."""
    found: set[tuple[str, ...]] = set()
    said = {
        "text": "m.message", "emote": "m.emote", "file": "m.file", "image": "m.image",
        "video": "m.video", "audio": "m.audio", "voice": "m.voice", "location": "m.location",
    }  # fmt: skip
    polls, stickers = POLL, "m.image"
    if not rules.extensible_events:
        said, polls, stickers = dict.fromkeys(said, "m.room.message"), LEGACY_POLL, "m.sticker"
    names = {**said, "poll": polls}
    if rules.extensible_events:
        names["sticker"] = stickers
    states = ["m.room.name", "m.room.tombstone", "m.room.power_levels", "org.example"]
    for user in [*USERS, UserId("@anybody:else.example")]:
        level = power.user(user)
        found |= {("say", user, word) for word, kind in names.items() if power.may_send(user, kind)}
        found |= {("send", user, kind) for kind in KINDS if power.may_send(user, kind)}
        found |= {("set", user, k) for k in states if power.may_send(user, k, is_state=True)}
        found |= {("be", user, name) for name in ("ban", "kick", "redact", "invite")
                  if level >= power.named(name)}  # fmt: skip
        if power.may_notify_room(user):
            found.add(("notify", user))
        found |= {("above", user, other) for other in USERS if level > power.user(other)}
    return found


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=[f"{a.id}-{b.id}" for a, b in PAIRS])
@settings(max_examples=30)
@given(content=contents, has_event=st.booleans())
def test_nobody_but_a_new_creator_gains_a_right(
    before: RoomVersion, after: RoomVersion, content: dict[str, Any], has_event: bool
) -> None:
    content = possible(content, before) if has_event else {}
    old = power_of(content, before, (USERS[2], USERS[3]), has_event)
    written = successor_levels(old, before, after, creators=CREATORS)
    check_canonical(written)
    new = power_of(written, after, CREATORS)
    gained = rights(new, after) - rights(old, before)
    if before.extensible_events is not after.extensible_events:
        # Of stickers only one of the two versions knows more than of images.
        gained = {one for one in gained if one[2:] != ("sticker",)}
    if after.auth.privileged_creators:
        gained = {one for one in gained if one[1] not in CREATORS}
    assert gained == set()
    if after.auth.privileged_creators:
        assert not set(CREATORS) & written["users"].keys()
        assert all(new.user(user) == INFINITE for user in CREATORS)


@pytest.mark.parametrize("rules", VERSIONS.values(), ids=lambda one: one.id)
@given(content=contents)
def test_a_closed_room_is_open_to_nobody_below_moderators(
    rules: RoomVersion, content: dict[str, Any]
) -> None:
    old = power_of(possible(content, rules), rules, (USERS[3],))
    closed = closed_levels(old)
    new = old if closed is None else power_of(closed, rules, (USERS[3],))
    anybody = "@anybody:else.example"
    assert rights(new, rules) <= rights(old, rules)
    assert not new.may_invite(anybody) or old.users_default >= MAX_INTEGER
    assert not new.may_send(anybody, "m.room.message") or old.users_default >= MAX_INTEGER


def test_a_silent_room_is_left_as_it_is() -> None:
    silent = {"events_default": 50, "invite": 50}
    assert closed_levels(power_of(silent, version("11"), ())) is None
    assert closed_levels(power_of({"users_default": 60}, version("11"), ())) == {
        "users_default": 60,
        "events_default": 61,
        "invite": 61,
    }


# --- aliases ------------------------------------------------------------------------------------


def test_aliases_go_with_the_room_that_they_name() -> None:
    mine, other, theirs = (RoomAlias(f"#{name}") for name in ("a:m", "b:m", "c:far"))
    old = {"alias": mine, "alt_aliases": [other, theirs, 5], "more": 1}
    goes, stays = split_aliases(old, {mine, other})
    assert goes == {"alias": mine, "alt_aliases": [other]}
    assert stays == {"alt_aliases": [theirs]}
    assert split_aliases({"alias": 1, "alt_aliases": 2}, {mine}) == ({}, {})
    assert split_aliases({"alias": theirs}, {mine}) == ({}, {"alias": theirs})


def test_what_is_no_alias_names_nothing() -> None:
    alias, other = RoomAlias("#a:m.example"), RoomAlias("#b:m.example")
    assert named_aliases({"alias": alias, "alt_aliases": [other, 5, "b"]}) == [alias, other]
    assert named_aliases({"alias": None, "alt_aliases": "x"}) == []
