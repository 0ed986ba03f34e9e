"""What the bridge side asks of XMPP addresses."""

from __future__ import annotations

import pytest

from bridge.adapters.xmpp.adapter import XmppAddresses
from bridge.errors import BadInput
from bridge.ids import RoomAlias, ServerName

MAP = XmppAddresses(domain="gw.test", server_name=ServerName("gw.test"))


def test_an_alias_of_ours_is_a_foreign_chat_and_comes_back() -> None:
    alias = RoomAlias("#garden=40muc.test:gw.test")
    assert MAP.chat_of(alias) == "garden@muc.test"
    assert MAP.alias_of("garden@muc.test") == alias


@pytest.mark.parametrize(
    "alias",
    [
        "#garden:gw.test",
        "#garden=40muc.test:elsewhere.test",
        "#a=40gw.test:gw.test",
        "#=40=40x:gw.test",
    ],
)
def test_other_aliases_are_ordinary(alias: str) -> None:
    assert MAP.chat_of(RoomAlias(alias)) is None


@pytest.mark.parametrize("chat", ["muc.test", "garden@muc.test/x", "a%b.test@gw.test", "x" * 900])
def test_what_is_no_foreign_chat_has_no_alias(chat: str) -> None:
    with pytest.raises(BadInput):
        MAP.alias_of(chat)


def test_occupants_are_different_people_by_chat_kind_and_key() -> None:
    addresses = ["a@muc.test/iX", "a@muc.test/nX", "b@muc.test/iX", "a@muc.test/iY"]
    users = {MAP.user_of(address) for address in addresses}
    assert len(users) == 4
    assert all(user.startswith("@=40=40") for user in users)
    assert MAP.user_of("a@muc.test") not in users


def test_a_link_opens_a_person_or_joins_a_chat_that_is_known() -> None:
    assert MAP.link_of("juliet@a.test") == "xmpp:juliet@a.test"
    MAP.note_chat("garden@muc.test")
    assert MAP.link_of("garden@muc.test") == "xmpp:garden@muc.test?join"
    assert MAP.link_of("garden@muc.test/nRomeo") == "xmpp:garden@muc.test?join"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("juliet@a.test", "juliet"),
        ("irc.a.test", "irc.a.test"),
        ("garden@muc.test/nRomeo", "Romeo"),
        ("garden@muc.test/iabc", "garden"),
        ("+15551234567@a.test", "+15551234567@a.test"),
        ("15551234567@a.test", "15551234567@a.test"),
    ],
)
def test_a_number_that_nobody_vouches_for_is_no_name(address: str, name: str) -> None:
    assert MAP.default_name(address) == name
