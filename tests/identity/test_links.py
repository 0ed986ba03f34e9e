"""Links to Matrix users and rooms."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadInput
from bridge.identity.links import parse_matrix_id, parse_matrix_to, parse_matrix_uri


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("https://matrix.to/#/@alice:m.example", "@alice:m.example"),
        ("https://matrix.to/#/%40alice%3Am.example", "@alice:m.example"),
        ("https://matrix.to/#/%23garden:m.example?via=m.example", "#garden:m.example"),
        ("https://matrix.to/#/#garden:m.example", "#garden:m.example"),
        ("https://matrix.to/#/!AbC:m.example/$event?via=a&via=b", "!AbC:m.example"),
        ("https://matrix.to/#/@a%2Fb:m.example", "@a/b:m.example"),
    ],
)
def test_matrix_to_links_are_read(text: str, meant: str) -> None:
    assert parse_matrix_to(text) == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("matrix:u/alice:m.example?action=chat", "@alice:m.example"),
        ("matrix:user/alice:m.example", "@alice:m.example"),
        ("matrix:r/garden:m.example", "#garden:m.example"),
        ("matrix:roomid/AbC:m.example/e/event?via=m.example", "!AbC:m.example"),
        ("matrix:roomid/hash", "!hash"),
        ("matrix:r/J%C3%BCrgen:m.example", "#J\u00fcrgen:m.example"),
    ],
)
def test_matrix_uris_are_read(text: str, meant: str) -> None:
    assert parse_matrix_uri(text) == meant


@pytest.mark.parametrize(
    "text", ["matrix:", "matrix:u", "matrix:u/", "matrix:e/x", "matrix://host/u/a:b", "matrix:u/a"]
)
def test_other_matrix_uris_are_bad_input(text: str) -> None:
    with pytest.raises(BadInput):
        parse_matrix_uri(text)


@pytest.mark.parametrize(
    "text", ["https://matrix.to/", "https://matrix.to/#/", "https://matrix.to/#/%ff", "x/#/alice"]
)
def test_other_matrix_to_links_are_bad_input(text: str) -> None:
    with pytest.raises(BadInput):
        parse_matrix_to(text)


@given(st.text(max_size=300), st.sampled_from(["", "matrix:u/", "matrix:", "matrix.to/#/"]))
def test_whatever_follows_is_an_id_or_bad_input(text: str, head: str) -> None:
    for read in (parse_matrix_to, parse_matrix_uri, parse_matrix_id):
        with contextlib.suppress(BadInput):
            assert read(head + text)[0] in "@#!"
