"""Who is denied by the rules of the house uses the bridge from neither side, and is told why."""

from __future__ import annotations

import pytest

from bridge.errors import Refused
from bridge.policy.rules import Action, RuleTable, read_rule
from tests.support.world import ALICE, JULIET, World


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
