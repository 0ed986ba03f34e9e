"""What is written to an invited user before our join is stored arrives with the join."""

from __future__ import annotations

import asyncio

import pytest

from bridge.ids import EventId, RoomId, UserId
from bridge.rooms.before_join import AGAIN_AFTER_S
from bridge.storage import streams
from bridge.storage.schema import stream_events
from tests.support.clock import FakeClock
from tests.support.network import Network, Server, trace
from tests.support.talk import VERSION_IDS, heard, make_room, say


async def invited(
    network: Network, *, is_direct: bool = True, version: str = "12"
) -> tuple[Server, Server, RoomId, UserId]:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version, public=False)
    guest = there.user("guest")
    await say(here, room_id, "maker", "before the invite")
    await here.backend.invite(
        room_id=room_id,
        sender=here.user("maker"),
        target=guest,
        txn="i1",
        is_direct=is_direct,
    )
    await network.deliver()
    return here, there, room_id, guest


async def told(server: Server) -> list[str]:
    """What the bridge side is shown, in order: texts, and memberships of members."""
    rows = await server.database.read(lambda tx: streams.read_since(tx, stream_events, 0, 1000))
    ids = [EventId(row["event_id"]) for row in rows if not row["historic"]]
    shown = await server.rooms.queries.streamed(ids)
    return [
        str(shown[one].pdu.content.get("body") or shown[one].pdu.membership or shown[one].pdu.type)
        for one in ids
        if one in shown
    ]


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_it_is_shown_in_order_before_the_join(network: Network, version: str) -> None:
    here, there, room_id, guest = await invited(network, version=version)
    await say(here, room_id, "maker", "one")
    await say(here, room_id, "maker", "two")
    await network.deliver()
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    await network.deliver()
    await say(here, room_id, "maker", "three")
    await network.deliver()
    await say(there, room_id, "guest", "four")
    await network.deliver()
    assert await told(there) == ["invite", "one", "two", "join", "three", "four"]
    assert await heard(here, room_id) == ["before the invite", "one", "two", "three", "four"]


async def test_nothing_is_asked_for_where_nothing_was_written(network: Network) -> None:
    _, there, room_id, guest = await invited(network)
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    assert await told(there) == ["invite", "join"]
    assert not [one for one in network.requests if one[0] == "get_missing_events"]


async def test_of_other_rooms_the_past_is_not_shown_as_new(network: Network) -> None:
    here, there, room_id, guest = await invited(network, is_direct=False)
    await say(here, room_id, "maker", "one")
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    assert await told(there) == ["invite", "join"]


async def test_a_change_of_state_meanwhile_is_known_and_shown(network: Network) -> None:
    here, there, room_id, guest = await invited(network)
    await say(here, room_id, "maker", "one")
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.topic",
        state_key="",
        content={"topic": "thorns"},
        txn="t1",
        trace=trace(),
    )
    await say(here, room_id, "maker", "two")
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    assert await told(there) == ["invite", "one", "m.room.topic", "two", "join"]
    assert (await there.backend.room(room_id)).topic == "thorns"


async def test_memberships_meanwhile_are_no_news(network: Network) -> None:
    here, there, room_id, guest = await invited(network)
    await here.backend.invite(
        room_id=room_id,
        sender=here.user("maker"),
        target=here.user("friend"),
        txn="i2",
    )
    await say(here, room_id, "maker", "one")
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    assert await told(there) == ["invite", "one", "join"]


async def test_a_peer_that_does_not_tell_does_not_keep_us_out(network: Network) -> None:
    here, there, room_id, guest = await invited(network)
    await say(here, room_id, "maker", "one")
    network.lose_answer = lambda endpoint, peer: endpoint == "get_missing_events"
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    await network.deliver()
    assert await told(there) == ["invite", "join"]
    await say(here, room_id, "maker", "two")
    await network.deliver()
    assert await heard(there, room_id) == ["two"]


async def test_a_forged_event_is_left_out(network: Network) -> None:
    here, there, room_id, guest = await invited(network)
    await say(here, room_id, "maker", "one")
    await say(here, room_id, "maker", "two")

    def change_first(endpoint: str, answer: object) -> object:
        if endpoint == "get_missing_events" and isinstance(answer, list):
            answer[0] = {**answer[0], "sender": str(guest)}
        return answer

    network.tamper = change_first
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    assert await told(there) == ["invite", "two", "join"]


async def test_what_is_written_beside_the_join_is_fetched(network: Network) -> None:
    here, there, room_id, guest = await invited(network)

    async def say_meanwhile(endpoint: str) -> None:
        if endpoint == "send_join":
            network.after_answer = None
            await say(here, room_id, "maker", "while you came in")

    network.after_answer = say_meanwhile
    network.lose_pdu = lambda peer, pdu: True
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    await there.rooms.receiver.work_off_due()
    assert await told(there) == ["invite", "join", "while you came in"]


async def test_a_moment_later_it_looks_again(network: Network, clock: FakeClock) -> None:
    here, there, room_id, guest = await invited(network)
    network.lose_pdu = lambda peer, pdu: True
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    await say(here, room_id, "maker", "just missed")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(there.rooms.handshake.run())
        while "just missed" not in await told(there):
            await clock.advance(AGAIN_AFTER_S)
            await there.rooms.receiver.work_off_due()
        running.cancel()
    assert await told(there) == ["invite", "join", "just missed"]
