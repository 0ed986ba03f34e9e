"""What people type for rooms and chats, read with the XMPP addresses."""

from __future__ import annotations

import pytest

from bridge.adapters.xmpp.addresses import AddressBook
from bridge.adapters.xmpp.conversions import XmppConversions
from bridge.bot.rooms import BackendRooms
from bridge.errors import BadInput
from bridge.ids import ServerName
from tests.support.world import World

CONVERSIONS = XmppConversions(AddressBook(component="gw.example", server=ServerName("gw.example")))


@pytest.fixture
def rooms(world: World) -> BackendRooms:
    return BackendRooms(backend=world.gateway.backend, addresses=[], conversions=CONVERSIONS)


@pytest.mark.parametrize(
    "typed",
    [
        "tea@muc.example",
        "Tea@MUC.example",
        "tea@muc.example/Juliet",
        "xmpp:tea@muc.example?join",
        "#tea=40muc.example:gw.example",
        "https://matrix.to/#/%23tea%3D40muc.example%3Agw.example",
        "matrix:r/tea=40muc.example:gw.example",
    ],
)
async def test_a_chat_is_read_from_its_address_links_and_alias(
    rooms: BackendRooms, typed: str
) -> None:
    assert rooms.chat_from_typed(typed) == "tea@muc.example"


@pytest.mark.parametrize(
    "typed",
    ["", "muc.example", "tea@", "@alice:m.example", "#garden:m.example", "!room:m.example",
     "#garden%m.example@gw.example", "isthmus@gw.example", "matrix:u/alice:m.example",
     "https://matrix.to/#/@alice:m.example", "#=40=40hash:gw.example", "\0@muc.example"],
)  # fmt: skip
async def test_what_is_no_chat_of_xmpp_is_refused(rooms: BackendRooms, typed: str) -> None:
    with pytest.raises(BadInput):
        rooms.chat_from_typed(typed)


@pytest.mark.parametrize(
    ("typed", "room"),
    [
        ("#garden:m.example", "#garden:m.example"),
        ("!abc:m.example", "!abc:m.example"),
        ("https://matrix.to/#/#garden:m.example", "#garden:m.example"),
        ("matrix:roomid/abc:m.example?via=m.example", "!abc:m.example"),
    ],
)
async def test_a_room_is_read_from_its_names_and_links(
    rooms: BackendRooms, typed: str, room: str
) -> None:
    assert rooms.room_from_typed(typed) == room


@pytest.mark.parametrize("typed", ["", "garden", "matrix:u/a:b", "@a:b", "matrix:x"])
async def test_what_is_no_room_is_refused(rooms: BackendRooms, typed: str) -> None:
    with pytest.raises(BadInput):
        rooms.room_from_typed(typed)
