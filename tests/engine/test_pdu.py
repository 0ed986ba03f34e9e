"""Format, size, event IDs and redaction of PDUs."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine.build import countersign
from bridge.engine.canonical import encode_canonical, parse_json
from bridge.engine.format import MAX_PDU_BYTES
from bridge.engine.hashes import check_content_hash, content_hash, event_id_of, reference_hash
from bridge.engine.keys import SigningKey, encode_base64
from bridge.engine.pdu import Pdu, linked_ids
from bridge.engine.power import PowerLevels
from bridge.engine.redaction import may_apply_redaction, redact, redact_pdu
from bridge.engine.signing import check_pdu_signature, sign_event
from bridge.engine.versions import RoomVersion, get_version
from bridge.errors import BadInput
from bridge.ids import EventId, KeyId, ServerName, UserId
from tests.engine.rooms import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    VERSION_IDS,
    RoomBuilder,
    key_of,
    public_room,
    since,
)
from tests.engine.test_canonical import canonical_values

I_1 = json.loads((Path(__file__).parents[1] / "vectors" / "I.1-vectors.json").read_text("utf-8"))
ID = "$" + "A" * 43
V10 = get_version("10")
KEY = SigningKey.from_seed("1", b"k" * 32)


def event(version: RoomVersion = V10, **changes: Any) -> dict[str, Any]:
    """A well-formed event; a change to None takes the key away."""
    room_id = "!" + "B" * 43 if version.event_format.room_id_from_create else "!r:a.example"
    link: Any = [ID, {"sha256": "x"}] if version.event_format.links_with_hashes else ID
    json: dict[str, Any] = {
        "event_id": "$x:a.example" if version.event_format.named_by_sender else None,
        "type": "m.room.message",
        "room_id": room_id,
        "sender": ALICE,
        "content": {"body": "x"},
        "origin_server_ts": 1,
        "depth": 5,
        "prev_events": [link],
        "auth_events": [link],
        "hashes": {"sha256": "x"},
        "signatures": {"a.example": {"ed25519:1": "x"}},
        **changes,
    }
    return {key: value for key, value in json.items() if value is not None}


def parse(json: object, version_id: str = "10") -> Pdu:
    return Pdu.parse(json, get_version(version_id))


# Vectors of I.1


@pytest.mark.parametrize("vector", I_1["events"], ids=lambda vector: vector["label"])
def test_i_1_vectors(vector: dict[str, Any]) -> None:
    version = get_version("I.1")
    pdu = Pdu.parse(vector["pdu"], version)
    assert pdu.event_id == vector["event_id"]
    assert check_content_hash(pdu.json)
    hashed = {k: v for k, v in pdu.json.items() if k not in ("hashes", "signatures", "unsigned")}
    assert encode_canonical(hashed).decode() == vector["canonical_json_for_content_hash"]
    assert check_pdu_signature(
        pdu,
        server=ServerName(I_1["server_name"]),
        key_id=KeyId(I_1["key_id"]),
        verify_key=I_1["verify_key_unpadded_base64"],
    )
    assert redact(pdu.json, version) == vector["redacted"]
    assert redact_pdu(pdu).event_id == event_id_of(vector["redacted"], version) == pdu.event_id


# Format and size


@pytest.mark.parametrize("version_id", VERSION_IDS)
def test_a_well_formed_event_is_read_through_typed_properties(version_id: str) -> None:
    version = get_version(version_id)
    pdu = parse(event(version, state_key="", unsigned={"age": 5}), version_id)
    assert (pdu.type, pdu.sender, pdu.state_key, pdu.depth) == ("m.room.message", ALICE, "", 5)
    assert pdu.is_state
    assert pdu.key == ("m.room.message", "")
    assert list(pdu.prev_events) == list(pdu.auth_events) == [ID]
    assert pdu.event_id == "$x:a.example" if version_id in ("1", "2") else len(pdu.event_id) == 44
    assert pdu.event_id.startswith("$")
    assert ("event_id" in pdu.wire()) is (version_id in ("1", "2"))
    assert "unsigned" not in pdu.wire()
    assert json.loads(pdu.canonical()) == pdu.wire()


@pytest.mark.parametrize(
    "changes",
    [
        {"type": None},
        {"type": 5},
        {"type": "x" * 256},
        {"type": "é" * 128},
        {"state_key": 5},
        {"state_key": "é" * 128},
        {"state_key": "x" * 256},
        {"sender": None},
        {"sender": "alice"},
        {"sender": "@a:" + "x" * 254},
        {"room_id": None},
        {"room_id": "r:a.example"},
        {"room_id": "!" + "x" * 255},
        {"content": None},
        {"content": []},
        {"content": {"a": 0.5}},
        {"content": {"a": 2**53}},
        {"content": {"a": "\ud800"}},
        {"origin_server_ts": None},
        {"origin_server_ts": "1"},
        {"origin_server_ts": True},
        {"depth": None},
        {"depth": -1},
        {"depth": 2**53},
        {"depth": True},
        {"depth": "3"},
        {"prev_events": None},
        {"prev_events": [ID] * 21},
        {"prev_events": [[ID, {"sha256": "x"}]]},
        {"prev_events": {}},
        {"auth_events": None},
        {"auth_events": [ID] * 11},
        {"auth_events": [5]},
        {"hashes": None},
        {"hashes": {}},
        {"hashes": {"sha256": 5}},
        {"signatures": None},
        {"signatures": []},
        {"signatures": {"a.example": "x"}},
        {"signatures": {"a.example": {"ed25519:1": 5}}},
    ],
    ids=str,
)
def test_malformed_events_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        parse(event(**changes))


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_an_event_is_an_object(value: object) -> None:
    with pytest.raises(BadInput):
        parse(value)


def test_twenty_previous_and_ten_auth_events_are_allowed() -> None:
    parse(event(prev_events=[ID] * 20, auth_events=[ID] * 10))


def test_size_counts_signatures_but_not_unsigned() -> None:
    def sized(total: int) -> dict[str, Any]:
        bare = event(content={"body": ""})
        return event(content={"body": "x" * (total - len(encode_canonical(bare)))})

    assert len(encode_canonical(sized(MAX_PDU_BYTES))) == 65536
    parse(sized(MAX_PDU_BYTES))
    parse({**sized(MAX_PDU_BYTES), "unsigned": {"age": 5}})
    with pytest.raises(BadInput) as caught:
        parse(sized(MAX_PDU_BYTES + 1))
    assert caught.value.errcode == "M_TOO_LARGE"


def test_a_stray_event_id_is_taken_away() -> None:
    assert parse(event(event_id="$other")) == parse(event())
    assert "event_id" not in parse(event(event_id="$other")).json


@pytest.mark.parametrize("unsigned", [5, [], None, {"age": 0.5}, {"a": 2**60}])
def test_malformed_unsigned_goes_and_the_event_stays(unsigned: Any) -> None:
    assert parse({**event(), "unsigned": unsigned}) == parse(event())
    assert parse(event(unsigned={"age": 5})).json["unsigned"] == {"age": 5}


@pytest.mark.parametrize("version_id", VERSION_IDS)
def test_power_levels_beyond_canonical_integers_are_bad_json_from_version_6(
    version_id: str,
) -> None:
    version = get_version(version_id)
    levels = {"type": "m.room.power_levels", "state_key": ""}
    parse(event(version, content={"ban": 2**53 - 1}, **levels), version_id)
    if not since(version_id, 6):
        parse(event(version, content={"ban": 2**53, "kick": 0.5}, **levels), version_id)
        with pytest.raises(BadInput):
            parse(event(version, content={"ban": 2**64}, **levels), version_id)
        return
    with pytest.raises(BadInput) as caught:
        parse(event(version, content={"ban": 2**53}, **levels), version_id)
    assert caught.value.errcode == "M_BAD_JSON"


def test_a_version_12_create_event_names_no_room_and_gives_it_its_id() -> None:
    create = event(get_version("12"), type="m.room.create", state_key="", room_id=None)
    pdu = parse(create, "12")
    assert pdu.room_id == "!" + pdu.event_id[1:]
    with pytest.raises(BadInput):
        parse(create, "11")


@pytest.mark.parametrize("version_id", VERSION_IDS)
def test_redacts_stands_where_the_version_keeps_it(version_id: str) -> None:
    room = public_room(version_id)
    message = room.send("m.room.message", ALICE, {"body": "x"})
    pdu = room.send("m.room.redaction", ALICE, {"reason": "r"}, redacts=message.event_id)
    assert pdu.redacts == message.event_id
    in_content = version_id in ("11", "12")
    assert ("redacts" in pdu.content, "redacts" in pdu.json) == (in_content, not in_content)
    assert ("redacts" in redact_pdu(pdu).content) is in_content
    assert "redacts" not in redact_pdu(pdu).json


# Until version 2 the server that makes an event names it


@pytest.mark.parametrize("version_id", ["1", "2"])
@pytest.mark.parametrize(
    "changes",
    [
        {"event_id": None},
        {"event_id": 5},
        {"event_id": ID},
        {"event_id": "x:a.example"},
        {"event_id": "$x:"},
        {"event_id": "$x:no server"},
        {"event_id": "$x\0:a.example"},
        {"event_id": "$" + "x" * 245 + ":a.example"},
        {"event_id": "$" + "é" * 123 + ":a.example"},
        *(
            {name: links}
            for name in ("prev_events", "auth_events")
            for links in (
                [ID],
                [[ID]],
                [[ID, "x"]],
                [[ID, {"sha256": "x"}, 5]],
                [[5, {"sha256": "x"}]],
                [["x", {"sha256": "x"}]],
                [[{"sha256": "x"}, ID]],
                [{ID: {"sha256": "x"}}],
                [["$x:a.example", {"sha256": "x"}]],  # itself
                {ID: {"sha256": "x"}},
                [[ID, {"sha256": "x"}]] * 21,
            )
        ),
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_malformed_names_and_links_are_refused(version_id: str, changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        parse(event(get_version(version_id), **changes), version_id)


@pytest.mark.parametrize("version_id", ["1", "2"])
def test_names_and_links_are_taken_up_to_their_bounds(version_id: str) -> None:
    version = get_version(version_id)
    link = [ID, {"sha256": "x", "other": "y"}]
    # Synapse makes rooms with the first of these.
    for hashes in ({}, {"sha256": 5}, {"other": "x"}):
        assert parse(event(version, prev_events=[[ID, hashes]]), version_id).prev_events == [ID]
    longest = "$" + "x" * 244 + ":a.example"
    for event_id in (longest, "$:a.example", "$a:b.example:8448", "$x/+é:[::1]:1"):
        json = event(version, event_id=event_id, prev_events=[link] * 20, auth_events=[link] * 10)
        pdu = parse(json, version_id)
        assert pdu.event_id == event_id
        assert pdu.json == json
        assert list(pdu.prev_events) == [ID] * 20
        assert redact_pdu(pdu).event_id == redact_pdu(pdu).json["event_id"] == event_id


@pytest.mark.parametrize("version_id", ["1", "2"])
def test_the_name_is_covered_by_hash_and_signature(version_id: str) -> None:
    room = public_room(version_id)
    pdu = room.send("m.room.message", ALICE, {"body": "x"})
    other = parse({**pdu.json, "event_id": "$other:a.example"}, version_id)
    key = key_of(ServerName("a.example"))
    for one, is_good in ((pdu, True), (other, False)):
        assert check_content_hash(one.json) is is_good
        signed = check_pdu_signature(
            one,
            server=ServerName("a.example"),
            key_id=key.key_id,
            verify_key=key.verify_key_base64,
        )
        assert signed is is_good


@pytest.mark.parametrize("version_id", VERSION_IDS)
def test_two_events_are_the_same_by_more_than_a_chosen_name(version_id: str) -> None:
    room = public_room(version_id, BOB)
    named = room.version.event_format.named_by_sender
    own = EventId("$same:a.example") if named else None
    one = room.draft("m.room.message", ALICE, {"body": "x"}, event_id=own)
    two = room.draft("m.room.message", ALICE, {"body": "y"}, event_id=own)
    assert (one.event_id == two.event_id) is named
    assert not one.is_same(two)
    assert one.is_same(redact_pdu(one))
    assert redact_pdu(one).is_same(one)
    assert not redact_pdu(one).is_same(redact_pdu(two))
    assert one.is_same(countersign(one, key=KEY, server=ServerName("b.example")))


@pytest.mark.parametrize("version_id", ["1", "2"])
def test_links_carry_the_reference_hash_of_what_they_name(version_id: str) -> None:
    room = public_room(version_id)
    pdu = room.draft("m.room.message", ALICE, {"body": "x"})
    ((event_id, hashes),) = pdu.json["prev_events"]
    assert hashes == {
        "sha256": encode_base64(reference_hash(room.events[event_id].json, room.version))
    }
    assert [event_id] == list(pdu.prev_events)
    assert {one for one, _ in pdu.json["auth_events"]} == set(pdu.auth_events)


@given(links=canonical_values)
def test_links_of_an_unchecked_template_are_read_as_far_as_they_are_any(links: Any) -> None:
    assert all(isinstance(one, str) for one in linked_ids(links))
    assert linked_ids([ID, [ID, {"sha256": "x"}], 5, [], links])[:2] == [ID, ID]


# Before version 6 nothing has to be canonical JSON


@pytest.mark.parametrize("version_id", ["1", "2", "3", "4", "5"])
def test_before_version_6_integers_have_64_bits(version_id: str) -> None:
    version = get_version(version_id)
    top = 2**63 - 1
    pdu = parse(event(version, depth=top, origin_server_ts=top, content={"n": -top}), version_id)
    assert (pdu.depth, pdu.origin_server_ts) == (top, top)
    assert Pdu.trusted(json.loads(pdu.canonical()), version, pdu.event_id).json == pdu.json
    for number in (2**63, 2**64 - 1, -(2**63)):
        pdu = parse(event(version, content={"n": number}), version_id)
        assert f'"n":{number}' in pdu.canonical().decode()
        assert parse_json(pdu.canonical(), max_bytes=5000)["content"] == {"n": number}
    for changes in ({"depth": top + 1}, {"depth": 1.0}, {"content": {"n": math.inf}}):
        with pytest.raises(BadInput):
            parse(event(version, **changes), version_id)


@pytest.mark.parametrize("version_id", ["1", "2", "3", "4", "5"])
def test_floats_are_hashed_as_the_specification_s_example_writes_them(version_id: str) -> None:
    version = get_version(version_id)
    content = {"users": {ALICE: 1e16, BOB: 50.57, CAROL: 1e-7, DAVE: 2**60}, "x": "é\x7f\n"}
    levels = event(version, type="m.room.power_levels", state_key="", content=content)
    hashed = {k: v for k, v in levels.items() if k not in ("hashes", "signatures")}
    text = json.dumps(hashed, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    levels["hashes"] = {"sha256": encode_base64(hashlib.sha256(text.encode()).digest())}
    pdu = parse(levels, version_id)
    assert check_content_hash(pdu.json, strict=False)
    signed = sign_event(levels, version, server=ServerName("a.example"), key=KEY)
    covered = {k: v for k, v in redact(levels, version).items() if k != "signatures"}
    text = json.dumps(covered, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    assert signed["signatures"]["a.example"][KEY.key_id] == KEY.sign(text.encode())


def test_event_ids_are_url_safe_from_version_4_and_not_in_version_3() -> None:
    hashed = [version_id for version_id in VERSION_IDS if since(version_id, 3)]
    ids = {version_id: set[str]() for version_id in hashed}
    for version_id, characters in ids.items():
        for depth in range(40):
            characters.update(parse(event(depth=depth), version_id).event_id[1:])
    assert {"+", "/"} <= ids.pop("3") - {"-", "_"}
    assert all({"-", "_"} <= characters - {"+", "/"} for characters in ids.values())


# Redaction; what it keeps is in test_redaction_tables.py


events = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["m.room.member", "m.room.create", "m.room.power_levels", "m.x"]),
        "content": st.dictionaries(
            st.sampled_from(["membership", "creator", "users", "third_party_invite", "x"]),
            canonical_values,
            max_size=4,
        ),
    },
    optional={"origin": st.just("o"), "unknown": canonical_values, "unsigned": st.just({"a": 1})},
)


@given(changes=events, version_id=st.sampled_from(VERSION_IDS))
def test_a_redacted_copy_has_the_same_id_and_redacts_to_itself(
    changes: dict[str, Any], version_id: str
) -> None:
    version = get_version(version_id)
    json = {**event(version), **changes}
    once = redact(json, version)
    assert redact(once, version) == once
    assert event_id_of(once, version) == event_id_of(json, version)
    assert "unsigned" not in once


@given(changes=events, version_id=st.sampled_from(VERSION_IDS))
def test_a_pdu_survives_storage(changes: dict[str, Any], version_id: str) -> None:
    version = get_version(version_id)
    json_in = {**event(version), **changes}
    if version.event_format.room_id_from_create and changes["type"] == "m.room.create":
        del json_in["room_id"]
    pdu = Pdu.parse(json_in, version)
    read_back = Pdu.trusted(json.loads(pdu.canonical()), version, pdu.event_id)
    assert read_back.wire() == pdu.wire()
    assert read_back.room_id == pdu.room_id
    assert event_id_of(read_back.json, version) == pdu.event_id


def test_event_id_changes_with_what_redaction_keeps_and_not_with_the_rest() -> None:
    assert parse(event()).event_id == parse(event(content={"body": "y"})).event_id
    assert parse(event()).event_id != parse(event(hashes={"sha256": "y"})).event_id
    assert parse(event()).event_id != parse(event(depth=6)).event_id


def test_the_content_hash_covers_unknown_keys_but_no_unsigned() -> None:
    json = event()
    json["hashes"] = {"sha256": content_hash(json)}
    assert check_content_hash(json)
    assert check_content_hash({**json, "unsigned": {"age": 1}, "signatures": {}})
    assert not check_content_hash({**json, "unknown": 1})
    assert not check_content_hash({**json, "redacts": "$x"})
    assert not check_content_hash({**json, "hashes": {}})
    assert not check_content_hash({**json, "hashes": {"sha256": "é"}})


# Whether a redaction applies


@pytest.mark.parametrize("version_id", VERSION_IDS)
@pytest.mark.parametrize(
    ("redactor", "author", "applies"),
    [
        (ALICE, BOB, True),  # by level
        (BOB, BOB, True),
        (DAVE, ALICE, True),  # the same server, another user
        (BOB, ALICE, False),  # until version 2 the auth rules refuse these two
        (BOB, CAROL, False),
    ],
)
def test_a_redaction_applies_by_level_or_by_server(
    version_id: str, redactor: UserId, author: UserId, applies: bool
) -> None:
    room = public_room(version_id, BOB, CAROL, DAVE)
    target = room.send("m.room.message", author, {"body": "x"})
    redaction = room.send("m.room.redaction", redactor, {}, redacts=target.event_id)
    state = room.state_after[redaction.event_id]
    power = PowerLevels.of(room.events[state["m.room.power_levels", ""]], room.create)
    if room.version.auth.check_redactions:
        applies = True
    assert may_apply_redaction(redaction, target, power) is applies


@pytest.mark.parametrize("version_id", ["1", "2"])
def test_a_redaction_never_reaches_into_another_room_with_the_same_event_id(
    version_id: str,
) -> None:
    one, two = RoomBuilder(version_id, creator=BOB), public_room(version_id)
    target = one.send("m.room.message", BOB, {"body": "x"}, event_id=EventId("$x:a.example"))
    redaction = two.send("m.room.redaction", ALICE, {}, redacts=target.event_id)
    assert not may_apply_redaction(redaction, target, PowerLevels.of(None, two.create))


def test_a_redaction_never_reaches_into_another_room() -> None:
    one, two = public_room("11"), public_room("12")
    target = one.send("m.room.message", ALICE, {"body": "x"})
    redaction = two.send("m.room.redaction", ALICE, {}, redacts=target.event_id)
    power = PowerLevels.of(None, two.create)
    assert not may_apply_redaction(redaction, target, power)


def test_a_redaction_only_applies_to_what_it_names() -> None:
    room = public_room("12")
    one = room.send("m.room.message", ALICE, {"body": "x"})
    redaction = room.send("m.room.redaction", ALICE, {}, redacts=EventId("$other"))
    assert not may_apply_redaction(redaction, one, PowerLevels.of(None, room.create))
