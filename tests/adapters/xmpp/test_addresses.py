from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from slixmpp.jid import JID

from bridge.adapters.xmpp.addresses import (
    AddressBook,
    Bot,
    Jid,
    MatrixId,
    Moved,
    Person,
    Room,
    check_sendable,
    from_local,
    from_typed,
    is_canonical,
    parse_uri,
    to_local,
    to_uri,
    xml_text,
)
from bridge.errors import BadInput, NotFound
from bridge.ids import (
    RoomAlias,
    RoomId,
    ServerName,
    UserId,
    parse_room_alias,
    parse_room_id,
    parse_user_id,
)

BOOK = AddressBook(component="gw.example", server=ServerName("gw.example"))

NAME = st.text(st.characters(codec="utf-8", exclude_characters=":\0"), max_size=200) | st.text(
    "abcXYZ09%\\#!@=-._/+ \t\n5c20é", max_size=60
)
SERVER = st.from_regex(r"[A-Za-z0-9.-]{1,30}(:[1-9][0-9]{0,3})?", fullmatch=True) | st.just(
    "[2001:db8::1]:8448"
)


def _fits(text: str) -> bool:
    return len(text.encode()) <= 255


def _ids(sigil: str) -> st.SearchStrategy[str]:
    return st.builds(lambda n, s: f"{sigil}{n}:{s}", NAME, SERVER).filter(_fits)


USER_IDS = _ids("@").map(parse_user_id)
ALIASES = _ids("#").map(parse_room_alias)
ROOM_IDS = (_ids("!") | NAME.filter(bool).map("!{}".format).filter(_fits)).map(parse_room_id)
MATRIX_IDS: st.SearchStrategy[MatrixId] = st.one_of(USER_IDS, ALIASES, ROOM_IDS)

TABLE = [
    ("@alice:m.example", "alice%m.example"),
    ("#garden:m.example", "#garden%m.example"),
    ("!AbC:m.example", r"!\41b\43%m.example"),
    ("!aB_9-x", r"!a\42_9-x"),
    ("@alice:m.example:8448", r"alice%m.example\3a8448"),
    ("@Alice=40:m.example", r"\41lice=40%m.example"),
    ("@:m.example", "%m.example"),
    ("@#x:m.example", r"\23x%m.example"),
    ("@!x:m.example", r"\21x%m.example"),
    ("@x#:m.example", "x#%m.example"),
    ("#!x:m.example", "#!x%m.example"),
    ("@a%b:m.example", r"a\25b%m.example"),
    ("@a\\41:m.example", r"a\5c41%m.example"),
    ("@é/'\"&<>@ :m.example", r"\c3\a9\2f\27\22\26\3c\3e\40\20%m.example"),
    ("@a+~$()*,;?^|{}[]:m.example", "a+~$()*,;?^|{}[]%m.example"),
    ("@a`:m.example", r"a\60%m.example"),
]


@pytest.mark.parametrize(("matrix_id", "local"), TABLE)
def test_matrix_ids_have_one_localpart_each(matrix_id: str, local: str) -> None:
    assert to_local(UserId(matrix_id)) == local
    assert from_local(local) == matrix_id


@given(MATRIX_IDS)
def test_every_matrix_id_comes_back(matrix_id: MatrixId) -> None:
    local = to_local(matrix_id)
    assert from_local(local) == matrix_id
    assert len(local) <= 1023


@given(MATRIX_IDS, MATRIX_IDS)
def test_two_matrix_ids_never_share_a_localpart(one: MatrixId, other: MatrixId) -> None:
    assume(one != other)
    assert to_local(one) != to_local(other)


@given(MATRIX_IDS)
def test_preparation_leaves_our_jids_as_they_are(matrix_id: MatrixId) -> None:
    jid = Jid(to_local(matrix_id), "gw.example")
    assert jid.is_prepared(strict=True)
    assert Jid.parse(str(jid)) == jid
    theirs = JID(str(jid))
    assert (theirs.local, theirs.domain) == (jid.local, jid.domain)


@given(st.text("abc%\\#!@:x.5c4142eE\\%", max_size=24))
def test_only_the_canonical_spelling_is_an_address(local: str) -> None:
    try:
        matrix_id = from_local(local)
    except BadInput:
        assert not is_canonical(local)
        return
    assert to_local(matrix_id) == local


@pytest.mark.parametrize(
    "local",
    [
        "alice", "", "#", "#garden", "Alice%m.example", r"a\6cice%m.example", r"a\4%m.example",
        r"a\C3\A9%m.example", r"\c3%m.example", "a%b%m.example", "a%", r"a%m.example\2ex",
        "é%m.example", r"#garden\3am.example", "a b%m.example", r"a\00%m.example",
        "#x%m.example%",
    ],
)  # fmt: skip
def test_other_spellings_are_refused(local: str) -> None:
    with pytest.raises(BadInput):
        from_local(local)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"#garden\3am.example", "#garden:m.example"),
        (r"\40alice\3am.example", "@alice:m.example"),
        (r"alice\3am.example", "@alice:m.example"),
        ("#garden:m.example", "#garden:m.example"),
        ("@alice:m.example", "@alice:m.example"),
        (r"#garden%m.example:8448", "#garden:m.example:8448"),
        (r"#garden\3am.example\3a8448", "#garden:m.example:8448"),
        (r"\23garden\25m.example", "#garden:m.example"),
        (r"a\2dl%m.example", "@a-l:m.example"),
        (r"!\5c41b%m.example", "!Ab:m.example"),
        (r"!\41b\3am.example", "!Ab:m.example"),
        ("Alice%m.example", "@Alice:m.example"),
        ("é%m.example", "@é:m.example"),
    ],
)
def test_typed_forms_are_understood(typed: str, meant: str) -> None:
    assert from_typed(typed) == meant


@pytest.mark.parametrize("typed", ["alice", "#garden", "", "\\", "%", "@", "a:b:c:d"])
def test_what_nobody_can_mean_is_nothing(typed: str) -> None:
    assert from_typed(typed) is None


@given(st.text(max_size=300))
def test_anything_may_be_typed(typed: str) -> None:
    meant = from_typed(typed)
    if meant is not None:
        assert from_local(to_local(meant)) == meant


@pytest.mark.parametrize(
    ("jid", "destination"),
    [
        ("gw.example", Bot()),
        ("isthmus@gw.example/x", Bot()),
        ("alice%m.example@gw.example/phone", Person(user_id=UserId("@alice:m.example"))),
        ("alice%gw.example@gw.example", Person(user_id=UserId("@alice:gw.example"))),
        ("#garden%m.example@gw.example/nick", Room(room=RoomAlias("#garden:m.example"))),
        (r"!\41b%m.example@gw.example", Room(room=RoomId("!Ab:m.example"))),
        (r"#garden\3am.example@gw.example", Moved(to=Jid("#garden%m.example", "gw.example"))),
        ("isthmus%gw.example@gw.example", Moved(to=Jid("isthmus", "gw.example"))),
        ("juliet=40capulet.lit%gw.example@gw.example", Moved(to=Jid("juliet", "capulet.lit"))),
        ("=40irc.lit%gw.example@gw.example", Moved(to=Jid("", "irc.lit"))),
        ("#coven=40chat.lit%gw.example@gw.example", Moved(to=Jid("coven", "chat.lit"))),
    ],
)
def test_a_jid_of_ours_leads_to_one_thing(jid: str, destination: object) -> None:
    assert BOOK.destination_of(Jid.parse(jid)) == destination


def test_what_a_client_escaped_twice_is_offered_as_the_other_reading() -> None:
    destination = BOOK.destination_of(Jid.parse(r"!\5c41b%m.example@gw.example"))
    assert destination == Room(
        room=RoomId("!\\41b:m.example"), otherwise=Jid(r"!\41b%m.example", "gw.example")
    )


@pytest.mark.parametrize("local", ["garden", "#garden", "=40=40abc%gw.example"])
def test_an_unknown_localpart_is_not_found(local: str) -> None:
    with pytest.raises(NotFound):
        BOOK.destination_of(Jid(local, "gw.example"))


def test_another_domain_is_none_of_ours() -> None:
    with pytest.raises(BadInput):
        BOOK.destination_of(Jid.parse("a@b.example"))


@pytest.mark.parametrize(
    ("matrix_id", "jid"),
    [
        ("@alice:m.example", "alice%m.example@gw.example"),
        ("@isthmus:gw.example", "isthmus@gw.example"),
        ("@juliet=40capulet.lit:gw.example", "juliet@capulet.lit"),
        ("@juliet=40capulet.lit:other.example", "juliet=40capulet.lit%other.example@gw.example"),
        ("@=40irc.lit:gw.example", "irc.lit"),
        ("#coven=40chat.lit:gw.example", "coven@chat.lit"),
        ("#garden:gw.example", "#garden%gw.example@gw.example"),
    ],
)
def test_nothing_is_wrapped_twice(matrix_id: str, jid: str) -> None:
    assert str(BOOK.jid_of(UserId(matrix_id))) == jid


@given(MATRIX_IDS)
def test_a_jid_that_we_gave_leads_back(matrix_id: MatrixId) -> None:
    jid = BOOK.jid_of(matrix_id)
    match BOOK.destination_of(jid):
        case Person(user_id=found):
            assert found == matrix_id
        case Room(room=found):
            assert found == matrix_id
        case other:
            raise AssertionError(other)


def test_a_foreign_jid_is_a_ghost_and_one_of_ours_is_itself() -> None:
    assert BOOK.user_of(Jid.parse("juliet@capulet.lit/balcony")).user_id == (
        "@juliet=40capulet.lit:gw.example"
    )
    assert BOOK.user_of(Jid.parse("alice%m.example@gw.example")).user_id == "@alice:m.example"
    assert BOOK.user_of(Jid.parse("gw.example")).user_id == "@isthmus:gw.example"
    with pytest.raises(NotFound):
        BOOK.user_of(Jid.parse("#garden%m.example@gw.example"))


def test_beside_a_homeserver_ghosts_carry_the_prefix() -> None:
    book = AddressBook(component="gw.example", server=ServerName("m.example"), prefix="_xmpp_")
    ghost = book.user_of(Jid.parse("juliet@capulet.lit")).user_id
    assert ghost == "@_xmpp_juliet=40capulet.lit:m.example"
    assert str(book.jid_of(ghost)) == "juliet@capulet.lit"
    assert str(book.jid_of(UserId("@a=40b:m.example"))) == "a=40b%m.example@gw.example"


def test_a_link_is_percent_encoded_from_the_jid() -> None:
    jid = Jid.parse("#garden%m.example@gw.example")
    assert to_uri(jid, "join") == "xmpp:%23garden%25m.example@gw.example?join"
    assert parse_uri("xmpp:%23garden%25m.example@gw.example?join").jid == jid


@given(MATRIX_IDS, st.text(st.characters(codec="utf-8"), max_size=20), st.booleans())
def test_links_built_and_parsed_give_the_jid(
    matrix_id: MatrixId, resource: str, query: bool
) -> None:
    jid = Jid(to_local(matrix_id), "gw.example", resource)
    fields = (("body", "a;b=c&d é"),) if query else ()
    parsed = parse_uri(to_uri(jid, "message" if query else "", fields))
    assert parsed.jid == jid
    assert parsed.fields == fields


@pytest.mark.parametrize(
    "text", ["", "https://x", "xmpp:", "xmpp:%40@x", "xmpp:a%2Fb@x", "xmpp:%ff@x", "xmpp://me@here"]
)
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_uri(text)


def test_a_link_may_name_the_account_to_use() -> None:
    assert parse_uri("xmpp://me@here.lit/you@there.lit?message;body=hi").jid == Jid(
        "you", "there.lit"
    )


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\x00b\x1bc", "a�b�c"),
        ("\ud800\ufffe", "��"),
        ("a\tb\r\nc\rd", "a\tb\nc\nd"),
        ("🦊", "🦊"),
    ],
)
def test_what_xml_cannot_carry_is_replaced(raw: str, clean: str) -> None:
    assert xml_text(raw) == clean


def test_our_own_addresses_are_checked_strictly_and_theirs_as_a_server_does() -> None:
    ours = Jid("alice%m.example", "gw.example")
    theirs = Jid("juliet", "capulet.lit", "🦊")
    check_sendable(sender=ours, to=theirs, component="gw.example")
    for bad in (Jid("Alice%m", "gw.example"), theirs, Jid("#r%m", "gw.example", "🦊")):
        with pytest.raises(BadInput):
            check_sendable(sender=bad, to=theirs, component="gw.example")
    with pytest.raises(BadInput):
        check_sendable(sender=ours, to=Jid("Ju liet", "capulet.lit"), component="gw.example")
