"""Every filling of the chat port, the same expectations."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest
from pydantic import SecretStr

from bridge.adapters import ADAPTERS
from bridge.adapters.loopback import LoopbackAdapter, LoopbackAddresses
from bridge.adapters.xmpp.adapter import XmppAdapter, XmppAddresses
from bridge.adapters.xmpp.config import XmppSettings
from bridge.ids import RoomAlias, ServerName, UserId
from bridge.ports.chat import AddressMap, ChatAdapter
from bridge.storage.database import Database
from tests.support.clock import FakeClock
from tests.support.listener import LeaveOnly, ScriptedListener

SERVER = ServerName("gw.example")
Make = Callable[[Database, FakeClock], tuple[ChatAdapter, AddressMap]]


def make_loopback(database: Database, clock: FakeClock) -> tuple[ChatAdapter, AddressMap]:
    return LoopbackAdapter(listener=ScriptedListener()), LoopbackAddresses(server_name=SERVER)


def make_xmpp(database: Database, clock: FakeClock) -> tuple[ChatAdapter, AddressMap]:
    addresses = XmppAddresses(domain="gw.example", server_name=SERVER)
    adapter = XmppAdapter(
        settings=XmppSettings(domain="gw.example", secret=SecretStr("s")),
        addresses=addresses,
        database=database,
        listener=ScriptedListener(),
        commands=LeaveOnly(),
        clock=clock,
        random=random.Random(1),
    )
    return adapter, addresses


MAKERS: Mapping[type[ChatAdapter], Make] = {
    LoopbackAdapter: make_loopback,
    XmppAdapter: make_xmpp,
}


def test_every_adapter_of_the_registry_is_tested_here() -> None:
    assert set(ADAPTERS) == set(MAKERS)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_an_adapter_and_its_addresses_have_one_name(
    adapter: type[ChatAdapter], sqlite_database: Database, clock: FakeClock
) -> None:
    made, addresses = MAKERS[adapter](sqlite_database, clock)
    assert made.name == addresses.adapter


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    "address", ["juliet@capulet.lit", "o'neil@x.example", "çé@x.example", "irc.capulet.lit"]
)
async def test_an_address_becomes_a_ghost_of_ours_and_comes_back(
    adapter: type[ChatAdapter], address: str, sqlite_database: Database, clock: FakeClock
) -> None:
    _, addresses = MAKERS[adapter](sqlite_database, clock)
    user_id = addresses.user_of(address)
    assert user_id.endswith(f":{SERVER}")
    assert addresses.address_of(user_id) == address
    assert addresses.default_name(address)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_foreign_chat_has_an_alias_and_the_alias_leads_to_it(
    adapter: type[ChatAdapter], sqlite_database: Database, clock: FakeClock
) -> None:
    _, addresses = MAKERS[adapter](sqlite_database, clock)
    alias = addresses.alias_of("tea@muc.example")
    assert alias == f"#tea=40muc.example:{SERVER}"
    assert addresses.chat_of(alias) == "tea@muc.example"
    assert addresses.link_of("tea@muc.example").endswith(":tea@muc.example")
    for other in (f"#garden:{SERVER}", "#tea=40muc.example:elsewhere.example"):
        assert addresses.chat_of(RoomAlias(other)) is None


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_an_occupant_who_hides_is_a_ghost_of_this_chat_alone(
    adapter: type[ChatAdapter], sqlite_database: Database, clock: FakeClock
) -> None:
    _, addresses = MAKERS[adapter](sqlite_database, clock)
    keys = ("tea@muc.example/i123", "tea@muc.example/n123", "else@muc.example/i123")
    ghosts = {addresses.user_of(key) for key in keys}
    assert len(ghosts) == len(keys)
    for ghost in ghosts:
        assert ghost.startswith("@=40=40")
        assert ghost.endswith(f":{SERVER}")


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_user_of_another_server_is_no_ghost(
    adapter: type[ChatAdapter], sqlite_database: Database, clock: FakeClock
) -> None:
    _, addresses = MAKERS[adapter](sqlite_database, clock)
    assert addresses.address_of(UserId("@juliet=40capulet.lit:elsewhere.example")) is None
    assert addresses.address_of(UserId("@alice:gw.example")) is None


@pytest.mark.parametrize(
    ("typed", "room"),
    [
        ("#garden%m.example@gw.example", "#garden:m.example"),
        ("#garden\\3am.example@gw.example", "#garden:m.example"),
        ("xmpp:%23garden%25m.example@gw.example?join", "#garden:m.example"),
        ("!\\41b%m.example@gw.example", "!Ab:m.example"),
        ("alice%m.example@gw.example", None),
        ("#garden:m.example", None),
        ("room@elsewhere.example", None),
        ("", None),
    ],
)
def test_a_room_is_understood_by_its_jid_and_its_link(typed: str, room: str | None) -> None:
    assert XmppAddresses(domain="gw.example", server_name=SERVER).room_of(typed) == room
