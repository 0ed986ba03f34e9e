"""Typing: who may tell it, how long it lasts, and what the others are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.engine.edu import TypingEdu
from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import RoomId, ServerName, UserId
from bridge.policy.rules import Action, RuleTable, read_rule
from bridge.rooms import typing_notices
from bridge.rooms.typing_notices import LAST_S, MAX_AGE_S, REFRESH_S
from tests.support.clock import FakeClock
from tests.support.network import Network, Server, trace
from tests.support.passing import Wire
from tests.support.talk import make_room


class World:
    def __init__(self, network: Network, here: Server, there: Server, room_id: RoomId) -> None:
        self.network, self.here, self.there, self.room_id = network, here, there, room_id
        self.maker, self.guest = here.user("maker"), there.user("guest")
        self.wire = Wire(network)
        self.wire.connect(here, there)

    def typing(self, user_id: UserId, typing: bool, room_id: RoomId | None = None) -> Any:
        content = {"room_id": room_id or self.room_id, "user_id": user_id, "typing": typing}
        return {"edu_type": "m.typing", "content": content}

    async def tell(self, user_id: UserId, typing: bool, **more: Any) -> None:
        """`there` tells `here`."""
        await self.wire.hand_over(self.there.name, self.here, self.typing(user_id, typing, **more))

    def heard(self) -> list[tuple[str, bool]]:
        """What is new at `here`."""
        new = self.wire.ears[self.here.name].hear()
        return [(one.user_id, one.typing) for one in new if isinstance(one, TypingEdu)]


@pytest.fixture
async def world(network: Network) -> World:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    return World(network, here, there, room_id)


# --- in ------------------------------------------------------------------------------------------


async def test_who_starts_and_stops_is_heard_once_each(world: World) -> None:
    for typing in (True, True, False, False):
        await world.tell(world.guest, typing)
    assert world.heard() == [(world.guest, True), (world.guest, False)]
    assert world.wire.refused == []


async def test_nobody_types_for_ever(world: World, clock: FakeClock) -> None:
    ephemeral = world.here.rooms.ephemeral
    await world.tell(world.guest, True)
    clock.shift(LAST_S - 1)
    await ephemeral.tick()
    assert ephemeral.typing.typing(world.room_id) == [world.guest]
    await world.tell(world.guest, True)
    clock.shift(LAST_S - 1)
    await ephemeral.tick()
    assert world.heard() == [(world.guest, True)]
    clock.shift(1)
    await ephemeral.tick()
    assert world.heard() == [(world.guest, False)]
    assert ephemeral.typing.typing(world.room_id) == []


async def test_a_server_speaks_for_its_own_users_in_rooms_where_they_are(world: World) -> None:
    elsewhere = await make_room(world.there, creator="other")
    for user_id, room_id in (
        (world.maker, world.room_id),
        (UserId("@x:third.example"), world.room_id),
        (world.there.user("stranger"), world.room_id),
        (world.guest, RoomId("!nowhere:x.example")),
        (world.there.user("other"), elsewhere),
    ):
        await world.tell(user_id, True, room_id=room_id)
    assert world.heard() == []
    assert len(world.wire.refused) == 5


async def test_who_has_left_types_no_more(world: World) -> None:
    await world.there.backend.leave(user_id=world.guest, room_id=world.room_id)
    await world.network.deliver()
    await world.tell(world.guest, True)
    assert world.heard() == []


async def test_the_rooms_acl_is_obeyed(world: World) -> None:
    acl = {"allow": ["*"], "deny": [world.there.name]}
    await world.here.backend.send(
        room_id=world.room_id,
        sender=world.maker,
        type="m.room.server_acl",
        content=acl,
        state_key="",
        txn="acl",
        trace=trace(),
    )
    await world.tell(world.guest, True)
    assert world.heard() == []


@pytest.mark.parametrize(
    "line",
    ["deny user @guest:there.example edus", "deny room {room} edus", "deny user @guest:* all"],
)
async def test_the_rules_of_the_house_are_obeyed(world: World, line: str) -> None:
    action, *words = line.format(room=world.room_id).split()
    rule = read_rule(words, action=Action(action), rule_id=1)
    world.here.house.replace(RuleTable.of([rule]))
    await world.tell(world.guest, True)
    assert world.heard() == []


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"room_id": "!r:x", "user_id": "@u:x", "typing": "yes"},
        {"room_id": 7, "user_id": "@u:x", "typing": True},
        {"room_id": "!r:x", "user_id": ["@u:x"], "typing": True},
        {"room_id": "!r:x", "user_id": "@u", "typing": True},
        {"room_id": "!" + "r" * 300, "user_id": "@u:x", "typing": True},
    ],
)
async def test_what_is_no_typing_is_refused(world: World, content: Any) -> None:
    edu = {"edu_type": "m.typing", "content": content}
    await world.wire.hand_over(world.there.name, world.here, edu)
    assert len(world.wire.refused) == 1
    assert world.heard() == []


async def test_of_too_many_who_type_the_first_are_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typing_notices, "MAX_TYPING", 2)
    users = [world.there.user(name) for name in "abc"]
    for user_id in users:
        await world.there.backend.join(
            user_id=user_id, room_id=world.room_id, via=[world.here.name]
        )
    await world.network.deliver()
    for user_id in users:
        await world.tell(user_id, True)
    a, b, c = users
    assert world.heard() == [(a, True), (b, True), (c, True), (a, False)]


# --- out -----------------------------------------------------------------------------------------


async def test_our_users_typing_goes_to_the_servers_of_the_room(world: World) -> None:
    backend = world.here.backend
    await backend.set_typing(room_id=world.room_id, user_id=world.maker, typing=True)
    assert world.wire.woken[world.here.name] == {world.there.name: 1}
    assert await world.wire.carry() == [world.typing(world.maker, True)]
    await backend.set_typing(room_id=world.room_id, user_id=world.maker, typing=False)
    assert await world.wire.carry() == [world.typing(world.maker, False)]
    await backend.set_typing(room_id=world.room_id, user_id=world.maker, typing=False)
    assert await world.wire.carry() == []
    assert [type(one) for one in world.wire.ears[world.there.name].hear()] == [TypingEdu] * 2
    assert world.wire.refused == []


async def test_what_changes_before_it_is_sent_is_told_once(world: World) -> None:
    for typing in (True, False, True, False):
        await world.here.backend.set_typing(
            room_id=world.room_id, user_id=world.maker, typing=typing
        )
    assert await world.wire.carry() == [world.typing(world.maker, False)]


async def test_it_is_told_again_while_it_lasts_and_ends_by_itself(
    world: World, clock: FakeClock
) -> None:
    async def set_typing() -> None:
        await world.here.backend.set_typing(
            room_id=world.room_id, user_id=world.maker, typing=True, timeout_ms=30_000
        )

    ephemeral = world.here.rooms.ephemeral
    await set_typing()
    await world.wire.carry()
    clock.shift(REFRESH_S - 1)
    await set_typing()
    await ephemeral.tick()
    assert await world.wire.carry() == []
    clock.shift(1)
    await ephemeral.tick()
    assert await world.wire.carry() == [world.typing(world.maker, True)]
    clock.shift(29)
    await ephemeral.tick()
    assert await world.wire.carry() == [world.typing(world.maker, False)]


async def test_old_news_is_not_told(world: World, clock: FakeClock) -> None:
    await world.here.backend.set_typing(room_id=world.room_id, user_id=world.maker, typing=True)
    clock.shift(MAX_AGE_S + 1)
    assert await world.wire.carry() == []


async def test_only_our_own_users_in_the_room_type(world: World) -> None:
    for user_id in (world.guest, world.here.user("stranger")):
        with pytest.raises(Refused):
            await world.here.backend.set_typing(room_id=world.room_id, user_id=user_id, typing=True)
    assert await world.wire.carry() == []


async def test_a_server_whose_edus_are_denied_hears_none_of_ours(world: World) -> None:
    rule = read_rule(["server", "there.example", "edus"], action=Action.DENY, rule_id=1)
    world.here.house.replace(RuleTable.of([rule]))
    await world.here.backend.set_typing(room_id=world.room_id, user_id=world.maker, typing=True)
    assert await world.wire.carry() == []


async def test_what_waits_for_a_peer_that_is_down_is_dropped(world: World) -> None:
    source = world.here.rooms.ephemeral.typing.source
    await world.here.backend.set_typing(room_id=world.room_id, user_id=world.maker, typing=True)
    source.dropped(world.there.name)
    assert await world.wire.carry() == []
    source.dropped(ServerName("nobody.example"))


async def test_what_changed_while_it_was_sent_is_told_next(world: World) -> None:
    source = world.here.rooms.ephemeral.typing.source
    set_typing = world.here.backend.set_typing
    await set_typing(room_id=world.room_id, user_id=world.maker, typing=True)
    _, token = await source.pending(world.there.name, 100)
    await set_typing(room_id=world.room_id, user_id=world.maker, typing=False)
    await source.sent(world.there.name, token)
    assert await world.wire.carry() == [world.typing(world.maker, False)]


async def test_so_many_of_ours_may_type(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typing_notices, "MAX_TYPING", 0)
    with pytest.raises(Unavailable):
        await world.here.backend.set_typing(room_id=world.room_id, user_id=world.maker, typing=True)


async def test_a_room_that_was_purged_has_no_servers(world: World) -> None:
    queries = world.here.rooms.queries
    states = world.here.rooms.sender._states
    await queries.servers_now(world.room_id)
    room = await states.joined_room(world.room_id)
    await world.there.backend.leave(user_id=world.guest, room_id=world.room_id)
    await world.network.deliver()
    await world.here.backend.purge(world.room_id)
    assert await queries.servers_now(world.room_id) == frozenset()
    states.keep_room(room)  # as in a process that has not heard of it
    queries._joined._known.clear()
    assert await queries.servers_now(world.room_id) == frozenset()


async def test_a_database_that_is_away_ends_nothing(
    world: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ephemeral = world.here.rooms.ephemeral
    problems = iter([Unavailable("away"), NotFound("gone")])

    async def failing() -> None:
        problem = next(problems, None)
        if problem is not None:
            raise problem

    monkeypatch.setattr(ephemeral.receipts, "tick", failing)
    await world.tell(world.guest, True)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(ephemeral.run())
        for _ in range(int(LAST_S) + 5):
            await clock.advance(1.0)
        task.cancel()
    assert world.heard() == [(world.guest, True), (world.guest, False)]
