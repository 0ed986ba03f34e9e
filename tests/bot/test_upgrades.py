"""Upgrades on somebody's word: who may, what the bot needs, who is left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest

from bridge.bot.upgrades import RoomUpgrades
from bridge.errors import BadInput, Refused
from bridge.ids import RoomAlias, RoomId, RoomVersionId, UserId
from bridge.storage import version_hints
from tests.support.network import trace
from tests.support.world import ALICE, BOB, World

ALIAS = RoomAlias("#parlour:gw.example")


async def parlour(world: World, *, public: bool = True, version: str = "10") -> RoomId:
    """A room of the bot's, with Alice as its admin and Bob as a member."""
    backend = world.gateway.backend
    room_id = await backend.create_room(
        creator=backend.bot,
        txn="parlour",
        name="Parlour",
        alias=ALIAS,
        public=public,
        version=RoomVersionId(version),
    )
    for user in (ALICE, BOB):
        if not public:
            await backend.invite(room_id=room_id, sender=backend.bot, target=user, txn=f"i{user}")
            await world.settle()
        await world.home.backend.join(user_id=user, room_id=room_id, via=[world.gateway.name])
        await world.settle()
    await set_levels(world, room_id, {ALICE: 100})
    return room_id


async def set_levels(
    world: World,
    room_id: RoomId,
    users: dict[UserId, int],
    events: Mapping[str, int] = MappingProxyType({}),
) -> None:
    backend = world.gateway.backend
    (entry,) = await backend.state(room_id, "m.room.power_levels")
    content: dict[str, Any] = dict(entry.content)
    content["users"] = {**content["users"], **users}
    content["events"] = {**content["events"], **events}
    await backend.send(
        room_id=room_id,
        sender=backend.bot,
        type="m.room.power_levels",
        content=content,
        state_key="",
        txn=f"levels-{users}",
        trace=trace(),
    )
    await world.settle()


async def ask(
    world: World,
    room_id: RoomId,
    version: str = "12",
    *,
    caller: UserId = ALICE,
    is_admin: bool = False,
    creators: Sequence[UserId] = (),
    anyway: bool = False,
) -> str:
    return await RoomUpgrades(backend=world.gateway.backend).upgrade(
        caller=caller,
        is_admin=is_admin,
        room_id=room_id,
        version=RoomVersionId(version),
        creators=creators,
        anyway=anyway,
    )


async def replacement(world: World, room_id: RoomId) -> RoomId | None:
    return (await world.gateway.backend.room(room_id)).replacement


async def test_whoever_may_send_the_tombstone_has_the_room_upgraded(world: World) -> None:
    old = await parlour(world)
    answer = await ask(world, old, creators=[ALICE])
    new = await replacement(world, old)
    assert new is not None
    assert answer == (
        f"{old} is replaced by {new}, of version 12.\n"
        f"Its alias {ALIAS} leads there now.\n"
        "I am its creator, which cannot be taken away from me."
    )
    power = await world.gateway.backend.power(new)
    assert power.level(ALICE) == float("inf")
    assert power.level(BOB) == 0


async def test_an_admin_of_the_gateway_needs_no_power_there(world: World) -> None:
    old = await parlour(world)
    await ask(world, old, "11", caller=BOB, is_admin=True)
    assert await replacement(world, old) is not None


@pytest.mark.parametrize("caller", [BOB, UserId("@nobody:matrix.example")])
async def test_nobody_else_may(world: World, caller: UserId) -> None:
    old = await parlour(world)
    with pytest.raises(Refused, match=r"may send m\.room\.tombstone"):
        await ask(world, old, caller=caller)
    assert await replacement(world, old) is None


async def test_whoever_stands_below_others_names_no_creators(world: World) -> None:
    old = await parlour(world)
    await set_levels(world, old, {BOB: 50}, {"m.room.tombstone": 50})
    with pytest.raises(Refused, match="above you: you cannot name"):
        await ask(world, old, caller=BOB, creators=[BOB])
    assert await replacement(world, old) is None
    await ask(world, old, caller=BOB)
    new = await replacement(world, old)
    assert new is not None
    power = await world.gateway.backend.power(new)
    assert (power.level(BOB), power.level(ALICE)) == (50, 100)


async def test_power_in_a_room_that_one_has_left_is_none(world: World) -> None:
    old = await parlour(world)
    await world.leave(old)
    await world.settle()
    with pytest.raises(Refused, match=r"may send m\.room\.tombstone"):
        await ask(world, old)


async def test_it_says_what_the_bot_lacks(world: World) -> None:
    old = await parlour(world)
    bot = world.gateway.backend.bot
    await set_levels(world, old, {bot: 50})
    with pytest.raises(Refused) as refused:
        await ask(world, old)
    assert refused.value.reason == (
        f"I need power level 100 in {old} to replace it and have 50: please give it to {bot}"
    )
    for room_id in (old, RoomId("!nowhere:matrix.example")):
        if room_id == old:
            await world.gateway.backend.leave(user_id=bot, room_id=old)
        with pytest.raises(Refused, match="I am not in"):
            await ask(world, room_id, is_admin=True)


async def test_a_version_that_is_not_made_is_no_version(world: World) -> None:
    old = await parlour(world)
    for version in ("1", "2", "thirteen", "13"):
        with pytest.raises(BadInput) as refused:
            await ask(world, old, version)
        assert refused.value.errcode == "M_UNSUPPORTED_ROOM_VERSION"


async def test_servers_that_would_stay_behind_stop_it_unless_that_is_meant(world: World) -> None:
    old = await parlour(world, public=False)
    # The peers of these tests name every version whenever they join; Synapse does not.
    version = RoomVersionId("I.1")
    world.home.refuses_versions = {version}
    await world.gateway.database.write(
        lambda tx: version_hints.put(tx, world.home.name, {version: False})
    )
    with pytest.raises(Refused, match=r"matrix\.example cannot take part in rooms of version I\.1"):
        await ask(world, old, version)
    assert await replacement(world, old) is None
    answer = await ask(world, old, version, anyway=True)
    assert f"2 members could not be invited yet ({ALICE}, {BOB})" in answer


async def test_asked_again_it_goes_on_where_it_ended(world: World) -> None:
    old = await parlour(world, public=False)
    world.home.down = True
    answer = await ask(world, old, "11")
    assert "2 members could not be invited yet" in answer
    world.home.down = False
    answer = await ask(world, old, "11")
    assert answer.endswith("Its members are invited there.")
    with pytest.raises(Refused, match="was replaced"):
        await ask(world, old, "10")
