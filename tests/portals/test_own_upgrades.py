"""Rooms that we upgrade ourselves: our own people come along by the invites of the same commit."""

from __future__ import annotations

import pytest

from bridge.ids import RoomAlias, RoomId, RoomVersionId, UserId
from bridge.ports.chat import RoomInvite, RoomMessage
from tests.support.network import trace
from tests.support.world import ALICE, GATEWAY, JULIET, ROMEO, World

STUDY = RoomAlias("#study:matrix.example")
BOT = UserId(f"@isthmus:{GATEWAY}")


async def study(world: World, version: str) -> RoomId:
    """A private room of Alice's, with Juliet, Romeo and the bot, who may upgrade it."""
    room_id = await world.home.backend.create_room(
        creator=ALICE,
        txn="study",
        name="Study",
        alias=STUDY,
        public=False,
        version=RoomVersionId(version),
    )
    for user in (world.ghost(JULIET), world.ghost(ROMEO), BOT):
        await world.invite(room_id, user)
        await world.settle()
    for address in (JULIET, ROMEO):
        await world.chat.enter(address, STUDY)
    (levels,) = await world.home.backend.state(room_id, "m.room.power_levels")
    users = {**levels.content["users"], BOT: 100}
    await world.state(room_id, "m.room.power_levels", {**levels.content, "users": users})
    await world.settle()
    assert await world.membership(room_id, BOT) == "join"
    return room_id


async def move(world: World, room_id: RoomId, version: str) -> RoomId:
    return await world.gateway.backend.upgrade(
        room_id=room_id, sender=BOT, version=RoomVersionId(version), txn="up"
    )


@pytest.mark.parametrize(("before", "after"), [("10", "12"), ("11", "11"), ("10", "I.1")])
async def test_people_of_a_private_room_come_along_and_talk_on(
    world: World, before: str, after: str
) -> None:
    old = await study(world, before)
    await world.say(old, "in the old study")
    await world.settle()
    invites = len(world.delivered(RoomInvite))
    new = await move(world, old, after)
    await world.settle()
    await world.later(2)
    for address in (JULIET, ROMEO):
        assert await world.membership(new, world.ghost(address)) == "join"
    assert len(world.delivered(RoomInvite)) == invites, "nobody is invited twice"

    await world.join(new)
    await world.settle()
    if (await world.home.backend.room(new)).extensible:
        await world.home.backend.send(
            room_id=new,
            sender=ALICE,
            type="m.message",
            content={"m.text": [{"body": "in the new study"}]},
            txn="new",
            trace=trace(),
        )
    else:
        await world.say(new, "in the new study")
    await world.settle()
    texts = [one.message.text for one in world.delivered(RoomMessage)]
    assert texts == ["in the old study", "in the new study"]


async def test_an_end_of_the_program_before_anybody_came_along_is_made_good(world: World) -> None:
    old = await study(world, "10")
    new = await move(world, old, "12")
    await world.crash()
    assert await move(world, old, "12") == new
    await world.settle()
    await world.later(2)
    for address in (JULIET, ROMEO):
        assert await world.membership(new, world.ghost(address)) == "join"
    alice = await world.gateway.backend.member(new, ALICE)
    assert alice is not None
    assert alice.membership == "invite"
