"""Keys, signed JSON, signed events, and when a key counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine import keys
from bridge.engine.build import countersign
from bridge.engine.hashes import content_hash
from bridge.engine.keys import SigningKey, decode_base64, encode_base64, verify
from bridge.engine.signing import (
    check_json_signature,
    check_pdu_signature,
    is_key_valid_at,
    required_signers,
    sign_event,
    sign_json,
)
from bridge.engine.versions import get_version
from bridge.engine.versions.rules import SigningRules
from bridge.errors import BadInput
from bridge.ids import EventId, KeyId, ServerName
from tests.engine.rooms import ALICE, BOB, CAROL, VERSION_IDS, key_of, public_room, since
from tests.engine.test_canonical import canonical_values

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "matrix-appendices.json").read_text("utf-8")
)
DOMAIN = ServerName("domain")
KEY = SigningKey.from_seed("1", decode_base64(VECTORS["signing_key_seed"]))
DAY_MS = 24 * 3600 * 1000


@pytest.mark.parametrize("vector", VECTORS["json_signing"])
def test_appendix_objects_are_signed_as_published(vector: dict[str, Any]) -> None:
    signed = sign_json(vector["given"], server=DOMAIN, key=KEY)
    assert signed == vector["signed"]
    assert check_json_signature(
        signed, server=DOMAIN, key_id=KeyId("ed25519:1"), verify_key=KEY.verify_key_base64
    )


@pytest.mark.parametrize("vector", VECTORS["event_signing"])
def test_appendix_events_are_hashed_and_signed_as_published(vector: dict[str, Any]) -> None:
    event = vector["given"]
    event = {**event, "hashes": {"sha256": content_hash(event)}}
    assert sign_event(event, get_version("10"), server=DOMAIN, key=KEY) == vector["signed"]


@given(st.dictionaries(st.text(max_size=5), canonical_values, max_size=4))
def test_signed_json_verifies_and_changed_json_does_not(value: dict[str, Any]) -> None:
    value.pop("signatures", None)
    value.pop("unsigned", None)
    signed = sign_json(value, server=DOMAIN, key=KEY)

    def verifies(obj: dict[str, Any]) -> bool:
        return check_json_signature(
            obj, server=DOMAIN, key_id=KEY.key_id, verify_key=KEY.verify_key_base64
        )

    assert verifies(signed)
    assert verifies({**signed, "unsigned": {"age": 3}})
    assert not verifies({**signed, "more": 1, "and more": 2})


def test_signing_keeps_the_signatures_that_are_there() -> None:
    first = sign_json({"a": 1}, server=ServerName("a.example"), key=key_of(ServerName("a.example")))
    both = sign_json(first, server=DOMAIN, key=KEY)
    for server, key in (("a.example", key_of(ServerName("a.example"))), ("domain", KEY)):
        assert check_json_signature(
            both,
            server=ServerName(server),
            key_id=key.key_id,
            verify_key=key.verify_key_base64,
        )
    assert "domain" not in first["signatures"]


@pytest.mark.parametrize("signatures", [None, [], {"domain": []}, {"domain": {"ed25519:1": 5}}])
def test_malformed_signatures_are_no_signatures(signatures: object) -> None:
    assert not check_json_signature(
        {"signatures": signatures},
        server=DOMAIN,
        key_id=KEY.key_id,
        verify_key=KEY.verify_key_base64,
    )


@pytest.mark.parametrize(
    ("key", "signature"),
    [("", ""), ("AAAA", "AAAA"), ("!", "!"), ("A" * 43, "A" * 86), ("é", "é")],
)
def test_garbage_keys_and_signatures_do_not_verify(key: str, signature: str) -> None:
    assert verify(key, b"message", signature) is False


def test_whoever_names_long_keys_fills_no_memory() -> None:
    key = SigningKey.from_seed("1", b"1" * 32)
    long = key.verify_key_base64 + "=" * 60_000
    kept = keys._decode_key.cache_info().currsize
    assert verify(long, b"x", key.sign(b"x"))
    assert keys._decode_key.cache_info().currsize == kept


@given(st.binary())
def test_base64_round_trips_in_both_alphabets(data: bytes) -> None:
    text = encode_base64(data)
    assert "=" not in text
    assert decode_base64(text) == data
    assert decode_base64(text.replace("+", "-").replace("/", "_")) == data


def test_a_key_file_line_round_trips() -> None:
    line = KEY.to_text()
    # The published seed sets two bits beyond its 32 bytes, which are lost.
    assert line == "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0"
    assert SigningKey.from_text(line + "\n") == KEY


@pytest.mark.parametrize(
    "line", ["", "ed25519 1", "rsa 1 AAAA", "ed25519 a-b AAAA", "ed25519 1 AA"]
)
def test_a_wrong_key_file_line_is_refused(line: str) -> None:
    with pytest.raises(BadInput):
        SigningKey.from_text(line)


def test_the_seed_is_not_shown() -> None:
    assert "seed" not in repr(KEY)
    with pytest.raises(BadInput) as caught:
        SigningKey.from_text("ed25519 bad-version SECRETSECRET")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("origin", "valid_until", "now", "expected"),
    [
        (1000, 1000, 0, True),
        (1001, 1000, 0, False),
        (8 * DAY_MS, 100 * DAY_MS, 0, False),  # seven days from now at most
        (7 * DAY_MS, 100 * DAY_MS, 0, True),
        (8 * DAY_MS, 100 * DAY_MS, 1 * DAY_MS, True),
    ],
)
def test_a_key_counts_until_its_end_and_seven_days_ahead_at_most(
    origin: int, valid_until: int, now: int, expected: bool
) -> None:
    rules = SigningRules()
    assert is_key_valid_at(origin, valid_until_ts=valid_until, now_ms=now, rules=rules) is expected


@pytest.mark.parametrize("version_id", VERSION_IDS)
def test_the_sender_s_server_must_sign(version_id: str) -> None:
    room = public_room(version_id, BOB)
    pdu = room.send("m.room.message", BOB, {"body": "x"})
    assert required_signers(pdu) == {"b.example"}


@pytest.mark.parametrize("version_id", ["1", "2"])
def test_the_server_of_the_event_id_must_sign_too_until_version_2(version_id: str) -> None:
    room = public_room(version_id, BOB)
    event_id = EventId("$x:c.example:8448")
    pdu = room.send("m.room.message", BOB, {"body": "x"}, event_id=event_id)
    assert required_signers(pdu) == {"b.example", "c.example:8448"}


@pytest.mark.parametrize("version_id", ["1", "2"])
def test_a_third_party_invite_is_signed_by_the_server_that_named_it_until_version_2(
    version_id: str,
) -> None:
    # Unsigned it could take any event ID of the server of its sender.
    room = public_room(version_id)
    content = {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}}
    pdu = room.send("m.room.member", ALICE, content, BOB)
    assert required_signers(pdu) == {"a.example"}


@pytest.mark.parametrize("version_id", VERSION_IDS)
def test_who_vouches_for_a_restricted_join_must_sign_too_from_version_8(version_id: str) -> None:
    room = public_room(version_id)
    content = {"membership": "join", "join_authorised_via_users_server": ALICE}
    pdu = room.send("m.room.member", CAROL, content, CAROL)
    voucher = {"a.example"} if since(version_id, 8) else set()
    assert required_signers(pdu) == {"c.example"} | voucher
    key = key_of(ServerName("a.example"))
    signed = countersign(pdu, key=key, server=ServerName("a.example"))
    assert signed.event_id == pdu.event_id
    for server in required_signers(pdu):
        server_key = key_of(server)
        assert check_pdu_signature(
            signed,
            server=server,
            key_id=server_key.key_id,
            verify_key=server_key.verify_key_base64,
        )


def test_a_third_party_invite_may_come_from_another_server() -> None:
    room = public_room("10")
    content = {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}}
    pdu = room.send("m.room.member", ALICE, content, BOB)
    assert required_signers(pdu) == frozenset()
