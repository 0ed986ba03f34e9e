"""What is said to somebody who sends a message again: what was said the first time."""

from __future__ import annotations

from bridge.ids import RoomAlias
from bridge.ports.chat import Failure, Receipt, Reflection, RoomMessage
from tests.support.world import ALICE, JULIET, World

GARDEN = RoomAlias("#garden:matrix.example")


async def test_a_direct_message_that_was_taken_is_receipted_again(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    for _ in range(2):
        await world.chat.say(JULIET, "hello", to=ALICE, stanza_id="x1", wants_receipt=True)
        await world.settle()
    assert [one.stanza_id for one in world.delivered(Receipt)] == ["x1", "x1"]
    assert await world.bodies(room_id) == ["hello"]


async def test_nothing_is_said_while_the_first_is_on_its_way(world: World) -> None:
    for _ in range(2):  # alice has not accepted the invitation
        await world.chat.say(JULIET, "hello", to=ALICE, stanza_id="x1", wants_receipt=True)
        await world.settle()
    assert not world.delivered(Receipt)
    (room_id,) = await world.invited()
    await world.join(room_id)
    await world.settle()
    assert [one.stanza_id for one in world.delivered(Receipt)] == ["x1"]
    assert await world.bodies(room_id) == ["hello"]


async def test_a_message_in_a_room_is_shown_again_to_its_author_alone(world: World) -> None:
    room_id = await world.home.backend.create_room(
        creator=ALICE, txn="garden", name="Garden", alias=GARDEN, public=True
    )
    await world.chat.enter(JULIET, GARDEN)
    await world.settle()
    for _ in range(2):
        await world.chat.say(JULIET, "hello", to=room_id, stanza_id="x1")
        await world.settle()
    (shown,) = world.delivered(RoomMessage)
    (again,) = world.delivered(Reflection)
    assert (again.event_id, again.stanza_id) == (shown.event_id, "x1")
    assert (again.sender, again.to) == (world.ghost(JULIET), f"{JULIET}/here")
    assert again.message == shown.message
    assert await world.bodies(room_id) == ["hello"]


async def test_an_id_that_was_given_to_two_texts_is_not_answered_again(world: World) -> None:
    await world.direct_room()
    await world.settle()
    for text in ("one", "two", "one"):
        await world.chat.say(JULIET, text, to=ALICE, stanza_id="x1", wants_receipt=True)
        await world.settle()
    assert len(world.delivered(Receipt)) == 2


async def test_what_was_given_up_is_refused_again_with_the_reason(world: World) -> None:
    room_id = await world.home.backend.create_room(
        creator=ALICE, txn="garden", name="Garden", alias=GARDEN, public=True
    )
    await world.chat.enter(JULIET, GARDEN)
    await world.settle()
    await world.home.backend.kick(
        room_id=room_id, sender=ALICE, target=world.ghost(JULIET), reason=None
    )
    await world.settle()
    for _ in range(2):
        await world.chat.say(JULIET, "hello", to=room_id, stanza_id="x1")
        await world.settle()
    first, second = world.delivered(Failure)
    assert first.text == second.text
    assert first.stanza_id == second.stanza_id == "x1"


async def test_what_their_server_refused_is_refused_again(world: World) -> None:
    await world.direct_room()
    await world.settle()
    world.refused_by_peer = {"bad words": "spam"}
    for _ in range(2):
        await world.chat.say(JULIET, "bad words", to=ALICE, stanza_id="x1", wants_receipt=True)
        await world.settle()
    assert ["spam" in one.text for one in world.delivered(Failure)] == [True, True]
    assert not world.delivered(Receipt)
