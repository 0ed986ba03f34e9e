from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bridge.errors import BadInput, NotFound
from bridge.identity.localparts import (
    address_for,
    alias_for,
    chat_for,
    from_localpart,
    is_ghost_localpart,
    is_hashed_localpart,
    to_localpart,
    user_id_for,
    user_id_for_occupant,
)
from bridge.ids import RoomAlias, ServerName, UserId, parse_room_alias, parse_user_id

GW = ServerName("gw.example")
LOCAL = st.text(st.characters(codec="utf-8", exclude_characters="@/\0"), min_size=1, max_size=70)
DOMAIN = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,8}){0,3}", fullmatch=True)
ADDRESS = st.builds(lambda local, domain: f"{local}@{domain}", LOCAL, DOMAIN) | DOMAIN


def folded(address: str) -> str:
    return address.encode().lower().decode()


@pytest.mark.parametrize(
    ("address", "user_id"),
    [
        ("juliet@capulet.lit", "@juliet=40capulet.lit:gw.example"),
        ("irc.capulet.lit", "@=40irc.capulet.lit:gw.example"),
        ("Juliet@Capulet.lit", "@juliet=40capulet.lit:gw.example"),
        ("d\\27artagnan@gascon.fr", "@d=5c27artagnan=40gascon.fr:gw.example"),
        ("a=b+c/d@x.lit", "@a=3db+c/d=40x.lit:gw.example"),
        ("jérôme@x.lit", "@j=c3=a9r=c3=b4me=40x.lit:gw.example"),
        ("#tea%irc.lit@gate.lit", "@=23tea=25irc.lit=40gate.lit:gw.example"),
        ("u@[2001:db8::1]", "@u=40=5b2001=3adb8=3a=3a1=5d:gw.example"),
    ],
)
def test_addresses_become_ghosts_by_the_mapping_of_the_specification(
    address: str, user_id: str
) -> None:
    ghost = user_id_for(address, GW)
    assert ghost.user_id == user_id
    assert not ghost.is_hashed
    assert address_for(ghost.user_id, GW) == folded(address)


@given(ADDRESS, st.sampled_from(["", "_xmpp_"]))
def test_every_address_has_a_legal_ghost_and_comes_back(address: str, prefix: str) -> None:
    ghost = user_id_for(address, GW, prefix=prefix)
    assert parse_user_id(ghost.user_id) == ghost.user_id
    localpart = ghost.user_id[1:].partition(":")[0]
    assert set(localpart) <= set("abcdefghijklmnopqrstuvwxyz0123456789._=-/+")
    assert is_ghost_localpart(localpart, prefix=prefix)
    assert is_hashed_localpart(localpart, prefix=prefix) == ghost.is_hashed
    if ghost.is_hashed:
        with pytest.raises(NotFound):
            address_for(ghost.user_id, GW, prefix=prefix)
    else:
        assert address_for(ghost.user_id, GW, prefix=prefix) == folded(address)


@given(ADDRESS, ADDRESS)
def test_two_addresses_never_share_a_ghost(one: str, other: str) -> None:
    assume(folded(one) != folded(other))
    assert user_id_for(one, GW).user_id != user_id_for(other, GW).user_id


@given(st.text("abz09=40@25c3a9AF%./", max_size=40))
def test_only_the_canonical_spelling_of_a_localpart_decodes(localpart: str) -> None:
    try:
        address = from_localpart(localpart)
    except (BadInput, NotFound):
        return
    assert to_localpart(address) == localpart


@pytest.mark.parametrize(
    "localpart",
    ["alice", "", "=", "=4", "juliet=40", "a=40b=40c", "a=40B", "a=4Fx=40b", "=61=40b", "=c3=40b"],
)
def test_what_is_no_ghost_is_refused(localpart: str) -> None:
    with pytest.raises(BadInput):
        from_localpart(localpart)


def test_a_ghost_of_another_server_is_not_ours() -> None:
    with pytest.raises(BadInput):
        address_for(UserId("@juliet=40capulet.lit:m.example"), GW)


@pytest.mark.parametrize("address", ["", "@", "a@", "@b", "a@b@c", "\ud800@x.lit"])
def test_what_is_no_bare_address_has_no_ghost(address: str) -> None:
    with pytest.raises(BadInput):
        user_id_for(address, GW)


def test_the_longest_reversible_user_id_has_255_bytes_and_one_more_is_hashed() -> None:
    room = 255 - len("@=40x.lit:gw.example")
    fits = user_id_for("a" * room + "@x.lit", GW)
    assert (len(fits.user_id), fits.is_hashed) == (255, False)
    over = user_id_for("a" * (room + 1) + "@x.lit", GW)
    assert over.is_hashed
    assert over.user_id.startswith("@=40=40=40")
    assert over == user_id_for("A" * (room + 1) + "@X.lit", GW)


def test_an_occupant_is_known_by_room_and_key_and_kind_of_key() -> None:
    names = {
        user_id_for_occupant(chat, key, GW, kind=kind).user_id
        for chat in ("coven@chat.lit", "cove@nchat.lit")
        for key in ("one", "two")
        for kind in ("occupant-id", "nickname")
    }
    assert len(names) == 8
    assert all(n.startswith("@=40=40") and not n.startswith("@=40=40=40") for n in names)
    with pytest.raises(NotFound):
        address_for(UserId(names.pop()), GW)


def test_a_server_name_that_leaves_no_room_for_ghosts_is_refused() -> None:
    with pytest.raises(BadInput):
        user_id_for("a" * 100 + "@x.lit", ServerName("s" * 230))


def test_a_foreign_chat_is_an_alias_and_back() -> None:
    alias = alias_for("coven@chat.capulet.lit", GW)
    assert alias == "#coven=40chat.capulet.lit:gw.example"
    assert parse_room_alias(alias) == alias
    assert chat_for(alias, GW) == "coven@chat.capulet.lit"


@pytest.mark.parametrize(
    "alias",
    [
        "#garden:gw.example",
        "#=40irc.lit:gw.example",
        "#coven=40chat.lit:m.example",
        "#=40=40abc:gw.example",
        "#Coven=40chat.lit:gw.example",
    ],
)
def test_an_ordinary_alias_leads_to_no_chat(alias: str) -> None:
    with pytest.raises(BadInput):
        chat_for(RoomAlias(alias), GW)


def test_the_names_of_ghosts_are_reserved_even_when_malformed() -> None:
    assert is_ghost_localpart("x=40=zz")
    assert not is_ghost_localpart("alice")
    assert not is_ghost_localpart("a=40b", prefix="_xmpp_")
