"""Phone numbers in their one spelling, and which kind of address somebody typed."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadInput
from bridge.identity.addresses import (
    MAX_TYPED,
    PhoneNumber,
    kind_of,
    looks_like_number,
    number_claimed_by,
    parse_number,
)

NUMBER = PhoneNumber(digits="15551234567")


@pytest.mark.parametrize(
    "text",
    [
        "+1 555 123 4567",
        "+15551234567",
        "tel:+1-555-123-4567",
        "TEL:+1.555.123.4567",
        " +1 (555) 123-4567 ",
        "+1\u00a0555\u2011123\u20114567",
        "\u202a+1 555 123 4567\u202c",
    ],
)
def test_a_number_with_its_country_code_has_one_spelling(text: str) -> None:
    assert parse_number(text, None) == NUMBER
    assert parse_number(text, "GB") == NUMBER
    assert kind_of(text.strip()) == "number"
    assert NUMBER.e164 == "+15551234567"


@pytest.mark.parametrize(
    ("text", "region", "digits"),
    [
        ("555 123 4567", "US", "15551234567"),
        ("07700 900123", "GB", "447700900123"),
        ("00 1 555 123 4567", "GB", "15551234567"),
        ("011 1 555 123 4567", "US", "15551234567"),
        ("06 1234 5678", "IT", "390612345678"),
    ],
)
def test_a_national_number_is_read_in_the_configured_country(
    text: str, region: str, digits: str
) -> None:
    assert parse_number(text, region) == PhoneNumber(digits=digits)
    assert parse_number(text, None) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "hello",
        "+1555",
        "123 4567",  # possible within a town only
        "+999 123 456 78",  # no such country
        "+1 555 123 4567 8901 2345 6789",
        "+15551234567;ext=3",
        "tel:+15551234567;phone-context=example.org",
        "+1800FLOWERS",
        "+\u0661\u0665\u0665\u0665\u0661\u0662\u0663\u0664\u0665\u0666\u0667",
        "+1 555 123 4567\n",
        "+1" + " " * 100 + "5551234567",
    ],
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert parse_number(text, "US") is None


@given(st.text(max_size=80) | st.from_regex(r"[+ ()0-9.-]{0,70}"), st.sampled_from([None, "US"]))
def test_a_number_is_read_or_not_and_its_own_spelling_is_stable(
    text: str, region: str | None
) -> None:
    number = parse_number(text, region)
    if number is not None:
        assert parse_number(number.e164, None) == number
        assert number_claimed_by(number.e164) == number
        assert number_claimed_by(number.digits, plus_needed=False) == number
        assert len(number.digits) <= 15


@given(st.text(max_size=300))
def test_every_text_has_a_kind_or_is_bad_input(text: str) -> None:
    looks_like_number(text)
    with contextlib.suppress(BadInput):
        kind_of(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("juliet@capulet.lit", "address"),
        ("juliet@capulet.lit/balcony", "address"),
        ("+15551234567@phone.example", "address"),
        ("irc.capulet.lit", "address"),
        ("#garden:m.example@gw.example", "address"),
        ("@alice:m.example@gw.example", "address"),
        (r"!\41b%m.example@gw.example", "address"),
        ("alice%m.example", "short"),
        ("#garden%m.example", "short"),
        ("@alice:m.example", "user"),
        ("@alice:m.example:8448", "user"),
        ("#garden:m.example", "alias"),
        ("#an@alias:m.example:8448", "alias"),
        ("!AbC:m.example", "room"),
        ("!hash", "room"),
        ("https://matrix.to/#/@alice:m.example", "matrix_to"),
        ("matrix.to/#/@alice:m.example", "matrix_to"),
        ("matrix:u/alice:m.example", "matrix"),
        ("MATRIX:u/alice:m.example", "matrix"),
        ("xmpp:juliet@capulet.lit", "xmpp"),
        ("555 123 4567", "number"),
        ("tel:nobody", "number"),
    ],
)
def test_what_people_type_has_a_kind(text: str, kind: str) -> None:
    assert kind_of(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "juliet",
        "@alice",
        "#garden",
        "a\nb@c.example",
        "x" * (MAX_TYPED + 1),
        "https://a.b/c",
        "!",
    ],
)
def test_other_words_are_answered_with_what_may_be_typed(text: str) -> None:
    with pytest.raises(BadInput, match=r"romeo@example\.org"):
        kind_of(text)


def test_a_claim_has_a_plus_sign_where_one_is_asked_for() -> None:
    assert number_claimed_by("+15551234567") == NUMBER
    assert number_claimed_by("15551234567") is None
    assert number_claimed_by("15551234567", plus_needed=False) == NUMBER
    assert number_claimed_by("+1 555 123 4567") is None
    assert number_claimed_by("juliet", plus_needed=False) is None


def test_the_library_is_loaded_only_for_a_number() -> None:
    code = (
        "import sys, bridge.identity.resolver as r, bridge.identity.addresses as a;"
        "a.kind_of('juliet@capulet.lit'); a.parse_number('juliet', 'US');"
        "assert 'phonenumbers' not in sys.modules;"
        "a.parse_number('+15551234567', None); assert 'phonenumbers' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
