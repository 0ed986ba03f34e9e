"""Rooms that name a policy server: what counts as naming one, and as its signature."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine.build import Draft, build_pdu, chosen_event_id
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.policy_server import (
    POLICY_KEY,
    STABLE,
    UNSTABLE,
    PolicyServer,
    is_signed,
    policy_server_of,
    with_signature,
)
from bridge.engine.receipt import keys_to_fetch
from bridge.engine.signing import sign_event
from bridge.engine.versions import VERSIONS, get_version
from bridge.errors import BadInput
from bridge.ids import RoomId, RoomVersionId, ServerName, UserId

HOME = ServerName("m.example")
GUARD = ServerName("guard.example")
HOME_KEY = SigningKey.from_seed("1", b"h" * 32)
GUARD_KEY = SigningKey.from_seed("policy_server", b"g" * 32)
POLICY = PolicyServer(server=GUARD, verify_key=GUARD_KEY.verify_key_base64, names=STABLE)
VALID = {"via": GUARD, "public_keys": {"ed25519": GUARD_KEY.verify_key_base64}}
versions = pytest.mark.parametrize("version", VERSIONS)


def event(
    type: str = "m.room.message",
    state_key: str | None = None,
    content: dict[str, Any] | None = None,
    version: str = "10",
) -> Pdu:
    rules = get_version(RoomVersionId(version))
    return build_pdu(
        Draft(
            room_id=RoomId(f"!r:{HOME}"),
            type=type,
            sender=UserId(f"@alice:{HOME}"),
            content=content or {"body": "hi"},
            state_key=state_key,
        ),
        prev_events=[],
        auth_events=[],
        version=rules,
        key=HOME_KEY,
        server=HOME,
        origin_server_ts=1,
        event_id=chosen_event_id(rules, HOME, lambda: "e"),
    )


def named(content: dict[str, Any], type: str = STABLE.event_type) -> PolicyServer | None:
    return policy_server_of({(type, ""): event(type, "", content)})


def answer(pdu: Pdu, key: SigningKey = GUARD_KEY) -> dict[str, Any]:
    signatures: dict[str, Any] = sign_event(pdu.json, pdu.version, server=GUARD, key=key)[
        "signatures"
    ]
    return {GUARD: signatures[GUARD]}


def test_a_room_names_it_by_server_and_key() -> None:
    assert named(VALID) == POLICY


def test_the_names_from_before_count_where_there_is_no_other() -> None:
    old = named({"via": GUARD, "public_key": POLICY.verify_key}, UNSTABLE.event_type)
    assert old == PolicyServer(server=GUARD, verify_key=POLICY.verify_key, names=UNSTABLE)
    both = {
        STABLE.state_key: event(STABLE.event_type, "", {"via": ""}),
        UNSTABLE.state_key: event(UNSTABLE.event_type, "", VALID),
    }
    assert policy_server_of(both) is None


@pytest.mark.parametrize(
    "content",
    [
        {"x": 1},
        {"via": GUARD},
        {**VALID, "via": 1},
        {**VALID, "via": "no server/"},
        {**VALID, "public_keys": {"rsa": "x"}},
        {**VALID, "public_keys": ["ed25519"]},
        {**VALID, "public_keys": {"ed25519": 7}},
        {"via": GUARD, "public_key": "lone keys are of the old name"},
    ],
)
def test_what_is_not_whole_names_none(content: dict[str, Any]) -> None:
    assert named(content) is None


@versions
def test_its_signature_counts_and_changes_nothing_else(version: str) -> None:
    pdu = event(version=version)
    assert not is_signed(pdu, POLICY)
    signed = with_signature(pdu, POLICY, answer(pdu))
    assert is_signed(signed, POLICY)
    assert signed.event_id == pdu.event_id
    assert signed.json["signatures"][HOME] == pdu.json["signatures"][HOME]
    assert is_signed(signed.redacted(), POLICY)


def test_a_signature_by_another_key_or_of_another_event_does_not() -> None:
    pdu, other = event(), event(content={"body": "else"})
    wrong = SigningKey.from_seed("policy_server", b"w" * 32)
    elsewhere: dict[str, Any] = {HOME: {POLICY_KEY: "x"}}
    for given_answer in (answer(pdu, wrong), answer(other), {}, elsewhere):
        with pytest.raises(BadInput):
            with_signature(pdu, POLICY, given_answer)


def test_what_names_the_policy_server_needs_no_signature_and_nothing_else_is_spared() -> None:
    for type in (STABLE.event_type, UNSTABLE.event_type):
        assert is_signed(event(type, ""), POLICY)
        assert not is_signed(event(type, "x"), POLICY)
        assert not is_signed(event(type), POLICY)
    assert not is_signed(event("m.room.power_levels", ""), POLICY)


def test_its_key_says_nothing_about_who_sent_an_event() -> None:
    own = PolicyServer(server=HOME, verify_key=GUARD_KEY.verify_key_base64, names=STABLE)
    pdu = event()
    signature = sign_event(pdu.json, pdu.version, server=HOME, key=GUARD_KEY)["signatures"]
    signed = with_signature(pdu, own, {HOME: {POLICY_KEY: signature[HOME][POLICY_KEY]}})
    assert set(signed.json["signatures"][HOME]) == {HOME_KEY.key_id, POLICY_KEY}
    assert keys_to_fetch(signed) == {HOME: frozenset({HOME_KEY.key_id})}


@given(
    st.dictionaries(
        st.sampled_from([GUARD, HOME]),
        st.one_of(
            st.none(),
            st.text(max_size=5),
            st.dictionaries(
                st.sampled_from([POLICY_KEY, "ed25519:x"]), st.none() | st.text(max_size=90)
            ),
        ),
    )
)
def test_any_answer_is_read(given_answer: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        with_signature(event(), POLICY, given_answer)
