"""What each command does for whom."""

from __future__ import annotations

import pytest

from bridge.ids import RoomId, UserId
from bridge.ports.command import Caller, Outcome
from tests.support.bot import (
    ADMIN,
    ALICE,
    DIRECT,
    JULIET,
    NOBODY,
    FakeKeys,
    FakePortals,
    FakeQueues,
    FakeResolver,
    FakeUpgrades,
    bench,
    ghosts_of_domains,
)

TEA = "tea@muc.example"
ROOM = RoomId("!garden:matrix.example")
HIDDEN = UserId("@tea=40muc.example=2fi1:gw.example")


async def test_status_and_list_show_what_there_is() -> None:
    assert "XMPP: connected" in await bench().run(Caller(user_id=ALICE), "status")
    listed = await bench().run(Caller(user_id=ALICE), "list")
    assert TEA in listed
    assert "!tea:matrix.example" in listed
    assert "1 person" in listed


async def test_plumb_takes_the_room_that_is_named_or_this_one() -> None:
    portals = FakePortals()
    dispatch = bench(portals=portals)
    await dispatch.run(Caller(user_id=ALICE), f"plumb {TEA} {ROOM}")
    await dispatch.run(Caller(user_id=ALICE, room_id=ROOM), f"plumb {TEA}")
    await dispatch.run(Caller(user_id=ADMIN), f"plumb {TEA} {ROOM}")
    assert portals.asked == [
        ("plumb", ALICE, False, TEA, ROOM),
        ("plumb", ALICE, False, TEA, ROOM),
        ("plumb", ADMIN, True, TEA, ROOM),
    ]


async def test_plumb_needs_a_room_where_there_is_none_and_a_chat_that_is_one() -> None:
    portals = FakePortals()
    for room_id in (None, DIRECT):
        caller = Caller(user_id=JULIET, room_id=room_id)
        for line in (f"plumb {TEA}", "plumb nonsense !a:b", f"plumb {TEA} nonsense"):
            answer = await bench(portals=portals).answer(caller, line)
            assert answer.outcome is Outcome.MISUSED
            assert "plumb CHAT [ROOM]" in answer.text
    assert portals.asked == []


async def test_upgrade_takes_a_room_a_version_and_further_creators() -> None:
    upgrades = FakeUpgrades()
    dispatch = bench(upgrades=upgrades)
    asked = {"caller": ALICE, "is_admin": False, "room_id": ROOM, "version": "12"}
    await dispatch.run(Caller(user_id=ALICE), f"upgrade {ROOM} 12")
    await dispatch.run(Caller(user_id=ALICE), f"upgrade {ROOM} 12 --creators {ADMIN} {JULIET}")
    await dispatch.run(Caller(user_id=ADMIN), f"upgrade {ROOM} 12 {JULIET} anyway")
    assert upgrades.asked == [
        {**asked, "creators": [], "anyway": False},
        {**asked, "creators": [ADMIN, JULIET], "anyway": False},
        {**asked, "creators": [JULIET], "anyway": True, "caller": ADMIN, "is_admin": True},
    ]


async def test_upgrade_says_what_it_does_not_understand() -> None:
    upgrades = FakeUpgrades()
    for line in ("upgrade", f"upgrade {ROOM}", f"upgrade {ROOM} 12 juliet", "upgrade tea 12"):
        answer = await bench(upgrades=upgrades).answer(Caller(user_id=ALICE), line)
        assert answer.outcome is Outcome.MISUSED
        assert "upgrade ROOM VERSION [CREATORS]" in answer.text
    assert upgrades.asked == []


async def test_unplumb_is_asked_in_the_callers_name() -> None:
    portals = FakePortals()
    await bench(portals=portals).run(Caller(user_id=JULIET), f"unplumb {TEA}")
    await bench(portals=portals).run(Caller(user_id=NOBODY, is_operator=True), f"unplumb {TEA}")
    assert portals.asked == [("unplumb", JULIET, False, TEA), ("unplumb", NOBODY, True, TEA)]


async def test_a_phone_number_may_have_blanks() -> None:
    answer = await bench().run(Caller(user_id=ALICE), "resolve +1 555 123 4567")
    assert "@15551234567:example.org" in answer


@pytest.mark.parametrize("typed", ["me", "ME", "juliet@capulet.lit", str(JULIET)])
async def test_everybody_may_ask_who_they_are(typed: str) -> None:
    dispatch = bench(rights=None)
    answer = await dispatch.run(Caller(user_id=JULIET), f"whois {typed}")
    assert "juliet@capulet.lit" in answer
    assert "no level" in answer


async def test_others_are_for_users_and_nobody_is_asked_before() -> None:
    resolver = FakeResolver()
    dispatch = bench(resolver=resolver)
    for typed in (str(ALICE), "+1 555 123 4567", "x@y.example"):
        answer = await dispatch.run(Caller(user_id=NOBODY), f"whois {typed}")
        assert "Ask the operator" in answer
    assert resolver.asked == []
    answer = await dispatch.run(Caller(user_id=JULIET), f"whois {ADMIN}")
    assert "level `admin`" in answer
    assert str(ADMIN) in answer


async def test_the_hidden_address_of_an_occupant_is_not_told() -> None:
    assert ghosts_of_domains(HIDDEN) == "tea@muc.example/i1"
    answer = await bench().run(Caller(user_id=ADMIN), f"whois {HIDDEN}")
    assert answer == "Somebody in the chat tea@muc.example, which shows real addresses to nobody."


async def test_queue_commands_are_asked_in_the_callers_name() -> None:
    queues = FakeQueues()
    dispatch = bench(queues=queues)
    await dispatch.run(Caller(user_id=ADMIN), "retry all")
    await dispatch.run(Caller(user_id=ADMIN), "drop outbox 12")
    assert queues.asked == [("retry", "all", ADMIN), ("drop", "outbox 12", ADMIN)]
    assert "0 waiting" in await dispatch.run(Caller(user_id=ADMIN), "queues")


async def test_keys_are_shown_and_replaced_by_an_admin_only() -> None:
    keys = FakeKeys()
    dispatch = bench(keys=keys)
    assert "for admins" in await dispatch.run(Caller(user_id=JULIET), "keys rotate")
    assert "ed25519:k0 signs." in await dispatch.run(Caller(user_id=ADMIN), "keys")
    assert "rotate" in await dispatch.run(Caller(user_id=ADMIN), "keys destroy")
    assert keys.rotations == 0
    told = await dispatch.run(Caller(user_id=ADMIN), "keys rotate")
    assert "ed25519:k1 signs from now on" in told
    assert "ed25519:k0 is retired" in await dispatch.run(Caller(user_id=ADMIN), "keys")
