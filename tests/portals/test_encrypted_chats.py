"""Rooms that we cannot read: said once, another room opened and used, every message reported."""

from __future__ import annotations

from bridge.ids import RoomId
from tests.support.world import ALICE, JULIET, World


async def secret(world: World, room_id: RoomId) -> None:
    await world.say(room_id, "", type="m.room.encrypted", algorithm="m.megolm.v1.aes-sha2")


async def told(world: World, room_id: RoomId) -> list[str]:
    return await world.bodies(room_id, world.ghost(JULIET))


async def test_an_encrypted_chat_is_explained_once_and_another_one_is_opened(
    world: World,
) -> None:
    dark = await world.direct_room(encrypted=True)
    await world.settle()
    (light,) = await world.invited()
    (text,) = await told(world, dark)
    assert "encrypted" in text
    assert JULIET in text
    for _ in range(2):
        await secret(world, dark)
    await world.settle()
    texts = await told(world, dark)
    assert len(texts) == 3
    assert all("not delivered" in one for one in texts[1:])
    await world.join(light)
    await world.settle()
    await world.say(light, "in the clear")
    await world.settle()
    assert world.heard() == [(ALICE, "in the clear")]
    await world.chat.say(JULIET, "good", to=ALICE)
    await world.settle()
    assert (await world.bodies(light))[-1] == "good"
    before = list(world.chat.delivered)
    await world.crash()
    await world.settle()
    assert len(await told(world, dark)) == 3
    assert world.chat.delivered == before
    assert await world.invited() == []


async def test_the_readable_room_is_used_again_by_the_next_encrypted_chat(world: World) -> None:
    await world.direct_room(encrypted=True)
    await world.settle()
    (light,) = await world.invited()
    await world.join(light)
    second = await world.direct_room(encrypted=True)
    await world.settle()
    assert await world.invited() == []
    await secret(world, second)
    await world.settle()
    assert len(await told(world, second)) == 2


async def test_both_of_two_encrypted_rooms_are_reported(world: World) -> None:
    first = await world.direct_room(encrypted=True)
    await world.settle()
    second = await world.direct_room(encrypted=True)
    await world.settle()
    for room_id in (first, second):
        await secret(world, room_id)
    await world.settle()
    assert len(await told(world, first)) == 2
    assert len(await told(world, second)) == 2
    assert len(await world.invited()) == 1


async def test_a_chat_that_becomes_encrypted_moves_to_another_room(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    await world.say(room_id, "still readable")
    await world.state(room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    await secret(world, room_id)
    await world.say(room_id, "readable all the same")
    await world.settle()
    (light,) = await world.invited()
    assert light != room_id
    await world.join(light)
    await world.chat.say(JULIET, "not into the encrypted room", to=ALICE)
    await world.settle()
    assert [text for _, text in world.heard()] == ["still readable", "readable all the same"]
    assert len(await told(world, room_id)) == 2
    assert await told(world, light) == ["not into the encrypted room"]
    await world.tell_again()
    assert len(await told(world, room_id)) == 2
    assert len(world.heard()) == 2


async def test_who_refuses_the_readable_room_is_not_asked_again(world: World) -> None:
    dark = await world.direct_room(encrypted=True)
    await world.settle()
    (light,) = await world.invited()
    await world.leave(light)
    await world.settle()
    await secret(world, dark)
    await world.settle()
    assert await world.invited() == []
    assert "invite me to a direct chat without" in (await told(world, dark))[-1]


async def test_who_left_the_readable_room_is_offered_another(world: World) -> None:
    dark = await world.direct_room(encrypted=True)
    await world.settle()
    (light,) = await world.invited()
    await world.join(light)
    await world.settle()
    await world.leave(light)
    await world.settle()
    await secret(world, dark)
    await world.settle()
    (other,) = await world.invited()
    assert other != light


async def test_leaving_the_encrypted_room_takes_the_ghost_out(world: World) -> None:
    dark = await world.direct_room(encrypted=True)
    await world.settle()
    await world.leave(dark)
    await world.settle()
    assert await world.membership(dark, world.ghost(JULIET)) == "leave"
    assert len(await world.invited()) == 1
