"""Beside the tables in `auth/`: which auth events are selected, and what counts as a level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bridge.engine.auth import auth_event_keys, auth_state_keys, check_auth, check_auth_events
from bridge.engine.build import prototype
from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels
from bridge.errors import Refused
from bridge.ids import EventId
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


before_6 = pytest.mark.parametrize(
    "version_id", [version_id for version_id in VERSION_IDS if not since(version_id, 6)]
)


def rule_for(room: RoomBuilder, pdu: Pdu) -> str:
    """The rule that refuses the event against the state before it; empty when allowed."""
    try:
        check_auth(pdu, room.auth_state(pdu))
    except Refused as exc:
        return exc.rule
    return ""


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
def test_an_auth_event_is_rejected_by_our_verdict_or_by_the_caller_s(version_id: str) -> None:
    room = public_room(version_id, BOB)
    pdu = room.draft("m.room.message", BOB, {})
    named = pdu.auth_events[0]
    assert auth_events_rule(room, pdu, rejected=[named]) == "auth_events.rejected"
    event = room.events[named]
    room.events[named] = Pdu.trusted(event.json, event.version, named, rejected=True)
    assert auth_events_rule(room, pdu) == "auth_events.rejected"


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


@pytest.mark.parametrize("version_id", ["1", "2"])
def test_the_redaction_s_own_event_id_decides_and_not_its_sender(version_id: str) -> None:
    room = public_room(version_id, BOB)
    redaction = room.draft(
        "m.room.redaction",
        BOB,
        {},
        redacts=EventId("$x:a.example"),
        event_id=EventId("$redaction:a.example"),
    )
    assert rule_for(room, redaction) == ""


@before_6
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
def test_a_template_can_be_judged_before_it_is_signed(version_id: str) -> None:
    room = public_room(version_id)
    draft = room.draft("m.room.member", BOB, {"membership": "join"}, BOB)
    bare = {k: v for k, v in draft.json.items() if k not in ("hashes", "signatures")}
    assert rule_for(room, prototype(bare, room.version)) == ""
