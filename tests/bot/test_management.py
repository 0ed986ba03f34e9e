"""The bot in chats of both sides: what it answers, to whom, and what it lets nobody do."""

from __future__ import annotations

from bridge.ids import EventId, RoomAlias, RoomId, TraceId
from bridge.portals.membership import Membership
from bridge.ports.command import Caller
from bridge.ports.matrix import RoomEvent
from tests.support.bot import bench
from tests.support.world import ALICE, BOB, GATEWAY, JULIET, ROMEO, World


async def talk_to_bot(world: World) -> RoomId:
    room_id = await world.home.backend.create_room(creator=ALICE, txn="bot")
    await world.invite(room_id, world.gateway.backend.bot, is_direct=True)
    await world.settle()
    return room_id


async def answers(world: World, room_id: RoomId) -> list[str]:
    return await world.bodies(room_id, world.gateway.backend.bot)


async def test_the_bot_comes_and_answers_each_line_once(world: World) -> None:
    room_id = await talk_to_bot(world)
    await world.say(room_id, "help")
    await world.settle()
    (answer,) = await answers(world, room_id)
    assert "leave" in answer
    await world.tell_again()
    await world.crash()
    await world.settle()
    assert len(await answers(world, room_id)) == 1


async def test_notices_are_not_answered_and_encrypted_lines_are_not_ignored(
    world: World,
) -> None:
    room_id = await talk_to_bot(world)
    await world.say(room_id, "help", msgtype="m.notice")
    await world.settle()
    assert await answers(world, room_id) == []
    await world.say(room_id, "", type="m.room.encrypted")
    await world.settle()
    assert "cannot read" in (await answers(world, room_id))[0]


async def test_in_a_room_of_many_the_bot_listens_to_its_name_only(world: World) -> None:
    room_id = await talk_to_bot(world)
    await world.invite(room_id, BOB)
    await world.join(room_id, BOB)
    await world.say(room_id, "nice weather")
    await world.say(room_id, "isthmusian weather", user="bob")
    await world.settle()
    assert await answers(world, room_id) == []
    for line in ("!isthmus help", "Isthmus: help", f"@isthmus:{GATEWAY} help", "isthmus, help"):
        await world.say(room_id, line, user="bob")
    await world.settle()
    assert len(await answers(world, room_id)) == 4


async def test_somebody_of_matrix_is_shown_and_takes_nobody_out(world: World) -> None:
    garden = await world.home.backend.create_room(
        creator=ALICE, txn="garden", alias=RoomAlias("#garden:matrix.example"), public=True
    )
    await world.chat.enter(JULIET, RoomAlias("#garden:matrix.example"))
    room_id = await talk_to_bot(world)
    for line in ("leave", f"leave {garden}", "leave #garden:matrix.example"):
        await world.say(room_id, line)
    await world.settle()
    assert all("own client" in text for text in await answers(world, room_id))
    assert await world.membership(garden, world.ghost(JULIET)) == "join"
    assert await world.membership(garden, ALICE) == "join"


async def test_leave_takes_out_the_caller_and_nobody_else(world: World) -> None:
    garden = await world.home.backend.create_room(
        creator=ALICE, txn="garden", alias=RoomAlias("#garden:matrix.example"), public=True
    )
    for address in (JULIET, ROMEO):
        await world.chat.enter(address, RoomAlias("#garden:matrix.example"))
    say = world.from_chat.on_command
    listed = await say(address=JULIET, text="leave")
    assert "#garden:matrix.example" in listed
    assert "left" in await say(address=JULIET, text="leave #garden:matrix.example")
    assert "not in this room" in await say(address=JULIET, text=f"leave {garden}")
    assert "in no room" in await say(address=JULIET, text="leave")
    assert "not in this room" in await say(address="x@y.example", text=f"leave {garden}")
    await world.settle()
    assert await world.membership(garden, world.ghost(JULIET)) == "leave"
    assert await world.membership(garden, world.ghost(ROMEO)) == "join"


async def test_leave_of_what_is_no_room_is_answered(world: World) -> None:
    for line in ("leave nonsense", "leave a b", "leave !", "leave #no:where.example"):
        assert await world.from_chat.on_command(address=JULIET, text=line)


async def test_the_bot_does_not_stay_behind_alone(world: World) -> None:
    room_id = await talk_to_bot(world)
    await world.leave(room_id)
    await world.settle()
    assert await world.membership(room_id, world.gateway.backend.bot) == "leave"
    assert await world.directory.of_room(room_id) == []


async def test_the_bot_put_out_and_invited_again_answers(world: World) -> None:
    room_id = await talk_to_bot(world)
    bot = world.gateway.backend.bot
    await world.home.backend.kick(room_id=room_id, sender=ALICE, target=bot, reason=None)
    await world.settle()
    assert await world.directory.of_room(room_id) == []
    await world.invite(room_id, bot)
    await world.settle()
    await world.say(room_id, "help")
    await world.settle()
    assert len(await answers(world, room_id)) == 1


async def test_whoever_invites_the_bot_is_greeted_once_and_told_what_they_may_do(
    world: World,
) -> None:
    async def greet(caller: Caller) -> str:
        return f"Hello {caller.user_id}, {len(await bench().greet(caller))} words follow"

    room_id = await talk_to_bot(world)
    backend = world.gateway.backend
    membership = Membership(
        database=world.database,
        backend=backend,
        directory=world.directory,
        ghosts=world.ghosts,
        notices=world.notices,
        adapter="loopback",
        clock=world.clock,
        moves=world.portals.moves,
        greet=greet,
    )
    invite = RoomEvent(
        position=1,
        room_id=room_id,
        event_id=EventId("$invite"),
        type="m.room.member",
        sender=ALICE,
        state_key=backend.bot,
        content={"membership": "invite", "is_direct": True},
        origin_server_ts=0,
        extensible=False,
        own=False,
        transaction_id=None,
        trace_id=TraceId("t"),
    )
    for _ in range(2):
        await membership.on_member(invite)
        await world.settle()
    (greeting,) = await answers(world, room_id)
    assert greeting.startswith(f"Hello {ALICE}")
