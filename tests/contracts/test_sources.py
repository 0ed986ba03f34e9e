"""Every source: answers under its name, or leaves it to the next one."""

from __future__ import annotations

import pytest

from bridge.adapters.xmpp.addresses import AddressBook
from bridge.adapters.xmpp.conversions import XmppConversions
from bridge.errors import NotFound, Refused
from bridge.identity.addresses import PhoneNumber
from bridge.identity.resolver import (
    Asked,
    ChatAddress,
    NumberTemplate,
    Source,
    SourceSettings,
    Voucher,
)
from bridge.identity.sources import SOURCES, build_sources
from bridge.ids import RoomAlias, RoomId, ServerName, UserId

CONVERSIONS = XmppConversions(AddressBook(component="gw.example", server=ServerName("gw.example")))
EMPTY = SourceSettings(conversions=CONVERSIONS)
FULL = SourceSettings(
    conversions=CONVERSIONS,
    numbers=(NumberTemplate(prefix="+1", user="@{digits}:example.org"),),
    vouching=(Voucher(domain="phone.example", prefix=""),),
)
ASKED = (
    Asked(number=PhoneNumber(digits="15551234567")),
    Asked(number=PhoneNumber(digits="4930123456")),
    Asked(address=ChatAddress(address="a@b.example", local="a", domain="b.example")),
    Asked(address=ChatAddress(address="b.example", local="", domain="b.example")),
    Asked(address=ChatAddress(address="a@b.example", local="a", domain="b.example", is_chat=True)),
    Asked(address=ChatAddress(address="+15551234567@b.c", local="+15551234567", domain="b.c")),
    Asked(matrix_id=UserId("@alice:m.example")),
    Asked(matrix_id=UserId("@=40=40hash:gw.example")),
    Asked(matrix_id=RoomAlias("#garden:m.example")),
    Asked(matrix_id=RoomId("!hash")),
)


def test_names_are_unique() -> None:
    names = [source.name for source in build_sources(FULL)]
    assert len(set(names)) == len(names) == len(SOURCES)


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.key)
@pytest.mark.parametrize("source", build_sources(FULL), ids=lambda source: source.name)
async def test_it_answers_under_its_name_or_says_nothing(source: Source, asked: Asked) -> None:
    try:
        found = await source.find(asked)
    except (NotFound, Refused):
        return
    if found is not None:
        assert found.source == source.name
        assert found.address
        assert found.user_id or found.room


@pytest.mark.parametrize("source", build_sources(EMPTY), ids=lambda source: source.name)
async def test_without_configuration_no_number_is_anybody(source: Source) -> None:
    assert await source.find(ASKED[0]) is None
