"""Headers of files that strangers made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.media.serving import clean_name, clean_type, disposition, name_in


@pytest.mark.parametrize(
    ("said", "clean"),
    [
        ("image/png", "image/png"),
        ("IMAGE/PNG; foo=bar", "image/png"),
        ("text/plain; charset=UTF-8", "text/plain; charset=utf-8"),
        ("text/html\r\nSet-Cookie: x=1", "application/octet-stream"),
        ("image", "application/octet-stream"),
        ("", "application/octet-stream"),
        (None, "application/octet-stream"),
        ("a/" + "b" * 300, "application/octet-stream"),
    ],
)
def test_a_media_type_is_one_or_bytes(said: str | None, clean: str) -> None:
    assert clean_type(said) == clean


@pytest.mark.parametrize(
    ("said", "clean"),
    [
        ("cat.jpg", "cat.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\secret\\cat.jpg", "cat.jpg"),
        ("cat\r\nSet-Cookie: x.jpg", "catSet-Cookie: x.jpg"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("..", None),
        ("", None),
        (None, None),
    ],
)
def test_a_name_is_a_name_and_no_path(said: str | None, clean: str | None) -> None:
    assert clean_name(said) == clean


@pytest.mark.parametrize(
    ("content_type", "how"),
    [
        ("image/png", "inline"),
        ("text/plain; charset=utf-8", "inline"),
        ("text/html", "attachment"),
        ("image/svg+xml", "attachment"),
        ("application/pdf", "attachment"),
        ("application/octet-stream", "attachment"),
    ],
)
def test_only_what_no_browser_carries_out_is_shown_inline(content_type: str, how: str) -> None:
    assert disposition(content_type, None) == how


@given(st.text(max_size=300))
def test_a_name_survives_its_header_and_the_header_is_one_line(name: str) -> None:
    header = disposition("image/png", name)
    assert header.isascii()
    assert "\r" not in header
    assert "\n" not in header
    assert name_in(header) == clean_name(name)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('inline; filename="a \\"b\\".png"', 'a "b".png'),
        ("attachment; filename=plain.txt", "plain.txt"),
        ("inline; filename=old.txt; filename*=utf-8''n%C3%A9w.txt", "néw.txt"),
        ("inline; filename*=utf-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("inline", None),
        (None, None),
    ],
)
def test_the_name_that_a_peer_gives_is_read(header: str | None, name: str | None) -> None:
    assert name_in(header) == name
