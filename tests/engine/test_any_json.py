"""Whatever JSON others send, the engine answers with its own verdicts and exceptions.

Events are valid ones of which parts were replaced, one by one, by any JSON; those that pass the
format check are then judged by, and resolved among, each other, whatever they say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.engine.auth import auth_state_keys, check_auth, check_auth_events
from bridge.engine.canonical import encode_canonical, parse_json
from bridge.engine.hashes import check_content_hash, content_hash, event_id_of, redact
from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels, creators_of, read_level
from bridge.engine.receipt import (
    Verdict,
    VerifyKey,
    check_signatures_and_hash,
    judge,
    keys_to_fetch,
)
from bridge.engine.redaction import may_apply_redaction, redact_pdu
from bridge.engine.signing import required_signers
from bridge.engine.state import StateKey
from bridge.engine.stateres import auth_chain, resolve, run
from bridge.engine.versions import RoomVersion, get_version
from bridge.errors import BadInput, Refused
from bridge.ids import EventId, KeyId
from tests.engine.rooms import ALICE, BOB, CAROL, VERSION_IDS, RoomBuilder

any_text = st.text(max_size=8) | st.sampled_from(
    [ALICE, BOB, "@", "@x", "join", "ban", "knock", "public", "restricted", "50", " -7 ", "\ud800"]
)
any_number = (
    st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats()
    | st.sampled_from([0, 1, -1, 50, 2**53 - 1, 2**53, 2**63, 1e308, math.inf, math.nan])
)
NAMES = st.sampled_from(
    [
        *("membership", "join_rule", "users", "events", "notifications", "ban", "creator"),
        *("additional_creators", "third_party_invite", "signed", "token", "mxid", "signatures"),
        *("public_key", "public_keys", "join_authorised_via_users_server", "redacts"),
        *("m.federate", "room_version", "allow", "users_default", ALICE, BOB, "id.example"),
    ]
)
any_json = st.recursive(
    st.none() | st.booleans() | any_number | any_text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | any_text, inner, max_size=4)
        | st.dictionaries(NAMES, inner, max_size=4)
    ),
    max_leaves=12,
)
version_ids = st.sampled_from(VERSION_IDS)

TYPES = (
    *("m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules"),
    *("m.room.third_party_invite", "m.room.aliases", "m.room.redaction", "m.room.message"),
    *("m.room.history_visibility", "m.room.topic", "x"),
)
FIELDS = (
    *("type", "room_id", "sender", "state_key", "content", "origin_server_ts", "depth", "hashes"),
    *("prev_events", "auth_events", "signatures", "unsigned", "redacts", "event_id", "origin"),
)
MEMBERS = st.sampled_from([ALICE, BOB, CAROL, "", "x"])
contents = st.one_of(
    st.builds(dict, membership=st.sampled_from(["join", "leave", "ban", "invite", "knock"])),
    st.builds(dict, join_rule=st.sampled_from(["public", "invite", "knock", "restricted"])),
    st.builds(dict, users=st.dictionaries(MEMBERS, st.sampled_from([0, 50, 100]), max_size=3)),
    st.dictionaries(NAMES, any_json, max_size=4),
    st.dictionaries(NAMES, any_json, min_size=1, max_size=2),
)


def base_event(room: RoomBuilder) -> dict[str, Any]:
    """Well-formed, of this version."""
    return dict(room.draft("x", ALICE, {}, after=[room.create.event_id]).json)


@st.composite
def events(draw: st.DrawFn, room: RoomBuilder, known: Sequence[EventId], name: str) -> Any:
    """An event that often passes the format check and says anything at all."""
    json = base_event(room)
    links = st.lists(st.sampled_from(known), max_size=4)
    json |= {
        "type": draw(st.sampled_from(TYPES)),
        "sender": draw(st.sampled_from([ALICE, BOB, CAROL])),
        "content": draw(contents),
        "depth": draw(st.integers(0, 5)),
        "prev_events": [_link(room, one) for one in draw(links)],
        "auth_events": [_link(room, one) for one in draw(links)],
    }
    if draw(st.integers(0, 4)):
        json["state_key"] = draw(MEMBERS | st.just("") | st.just("token"))
    if room.version.event_format.named_by_sender:
        json["event_id"] = name
    if draw(st.integers(0, 5)) == 0:
        json[draw(st.sampled_from(FIELDS))] = draw(any_json)
    if draw(st.integers(0, 9)) == 0:
        json.pop(draw(st.sampled_from(FIELDS)), None)
    return json


def _link(room: RoomBuilder, event_id: EventId) -> Any:
    with_hashes = room.version.event_format.links_with_hashes
    return [event_id, {"sha256": "x"}] if with_hashes else event_id


@st.composite
def pools(draw: st.DrawFn) -> tuple[RoomBuilder, dict[EventId, Pdu]]:
    """A room's create event and what else has passed the format check."""
    room = RoomBuilder(draw(version_ids))
    found = {room.create.event_id: room.create}
    # Where senders choose IDs, events may name each other in a circle.
    names = [EventId(f"${number}:a.example") for number in range(7)]
    for name in names:
        known = [*found, *(names if room.version.event_format.named_by_sender else ())]
        try:
            pdu = Pdu.parse(draw(events(room, known, name)), room.version)
        except BadInput:
            continue
        if draw(st.integers(0, 5)) == 0:
            pdu = Pdu.trusted(pdu.json, pdu.version, pdu.event_id, rejected=True)
        found[pdu.event_id] = pdu
    return room, found


@given(value=any_json, version_id=version_ids)
def test_any_json_is_an_event_or_bad_input(value: Any, version_id: str) -> None:
    try:
        pdu = Pdu.parse(value, get_version(version_id))
    except BadInput:
        return
    raise AssertionError(f"this is an event: {pdu}")


@given(data=st.data(), version_id=version_ids)
def test_an_event_with_any_json_in_it_is_read_or_bad_input(data: Any, version_id: str) -> None:
    room = RoomBuilder(version_id)
    json = base_event(room)
    for _ in range(data.draw(st.integers(1, 3))):
        json[data.draw(st.sampled_from(FIELDS))] = data.draw(any_json)
    try:
        pdu = Pdu.parse(json, room.version)
    except BadInput:
        return
    assert Pdu.parse(pdu.json, room.version) == pdu
    read_back = Pdu.parse(parse_json(pdu.canonical(), max_bytes=10**6), room.version)
    assert read_back.wire() == pdu.wire()
    read_through(pdu)


def read_through(pdu: Pdu) -> None:
    """Every reading of an event that passed the format check, and its redacted copy."""
    strict = pdu.version.event_format.strict_json
    for one in (pdu, redact_pdu(pdu)):
        assert isinstance(one.state_key, str) is one.is_state
        assert one.membership is None or isinstance(one.membership, str)
        assert isinstance(one.depth + one.origin_server_ts, int)
        assert all(isinstance(link, str) for link in (*one.prev_events, *one.auth_events))
        assert one.redacts is None or one.redacts.startswith("$")
        assert one.room_id.startswith("!")
        assert event_id_of(one.json, one.version) == pdu.event_id
        check_content_hash(one.json, strict=strict)
        content_hash(one.json, strict=strict)
        keys_to_fetch(one)
    once = redact(pdu.json, pdu.version)
    assert redact(once, pdu.version) == once


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pool=pools(), data=st.data())
def test_any_events_are_judged_by_any_events(
    pool: tuple[RoomBuilder, dict[EventId, Pdu]], data: Any
) -> None:
    room, found = pool
    chosen = st.lists(st.sampled_from(list(found.values())), max_size=6)
    for pdu in found.values():
        read_through(pdu)
        state = {one.key: one for one in data.draw(chosen) if one.key is not None}
        create = None if data.draw(st.booleans()) else room.create
        decision = judge(
            pdu,
            create=create,
            auth_events={one.event_id: one for one in data.draw(chosen)},
            state_before=state,
            current_state=state,
        )
        assert decision.verdict is Verdict.ACCEPTED or decision.rule
        power = PowerLevels.of(state.get(("m.room.power_levels", "")), create)
        assert isinstance(
            power.user(BOB) + power.event("x", is_state=True) + power.notify_room, int
        )
        may_apply_redaction(pdu, room.create, power)
        creators_of(pdu)
        key = VerifyKey(key_base64="x", valid_until_ts=0)
        keys = {server: {KeyId("ed25519:test"): key} for server in required_signers(pdu)}
        assert refusal(check_signatures_and_hash, pdu, keys, now_ms=0) != ""
        auth_state_keys(pdu.type, pdu.sender, pdu.state_key, pdu.content, pdu.version)
        assert refusal(check_auth, pdu, state) != ""
        named = {one.event_id: one for one in state.values()}
        assert refusal(check_auth_events, pdu, named) != ""


def refusal(check: Callable[..., object], *args: object, **more: object) -> str | None:
    """The word of it, None when allowed."""
    try:
        check(*args, **more)
    except Refused as exc:
        return exc.rule
    return None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pool=pools(), data=st.data())
def test_any_events_are_resolved_among_each_other(
    pool: tuple[RoomBuilder, dict[EventId, Pdu]], data: Any
) -> None:
    room, found = pool
    state_events = [pdu for pdu in found.values() if pdu.key is not None]
    maps: list[dict[StateKey, EventId]] = [
        {pdu.key: pdu.event_id for pdu in chosen if pdu.key is not None}
        for chosen in data.draw(
            st.lists(st.lists(st.sampled_from(state_events), max_size=6), min_size=1, max_size=4)
        )
    ]
    # Some of the events may be nowhere to be found.
    lost = set(data.draw(st.lists(st.sampled_from(list(found)), max_size=2)))

    def lookup(wanted: frozenset[EventId]) -> dict[EventId, Pdu]:
        return {one: found[one] for one in wanted if one in found and one not in lost}

    def resolved(given_maps: Sequence[Mapping[StateKey, EventId]]) -> dict[StateKey, EventId]:
        return run(resolve(given_maps, room.version), lookup)

    result = resolved(maps)
    assert resolved(data.draw(st.permutations(maps))) == result
    assert resolved([*maps, *maps]) == result
    assert resolved([maps[0]]) == resolved([maps[0], maps[0]]) == maps[0]
    assert resolved([result, result]) == result
    assert {found[one].key for one in result.values()} == result.keys()
    run(auth_chain(found), lookup)


@given(value=any_json, integers_only=st.booleans())
def test_any_json_is_a_level_or_none(value: Any, integers_only: bool) -> None:
    level = read_level(value, integers_only=integers_only)
    assert level is None or type(level) is int
    assert level is None or not integers_only or level == value


@given(value=any_json, version_id=version_ids)
def test_any_object_is_redacted_once(value: Any, version_id: str) -> None:
    version: RoomVersion = get_version(version_id)
    json = value if isinstance(value, dict) else {"type": "m.room.member", "content": value}
    once = redact(json, version)
    assert redact(once, version) == once
    assert once.keys() <= json.keys()


@given(value=any_json)
def test_any_json_is_encoded_or_bad_input(value: Any) -> None:
    for strict in (True, False):
        try:
            encode_canonical(value, strict=strict)
        except BadInput:
            continue
