"""Presence: whose counts, how long it lasts, and who is told of ours, at which pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from bridge.errors import Refused
from bridge.ids import RoomId, ServerName, UserId
from bridge.policy.rules import Action, RuleTable, read_rule
from bridge.rooms import presence as presence_module
from bridge.rooms.passing import UserPresence
from bridge.rooms.presence import FORGET_S, GATHER_S, LOOK_AGAIN_S, PER_EDU, REFRESH_S, STRANGE_S
from tests.support.clock import FakeClock
from tests.support.matrix_side import until
from tests.support.network import Network, Server
from tests.support.passing import Wire
from tests.support.talk import make_room


class World:
    def __init__(self, network: Network, here: Server, there: Server, room_id: RoomId) -> None:
        self.network, self.here, self.there, self.room_id = network, here, there, room_id
        self.maker, self.guest = here.user("maker"), there.user("guest")
        self.wire = Wire(network)
        self.wire.connect(here, there)

    async def tell(self, presence: Any = "online", *, user: Any = None, **more: Any) -> None:
        """`there` tells `here`."""
        entry = {"user_id": user or self.guest, "presence": presence, "last_active_ago": 5_000}
        await self.send([entry | more])

    async def send(self, push: Any) -> None:
        edu = {"edu_type": "m.presence", "content": {"push": push}}
        await self.wire.hand_over(self.there.name, self.here, edu)

    def heard(self) -> list[UserPresence]:
        new = self.wire.ears[self.here.name].hear()
        return [one for one in new if isinstance(one, UserPresence)]

    async def set(self, presence: Any, *, user: UserId | None = None, **more: Any) -> None:
        """Of one of ours."""
        await self.here.backend.set_presence(user_id=user or self.maker, presence=presence, **more)

    async def tick(self) -> None:
        await self.here.rooms.ephemeral.tick()

    async def told(self) -> list[tuple[str, str, str]]:
        """To whom, of whom, what."""
        before = len(self.wire.told)
        await self.wire.carry()
        return [
            (peer, push["user_id"], push["presence"])
            for _, peer, edu in self.wire.told[before:]
            for push in edu["content"]["push"]
        ]


@pytest.fixture
async def world(network: Network) -> World:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    return World(network, here, there, room_id)


# --- in ------------------------------------------------------------------------------------------


async def test_a_users_presence_is_heard_with_the_time_of_our_clock(
    world: World, clock: FakeClock
) -> None:
    await world.tell("online", status_msg="making cupcakes", currently_active=True)
    expected = UserPresence(
        user_id=world.guest,
        presence="online",
        status="making cupcakes",
        last_active_ms=clock.now_ms() - 5_000,
        currently_active=True,
    )
    assert world.heard() == [expected]
    assert world.here.rooms.ephemeral.presence.of(world.guest) == expected


async def test_only_changes_are_heard(world: World, clock: FakeClock) -> None:
    await world.tell("online")
    clock.shift(60)
    await world.tell("online")
    await world.tell("online", status_msg="busy")
    await world.tell("unavailable", status_msg="busy")
    assert [(one.presence, one.status) for one in world.heard()] == [
        ("online", None),
        ("online", "busy"),
        ("unavailable", "busy"),
    ]


async def test_of_whom_nothing_is_heard_any_more_is_gone(world: World, clock: FakeClock) -> None:
    await world.tell("online")
    clock.shift(FORGET_S - 1)
    await world.tick()
    assert [one.presence for one in world.heard()] == ["online"]
    clock.shift(LOOK_AGAIN_S)
    await world.tick()
    assert [one.presence for one in world.heard()] == ["offline"]
    assert world.here.rooms.ephemeral.presence.of(world.guest) is None


async def test_a_server_speaks_for_its_own_users_whom_we_share_a_room_with(world: World) -> None:
    for user in (world.maker, "@x:third.example", world.there.user("stranger")):
        await world.tell("online", user=user)
    assert world.heard() == []
    assert len(world.wire.refused) == 3
    good = {"user_id": world.guest, "presence": "online"}
    await world.send([{"user_id": world.maker, "presence": "offline"}, good])
    assert [one.user_id for one in world.heard()] == [world.guest]


@pytest.mark.parametrize(
    "push",
    [
        None,
        {},
        [],
        [7],
        [{"presence": "online"}],
        [{"user_id": "@guest:there.example", "presence": "busy"}],
        [{"user_id": "@guest:there.example"}],
        [{"user_id": ["@guest:there.example"], "presence": "online"}],
    ],
    ids=str,
)
async def test_what_is_no_presence_is_not_heard(world: World, push: Any) -> None:
    await world.send(push)
    assert world.heard() == []


async def test_odd_times_and_texts_are_cut_to_size(world: World, clock: FakeClock) -> None:
    await world.tell("online", last_active_ago=2**53 - 1, status_msg="x" * 10_000)
    (one,) = world.heard()
    assert one.last_active_ms == 0
    assert one.status is not None
    assert len(one.status) == 1024
    await world.tell("offline", last_active_ago=-1, status_msg=7)
    (one,) = world.heard()
    assert (one.last_active_ms, one.status) == (None, None)


async def test_the_rules_of_the_house_are_obeyed(world: World) -> None:
    rule = read_rule(["user", world.guest, "edus"], action=Action.DENY, rule_id=1)
    world.here.house.replace(RuleTable.of([rule]))
    await world.tell("online")
    assert world.heard() == []


async def test_of_too_many_users_the_longest_silent_are_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "MAX_OTHERS", 1)
    other = world.there.user("other")
    await world.there.backend.join(user_id=other, room_id=world.room_id, via=[world.here.name])
    await world.network.deliver()
    await world.tell("online")
    await world.tell("online", user=other)
    presence = world.here.rooms.ephemeral.presence
    assert (presence.of(world.guest) is None, presence.of(other) is None) == (True, False)


# --- out -----------------------------------------------------------------------------------------


async def test_our_users_presence_goes_to_whoever_shares_a_room(
    world: World, clock: FakeClock
) -> None:
    await world.network.add("stranger.example")
    await world.set("online", status_text="at sea")
    clock.shift(1)
    await world.tick()
    assert world.wire.woken[world.here.name] == {world.there.name: 1}
    (edu,) = await world.wire.carry()
    assert edu == {
        "edu_type": "m.presence",
        "content": {
            "push": [
                {
                    "user_id": world.maker,
                    "presence": "online",
                    "last_active_ago": 1_000,
                    "currently_active": True,
                    "status_msg": "at sea",
                }
            ]
        },
    }
    (heard,) = world.wire.ears[world.there.name].hear()
    assert isinstance(heard, UserPresence)
    assert (heard.user_id, heard.status) == (world.maker, "at sea")


async def test_only_what_changed_is_told_and_the_newest_of_it(world: World) -> None:
    here = (world.there.name, world.maker)
    await world.set("online")
    await world.set("unavailable")
    await world.tick()
    assert await world.told() == [(*here, "unavailable")]
    await world.set("unavailable")
    await world.tick()
    assert await world.told() == []
    await world.set("offline")
    await world.tick()
    assert await world.told() == [(*here, "offline")]


async def test_who_stays_is_told_again_before_it_is_forgotten(
    world: World, clock: FakeClock
) -> None:
    other = world.here.user("other")
    await world.here.backend.join(user_id=other, room_id=world.room_id, via=[])
    await world.network.deliver()
    await world.set("online")
    await world.set("offline", user=other)
    await world.tick()
    await world.told()
    clock.shift(REFRESH_S)
    await world.tick()
    assert await world.told() == [(world.there.name, world.maker, "online")]


async def test_many_who_come_at_once_are_told_at_a_bounded_pace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "TELLINGS_PER_TICK", 10)
    users = [world.here.user(f"u{number}") for number in range(12)]
    for user_id in users:
        await world.here.backend.join(user_id=user_id, room_id=world.room_id, via=[])
        await world.set("online", user=user_id)
    counts = []
    for _ in range(10):
        await world.tick()
        counts.append(len(await world.told()))
    assert sum(counts) == 12
    assert max(counts) <= 10


async def test_many_users_share_an_edu(world: World) -> None:
    users = [world.here.user(f"u{number}") for number in range(PER_EDU + 1)]
    source = world.here.rooms.ephemeral.presence.source
    for user_id in users:
        value = UserPresence(
            user_id=user_id, presence="online", status=None, last_active_ms=1, currently_active=True
        )
        source.put(world.there.name, user_id, value)
    assert [len(edu["content"]["push"]) for edu in await world.wire.carry()] == [PER_EDU, 1]


async def test_only_our_own_users_have_a_presence_here(world: World) -> None:
    with pytest.raises(Refused):
        await world.set("online", user=world.guest)


async def test_a_server_whose_edus_are_denied_hears_nothing(world: World) -> None:
    rule = read_rule(["server", "there.example", "edus"], action=Action.DENY, rule_id=1)
    world.here.house.replace(RuleTable.of([rule]))
    await world.set("online")
    await world.tick()
    assert await world.told() == []


async def test_switched_off_nothing_is_told_and_nothing_heard(world: World) -> None:
    world.here.rooms.ephemeral.presence.enabled = False
    await world.set("online")
    await world.tick()
    await world.tell("online")
    assert await world.told() == []
    assert world.heard() == []


# --- who comes in --------------------------------------------------------------------------------


@asynccontextmanager
async def watching(server: Server) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.rooms.ephemeral.presence.watch())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def wait_until_told(world: World, clock: FakeClock) -> list[tuple[str, str, str]]:
    async def look() -> list[tuple[str, str, str]]:
        await clock.advance(GATHER_S)
        await world.tick()
        return await world.told()

    return await until(look)


async def test_a_server_that_comes_in_is_told_of_our_users_there(
    world: World, clock: FakeClock
) -> None:
    third = await world.network.add("third.example")
    other = world.here.user("other")
    await world.here.backend.join(user_id=other, room_id=world.room_id, via=[])
    await world.network.deliver()
    world.wire.connect(third)
    async with watching(world.here):
        await world.set("online")
        await world.set("offline", user=other)
        await wait_until_told(world, clock)
        await third.backend.join(
            user_id=third.user("new"), room_id=world.room_id, via=[world.here.name]
        )
        assert await wait_until_told(world, clock) == [(third.name, world.maker, "online")]
        # A second user of that server brings nothing new.
        await third.backend.join(
            user_id=third.user("second"), room_id=world.room_id, via=[world.here.name]
        )
        await world.set("unavailable", status_text="back soon")
        assert sorted(await wait_until_told(world, clock)) == [
            (world.there.name, world.maker, "unavailable"),
            (third.name, world.maker, "unavailable"),
        ]


async def test_presence_that_comes_before_the_joining_counts_with_it(
    world: World, clock: FakeClock
) -> None:
    other, late = world.there.user("other"), world.there.user("late")
    async with watching(world.here):
        await world.tell("online", user=late)
        clock.shift(STRANGE_S + 1)
        await world.tell("online", user=other)
        assert world.heard() == []
        for user_id in (late, other):
            await world.there.backend.join(
                user_id=user_id, room_id=world.room_id, via=[world.here.name]
            )
        await world.network.deliver()

        async def look() -> list[UserPresence]:
            await clock.advance(GATHER_S)
            return world.heard()

        assert [one.user_id for one in await until(look)] == [other]


async def test_our_user_who_comes_in_is_told_to_the_servers_there(
    world: World, clock: FakeClock
) -> None:
    third = await world.network.add("third.example")
    world.wire.connect(third)
    theirs = await make_room(third)
    newcomer = world.here.user("newcomer")
    async with watching(world.here):
        await world.set("online", user=newcomer)
        await world.tick()
        assert await world.told() == []  # in no room yet
        await world.here.backend.join(user_id=newcomer, room_id=theirs, via=[third.name])
        assert await wait_until_told(world, clock) == [(ServerName(third.name), newcomer, "online")]
