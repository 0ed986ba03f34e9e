"""What authors hear of their messages to the chat side: bounced, parked, waiting; never a loop."""

from __future__ import annotations

from bridge.errors import Refused, Unavailable
from bridge.ids import RoomId
from bridge.ports.chat import DirectMessage
from tests.support.world import GIVE_UP_S, JULIET, ROMEO, World


async def notices_in(world: World, room_id: RoomId) -> list[str]:
    return await world.bodies(room_id, world.ghost(JULIET))


async def test_a_bounce_is_told_once_in_the_room_and_not_bridged(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    await world.say(room_id, "hello")
    await world.settle()
    (sent,) = [one for one in world.chat.delivered if isinstance(one.delivery, DirectMessage)]
    for _ in range(2):
        await world.chat.bounce(JULIET, sent.outbox_id)
    await world.settle()
    (text,) = await notices_in(world, room_id)
    assert JULIET in text
    assert "item-not-found" in text
    assert len(world.heard()) == 1


async def test_nobody_else_can_bounce_it(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    await world.say(room_id, "hello")
    await world.settle()
    sent = world.chat.delivered[-1]
    await world.chat.bounce(ROMEO, sent.outbox_id)
    await world.chat.bounce(JULIET, sent.outbox_id + 1000)
    await world.settle()
    assert await notices_in(world, room_id) == []


async def test_what_the_chat_side_refuses_is_told_in_the_room_where_it_was_written(
    world: World,
) -> None:
    first = await world.direct_room()
    await world.settle()
    second = await world.direct_room()
    await world.settle()
    world.chat.refuse_next(Refused("too large"))
    await world.say(first, "hello")
    await world.settle()
    (text,) = await notices_in(world, first)
    assert "too large" in text
    assert await notices_in(world, second) == []


async def test_many_that_wait_make_one_notice_and_arrive_in_order(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    world.chat.refuse_next(*[Unavailable("no connection to the XMPP server")] * 2)
    for number in range(4):
        await world.say(room_id, f"{number}")
    await world.settle()
    await world.later(70)
    await world.remind()
    await world.remind()
    await world.carry()
    (text,) = await notices_in(world, room_id)
    assert "waiting" in text
    assert "no connection" in text
    await world.later(3600)
    assert [text for _, text in world.heard()] == ["0", "1", "2", "3"]


async def test_what_waited_too_long_is_given_up_and_said(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    world.chat.refuse_next(*[Unavailable("gone")] * 3)
    await world.say(room_id, "hello")
    await world.settle()
    await world.later(10)
    await world.later(GIVE_UP_S + 600)
    (text,) = await notices_in(world, room_id)
    assert "could not be delivered" in text


async def test_an_author_who_left_is_not_a_fault(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    await world.say(room_id, "bye")
    await world.settle()
    sent = world.chat.delivered[-1]
    await world.leave(room_id)
    await world.settle()
    await world.chat.bounce(JULIET, sent.outbox_id)
    await world.settle()
    assert ("to chat", "author not told") in await world.journal_of(sent.trace)
