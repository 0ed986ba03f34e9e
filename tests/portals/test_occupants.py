"""People of a foreign chat as members of its room."""

from __future__ import annotations

import pytest

from bridge.adapters.loopback import LoopbackChat
from bridge.errors import Unavailable
from bridge.ids import RoomAlias, RoomId, UserId
from bridge.ports.chat import RoomInvite
from bridge.storage import occupants
from tests.support.world import ALICE, GATEWAY, JULIET, ROMEO, World

TEA = "tea@muc.example"
ALIAS = RoomAlias(f"#tea=40muc.example:{GATEWAY}")


async def joined(world: World, chat: LoopbackChat | None = None) -> RoomId:
    world.chat.open_chat(chat or LoopbackChat(address=TEA))
    room_id, _ = await world.home.backend.resolve_alias(ALIAS)
    await world.join(room_id)
    await world.settle()
    return room_id


def hidden(world: World, address: str) -> UserId:
    return world.ghost(f"{TEA}/i{address}")


async def members(world: World, room_id: RoomId) -> set[UserId]:
    return {one.user_id for one in await world.home.backend.members(room_id)} - {
        ALICE,
        UserId(f"@isthmus:{GATEWAY}"),
    }


async def events(world: World, room_id: RoomId) -> int:
    return len(await world.gateway.timeline(room_id))


async def name_of(world: World, room_id: RoomId, user_id: UserId) -> str | None:
    member = await world.home.backend.member(room_id, user_id)
    return None if member is None else member.displayname


async def test_who_is_in_the_chat_is_a_member_of_its_room(world: World) -> None:
    chat = LoopbackChat(address=TEA, people={JULIET: "Juliet"})
    room_id = await joined(world, chat)
    assert await members(world, room_id) == {world.ghost(JULIET)}
    assert await name_of(world, room_id, world.ghost(JULIET)) == "Juliet"
    await world.chat.come(TEA, ROMEO)
    await world.settle()
    assert await members(world, room_id) == {world.ghost(JULIET), world.ghost(ROMEO)}


async def test_who_goes_leaves_after_a_while_and_who_comes_back_stays(world: World) -> None:
    chat = LoopbackChat(address=TEA, people={JULIET: "Juliet", ROMEO: "Romeo"})
    room_id = await joined(world, chat)
    count = await events(world, room_id)
    await world.chat.go(TEA, JULIET)
    await world.chat.go(TEA, ROMEO)
    await world.settle()
    await world.tidy()
    world.clock.shift(200)
    await world.chat.come(TEA, ROMEO, "Romeo")
    await world.settle()
    assert await events(world, room_id) == count
    world.clock.shift(200)
    await world.tidy()
    assert await members(world, room_id) == {world.ghost(ROMEO)}
    world.clock.shift(2_000)
    await world.tidy()
    assert await members(world, room_id) == {world.ghost(ROMEO)}


async def test_a_restart_makes_no_event_where_nobody_came_or_went(world: World) -> None:
    chat = LoopbackChat(address=TEA, people={JULIET: "Juliet", ROMEO: "Romeo"})
    room_id = await joined(world, chat)
    count = await events(world, room_id)
    for _ in range(2):
        await world.crash()
        await world.chat.call_roll(TEA)
        await world.settle()
        await world.tidy()
    assert await events(world, room_id) == count


async def test_who_came_and_went_while_we_were_away_is_found_by_the_roll(world: World) -> None:
    chat = LoopbackChat(address=TEA, people={JULIET: "Juliet"})
    room_id = await joined(world, chat)
    await world.crash()
    chat.people = {ROMEO: "Romeo"}
    await world.chat.call_roll(TEA)
    await world.settle()
    world.clock.shift(301)
    await world.tidy()
    assert await members(world, room_id) == {world.ghost(ROMEO)}


async def test_who_is_kicked_leaves_at_once_with_the_reason(world: World) -> None:
    chat = LoopbackChat(address=TEA, people={JULIET: "Juliet"})
    room_id = await joined(world, chat)
    await world.chat.go(TEA, JULIET, how="kicked", actor="Romeo", reason="enough")
    await world.settle()
    member = await world.home.rooms.queries.member(room_id, world.ghost(JULIET))
    assert member is not None
    assert (member.membership, member.content.get("reason")) == (
        "leave",
        "Kicked by Romeo: enough",
    )


async def test_beyond_the_bound_people_are_shown_when_they_speak(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.portals.occupants, "_most_shown", 1)
    chat = LoopbackChat(address=TEA, people={JULIET: "Juliet", ROMEO: "Romeo"})
    room_id = await joined(world, chat)
    assert await members(world, room_id) == {world.ghost(JULIET)}
    await world.chat.say_in_chat(TEA, ROMEO, "me too")
    await world.settle()
    assert await members(world, room_id) == {world.ghost(JULIET), world.ghost(ROMEO)}
    world.clock.shift(1_000)
    await world.tidy()
    assert len(await members(world, room_id)) == 2


async def test_who_spoke_and_had_gone_leaves_again_after_a_while(world: World) -> None:
    chat = LoopbackChat(address=TEA, people={JULIET: "Juliet"})
    room_id = await joined(world)
    world.chat.open_chat(chat)
    await world.chat.say_in_chat(TEA, JULIET, "of yesterday", at_ms=1_000)
    await world.settle()
    assert await members(world, room_id) == {world.ghost(JULIET)}
    world.clock.shift(301)
    await world.tidy()
    assert await members(world, room_id) == set()


async def test_a_hidden_address_does_not_reach_matrix_and_the_ghost_stays_the_same(
    world: World,
) -> None:
    chat = LoopbackChat(address=TEA, hides=True, people={JULIET: "Rose"})
    room_id = await joined(world, chat)
    ghost = hidden(world, JULIET)
    assert await members(world, room_id) == {ghost}
    assert "juliet" not in ghost
    await world.chat.come(TEA, JULIET, "Lily")
    await world.chat.say_in_chat(TEA, JULIET, "hello")
    await world.settle()
    assert await members(world, room_id) == {ghost}
    assert await name_of(world, room_id, ghost) == "Lily"
    assert await world.bodies(room_id, ghost) == ["hello"]
    assert (await world.home.backend.profile(ghost)).displayname == "Lily"


async def test_a_real_address_keeps_its_name_over_nicknames(world: World) -> None:
    chat = LoopbackChat(address=TEA, people={JULIET: "Juliet"})
    room_id = await joined(world, chat)
    count = await events(world, room_id)
    await world.chat.come(TEA, JULIET, "Lily")
    await world.settle()
    assert await name_of(world, room_id, world.ghost(JULIET)) == "Juliet"
    assert await events(world, room_id) == count


async def test_somebody_hidden_cannot_be_invited(world: World) -> None:
    chat = LoopbackChat(address=TEA, hides=True, people={JULIET: "Rose"})
    await joined(world, chat)
    ghost = hidden(world, JULIET)
    room_id = await world.home.backend.create_room(creator=ALICE, txn="other")
    await world.invite(room_id, ghost, is_direct=True)
    await world.settle()
    assert await world.membership(room_id, ghost) == "leave"
    assert world.delivered(RoomInvite) == []


async def test_a_ghost_that_is_in_the_room_by_itself_is_not_taken_out(world: World) -> None:
    room_id = await joined(world)
    await world.chat.enter(ROMEO, room_id)
    await world.chat.come(TEA, ROMEO)
    await world.settle()
    await world.chat.go(TEA, ROMEO)
    await world.settle()
    world.clock.shift(1_000)
    await world.tidy()
    assert await members(world, room_id) == {world.ghost(ROMEO)}


async def test_a_crash_between_row_and_join_is_made_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await joined(world)
    join = world.gateway.backend.join

    async def fails(**_: object) -> None:
        raise Unavailable("the end")

    monkeypatch.setattr(world.gateway.backend, "join", fails)
    await world.chat.come(TEA, JULIET)
    await world.work_off()
    (row,) = await world.database.read(
        lambda tx: occupants.of_chat(tx, adapter="loopback", chat=TEA)
    )
    assert row.joined
    assert await members(world, room_id) == set()
    monkeypatch.setattr(world.gateway.backend, "join", join)
    await world.crash()
    await world.later(10)
    assert await members(world, room_id) == {world.ghost(JULIET)}


async def test_a_ghost_that_was_removed_comes_back_only_when_it_speaks(world: World) -> None:
    chat = LoopbackChat(address=TEA, people={JULIET: "Juliet"})
    room_id = await joined(world, chat)
    ghost = world.ghost(JULIET)
    await world.gateway.backend.kick(
        room_id=room_id, sender=world.gateway.backend.bot, target=ghost, reason=None
    )
    await world.settle()
    await world.chat.call_roll(TEA)
    await world.settle()
    assert await members(world, room_id) == set()
    await world.chat.say_in_chat(TEA, JULIET, "I am still here")
    await world.settle()
    assert await members(world, room_id) == {ghost}
