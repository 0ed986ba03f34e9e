"""A peer that answers old events for ever makes neither our sends fail nor the room slower."""

from __future__ import annotations

from bridge.rooms.bounds import DEFAULTS
from tests.support.network import Network
from tests.support.talk import forge, heard, room_at, say, two_in_a_room

MAX_EXTREMITIES = DEFAULTS.extremities
MAX_PREV_EVENTS = DEFAULTS.prev_events


async def test_messages_beside_each_other_are_few_extremities(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    old = list((await room_at(here, room_id)).extremities.items())
    for number in range(MAX_EXTREMITIES + 15):
        content = {"msgtype": "m.text", "body": f"{number}"}
        pdu = await forge(network, there, room_id, there.user("guest"), content=content, on=old)
        assert await network.hand_over(there.name, here.name, [pdu.wire()]) == {pdu.event_id: {}}
    before = await room_at(here, room_id)
    assert len(before.extremities) == MAX_EXTREMITIES
    event_id = await say(here, room_id, "maker", "enough")
    after = await room_at(here, room_id)
    pdu = (await here.rooms.queries.streamed([event_id]))[event_id].pdu
    assert len(pdu.prev_events) == MAX_PREV_EVENTS
    assert len(after.extremities) == MAX_EXTREMITIES - MAX_PREV_EVENTS + 1
    assert after.state == before.state
    assert len(await heard(here, room_id)) == MAX_EXTREMITIES + 16


async def test_many_states_beside_each_other_are_joined_by_our_next_events(
    network: Network,
) -> None:
    here, there, room_id = await two_in_a_room(network)
    old = list((await room_at(here, room_id)).extremities.items())
    guest, many = there.user("guest"), MAX_EXTREMITIES + 5
    for number in range(many):
        pdu = await forge(
            network,
            there,
            room_id,
            guest,
            type="m.room.member",
            content={"membership": "join", "displayname": f"Guest {number}"},
            state_key=guest,
            on=[(old[0][0], 2**53 - 2 if number % 2 else old[0][1])],
        )
        assert await network.hand_over(there.name, here.name, [pdu.wire()]) == {pdu.event_id: {}}
    assert len((await room_at(here, room_id)).extremities) == many
    for number in range(3):
        event_id = await say(here, room_id, "maker", f"still here {number}")
        pdu = (await here.rooms.queries.streamed([event_id]))[event_id].pdu
        assert len(pdu.prev_events) <= MAX_PREV_EVENTS
    room = await room_at(here, room_id)
    assert len(room.extremities) == 1
    member = await here.backend.member(room_id, guest)
    assert member is not None
    assert member.membership == "join"
    assert dict((await room_at(here, room_id)).state) == dict(room.state)
