from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine.canonical import JsonObject
from bridge.engine.keys import SigningKey
from bridge.errors import Refused
from bridge.federation.xmatrix import XMatrix, parse_xmatrix, sign_request, verify_request
from bridge.ids import KeyId, ServerName

KEY = SigningKey.from_seed("1", bytes(range(32)))
ORIGIN = ServerName("origin.example")
DESTINATION = ServerName("destination.example:8448")
EXPECTED = XMatrix(
    origin=ORIGIN, destination=DESTINATION, key_id=KeyId("ed25519:key1"), signature="ABC+/def"
)


DESTINATION_QUOTED = 'destination="destination.example:8448"'


@pytest.mark.parametrize(
    "header",
    [
        EXPECTED.header(),
        f"X-Matrix origin=origin.example,{DESTINATION_QUOTED},key=ed25519:key1,sig=ABC+/def",
        (
            f'x-matrix   SIG="ABC+/def" ,{DESTINATION_QUOTED}'
            " ,\t Key=ed25519:key1,  oriGin=origin.example"
        ),
        (
            "X-Matrix origin=origin.example,destination=destination.example:8448,"
            'key=ed25519:key1,sig="ABC\\+/d\\ef",future="a, \\"b\\" = c"'
        ),
        f'X-Matrix origin="origin.example",,{DESTINATION_QUOTED},key="ed25519:key1",sig=ABC+/def,',
    ],
)
def test_every_spelling_of_the_header_is_read(header: str) -> None:
    assert parse_xmatrix(header) == EXPECTED


def test_the_header_is_written_as_older_servers_read_it() -> None:
    assert EXPECTED.header() == (
        'X-Matrix origin="origin.example",destination="destination.example:8448",'
        'key="ed25519:key1",sig="ABC+/def"'
    )


def test_an_old_server_names_no_destination() -> None:
    parsed = parse_xmatrix("X-Matrix origin=origin.example,key=ed25519:1,sig=abc")
    assert parsed.destination is None


def test_ipv6_names_are_read_with_and_without_quotes() -> None:
    for origin in ('"[2001:db8::1]:8448"', "[2001:db8::1]:8448"):
        parsed = parse_xmatrix(f"X-Matrix origin={origin},key=ed25519:1,sig=abc")
        assert parsed.origin == "[2001:db8::1]:8448"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer abc",
        "X-Matrix",
        "X-Matrixorigin=a,key=ed25519:1,sig=b",
        "X-Matrix origin=a.example,key=ed25519:1",
        "X-Matrix key=ed25519:1,sig=b",
        "X-Matrix origin=a.example,sig=b",
        "X-Matrix origin=a b,key=ed25519:1,sig=b",
        'X-Matrix origin="a.example,key=ed25519:1,sig=b',
        "X-Matrix origin=a.example key=ed25519:1 sig=b",
        "X-Matrix origin=a.example,origin=b.example,key=ed25519:1,sig=b",
        "X-Matrix origin=a/b,key=ed25519:1,sig=b",
        'X-Matrix origin="",key=ed25519:1,sig=b',
        "X-Matrix origin=a.example,key=rsa:1,sig=b",
        "X-Matrix origin=a.example,key=ed25519:1,sig=b,destination=not/a/name",
        "X-Matrix origin=a.example,key=ed25519:1,sig=" + "b" * 5000,
    ],
)
def test_a_header_that_cannot_be_read_is_unauthorized(header: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_xmatrix(header)
    assert caught.value.errcode == "M_UNAUTHORIZED"


@given(st.text())
def test_no_header_is_anything_but_read_or_unauthorized(text: str) -> None:
    with contextlib.suppress(Refused):
        parse_xmatrix("X-Matrix " + text)


def test_events_without_canonical_form_are_verified_as_the_established_servers_sign_them() -> None:
    target, content = "/_matrix/federation/v1/send/1", {"pdus": [{"n": 1e-7, "half": 0.5}]}
    request = {
        "method": "PUT",
        "uri": target,
        "origin": ORIGIN,
        "destination": DESTINATION,
        "content": content,
    }
    text = json.dumps(request, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    xmatrix = XMatrix(
        origin=ORIGIN,
        destination=DESTINATION,
        key_id=KEY.key_id,
        signature=KEY.sign(text.encode()),
    )

    def check(body: JsonObject, *, strict: bool) -> None:
        verify_request(
            xmatrix,
            method="PUT",
            target=target,
            own_name=DESTINATION,
            content=body,
            verify_key=KEY.verify_key_base64,
            strict=strict,
        )

    check(content, strict=False)
    for body, strict in (({"pdus": [{"n": 1e-7}]}, False), (content, True)):
        with pytest.raises(Refused):
            check(body, strict=strict)


_JSON = st.dictionaries(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=5,
)


@given(st.none() | _JSON, st.sampled_from(["GET", "PUT", "POST"]), st.text())
def test_what_was_signed_verifies_after_a_round_trip(
    content: JsonObject | None, method: str, query: str
) -> None:
    target = f"/_matrix/federation/v1/x?{query}"
    signed = sign_request(
        method=method,
        target=target,
        origin=ORIGIN,
        destination=DESTINATION,
        content=content,
        key=KEY,
    )
    verify_request(
        parse_xmatrix(signed.header()),
        method=method,
        target=target,
        own_name=DESTINATION,
        content=content,
        verify_key=KEY.verify_key_base64,
    )


def _check(
    *,
    method: str = "PUT",
    target: str = "/_matrix/federation/v1/send/%21",
    own_name: ServerName = DESTINATION,
    content: JsonObject | None = None,
    verify_key: str = KEY.verify_key_base64,
    strip_destination: bool = False,
) -> None:
    signed = sign_request(
        method="PUT",
        target="/_matrix/federation/v1/send/%21",
        origin=ORIGIN,
        destination=DESTINATION,
        content={"a": 1},
        key=KEY,
    )
    if strip_destination:
        signed = parse_xmatrix(signed.header().replace(f'destination="{DESTINATION}",', ""))
    verify_request(
        signed,
        method=method,
        target=target,
        own_name=own_name,
        content={"a": 1} if content is None else content,
        verify_key=verify_key,
    )


def test_a_request_without_destination_in_the_header_verifies_for_the_right_server_only() -> None:
    _check(strip_destination=True)
    with pytest.raises(Refused) as caught:
        _check(strip_destination=True, own_name=ServerName("other.example"))
    assert caught.value.rule == "xmatrix_signature"


def test_a_request_for_another_server_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        _check(own_name=ServerName("other.example"))
    assert caught.value.rule == "xmatrix_destination"


def test_any_change_to_the_request_breaks_the_signature() -> None:
    other = SigningKey.from_seed("1", bytes(32)).verify_key_base64
    _check()
    changes: list[dict[str, Any]] = [
        {"method": "POST"},
        {"target": "/_matrix/federation/v1/send/!"},
        {"content": {"a": 2}},
        {"content": {}},
        {"verify_key": other},
        {"verify_key": "garbage"},
    ]
    for change in changes:
        with pytest.raises(Refused) as caught:
            _check(**change)
        assert caught.value.rule == "xmatrix_signature"
        assert caught.value.errcode == "M_UNAUTHORIZED"
