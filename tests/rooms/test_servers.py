"""Who is sent an event: the servers of the state before it, found without counting the room."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from bridge.engine.versions import get_version
from bridge.ids import RoomId, RoomVersionId, ServerName, UserId, server_of
from bridge.rooms.network import Json
from tests.support.network import Network, Server, trace


async def send(
    server: Server, room: RoomId, sender: UserId, type: str, content: Mapping[str, Any], key: str
) -> None:
    await server.rooms.sender.send(
        room_id=room, sender=sender, type=type, content=content, state_key=key, trace_id=trace()
    )


async def join(server: Server, room: RoomId, user: UserId, via: ServerName) -> None:
    await server.rooms.handshake.join(user_id=user, room_id=room, via=[via], trace_id=trace())


async def counted(server: Server, state: Mapping[tuple[str, str], Any]) -> set[ServerName]:
    """Member by member."""
    members = {key[1]: event for key, event in state.items() if key[0] == "m.room.member"}
    found = await server.rooms.queries._states.events(members.values())
    return {
        server_of(UserId(user))
        for user, event in members.items()
        if found[event].pdu.membership == "join"
    }


async def test_the_servers_of_every_state_are_right_and_cheap(network: Network) -> None:
    a, b, c = [await network.add(name) for name in ("a.example", "b.example", "c.example")]
    dice = random.Random(5)
    alice = a.user("alice")
    room = await a.rooms.creator.create(
        creator=alice,
        version=get_version(RoomVersionId("12")),
        transaction_id="make",
        trace_id=trace(),
        public=True,
    )
    inside: set[UserId] = set()
    queries = a.rooms.queries
    for number in range(120):
        server = dice.choice((a, b, c))
        user = server.user(f"u{dice.randrange(4)}")
        if user not in inside:
            await join(server, room, user, a.name)
            inside.add(user)
        elif dice.random() < 0.5:
            inside.discard(user)
            leave: Json = {"membership": "leave"}
            await send(a, room, alice, "m.room.member", leave, user)
        else:
            await send(a, room, alice, "m.room.topic", {"topic": str(number)}, "")
        await network.deliver()
        # What the sender asks, as it asks it: for each event once it is there.
        event = (await queries.timeline(room, limit=1))[-1]
        known = await queries._states.event(event.pdu.event_id)
        before = await queries._states.before(known)
        found = await queries._joined.of(room, before)
        assert found == await counted(a, before.state)
    # The state has been written as a whole now and then; from there it is counted anew.
    assert queries._joined.whole_counts <= 5

    # And again from the rows alone, in any order.
    again = (await network.restart(a)).rooms.queries
    timeline = await again.timeline(room, limit=200)
    dice.shuffle(timeline)
    for event in timeline:
        known = await again._states.event(event.pdu.event_id)
        before = await again._states.before(known)
        assert await again._joined.of(room, before) == await counted(
            network.servers[a.name], before.state
        )


async def test_a_ban_of_what_is_no_user_goes_to_the_room_only(network: Network) -> None:
    a, b = [await network.add(name) for name in ("a.example", "b.example")]
    alice = a.user("alice")
    room = await a.rooms.creator.create(
        creator=alice,
        version=get_version(RoomVersionId("12")),
        transaction_id="make",
        trace_id=trace(),
        public=True,
    )
    await join(b, room, b.user("bob"), a.name)
    for target, wanted in (
        ("@spam:evil.example", {b.name, ServerName("evil.example")}),
        ("@nobody", {b.name}),
    ):
        await send(a, room, alice, "m.room.member", {"membership": "ban"}, target)
        event = (await a.rooms.queries.timeline(room, limit=1))[-1]
        assert await a.rooms.queries.destinations(event.pdu.event_id) == wanted
