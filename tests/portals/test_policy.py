"""Who is denied by the rules of the house uses the bridge from neither side, and is told why."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.engine.keys import SigningKey
from bridge.errors import Refused
from bridge.ids import RoomAlias
from bridge.policy.rules import Action, RuleTable, read_rule
from bridge.ports.chat import Failure, RoomMessage
from tests.support.world import ALICE, BOB, JULIET, World

GARDEN = RoomAlias("#garden:matrix.example")


def obey(world: World, *lines: str) -> None:
    rules = []
    for number, line in enumerate(lines, 1):
        action, *words = line.split()
        rules.append(read_rule(words, action=Action(action), rule_id=number))
    world.gateway.house.replace(RuleTable.of(rules))


async def test_a_denied_matrix_user_is_told_once_and_not_delivered(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    obey(world, f'deny user {ALICE} "spam"')
    await world.say(room_id, "hello")
    await world.say(room_id, "hello?")
    await world.settle()
    assert world.heard() == []
    said = await world.bodies(room_id)
    assert [one for one in said if "not delivered" in one] == [said[2]]
    assert said[2].endswith("is denied here by bot rule 1: spam.")
    obey(world)
    await world.say(room_id, "again")
    await world.settle()
    assert world.heard() == [(ALICE, "again")]


async def test_in_a_room_that_is_served_author_and_admin_are_told_in_private_once(
    world: World,
) -> None:
    room_id = await world.home.backend.create_room(
        creator=ALICE, txn="garden", public=True, alias=GARDEN
    )
    await world.chat.enter(JULIET, GARDEN)
    await world.join(room_id, BOB)
    bot = world.gateway.backend.bot
    chats = {}
    for user in (ALICE, BOB):
        chats[user] = await world.home.backend.create_room(creator=user, txn=f"bot {user}")
        await world.invite(chats[user], bot, is_direct=True, by=user)
    await world.settle()
    world.gateway.house.attach(
        on_refusal=lambda _: None,
        address_of=lambda _: None,
        is_admin=lambda user_id, _: user_id == ALICE,
    )
    obey(world, f'deny user {BOB} "spam"')
    for text in ("hello", "hello?"):
        await world.say(room_id, text, user="bob")
    await world.settle()
    await world.tell_again()
    assert world.delivered(RoomMessage) == []
    assert await world.bodies(room_id) == ["hello", "hello?"]
    (to_author,) = await world.bodies(chats[BOB], bot)
    assert to_author == (
        f"What you write in {room_id} does not reach XMPP: {BOB} is denied here by bot rule 1: "
        "spam."
    )
    (to_admin,) = await world.bodies(chats[ALICE], bot)
    assert to_admin.startswith(f"What {BOB} writes in {room_id} does not reach XMPP:")
    assert "`why policy.1`" in to_admin


async def test_nobody_is_told_where_others_would_read_it(world: World) -> None:
    room_id = await world.home.backend.create_room(
        creator=ALICE, txn="garden", public=True, alias=GARDEN
    )
    await world.chat.enter(JULIET, GARDEN)
    chat = await world.home.backend.create_room(creator=ALICE, txn="bot", public=True)
    await world.invite(chat, world.gateway.backend.bot)
    await world.join(chat, BOB)
    await world.settle()
    obey(world, f"deny user {ALICE}")
    await world.say(room_id, "hello")
    await world.settle()
    assert world.delivered(RoomMessage) == []
    assert await world.bodies(chat, world.gateway.backend.bot) == []


@pytest.mark.parametrize("direction", ["sender", "receiver"])
async def test_a_message_of_the_chat_side_is_refused_with_the_rule(
    world: World, direction: str
) -> None:
    await world.direct_room()
    await world.settle()
    obey(world, f"deny user {world.ghost(JULIET) if direction == 'sender' else ALICE}")
    with pytest.raises(Refused, match="bot rule 1"):
        await world.chat.say(JULIET, "hi", to=ALICE)
    obey(world)
    await world.chat.say(JULIET, "hi", to=ALICE)


async def test_what_the_rooms_policy_server_refuses_comes_back_in_its_words(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    key = SigningKey.from_seed("policy_server", b"p" * 32)
    names = {"via": world.home.name, "public_keys": {"ed25519": key.verify_key_base64}}
    await world.state(room_id, "m.room.policy", names)
    await world.settle()

    def answer(path: str, pdu: Any) -> Any:
        raise Refused("this looks like spam", errcode="M_FORBIDDEN", rule="peer")

    world.network.policy = answer
    await world.chat.say(JULIET, "buy now", to=ALICE)
    await world.settle()
    assert await world.bodies(room_id) == []
    (failure,) = world.delivered(Failure)
    assert "this looks like spam" in failure.text
    # While it is away the message waits, and goes when somebody lets go of the policy server.
    world.network.policy = None
    world.home.down = True
    await world.chat.say(JULIET, "hello", to=ALICE)
    await world.settle()
    assert len(world.delivered(Failure)) == 1
    world.home.down = False
    await world.state(room_id, "m.room.policy", {})
    await world.later(400)
    assert await world.bodies(room_id) == ["hello"]
