from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slixmpp.jid import JID, InvalidJID

from bridge.adapters.xmpp.jid import Jid
from bridge.errors import BadInput


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gw.example", ("", "gw.example", "")),
        ("a@b", ("a", "b", "")),
        ("a@b/c@d/e", ("a", "b", "c@d/e")),
        ("b/c@d", ("", "b", "c@d")),
        ("a@b/🦊", ("a", "b", "🦊")),
        ("a@[::1]/r", ("a", "[::1]", "r")),
    ],
)
def test_jids_split_as_the_servers_split_them(text: str, parts: tuple[str, str, str]) -> None:
    jid = Jid.parse(text)
    assert (jid.local, jid.domain, jid.resource) == parts
    assert str(jid) == text


@pytest.mark.parametrize(
    "text", ["", "@", "@b", "a@", "a@b/", "a@b@c", "/r", None, 7, "a" * 1024, "a@b/" + "é" * 512]
)
def test_what_is_no_jid_is_refused(text: object) -> None:
    with pytest.raises(BadInput):
        Jid.parse(text)


def test_a_part_may_have_1023_bytes() -> None:
    assert Jid.parse("a@b/" + "r" * 1023).resource == "r" * 1023


@pytest.mark.parametrize(
    ("typed", "prepared"),
    [
        ("Juliet@Capulet.LIT/Balcony", "juliet@capulet.lit/Balcony"),
        ("STRASSE@x/①", "strasse@x/1"),
        ("straße@x", "strasse@x"),
        ("a@bücher.example.", "a@bücher.example"),
        ("a@[2001:DB8::1]", "a@[2001:db8::1]"),
    ],
)
def test_preparation_gives_the_canonical_spelling(typed: str, prepared: str) -> None:
    assert str(Jid.parse(typed).prepared(strict=True)) == prepared
    assert str(Jid.parse(typed).bare.prepared()) == prepared.partition("/")[0]


@pytest.mark.parametrize(
    "text",
    [
        "a b@x", "a'b@x", "a<b@x", "אa@x", "a@x y", "a@-x", "a@x..y", "a@[x]", "a@x_y",
        "a@x/\u200e", "\xad@x",
    ],
)  # fmt: skip
def test_what_cannot_be_prepared_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        Jid.parse(text).prepared()


def test_newer_code_points_pass_as_on_the_servers_but_not_strictly() -> None:
    jid = Jid.parse("a@b/🦊")
    assert jid.is_prepared()
    assert not jid.is_prepared(strict=True)


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_what_is_strictly_prepared_is_unchanged_by_slixmpp(local: str, resource: str) -> None:
    jid = Jid(local, "x.example", resource)
    if not jid.is_prepared(strict=True):
        return
    try:
        theirs = JID(str(jid))
    except InvalidJID as exc:
        raise AssertionError(f"refused: {jid!r}") from exc
    assert (theirs.local, theirs.resource) == (local, resource)


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_preparing_twice_changes_nothing(local: str, resource: str) -> None:
    try:
        once = Jid(local, "x.example", resource).prepared()
    except BadInput:
        return
    assert once.prepared() == once


@given(
    st.text(st.characters(max_codepoint=0x7F), max_size=12),
    st.sampled_from(["a.test", "A.test", "a..test", "-a.test", "a.test."]),
    st.text(st.characters(max_codepoint=0x7F), max_size=12),
)
def test_the_short_way_for_plain_addresses_says_the_same(
    local: str, domain: str, resource: str
) -> None:
    jid = Jid(local, domain, resource)
    try:
        expected = jid.prepared(strict=True) == jid
    except BadInput:
        expected = False
    assert jid.is_prepared(strict=True) is expected
