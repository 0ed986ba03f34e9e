"""Ghosts of other bridges, told by their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.identity import localparts
from bridge.identity.rebridged import find_rebridged
from bridge.ids import ServerName, UserId

GATEWAY = ServerName("gw.example")
OTHER = ServerName("matrix.example")
TEA = "tea@muc.example"


def is_own(address: str) -> bool:
    return address.rpartition("@")[2] == GATEWAY


def found(localpart: str, server: str = OTHER, bridging: tuple[str, ...] = ()) -> str | None:
    return find_rebridged(
        UserId(f"@{localpart}:{server}"),
        own_server=GATEWAY,
        is_own_address=is_own,
        chat=TEA,
        bridging=[ServerName(name) for name in bridging],
    )


@pytest.mark.parametrize("prefix", ["", "_xmpp_", "_bifrost_", "xmpp_", "bridge-", "_a_b_c_"])
def test_one_of_ours_is_known_behind_any_prefix(prefix: str) -> None:
    assert found(f"{prefix}alice=25matrix.example=40gw.example") == "own-address"
    assert found(f"{prefix}alice=25matrix.example=40gw.example/phone") == "own-address"


@pytest.mark.parametrize("prefix", ["", "_xmpp_", "_bifrost_", "xmpp_"])
def test_an_occupant_of_this_very_chat_is_known(prefix: str) -> None:
    assert found(f"{prefix}tea=40muc.example/juliet") == "occupant"
    assert found(f"{prefix}tea=40muc.example=2fjuliet") == "occupant"


def test_an_occupant_of_another_chat_is_not_taken_for_one_of_this() -> None:
    assert found("_xmpp_green-tea=40muc.example/juliet") is None
    assert found("tea=40muc.example.org/juliet") is None


def test_any_ghost_of_a_server_that_bridges_the_same_chat_is_known() -> None:
    assert found("_xmpp_juliet=40capulet.lit") is None
    assert found("_xmpp_juliet=40capulet.lit", bridging=(OTHER,)) == "bridged-there"
    assert found("=40=40abcdef", bridging=(OTHER,)) == "bridged-there"
    assert found("_xmpp_juliet=40capulet.lit", bridging=("third.example",)) is None


def test_people_are_people_wherever_they_are() -> None:
    for localpart in ("alice", "juliet_capulet.lit", "=", "x=4", "gw.example"):
        assert found(localpart, bridging=(OTHER,)) is None


def test_ghosts_of_our_own_are_none_of_another_bridge() -> None:
    assert found("juliet=40capulet.lit", server=GATEWAY, bridging=(GATEWAY,)) is None


@given(st.text(max_size=60))
def test_nothing_that_a_name_can_be_breaks_it(localpart: str) -> None:
    found(localpart.replace(":", ""), bridging=(OTHER,))


@given(local=st.text("abcdefghijkl0123456789-._=+~é%", min_size=1, max_size=20))
def test_every_address_of_ours_is_known_from_its_mapped_name(local: str) -> None:
    name = localparts.to_localpart(f"{local}@{GATEWAY}")
    assert found(name) == found(f"_xmpp_{name}") == "own-address"
