"""The two parts of a media answer, however they are cut into pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadInput, IsthmusError, Unavailable
from bridge.federation.multipart import TwoParts, boundary_of, head_of, tail_of


async def pieces(data: bytes, sizes: Sequence[int]) -> AsyncIterator[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


def parsed(
    data: bytes, *, boundary: str = "b", sizes: Sequence[int] = ()
) -> tuple[dict[str, str], bytes]:
    async def read() -> tuple[dict[str, str], bytes]:
        parts = TwoParts(pieces(data, sizes), boundary)
        headers = await parts.headers()
        return headers, b"".join([chunk async for chunk in parts.body()])

    return asyncio.run(read())


@given(
    st.binary(max_size=400) | st.text("\r\n-b", max_size=60).map(str.encode),
    st.lists(st.integers(0, 60), max_size=20),
)
def test_what_is_written_is_read_however_it_is_cut(body: bytes, sizes: list[int]) -> None:
    boundary = "boundary-0123"
    data = head_of(boundary, {"Content-Type": "image/png"}) + body + tail_of(boundary)
    assert parsed(data, boundary=boundary, sizes=sizes) == ({"content-type": "image/png"}, body)


@given(st.lists(st.integers(0, 9), max_size=30))
def test_other_ways_to_write_it_are_read(sizes: list[int]) -> None:
    data = (
        b"a preamble\r\n--b  \r\ncontent-type:application/json\r\n\r\n{}\r\n"
        b"--b\r\nContent-TYPE:  text/plain \r\nLocation: https://x.example/\r\n\r\n"
        b"\r\n--b--\r\nan epilogue"
    )
    headers = {"content-type": "text/plain", "location": "https://x.example/"}
    assert parsed(data, sizes=sizes) == (headers, b"")


def test_parts_without_headers_or_body_are_read() -> None:
    assert parsed(b"--b\r\n\r\n{}\r\n--b\r\n\r\nhello\r\n--b--") == ({}, b"hello")
    assert parsed(b"--b\r\nA: 1\r\n\r\n--b\r\nB: 2\r\n\r\n--b--") == ({"b": "2"}, b"")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", Unavailable),
        (b"--b\r\n\r\n{}\r\n--b\r\n\r\nhello", Unavailable),
        (b"--b\r\n\r\n{}\r\n--b\r\n\r\nhello\r\n--b-", Unavailable),
        (b"--b\r\n\r\n{}", Unavailable),
        (b"--b--\r\n", BadInput),
        (b"--b\r\n\r\n{}\r\n--b--\r\n", BadInput),
        (b"--b\r\n\r\n{}\r\n--b\r\n\r\nhello\r\n--b\r\n\r\nthird\r\n--b--", BadInput),
        (b"--bad\r\n\r\n{}\r\n--bad\r\n\r\nx\r\n--bad--", BadInput),
        (b"x" * 100_000, BadInput),
        (b"--b\r\n\r\n" + b" " * 100_000 + b"\r\n--b\r\n\r\nx\r\n--b--", BadInput),
        (b"--b\r\n\r\n{}\r\n--b\r\n" + b"A: b\r\n" * 9000 + b"\r\nx\r\n--b--", BadInput),
    ],
)
def test_what_is_broken_or_goes_on_for_ever_is_refused(
    data: bytes, error: type[IsthmusError]
) -> None:
    with pytest.raises(error):
        parsed(data, sizes=[500] * (len(data) // 500))


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=9))
def test_junk_ends_in_an_error_of_ours(junk: bytes, sizes: list[int]) -> None:
    for data in (junk, b"--b\r\n" + junk, b"--b\r\n\r\n{}\r\n--b" + junk):
        try:
            parsed(data, sizes=sizes)
        except (BadInput, Unavailable):
            continue


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/mixed; boundary=abc", "abc"),
        ('Multipart/Mixed; charset=x; Boundary="a b:c"', "a b:c"),
    ],
)
def test_the_boundary_is_read(content_type: str, boundary: str) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [None, "", "image/png", "multipart/mixed", "multipart/form-data; boundary=abc",
     "multipart/mixed; boundary=", 'multipart/mixed; boundary="' + "a" * 71 + '"'],
)  # fmt: skip
def test_what_has_no_boundary_is_no_media(content_type: str | None) -> None:
    with pytest.raises(BadInput):
        boundary_of(content_type)
