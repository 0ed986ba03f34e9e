"""The authorisation rules, one table per rule, over every room version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bridge.engine.auth import auth_event_keys, auth_state_keys, check_auth, check_auth_events
from bridge.engine.build import prototype
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels
from bridge.engine.signing import sign_json
from bridge.errors import Refused
from bridge.ids import ServerName, UserId
from tests.engine.rooms import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    VERSION_IDS,
    RoomBuilder,
    public_room,
    since,
)

all_versions = pytest.mark.parametrize("version_id", VERSION_IDS)


def versions_since(number: int) -> pytest.MarkDecorator:
    chosen = [version_id for version_id in VERSION_IDS if since(version_id, number)]
    return pytest.mark.parametrize("version_id", chosen)


def versions_before(number: int) -> pytest.MarkDecorator:
    chosen = [version_id for version_id in VERSION_IDS if not since(version_id, number)]
    return pytest.mark.parametrize("version_id", chosen)


EVE = UserId("@eve:e.example")


def rule_for(room: RoomBuilder, pdu: Pdu) -> str:
    """The rule that refuses the event against the state before it; empty when allowed."""
    try:
        check_auth(pdu, room.auth_state(pdu))
    except Refused as exc:
        return exc.rule
    return ""


def try_member(
    room: RoomBuilder, sender: UserId, target: UserId, membership: object, **content: Any
) -> str:
    content = {"membership": membership, **content}
    return rule_for(room, room.draft("m.room.member", sender, content, target))


# Rule 1: create


def create_rule(version_id: str, **changes: Any) -> str:
    room = RoomBuilder(version_id)
    content = {**room.create.content, **changes.pop("content", {})}
    json = {**room.create.json, "content": content, **changes}
    json["content"] = {key: value for key, value in content.items() if value is not None}
    try:
        check_auth(Pdu.parse(json, room.version), {})
    except Refused as exc:
        return exc.rule
    return ""


@all_versions
def test_a_create_event_is_allowed_by_itself(version_id: str) -> None:
    assert create_rule(version_id) == ""


@all_versions
def test_a_create_event_with_previous_events_is_rejected(version_id: str) -> None:
    assert create_rule(version_id, prev_events=["$" + "A" * 43]) == "create.prev_events"


@all_versions
def test_the_room_id_is_the_creator_s_server_s_and_from_12_it_is_absent(version_id: str) -> None:
    assert create_rule(version_id, room_id="!r:b.example") == "create.room_id"
    same = create_rule(version_id, room_id="!r:a.example")
    assert same == ("create.room_id" if version_id == "12" else "")


@all_versions
@pytest.mark.parametrize("named", ["i.1", "I.", "I.1a", "99", 10, {}, []])
def test_a_create_event_of_an_unknown_version_is_rejected(version_id: str, named: Any) -> None:
    assert create_rule(version_id, content={"room_version": named}) == "create.room_version"


@all_versions
def test_a_create_event_may_omit_the_version(version_id: str) -> None:
    assert create_rule(version_id, content={"room_version": None}) == ""


@all_versions
def test_create_without_creator_is_rejected_until_version_10(version_id: str) -> None:
    rule = "" if since(version_id, 11) else "create.creator"
    assert create_rule(version_id, content={"creator": None}) == rule


@pytest.mark.parametrize(
    ("creators", "allowed"),
    [
        ([], True),
        ([BOB, CAROL], True),
        ("x", False),
        (None, True),  # absent
        ({}, False),
        ([5], False),
        (["bob"], False),
        (["@bob"], False),
    ],
)
def test_additional_creators_are_user_ids_from_version_12(creators: Any, allowed: bool) -> None:
    content = {"additional_creators": creators}
    rule = "" if allowed else "create.additional_creators"
    assert create_rule("12", content=content) == rule
    assert create_rule("11", content=content) == ""


# Rule 2: auth events and the room ID


def auth_events_rule(room: RoomBuilder, pdu: Pdu, rejected: Sequence[Any] = ()) -> str:
    try:
        check_auth_events(pdu, room.events, rejected=rejected)
    except Refused as exc:
        return exc.rule
    return ""


@all_versions
def test_selected_auth_events_are_right(version_id: str) -> None:
    room = public_room(version_id, BOB)
    for event in room.events.values():
        assert auth_events_rule(room, event) == ""


@all_versions
def test_wrong_auth_events_are_rejected(version_id: str) -> None:
    room = public_room(version_id, BOB)
    state = room.state_after[room.draft("x", BOB).prev_events[0]]
    right = list(room.draft("m.room.message", BOB, {}).auth_events)
    rules = state["m.room.join_rules", ""]
    message = room.send("m.room.message", ALICE, {"body": "x"})
    old_power = next(e.event_id for e in room.events.values() if e.type == "m.room.power_levels")
    room.power(ALICE, room.levels(ban=60))
    new_power = room.last
    assert old_power in right
    cases: dict[str, list[Any]] = {
        "auth_events.selection": [*right, rules],
        "auth_events.duplicate": [*right, new_power],
        "auth_events.unknown": [*right, "$" + "A" * 43],
    }
    for rule, auth_events in cases.items():
        pdu = room.draft("m.room.message", BOB, {}, auth_events=auth_events)
        assert auth_events_rule(room, pdu) == rule
    with_message = room.draft("m.room.message", BOB, {}, auth_events=[*right, message.event_id])
    assert auth_events_rule(room, with_message) == "auth_events.selection"


@all_versions
def test_rejected_auth_events_are_refused(version_id: str) -> None:
    room = public_room(version_id, BOB)
    pdu = room.draft("m.room.message", BOB, {})
    named = pdu.auth_events[0]
    assert auth_events_rule(room, pdu, rejected=[named]) == "auth_events.rejected"
    event = room.events[named]
    room.events[named] = Pdu.trusted(event.json, event.version, named, rejected=True)
    assert auth_events_rule(room, pdu) == "auth_events.rejected"


@all_versions
def test_the_create_event_is_an_auth_event_until_version_11_and_not_after(version_id: str) -> None:
    room = public_room(version_id, BOB)
    create = room.create.event_id
    right = [e for e in room.draft("m.room.message", BOB, {}).auth_events if e != create]
    without = room.draft("m.room.message", BOB, {}, auth_events=right)
    with_it = room.draft("m.room.message", BOB, {}, auth_events=[create, *right])
    rules = (auth_events_rule(room, without), auth_events_rule(room, with_it))
    assert rules == (
        ("", "auth_events.selection") if version_id == "12" else ("auth_events.create", "")
    )


@all_versions
def test_auth_events_of_another_room_are_refused(version_id: str) -> None:
    room = public_room(version_id, BOB)
    other = RoomBuilder(version_id, creator=EVE)
    join = other.join(EVE)
    pdu = room.draft("m.room.message", EVE, {}, auth_events=[join.event_id])
    with pytest.raises(Refused) as caught:
        check_auth_events(pdu, {**room.events, **other.events})
    assert caught.value.rule == "auth_events.room_id"


@all_versions
def test_an_event_is_judged_by_its_own_room_s_create_event(version_id: str) -> None:
    room, other = public_room(version_id, BOB), RoomBuilder(version_id, creator=EVE)
    pdu = room.draft("m.room.message", BOB, {})
    state = {**room.auth_state(pdu), ("m.room.create", ""): other.create}
    with pytest.raises(Refused) as caught:
        check_auth(pdu, state)
    assert caught.value.rule == "room_id"
    with pytest.raises(Refused) as caught:
        check_auth(pdu, {})
    assert caught.value.rule == "create.missing"


def test_a_rejected_create_event_carries_no_version_12_room() -> None:
    room = public_room("12", BOB)
    pdu = room.draft("m.room.message", BOB, {})
    create = Pdu.trusted(room.create.json, room.version, room.create.event_id, rejected=True)
    with pytest.raises(Refused) as caught:
        check_auth(pdu, {**room.auth_state(pdu), ("m.room.create", ""): create})
    assert caught.value.rule == "create.rejected"


@all_versions
def test_auth_event_selection_by_kind_of_event(version_id: str) -> None:
    version = RoomBuilder(version_id).version
    create = set() if version_id == "12" else {("m.room.create", "")}
    always = create | {("m.room.power_levels", ""), ("m.room.member", BOB)}
    target, rules = ("m.room.member", CAROL), ("m.room.join_rules", "")

    def keys(kind: str, state_key: str | None, content: Mapping[str, Any]) -> frozenset[Any]:
        return auth_event_keys(kind, BOB, state_key, content, version)

    assert keys("m.room.create", "", {}) == frozenset()
    assert keys("m.room.message", None, {}) == always
    assert keys("m.room.name", "", {}) == always
    for membership in ("join", "invite", "knock"):
        content = {"membership": membership}
        assert keys("m.room.member", CAROL, content) == always | {target, rules}
    for membership in ("leave", "ban"):
        assert keys("m.room.member", CAROL, {"membership": membership}) == always | {target}
    invited = {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}}
    token = ("m.room.third_party_invite", "t")
    assert keys("m.room.member", CAROL, invited) == always | {target, rules, token}
    vouched = {"membership": "join", "join_authorised_via_users_server": DAVE}
    voucher = {("m.room.member", DAVE)} if since(version_id, 8) else set()
    assert keys("m.room.member", CAROL, vouched) == always | {target, rules} | voucher
    everything = auth_state_keys("m.room.message", BOB, None, {}, version)
    assert everything == always | {("m.room.create", "")}


@pytest.mark.parametrize(
    "invite", ["x", {}, {"signed": "x"}, {"signed": {}}, {"signed": {"token": 5}}]
)
def test_selection_survives_malformed_third_party_invites(invite: Any) -> None:
    content = {"membership": "invite", "third_party_invite": invite}
    version = RoomBuilder("10").version
    assert len(auth_event_keys("m.room.member", BOB, CAROL, content, version)) == 5


# Rule 3: m.federate


@all_versions
@pytest.mark.parametrize(
    ("federate", "rule"), [(False, "federate"), (True, ""), ("false", ""), (0, "")]
)
def test_an_unfederated_room_takes_events_of_its_own_server_only(
    version_id: str, federate: Any, rule: str
) -> None:
    room = RoomBuilder(version_id, create_content={"m.federate": federate})
    room.join(ALICE)
    room.join_rule(ALICE, "public")
    assert try_member(room, BOB, BOB, "join") == rule
    assert try_member(room, DAVE, DAVE, "join") == ""


# Until version 5: m.room.aliases


@versions_before(6)
def test_a_server_s_aliases_come_from_its_users_until_version_5(version_id: str) -> None:
    room = public_room(version_id, state_default=100)
    # Bob is not in the room and has no level.
    assert rule_for(room, room.draft("m.room.aliases", BOB, {}, "b.example")) == ""
    assert rule_for(room, room.draft("m.room.aliases", BOB, {}, "a.example")) == "aliases.server"
    assert rule_for(room, room.draft("m.room.aliases", ALICE, {}, "")) == "aliases.server"
    assert rule_for(room, room.draft("m.room.aliases", ALICE, {})) == "aliases.state_key"


@versions_since(6)
def test_aliases_are_like_other_state_from_version_6(version_id: str) -> None:
    room = public_room(version_id, BOB)
    assert rule_for(room, room.draft("m.room.aliases", BOB, {}, "b.example")) == "level"
    assert rule_for(room, room.draft("m.room.aliases", ALICE, {}, "b.example")) == ""
    outside = room.draft("m.room.aliases", CAROL, {}, "c.example")
    assert rule_for(room, outside) == "sender.membership"


# Rule 4: member events


@all_versions
def test_a_member_event_has_a_state_key_and_a_membership(version_id: str) -> None:
    room = public_room(version_id)
    without_key = room.draft("m.room.member", BOB, {"membership": "join"})
    assert rule_for(room, without_key) == "member.state_key"
    assert rule_for(room, room.draft("m.room.member", BOB, {}, BOB)) == "member.membership"


@all_versions
@pytest.mark.parametrize("membership", ["lurk", "JOIN", 5, None, [], True])
def test_unknown_memberships_are_rejected(version_id: str, membership: Any) -> None:
    assert try_member(public_room(version_id), ALICE, ALICE, membership) == "member.unknown"


@all_versions
def test_the_creator_may_join_right_after_creating(version_id: str) -> None:
    room = RoomBuilder(version_id)
    assert try_member(room, ALICE, ALICE, "join") == ""
    assert try_member(room, BOB, BOB, "join") == "member.join.uninvited"
    room.send("m.room.member", ALICE, {"membership": "join"}, ALICE)
    room.member(ALICE, ALICE, "leave")
    assert try_member(room, ALICE, ALICE, "join") == "member.join.uninvited"


def test_an_additional_creator_must_be_invited() -> None:
    room = RoomBuilder("12", create_content={"additional_creators": [BOB]})
    assert try_member(room, BOB, BOB, "join") == "member.join.uninvited"


def test_the_creator_until_version_10_is_the_one_named() -> None:
    for version_id in ("3", "6", "9", "10", "I.1"):
        room = RoomBuilder(version_id, create_content={"creator": DAVE})
        assert try_member(room, DAVE, DAVE, "join") == ""
        assert try_member(room, ALICE, ALICE, "join") == "member.join.uninvited"
    room = RoomBuilder("11", create_content={"creator": DAVE})
    assert try_member(room, ALICE, ALICE, "join") == ""


JOIN_TABLE = {
    # join rule -> membership before -> rule word
    "public": {"": "", "invite": "", "join": "", "leave": "", "knock": ""},
    "invite": {
        "": "member.join.uninvited",
        "leave": "member.join.uninvited",
        "invite": "",
        "join": "",
    },
    "knock": {"": "member.join.uninvited", "knock": "member.join.uninvited", "invite": ""},
    "restricted": {"": "member.join.restricted", "invite": "", "join": ""},
    "knock_restricted": {"": "member.join.restricted", "knock": "member.join.restricted"},
    "private": {"": "member.join.rule", "invite": "member.join.rule"},
    "odd": {"": "member.join.rule", "join": "member.join.rule"},
}
KNOWN_SINCE = {"knock": 7, "restricted": 8, "knock_restricted": 10}
"""Join rules that older versions do not know: nobody joins by them."""


def room_with(version_id: str, join_rule: str, before: str) -> RoomBuilder:
    """A room in which Bob's membership is `before` under that join rule."""
    room = public_room(version_id)
    if before == "knock":
        room.join_rule(ALICE, "knock")
        room.member(BOB, BOB, "knock")
    elif before in ("invite", "ban"):
        room.member(ALICE, BOB, before)
    elif before in ("join", "leave"):
        room.join(BOB)
        if before == "leave":
            room.member(BOB, BOB, "leave")
    room.join_rule(ALICE, join_rule)
    return room


@all_versions
@pytest.mark.parametrize(
    ("join_rule", "before", "rule"),
    [(jr, before, rule) for jr, row in JOIN_TABLE.items() for before, rule in row.items()],
)
def test_joining(version_id: str, join_rule: str, before: str, rule: str) -> None:
    if not since(version_id, KNOWN_SINCE.get(join_rule, 0)):
        rule = "member.join.rule"
    assert try_member(room_with(version_id, join_rule, before), BOB, BOB, "join") == rule


@all_versions
@pytest.mark.parametrize("join_rule", list(JOIN_TABLE))
def test_the_banned_cannot_join_and_nobody_joins_for_others(
    version_id: str, join_rule: str
) -> None:
    room = room_with(version_id, join_rule, "ban")
    assert try_member(room, BOB, BOB, "join") == "member.join.banned"
    assert try_member(room, ALICE, CAROL, "join") == "member.join.other"


@all_versions
def test_without_join_rules_a_room_is_joined_by_invitation(version_id: str) -> None:
    room = RoomBuilder(version_id)
    room.join(ALICE)
    assert try_member(room, BOB, BOB, "join") == "member.join.uninvited"


@all_versions
def test_join_rules_that_set_no_rule_mean_invitation(version_id: str) -> None:
    room = public_room(version_id)
    room.send("m.room.join_rules", ALICE, {}, "")
    assert try_member(room, BOB, BOB, "join") == "member.join.uninvited"
    room.member(ALICE, BOB, "invite")
    assert try_member(room, BOB, BOB, "join") == ""


@all_versions
@pytest.mark.parametrize("join_rule", ["restricted", "knock_restricted"])
@pytest.mark.parametrize(
    ("voucher", "rule"),
    [
        (ALICE, ""),
        (CAROL, "member.join.restricted"),  # joined, but may not invite
        (EVE, "member.join.restricted"),  # never in the room
        ("@gone:a.example", "member.join.restricted"),
        ("alice", "member.voucher"),
        (5, "member.voucher"),
    ],
)
def test_a_restricted_join_needs_a_joined_member_who_may_invite(
    version_id: str, join_rule: str, voucher: Any, rule: str
) -> None:
    known = since(version_id, KNOWN_SINCE[join_rule])
    # From version 8 the user ID is looked at under every join rule.
    if not known and not (rule == "member.voucher" and since(version_id, 8)):
        rule = "member.join.rule"
    room = public_room(version_id, CAROL, invite=50)
    room.join_rule(ALICE, join_rule)
    assert try_member(room, BOB, BOB, "join", join_authorised_via_users_server=voucher) == rule


@versions_since(8)
def test_the_voucher_must_still_be_in_the_room(version_id: str) -> None:
    room = public_room(version_id, CAROL, users={CAROL: 50})
    room.join_rule(ALICE, "restricted")
    vouched = {"join_authorised_via_users_server": CAROL}
    assert try_member(room, BOB, BOB, "join", **vouched) == ""
    room.member(CAROL, CAROL, "leave")
    assert try_member(room, BOB, BOB, "join", **vouched) == "member.join.restricted"


@all_versions
@pytest.mark.parametrize(
    ("before", "rule"),
    [
        ("", ""),
        ("leave", ""),
        ("invite", ""),
        ("knock", ""),
        ("join", "member.invite.target"),
        ("ban", "member.invite.target"),
    ],
)
def test_inviting(version_id: str, before: str, rule: str) -> None:
    assert try_member(room_with(version_id, "invite", before), ALICE, BOB, "invite") == rule


@all_versions
def test_inviting_needs_membership_and_level(version_id: str) -> None:
    room = public_room(version_id, CAROL, invite=50)
    assert try_member(room, EVE, BOB, "invite") == "member.invite.sender"
    assert try_member(room, CAROL, BOB, "invite") == "member.invite.level"
    room.power(ALICE, room.levels({CAROL: 50}, invite=50))
    assert try_member(room, CAROL, BOB, "invite") == ""


# Third-party invites

IDENTITY = SigningKey.from_seed("0", b"i" * 32)
EPHEMERAL = SigningKey.from_seed("1", b"e" * 32)


def signed_by(key: SigningKey, **changes: Any) -> dict[str, Any]:
    signed = {"mxid": BOB, "token": "t", **changes}
    signed = {name: value for name, value in signed.items() if value is not None}
    return sign_json(signed, server=ServerName("id.example"), key=key)


def offering_room(version_id: str) -> RoomBuilder:
    room = public_room(version_id, CAROL)
    room.join_rule(ALICE, "invite")
    content = {
        "display_name": "b",
        "public_key": IDENTITY.verify_key_base64,
        "public_keys": [{"public_key": EPHEMERAL.verify_key_base64}, "odd", {"public_key": 5}],
    }
    room.send("m.room.third_party_invite", ALICE, content, "t")
    return room


@all_versions
@pytest.mark.parametrize(
    ("invite", "rule"),
    [
        ({"signed": signed_by(IDENTITY)}, ""),
        ({"signed": signed_by(EPHEMERAL)}, ""),
        ("x", "member.third_party.signed"),
        ({}, "member.third_party.signed"),
        ({"signed": "x"}, "member.third_party.signed"),
        ({"signed": signed_by(IDENTITY, token=None)}, "member.third_party.signed"),
        ({"signed": signed_by(IDENTITY, mxid=None)}, "member.third_party.mxid"),
        ({"signed": signed_by(IDENTITY, mxid=CAROL)}, "member.third_party.mxid"),
        ({"signed": signed_by(IDENTITY, token="u")}, "member.third_party.token"),
        ({"signed": {**signed_by(IDENTITY), "more": 1}}, "member.third_party.signature"),
        (
            {"signed": signed_by(SigningKey.from_seed("0", b"x" * 32))},
            "member.third_party.signature",
        ),
        ({"signed": {"mxid": BOB, "token": "t"}}, "member.third_party.signature"),
        (
            {"signed": {"mxid": BOB, "token": "t", "signatures": {"a": 5}}},
            "member.third_party.signature",
        ),
    ],
)
def test_third_party_invites(version_id: str, invite: Any, rule: str) -> None:
    room = offering_room(version_id)
    assert try_member(room, ALICE, BOB, "invite", third_party_invite=invite) == rule


@all_versions
def test_third_party_invites_come_from_who_offered_and_spare_the_banned(version_id: str) -> None:
    room = offering_room(version_id)
    invite = {"signed": signed_by(IDENTITY)}
    other = try_member(room, CAROL, BOB, "invite", third_party_invite=invite)
    assert other == "member.third_party.sender"
    room.member(ALICE, BOB, "ban")
    banned = try_member(room, ALICE, BOB, "invite", third_party_invite=invite)
    assert banned == "member.third_party.banned"


@all_versions
def test_a_third_party_invite_needs_no_sender_in_the_room(version_id: str) -> None:
    room = offering_room(version_id)
    room.power(ALICE, room.levels({CAROL: 100}))
    room.member(ALICE, ALICE, "leave")
    invite = {"signed": signed_by(IDENTITY)}
    assert try_member(room, ALICE, BOB, "invite", third_party_invite=invite) == ""


# Leaving, kicking, lifting a ban


@all_versions
@pytest.mark.parametrize(
    ("before", "rule"),
    [
        ("", "member.leave.absent"),
        ("leave", "member.leave.absent"),
        ("ban", "member.leave.absent"),
        ("invite", ""),
        ("join", ""),
        ("knock", ""),
    ],
)
def test_leaving(version_id: str, before: str, rule: str) -> None:
    if before == "knock" and not since(version_id, 7):
        rule = "member.leave.absent"
    assert try_member(room_with(version_id, "invite", before), BOB, BOB, "leave") == rule


@all_versions
@pytest.mark.parametrize(
    ("sender_level", "target_level", "named", "before", "rule"),
    [
        (50, 0, {}, "join", ""),
        (50, 49, {}, "invite", ""),
        (50, 50, {}, "join", "member.kick.level"),
        (50, 60, {}, "join", "member.kick.level"),
        (49, 0, {}, "join", "member.kick.level"),
        (10, 0, {"kick": 10}, "join", ""),
        (50, 0, {}, "ban", ""),
        (50, 0, {"ban": 60}, "ban", "member.unban.level"),
        (50, 0, {"kick": 60}, "ban", "member.kick.level"),
    ],
)
def test_kicking_and_lifting_bans(
    version_id: str,
    sender_level: int,
    target_level: int,
    named: dict[str, int],
    before: str,
    rule: str,
) -> None:
    room = room_with(version_id, "public", before)
    room.join(CAROL)
    room.power(ALICE, room.levels({CAROL: sender_level, BOB: target_level}, **named))
    assert try_member(room, CAROL, BOB, "leave") == rule


@all_versions
def test_only_members_kick_and_ban(version_id: str) -> None:
    room = public_room(version_id, BOB, users={EVE: 100})
    assert try_member(room, EVE, BOB, "leave") == "member.kick.sender"
    assert try_member(room, EVE, BOB, "ban") == "member.ban.sender"


@all_versions
@pytest.mark.parametrize(
    ("sender_level", "target_level", "named", "rule"),
    [
        (50, 0, {}, ""),
        (50, 49, {}, ""),
        (50, 50, {}, "member.ban.level"),
        (49, 0, {}, "member.ban.level"),
        (60, 0, {"ban": 61}, "member.ban.level"),
        (0, -1, {"ban": 0}, ""),
    ],
)
@pytest.mark.parametrize("before", ["", "join", "invite", "leave", "ban", "knock"])
def test_banning(
    version_id: str,
    sender_level: int,
    target_level: int,
    named: dict[str, int],
    rule: str,
    before: str,
) -> None:
    room = room_with(version_id, "public", before)
    room.join(CAROL)
    room.power(ALICE, room.levels({CAROL: sender_level, BOB: target_level}, **named))
    assert try_member(room, CAROL, BOB, "ban") == rule


def test_nobody_kicks_a_version_12_creator_and_creators_kick_everybody_else() -> None:
    room = RoomBuilder("12", create_content={"additional_creators": [BOB]})
    room.join(ALICE)
    room.join_rule(ALICE, "public")
    room.join(BOB)
    room.join(CAROL)
    room.power(ALICE, {"users": {CAROL: 2**53 - 1}})
    assert try_member(room, CAROL, ALICE, "leave") == "member.kick.level"
    assert try_member(room, CAROL, BOB, "ban") == "member.ban.level"
    assert try_member(room, ALICE, BOB, "leave") == "member.kick.level"
    assert try_member(room, BOB, CAROL, "ban") == ""


# Knocking


@all_versions
@pytest.mark.parametrize(
    ("join_rule", "before", "rule"),
    [
        ("knock", "", ""),
        ("knock_restricted", "", ""),
        ("knock", "leave", ""),
        ("knock", "knock", ""),
        ("knock", "ban", "member.knock.membership"),
        ("knock", "invite", "member.knock.membership"),
        ("knock_restricted", "join", "member.knock.membership"),
        ("public", "", "member.knock.rule"),
        ("invite", "", "member.knock.rule"),
        ("restricted", "", "member.knock.rule"),
        ("odd", "", "member.knock.rule"),
    ],
)
def test_knocking(version_id: str, join_rule: str, before: str, rule: str) -> None:
    if not since(version_id, KNOWN_SINCE.get(join_rule, 0)):
        rule = "member.knock.rule"
    if not since(version_id, 7):
        rule = "member.unknown"
    assert try_member(room_with(version_id, join_rule, before), BOB, BOB, "knock") == rule


@versions_since(7)
def test_nobody_knocks_for_somebody_else(version_id: str) -> None:
    room = room_with(version_id, "knock", "")
    assert try_member(room, ALICE, BOB, "knock") == "member.knock.other"


# Rules 5 to 8


@all_versions
@pytest.mark.parametrize("before", ["", "invite", "leave", "ban", "knock"])
def test_only_members_send(version_id: str, before: str) -> None:
    room = room_with(version_id, "public", before)
    assert rule_for(room, room.draft("m.room.message", BOB, {})) == "sender.membership"


@all_versions
def test_offering_a_third_party_invite_needs_the_invite_level_alone(version_id: str) -> None:
    room = public_room(version_id, BOB, invite=20, users={BOB: 20})
    offer = room.draft("m.room.third_party_invite", BOB, {}, "t")
    assert rule_for(room, offer) == ""
    room.power(ALICE, room.levels(invite=20))
    offer = room.draft("m.room.third_party_invite", BOB, {}, "t")
    assert rule_for(room, offer) == "third_party_invite.level"


@all_versions
@pytest.mark.parametrize(
    ("levels", "level", "allowed_message", "allowed_state"),
    [
        ({}, 0, True, False),
        ({}, 50, True, True),
        ({"events_default": 10}, 9, False, False),
        ({"state_default": 0}, 0, True, True),
        ({"events": {"x": 30}}, 29, False, False),
        ({"events": {"x": 30}}, 30, True, True),
        ({"events": {"x": 0}}, 0, True, True),
        ({"users_default": 50}, 0, True, False),
    ],
)
def test_the_level_for_the_type(
    version_id: str,
    levels: dict[str, Any],
    level: int,
    allowed_message: bool,
    allowed_state: bool,
) -> None:
    room = public_room(version_id, BOB)
    room.power(ALICE, room.levels({BOB: level}, **levels))
    message, state = room.draft("x", BOB, {}), room.draft("x", BOB, {}, "")
    assert rule_for(room, message) == ("" if allowed_message else "level")
    assert rule_for(room, state) == ("" if allowed_state else "level")


@all_versions
def test_without_power_levels_only_the_creator_sends_state(version_id: str) -> None:
    room = RoomBuilder(version_id)
    room.join(ALICE)
    room.join_rule(ALICE, "public")
    room.join(BOB)
    assert rule_for(room, room.draft("m.room.name", ALICE, {}, "")) == ""
    assert rule_for(room, room.draft("m.room.name", BOB, {}, "")) == "level"
    assert rule_for(room, room.draft("m.room.message", BOB, {})) == ""


@all_versions
def test_a_redaction_is_an_ordinary_event_to_the_rules(version_id: str) -> None:
    room = public_room(version_id, BOB, redact=100)
    message = room.send("m.room.message", ALICE, {"body": "x"})
    redaction = room.draft("m.room.redaction", BOB, {}, redacts=message.event_id)
    assert rule_for(room, redaction) == ""


@all_versions
def test_a_state_key_that_is_a_user_id_is_the_sender_s(version_id: str) -> None:
    room = public_room(version_id, BOB, state_default=0)
    assert rule_for(room, room.draft("x", BOB, {}, BOB)) == ""
    assert rule_for(room, room.draft("x", BOB, {}, ALICE)) == "state_key"
    assert rule_for(room, room.draft("x", BOB, {}, "@other")) == "state_key"
    assert rule_for(room, room.draft("x", BOB, {}, "other")) == ""


@pytest.mark.parametrize("version_id", VERSION_IDS)
def test_message_types_are_no_matter_for_the_rules(version_id: str) -> None:
    # The content policy of I.1 is not an auth rule: rejecting would split the room.
    room = public_room(version_id, BOB)
    for kind in ("m.room.message", "m.message", "m.sticker"):
        assert rule_for(room, room.draft(kind, BOB, {"body": "x"})) == ""


# Rule 9: power levels


def power_rule(
    version_id: str, before: Mapping[str, Any] | None, after: Mapping[str, Any], level: int = 50
) -> str:
    """Bob, with that level, changes the levels from `before` to `after`."""
    room = public_room(version_id, BOB)
    if before is None:
        room = RoomBuilder(version_id)
        room.join(ALICE)
        return rule_for(room, room.draft("m.room.power_levels", ALICE, after, ""))
    users = {BOB: level, **before.get("users", {})}
    before = {**before, **room.levels(users)}
    room.power(ALICE, before)
    after = {**after, "users": {**before["users"], **after.get("users", {})}}
    after["users"] = {user: value for user, value in after["users"].items() if value != "gone"}
    return rule_for(room, room.draft("m.room.power_levels", BOB, after, ""))


@versions_since(10)
@pytest.mark.parametrize(
    ("content", "rule"),
    [
        *[({name: "50"}, "power_levels.integer") for name in ("ban", "invite", "users_default")],
        *[({name: True}, "power_levels.integer") for name in ("kick", "redact", "state_default")],
        ({"events_default": None}, "power_levels.integer"),
        ({"events": {"x": "50"}}, "power_levels.integer"),
        ({"events": {"x": True}}, "power_levels.integer"),
        ({"events": []}, "power_levels.object"),
        ({"notifications": {"room": "50"}}, "power_levels.integer"),
        ({"notifications": 5}, "power_levels.object"),
        ({"users": {BOB: "50"}}, "power_levels.integer"),
        ({"users": {BOB: False}}, "power_levels.integer"),
        ({"users": {"bob": 50}}, "power_levels.user_id"),
        ({"users": {"@bob": 50}}, "power_levels.user_id"),
        ({"users": []}, "power_levels.object"),
        ({"users": None}, "power_levels.object"),
        ({}, ""),
        ({"users": {}}, ""),
        ({"users": {BOB: -5}, "ban": -1, "other": "x"}, ""),
        ({"users": {BOB: 2**53 - 1}}, ""),  # no limit on the first
    ],
)
def test_levels_are_integers_from_version_10(
    version_id: str, content: dict[str, Any], rule: str
) -> None:
    assert power_rule(version_id, None, content) == rule


@versions_before(10)
@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"users": {BOB: "50"}}, ""),
        ({"users": {BOB: " \t+00100 "}}, ""),
        ({"users": {BOB: "-5"}}, ""),
        ({"users": {BOB: "x"}}, "power_levels.integer"),
        ({"users": {BOB: ""}}, "power_levels.integer"),
        ({"users": {BOB: "+"}}, "power_levels.integer"),
        ({"users": {BOB: "+-1"}}, "power_levels.integer"),
        ({"users": {BOB: "1 2"}}, "power_levels.integer"),
        ({"users": {BOB: "1_0"}}, "power_levels.integer"),
        ({"users": {BOB: "50.0"}}, "power_levels.integer"),
        ({"users": {BOB: "٥"}}, "power_levels.integer"),
        ({"users": {BOB: "9" * 60000}}, "power_levels.integer"),
        ({"users": {BOB: None}}, "power_levels.integer"),
        ({"users": {BOB: False}}, "power_levels.integer"),
        ({"users": {BOB: [50]}}, "power_levels.integer"),
        ({"users": {"bob": 50}}, "power_levels.user_id"),
        ({"users": []}, "power_levels.object"),
        ({"users": None}, "power_levels.object"),
        # No rule about the others.
        ({"ban": "50", "kick": True, "redact": "x", "invite": None}, ""),
        ({"events": [], "notifications": 5}, ""),
        ({"events": {"x": {}}, "notifications": {"room": "x"}}, ""),
        ({}, ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_levels_may_be_strings_before_version_10(
    version_id: str, content: dict[str, Any], rule: str
) -> None:
    assert power_rule(version_id, None, content) == rule


@versions_before(10)
@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ({"ban": "51"}, {"ban": 51}, True),  # no change
        ({"ban": "+051 "}, {"ban": " 51"}, True),
        ({"ban": "51"}, {"ban": 50}, False),
        ({"ban": "51"}, {}, False),
        ({"ban": "51"}, {"ban": "x"}, False),  # as if it were removed
        ({"ban": "x"}, {"ban": 50}, True),
        ({}, {"ban": "51"}, False),
        ({}, {"ban": "-51"}, True),
        ({}, {"events": {"x": "51"}}, False),
        ({"events": {"x": "51"}}, {"events": {"x": 51}}, True),
        ({}, {"users": {CAROL: "51"}}, False),
        ({"users": {CAROL: "50"}}, {"users": {CAROL: 0}}, False),
        ({"users": {CAROL: "60"}}, {"users": {CAROL: 60}}, True),
    ],
    ids=str,
)
def test_levels_are_compared_by_what_they_count(
    version_id: str, before: dict[str, Any], after: dict[str, Any], allowed: bool
) -> None:
    own = {"events": {"m.room.power_levels": "50"}}
    before = {**before, "events": {**own["events"], **before.get("events", {})}}
    after = {**after, "events": {**own["events"], **after.get("events", {})}}
    assert (power_rule(version_id, before, after) == "") is allowed


@versions_before(6)
def test_float_levels_lose_their_fraction_until_version_5(version_id: str) -> None:
    room = public_room(version_id, BOB)
    draft = room.draft("m.room.power_levels", ALICE, {}, "")
    content = {"users": {ALICE: 1e2, BOB: 50.57}, "ban": 50.99, "kick": -0.5}
    pdu = Pdu.parse({**draft.json, "content": content}, room.version)
    assert rule_for(room, pdu) == ""
    power = PowerLevels.of(pdu, room.create)
    assert (power.user(ALICE), power.user(BOB), power.ban, power.kick) == (100, 50, 50, 0)


@all_versions
def test_string_levels_count_before_version_10_only(version_id: str) -> None:
    room = public_room(version_id)
    content = {"users": {BOB: "60"}, "users_default": "5", "events": {"x": "7"}, "ban": " +061"}
    power = PowerLevels.of(room.draft("m.room.power_levels", ALICE, content, ""), room.create)
    read = (power.user(BOB), power.user(CAROL), power.event("x", is_state=False), power.ban)
    assert read == ((0, 0, 0, 50) if since(version_id, 10) else (60, 5, 7, 61))
    assert power.invite == 0


@all_versions
@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ({}, {}, True),
        ({}, {"ban": 50}, True),
        ({}, {"ban": 51}, False),
        ({"ban": 50}, {"ban": 10}, True),
        ({"ban": 51}, {"ban": 10}, False),
        ({"ban": 51}, {"ban": 51}, True),
        ({"ban": 51}, {}, False),
        ({"ban": 50}, {}, True),
        ({"users_default": 5}, {"users_default": 51}, False),
        ({"state_default": 51}, {"state_default": 0}, False),
        ({}, {"events_default": 50}, True),
        ({}, {"invite": 51}, False),
        ({"kick": 51}, {}, False),
        ({"redact": 50}, {"redact": 0}, True),
        ({}, {"events": {"x": 50}}, True),
        ({}, {"events": {"x": 51}}, False),
        ({"events": {"x": 51}}, {"events": {"x": 50}}, False),
        ({"events": {"x": 51}}, {}, False),
        ({"events": {"x": 51}}, {"events": {"x": 51}}, True),
        ({"events": {"x": 50}}, {}, True),
        ({}, {"notifications": {"room": 51}}, False),
        ({"notifications": {"room": 51}}, {}, False),
        ({"notifications": {"room": 20}}, {"notifications": {"room": 50}}, True),
        ({}, {"users": {CAROL: 50}}, True),
        ({}, {"users": {CAROL: 51}}, False),
        ({"users": {CAROL: 49}}, {"users": {CAROL: 50}}, True),
        ({"users": {CAROL: 50}}, {"users": {CAROL: 0}}, False),
        ({"users": {CAROL: 50}}, {"users": {CAROL: "gone"}}, False),
        ({"users": {CAROL: 49}}, {"users": {CAROL: "gone"}}, True),
        ({"users": {CAROL: 60}}, {"users": {CAROL: 60}}, True),
        ({}, {"users": {BOB: 0}}, True),
        ({}, {"users": {BOB: "gone"}}, True),
        ({}, {"users": {BOB: 51}}, False),
    ],
    ids=str,
)
def test_nobody_reaches_above_their_own_level(
    version_id: str, before: dict[str, Any], after: dict[str, Any], allowed: bool
) -> None:
    if "notifications" in {**before, **after} and not since(version_id, 6):
        allowed = True
    # Power levels themselves must be theirs to send.
    events = {"events": {"m.room.power_levels": 50}}
    before = {**before, "events": {**events["events"], **before.get("events", {})}}
    after = {**after, "events": {**events["events"], **after.get("events", {})}}
    rule = power_rule(version_id, before, after)
    assert (rule == "") is allowed
    assert rule == "" or rule.startswith("power_levels.")


def test_version_12_creators_have_no_entry_among_users() -> None:
    room = RoomBuilder("12", create_content={"additional_creators": [BOB]})
    room.join(ALICE)
    for user in (ALICE, BOB):
        pdu = room.draft("m.room.power_levels", ALICE, {"users": {user: 100}}, "")
        assert rule_for(room, pdu) == "power_levels.creator"
    pdu = room.draft("m.room.power_levels", ALICE, {"users": {CAROL: 100}}, "")
    assert rule_for(room, pdu) == ""


def test_version_12_creators_may_set_any_level() -> None:
    room = public_room("12", BOB)
    room.power(ALICE, {"users": {BOB: 2**53 - 1}, "ban": 2**53 - 1})
    pdu = room.draft("m.room.power_levels", ALICE, {"users": {BOB: 0}}, "")
    assert rule_for(room, pdu) == ""


@all_versions
def test_a_template_can_be_judged_before_it_is_signed(version_id: str) -> None:
    room = public_room(version_id)
    draft = room.draft("m.room.member", BOB, {"membership": "join"}, BOB)
    bare = {k: v for k, v in draft.json.items() if k not in ("hashes", "signatures")}
    assert rule_for(room, prototype(bare, room.version)) == ""
