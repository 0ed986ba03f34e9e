"""What people type, by the address book."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.adapters.xmpp.addresses import AddressBook
from bridge.adapters.xmpp.conversions import XmppConversions, number_in
from bridge.adapters.xmpp.jid import Jid
from bridge.errors import BadInput, NotFound
from bridge.identity.addresses import PhoneNumber
from bridge.ids import ServerName, UserId

BOOK = AddressBook(component="gw.example", server=ServerName("gw.example"))
CONVERSIONS = XmppConversions(BOOK)
NUMBERS = st.from_regex(r"[1-9][0-9]{6,14}", fullmatch=True)


@pytest.mark.parametrize(
    "local",
    ["+15551234567", "15551234567", r"+1\20555\20123\204567", "+1-555-123-4567", "1.555.123.4567"],
)
def test_a_local_part_of_ours_may_be_a_number(local: str) -> None:
    assert number_in(local) == PhoneNumber(digits="15551234567")


@pytest.mark.parametrize(
    "local",
    ["", "isthmus", "15551234567%example.org", "+15551234567%example.org", "12345", "#15551234567",
     "!15551234567", "15551234567x"],
)  # fmt: skip
def test_other_local_parts_are_none(local: str) -> None:
    assert number_in(local) is None


@given(st.text(max_size=80))
def test_any_local_part_is_a_number_or_none(local: str) -> None:
    found = number_in(local)
    assert found is None or found.e164[1:].isdecimal()


@given(NUMBERS, st.sampled_from(["", "+"]))
def test_a_number_at_a_domain_is_reached_by_an_invite_of_its_ghost(digits: str, plus: str) -> None:
    address = f"{plus}{digits}@phone.example"
    user_id = CONVERSIONS.user_of(address)
    assert user_id == f"@{plus}{digits}=40phone.example:gw.example"
    assert CONVERSIONS.to_address(user_id) == address
    assert Jid.parse(address).is_prepared(strict=True)


@given(NUMBERS)
def test_the_user_of_a_number_is_reached_by_a_message_to_their_address(digits: str) -> None:
    user_id = UserId(f"@{digits}:example.org")
    address = CONVERSIONS.to_address(user_id)
    assert address == f"{digits}%example.org@gw.example"
    assert number_in(Jid.parse(address).local) is None
    assert BOOK.user_of(Jid.parse(address)).user_id == user_id


def test_capitals_mean_nothing_in_a_domain() -> None:
    assert CONVERSIONS.parse_typed("Juliet@Capulet.LIT/Balcony").address == "juliet@capulet.lit"
    assert CONVERSIONS.parse_typed("alice%m.example@GW.example").address == (
        "alice%m.example@gw.example"
    )


@pytest.mark.parametrize("text", ["a@b@c.example", "@c.example", "a b@c.example", "xmpp:"])
def test_what_is_no_address_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput):
        CONVERSIONS.parse_typed(text)


def test_nobody_stands_at_an_address_that_means_nothing() -> None:
    with pytest.raises(NotFound):
        CONVERSIONS.matrix_of("nobody@gw.example")


def test_a_domain_is_no_chat() -> None:
    assert CONVERSIONS.alias_of("irc.lit") is None
