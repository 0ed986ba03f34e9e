"""Whatever way a body is cut, what comes of it is what orjson says of the whole."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadInput
from bridge.net.jsonparts import JsonParts

NAMES = ("state", "auth_chain")
TEXTS = st.text(st.sampled_from('ab"\\[]{},:é😀\n '), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=25,
)
OBJECTS = st.dictionaries(st.sampled_from([*NAMES, "event", "x"]) | TEXTS, VALUES, max_size=5)


def read(body: bytes, cuts: list[int], **bounds: int) -> Any:
    parts = JsonParts(NAMES, **bounds)
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for start, end in pairwise(edges):
        parts.feed(body[start:end])
    return parts.finish()


@given(OBJECTS | VALUES, st.lists(st.integers(0, 10_000), max_size=20), st.booleans())
def test_any_value_cut_anywhere_is_what_it_is_in_one_piece(
    value: Any, cuts: list[int], spread: bool
) -> None:
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2 if spread else None)
    assert read(body, cuts) == value


@given(st.lists(VALUES, max_size=30), st.integers(1, 40))
def test_a_long_list_comes_whole_and_in_order(elements: list[Any], size: int) -> None:
    body = orjson.dumps({"origin": "m.example", "state": elements, "auth_chain": [{"a": [[]]}]})
    found = read(body, list(range(0, len(body), size)))
    assert found == {"origin": "m.example", "state": elements, "auth_chain": [{"a": [[]]}]}


BROKEN = st.binary(max_size=3) | st.sampled_from([b"[", b"]", b"{", b"}", b",", b'"', b"\\"])


@given(OBJECTS, BROKEN, st.integers(0, 10_000), st.lists(st.integers(0, 10_000), max_size=5))
def test_what_is_broken_is_read_as_orjson_reads_it(
    value: Any, junk: bytes, place: int, cuts: list[int]
) -> None:
    body = orjson.dumps(value)
    at = place % (len(body) + 1)
    body = body[:at] + junk + body[at:]
    try:
        expected = orjson.loads(body)
    except orjson.JSONDecodeError:
        with pytest.raises(BadInput) as caught:
            read(body, cuts)
        assert caught.value.errcode == "M_NOT_JSON"
    else:
        assert read(body, cuts) == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"state":[{"a":{"b":1}}],"state":7}',
        b'{"state":7,"state":[{"a":{"b":1}}]}',
        b'{"state":[{"a":{"b":1}}],"state":[{"c":{"d":2}}]}',
        b'{"state":[{"a":{"b":1}}],"state":[]}',
        b'{"x":{"state":[{"a":{"b":1}}]}}',
        b'{"x":"\\"state\\":[{","state":[{"a":{"b":["]"]}}]}',
    ],
)
def test_of_keys_that_come_twice_the_last_counts_and_inner_ones_are_left_alone(body: bytes) -> None:
    assert read(body, list(range(len(body)))) == orjson.loads(body)


@pytest.mark.parametrize("cut", [b'{"state":[{"a":{"b":1}}', b'{"state":[', b'{"x":1', b'"x', b""])
def test_an_answer_that_ends_too_early_is_no_json(cut: bytes) -> None:
    with pytest.raises(BadInput) as caught:
        read(cut, [])
    assert caught.value.errcode == "M_NOT_JSON"


@pytest.mark.parametrize(
    "start", [b'{"state":[{"a":"', b'{"x":"', b'{"state":["', b'{"x":[1,{"y":"', b"["]
)
def test_a_part_without_end_is_refused_at_the_bound(start: bytes) -> None:
    body = start + b"a" * 10_000
    with pytest.raises(BadInput) as caught:
        read(body, list(range(0, len(body), 100)), max_part_bytes=2_000)
    assert caught.value.errcode == "M_TOO_LARGE"


def test_many_parts_within_the_bound_may_be_more_together() -> None:
    body = orjson.dumps({"state": [{"a": {"b": "x" * 500}}] * 100})
    parts = JsonParts(NAMES, max_part_bytes=2_000)
    for start in range(0, len(body), 700):
        parts.feed(body[start : start + 700])
    assert len(parts.finish()["state"]) == 100
