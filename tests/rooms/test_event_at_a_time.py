"""Which event of a room is closest to a time, for a server that may know."""

from __future__ import annotations

import pytest

from bridge.errors import NotFound, Refused
from bridge.ids import EventId, RoomId, ServerName
from tests.support.network import Network, Server, trace
from tests.support.talk import make_room, say, two_in_a_room

START_MS = 3_000_000_000_000


async def say_at(here: Server, room_id: RoomId, text: str, at_ms: int) -> EventId:
    return await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.message",
        content={"msgtype": "m.text", "body": text},
        txn=text,
        trace=trace(),
        at_ms=at_ms,
    )


async def at(
    here: Server, peer: ServerName, room_id: RoomId, at_ms: int, *, forwards: bool
) -> EventId:
    answer = await here.rooms.answers.timestamp_to_event(peer, room_id, at_ms, forwards=forwards)
    known = await here.rooms.answers._states.event(EventId(answer["event_id"]))
    assert known.pdu.origin_server_ts == answer["origin_server_ts"]
    return known.pdu.event_id


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_the_closest_event_is_found_in_both_directions(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    times = (0, 10, 10, 30)
    ids = [
        await say_at(here, room_id, f"text {number}", START_MS + ms)
        for number, ms in enumerate(times)
    ]
    for ms, forwards, wanted in (
        (0, True, ids[0]),
        (1, True, ids[1]),
        (10, True, ids[1]),
        (11, True, ids[3]),
        (31, False, ids[3]),
        (29, False, ids[2]),
        (10, False, ids[2]),
        (9, False, ids[0]),
    ):
        assert await at(here, there.name, room_id, START_MS + ms, forwards=forwards) == wanted, ms
    with pytest.raises(NotFound):
        await at(here, there.name, room_id, START_MS + 31, forwards=True)
    with pytest.raises(NotFound):
        await at(here, there.name, room_id, 0, forwards=False)


async def test_what_was_said_before_a_server_came_is_not_told_where_history_is_closed(
    network: Network,
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.history_visibility",
        state_key="",
        content={"history_visibility": "joined"},
        txn="history",
        trace=trace(),
    )
    secret = await say_at(here, room_id, "a secret", START_MS)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    shown = await say_at(here, room_id, "no secret", START_MS + 100)
    assert await at(here, there.name, room_id, START_MS, forwards=True) == shown
    assert await at(here, there.name, room_id, START_MS + 99, forwards=False) != secret
    assert await at(here, here.name, room_id, START_MS, forwards=True) == secret


async def test_so_many_hidden_events_are_passed_over_and_no_more(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.rooms.answer.PAGE", 2)
    monkeypatch.setattr("bridge.rooms.answer.MAX_PAGES", 2)
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.history_visibility",
        state_key="",
        content={"history_visibility": "joined"},
        txn="history",
        trace=trace(),
    )
    for number in range(4):
        await say_at(here, room_id, f"hidden {number}", START_MS + number)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    shown = await say_at(here, room_id, "shown", START_MS + 10)
    assert await at(here, there.name, room_id, START_MS + 1, forwards=True) == shown
    with pytest.raises(NotFound):
        await at(here, there.name, room_id, START_MS, forwards=True)


async def test_only_servers_in_the_room_that_its_acl_allows_are_told(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    eve = await network.add("eve.example")
    await say(here, room_id, "maker", "hello")
    with pytest.raises(Refused):
        await at(here, eve.name, room_id, 0, forwards=True)
    with pytest.raises(NotFound):
        await at(here, there.name, RoomId("!none:here.example"), 0, forwards=True)
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.server_acl",
        state_key="",
        content={"allow": ["*"], "deny": ["there.*"]},
        txn="acl",
        trace=trace(),
    )
    with pytest.raises(Refused):
        await at(here, there.name, room_id, 0, forwards=True)
