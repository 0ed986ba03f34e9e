"""Moderation policy rooms: subscribed to, followed, and given up."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.bot.rules import RuleBook
from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, ServerName, TraceId
from bridge.policy.rules import Scope
from bridge.storage import peers, policy
from bridge.storage.peers import Mark
from tests.support.world import ALICE, GATEWAY, HOME, World

EVIL = ServerName("evil.example")
BAN = {"entity": str(EVIL), "recommendation": "m.ban", "reason": "spam"}


async def new_list(world: World, **more: Any) -> RoomId:
    return await world.home.backend.create_room(
        creator=ALICE, txn=f"list-{next(world._numbers)}", public=True, **more
    )


async def write(
    world: World, room_id: RoomId, content: dict[str, Any], key: str = "evil", kind: str = "server"
) -> None:
    await world.home.backend.send(
        room_id=room_id,
        sender=ALICE,
        type=f"m.policy.rule.{kind}",
        state_key=key,
        content=content,
        txn=f"rule-{next(world._numbers)}",
        trace=TraceId("t"),
    )
    await world.settle()


async def follow(world: World, room_id: RoomId) -> str:
    return await world.portals.policy_rooms.subscribe(room_id, [ServerName(HOME)], by=ALICE)


async def denied_by(world: World, server: ServerName = EVIL) -> str | None:
    """By which list, once everything that is to be read was read."""
    await world.portals.policy_rooms.refresh()
    house = world.gateway.house
    await RuleBook(database=world.database, clock=world.clock, house=house).load()
    try:
        house.check_server(server, Scope.INVITES, door="test")
    except Refused as exc:
        return exc.reason
    return None


async def test_a_ban_holds_when_it_appears_and_no_more_when_it_goes(world: World) -> None:
    room_id = await new_list(world)
    assert await follow(world, room_id) == f"I follow {room_id} from now on: 0 rules."
    await world.settle()
    assert await denied_by(world) is None
    await write(world, room_id, BAN)
    reason = await denied_by(world)
    assert reason is not None
    assert f"by {room_id} rule" in reason
    assert reason.endswith(": spam")
    await write(world, room_id, {})
    assert await denied_by(world) is None


async def test_a_redacted_rule_is_gone(world: World) -> None:
    room_id = await new_list(world)
    await write(world, room_id, BAN)
    assert await follow(world, room_id) == f"I follow {room_id} from now on: 1 rule."
    await world.settle()
    assert await denied_by(world) is not None
    (entry,) = [
        one.pdu
        for one in await world.home.timeline(room_id)
        if one.pdu.type == "m.policy.rule.server"
    ]
    await world.home.backend.redact(
        room_id=room_id, sender=ALICE, target=entry.event_id, txn="take it back", reason=None
    )
    await world.settle()
    assert await denied_by(world) is None


async def test_it_is_found_by_its_alias(world: World) -> None:
    alias = RoomAlias(f"#list:{HOME}")
    room_id = await new_list(world, alias=alias)
    await world.portals.policy_rooms.subscribe(alias, by=ALICE)
    assert f"Policy room {room_id} ({alias}): 0 rules" in (
        await world.portals.policy_rooms.listing()
    )


async def test_what_is_missed_is_read_at_the_start(world: World) -> None:
    room_id = await new_list(world)
    await follow(world, room_id)
    await world.settle()
    # Told to a process that ended before it read the room.
    await write(world, room_id, BAN)
    await world.crash()
    assert await denied_by(world) is not None


async def test_rules_have_the_same_numbers_after_a_restart(world: World) -> None:
    room_id = await new_list(world)
    await write(world, room_id, BAN)
    await follow(world, room_id)
    before = await denied_by(world)
    await world.crash()
    assert await denied_by(world) == before


async def test_what_is_not_obeyed_is_counted_in_the_listing(world: World) -> None:
    room_id = await new_list(world)
    await write(world, room_id, {**BAN, "recommendation": "m.takedown"})
    await write(world, room_id, {**BAN, "entity": GATEWAY}, "us")
    said = await follow(world, room_id)
    assert "0 rules; 2 more that I do not obey (1: they recommend 'm.takedown'" in said
    assert "m.takedown" in await world.portals.policy_rooms.listing()


async def test_its_last_rules_hold_when_it_cannot_be_read(world: World) -> None:
    room_id = await new_list(world)
    await write(world, room_id, BAN)
    await follow(world, room_id)
    await world.home.backend.kick(
        room_id=room_id, sender=ALICE, target=world.gateway.backend.bot, reason=None
    )
    await world.settle()
    assert await denied_by(world) is not None
    assert "it cannot be read now" in await world.portals.policy_rooms.listing()


async def test_a_list_that_is_given_up_is_left_and_denies_nobody(world: World) -> None:
    room_id = await new_list(world)
    await write(world, room_id, BAN)
    await follow(world, room_id)
    said = await world.portals.policy_rooms.unsubscribe(room_id, by=ALICE)
    assert said == f"I do not follow {room_id} any more; 1 rule of it went with it."
    assert await denied_by(world) is None
    await world.settle()
    assert await world.membership(room_id, world.gateway.backend.bot) == "leave"
    assert await world.portals.policy_rooms.listing() == ""
    with pytest.raises(NotFound):
        await world.portals.policy_rooms.unsubscribe(room_id, by=ALICE)


async def test_a_room_that_does_not_let_us_in_is_not_followed(world: World) -> None:
    room_id = await world.home.backend.create_room(creator=ALICE, txn="closed")
    with pytest.raises(Refused, match="invite @"):
        await follow(world, room_id)
    assert await world.database.read(policy.rooms) == []
    await world.invite(room_id, world.gateway.backend.bot)
    await world.settle()
    await follow(world, room_id)
    assert await world.database.read(policy.rooms) == [room_id]


async def test_the_successor_of_a_list_is_followed_beside_it(world: World) -> None:
    room_id = await new_list(world)
    await write(world, room_id, BAN)
    await follow(world, room_id)
    successor = await upgraded(world, room_id)
    await write(world, successor, {**BAN, "entity": "new.example"})
    assert await denied_by(world, ServerName("new.example")) is not None
    assert await denied_by(world) is not None
    assert set(await world.database.read(policy.rooms)) == {room_id, successor}
    # Whoever gives up the new one does not fall back to the old one.
    await world.portals.policy_rooms.unsubscribe(successor, by=ALICE)
    await denied_by(world)
    assert await world.database.read(policy.rooms) == []


async def test_a_list_whose_rules_have_moved_is_given_up_for_its_successor(world: World) -> None:
    room_id = await new_list(world)
    await write(world, room_id, BAN)
    await follow(world, room_id)
    successor = await upgraded(world, room_id)
    moved = {"org.matrix.msc4321.policy_room_upgrade_type": "move"}
    await world.state(
        room_id, "m.room.tombstone", {"body": "moved", "replacement_room": successor, **moved}
    )
    await world.settle()
    await denied_by(world)
    await denied_by(world)
    assert await world.database.read(policy.rooms) == [successor]


async def test_a_room_that_does_not_say_that_it_replaces_a_list_is_not_followed(
    world: World,
) -> None:
    room_id, other = await new_list(world), await new_list(world)
    await follow(world, room_id)
    await world.state(room_id, "m.room.tombstone", {"body": "", "replacement_room": other})
    await world.later(5)
    await denied_by(world)
    assert await world.database.read(policy.rooms) == [room_id]


async def upgraded(world: World, room_id: RoomId) -> RoomId:
    successor = await world.home.backend.upgrade(
        room_id=room_id,
        sender=ALICE,
        version=(await world.home.backend.room(room_id)).version,
        txn=f"upgrade-{room_id}",
    )
    for _ in range(3):
        await world.later(5)
        await denied_by(world)
    return successor


async def test_what_waits_for_a_server_goes_out_when_a_list_lets_it_in_again(
    world: World,
) -> None:
    room_id = await new_list(world)
    await write(world, room_id, BAN)
    await follow(world, room_id)
    mark = Mark(server=EVIL, room_id=RoomId("!r:x"), first=1, newest=2)
    await world.database.write(lambda tx: peers.mark(tx, [mark]))
    await world.database.write(
        lambda tx: peers.failed(tx, server=EVIL, next_attempt_ms=1 << 50, error="denied")
    )
    await write(world, room_id, {})
    await denied_by(world)
    state = await world.database.read(lambda tx: peers.state(tx, EVIL))
    assert state.next_attempt_ms == 0


async def test_a_list_that_takes_long_to_read_is_left_alone_for_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await new_list(world)
    await follow(world, room_id)
    await world.settle()
    await denied_by(world)
    state, reads = world.gateway.backend.state, 0

    async def slow(room_id: RoomId, type: str) -> Any:
        nonlocal reads
        reads += type == "m.policy.rule.server"
        world.clock.shift(0.5)
        return await state(room_id, type)

    monkeypatch.setattr(world.gateway.backend, "state", slow)
    for number in range(5):
        await write(world, room_id, {**BAN, "reason": str(number)})
        await world.portals.policy_rooms.refresh()
    assert reads == 1
    world.clock.shift(200)
    reason = await denied_by(world)
    assert reason is not None
    assert reason.endswith(": 4")


async def test_the_database_away_for_a_moment_only_delays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await new_list(world)
    await follow(world, room_id)
    await world.settle()
    await write(world, room_id, BAN)

    async def away(_: object) -> Any:
        raise Unavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world.database, "read", away)
        await world.portals.policy_rooms.refresh()
    assert await denied_by(world) is not None
