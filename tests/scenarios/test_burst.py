"""A burst of messages from XMPP reaches every client of a Synapse, which throws away what it cannot
stage (`bridge/federation/sender.py`)."""

from __future__ import annotations

import asyncio

import pytest

from bridge.demo.servers import Prosody, Synapse
from tests.support.gateway import Gateway
from tests.support.room_client import RoomClient
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

MESSAGES = 1_000


@pytest.mark.timeout(400)
async def test_a_burst_of_a_thousand_reaches_every_client_once_and_in_order(
    gateway: Gateway,
    prosody_pair: tuple[Prosody, Prosody],
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    people = [await matrix_person(synapse, name) for name in ("alice", "bob")]
    juliet = await xmpp_person(prosody_pair[0], "juliet")
    room_id = await people[0].create_room(alias="burst", preset="public_chat")
    await people[1].join(room_id)
    room = gateway.address(f"#burst:{synapse.server_name}")
    await juliet.enter(room, "Juliet", timeout_s=30)
    for person in people:
        await person.see_membership(room_id, gateway.ghost(juliet.address), "join", timeout_s=30)

    clients = [RoomClient(person, room_id) for person in people]
    for client in clients:
        await client.sync()
    expected = [f"burst {number}" for number in range(MESSAGES)]
    for body in expected:
        juliet.say_in(room, body)
    async with asyncio.timeout(350), asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(one.read(expected[-1:])) for one in clients]
    print(f"asked for besides: {[one.left_out for one in clients]}")
    for read in reading:
        assert read.result() == expected
    reflected = [
        stanza.body
        for stanza in juliet.transcript
        if stanza.type == "groupchat" and stanza.bare_sender == room and stanza.body is not None
    ]
    assert reflected == expected
