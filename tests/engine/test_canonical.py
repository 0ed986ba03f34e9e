"""JSON in and canonical JSON out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine.canonical import (
    MAX_DEPTH,
    MAX_INTEGER,
    check_canonical,
    encode_canonical,
    parse_json,
)
from bridge.errors import BadInput

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "matrix-appendices.json").read_text("utf-8")
)

characters = st.characters(exclude_categories=["Cs"])
canonical_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-MAX_INTEGER, max_value=MAX_INTEGER)
    | st.text(characters),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(characters), inner, max_size=4)
    ),
    max_leaves=20,
)


def parse(text: str) -> Any:
    return parse_json(text.encode(), max_bytes=100_000)


@pytest.mark.parametrize("vector", VECTORS["canonical_json"])
def test_appendix_examples_take_their_canonical_form(vector: dict[str, str]) -> None:
    value = parse(vector["given"])
    if "1e10" in vector["given"]:
        # Since room version 6 a number with an exponent is refused instead.
        with pytest.raises(BadInput):
            check_canonical(value)
        return
    check_canonical(value)
    assert encode_canonical(value).decode() == vector["canonical"]


@given(canonical_values)
def test_canonical_json_round_trips_and_agrees_with_the_specification_s_code(value: Any) -> None:
    check_canonical(value)
    encoded = encode_canonical(value)
    assert parse_json(encoded, max_bytes=len(encoded)) == value
    reference = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    # Python escapes U+007F to U+009F like any other text: not at all. So does orjson.
    assert encoded == reference.encode()


def test_keys_are_sorted_by_code_point_not_by_utf_16_unit() -> None:
    assert (
        encode_canonical({"\U0001f600": 1, "\uff5e": 2}).decode() == '{"\uff5e":2,"\U0001f600":1}'
    )


@pytest.mark.parametrize(
    "text",
    [
        "1.0",
        '{"a":0.5}',
        "1e3",
        "[1E-2]",
        str(2**53),
        str(-(2**53)),
        str(2**64),
        str(10**30),
        '{"a":[{"b":1.5}]}',
    ],
)
def test_numbers_without_canonical_form_are_refused(text: str) -> None:
    with pytest.raises(BadInput):
        check_canonical(parse(text))


@pytest.mark.parametrize("number", [MAX_INTEGER, -MAX_INTEGER, 0])
def test_integers_up_to_the_limit_pass(number: int) -> None:
    check_canonical({"n": number})


def test_negative_zero_becomes_zero() -> None:
    value = parse('{"a":-0}')
    check_canonical(value)
    assert encode_canonical(value) == b'{"a":0}'


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", '{"a":NaN}', '"\\ud800"', "{", "", "\ufeff{}", "01"]
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert caught.value.errcode == "M_NOT_JSON"


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(BadInput):
        parse_json(b'"\xff"', max_bytes=10)


def test_input_over_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(BadInput) as caught:
        parse_json(b"[" * 11, max_bytes=10)
    assert caught.value.errcode == "M_TOO_LARGE"


def test_of_duplicate_keys_the_last_wins() -> None:
    assert parse('{"a":1,"a":2}') == {"a": 2}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_is_bounded() -> None:
    check_canonical(nested(MAX_DEPTH))
    with pytest.raises(BadInput):
        check_canonical(nested(MAX_DEPTH + 1))
    with pytest.raises(BadInput):
        parse_json(b"[" * 50_000 + b"]" * 50_000, max_bytes=200_000)


@pytest.mark.parametrize("value", [{1: 2}, {"a": "\ud800"}, {"\udfff": 1}, {"a": b"x"}, (1,)])
def test_values_that_json_cannot_carry_are_refused(value: Any) -> None:
    with pytest.raises(BadInput):
        check_canonical(value)


def test_what_cannot_be_encoded_is_bad_input() -> None:
    with pytest.raises(BadInput):
        encode_canonical({"a": "\ud800"})
