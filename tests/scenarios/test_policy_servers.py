"""A room that names a policy server, with a real Synapse in it: each of us believes what the policy
server has signed for the other, and what it refuses reaches nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.demo.people import MatrixFailed
from bridge.demo.servers import Synapse
from bridge.engine.policy_server import POLICY_KEY
from tests.support.gateway import Gateway
from tests.support.peer import FakePeer
from tests.support.servers import MakeMatrixPerson


@pytest.mark.timeout(180)
async def test_synapse_and_we_send_what_the_policy_server_signs_and_nothing_else(
    gateway: Gateway, synapse: Synapse, peer: FakePeer, matrix_person: MakeMatrixPerson
) -> None:
    alice = await matrix_person(synapse, "alice_policy")
    eve = peer.user("eve")
    room = peer.make_room(eve)
    peer.extend(room, eve, "m.room.join_rules", {"join_rule": "public"}, state_key="")
    await alice.join(room.room_id, via=[peer.name])
    known = len(room.events)
    invite = {"membership": "invite"}
    pdu = peer.build(room, eve, "m.room.member", invite, state_key=gateway.bot_id)
    status, answer = await peer.invite(gateway.server_name, room, pdu)
    assert status == 200, answer
    await gateway.see_membership(gateway.bot_id, room.room_id, "join")
    await greeted(peer)
    names = {"via": peer.name, "public_keys": {"ed25519": peer.policy_key.verify_key_base64}}
    policy = peer.extend(room, eve, "m.room.policy", names, state_key="")
    for server in (synapse.server_name, gateway.server_name):
        news = [one.wire() for one in room.events[known:] if one.type != "m.room.message"]
        verdicts = await peer.send(server, *news)
        assert verdicts[policy.event_id] == {}
    await alice.see_membership(room.room_id, gateway.bot_id, "join")

    # Ours, asked for by hers: both signed, each verified by the other.
    said = await alice.say(room.room_id, "!isthmus help")
    heard = await alice.wait_for(
        lambda seen: seen.sender == gateway.bot_id and "You can write to me" in (seen.body or ""),
        what="the answer",
    )
    assert heard.event_id is not None
    for event_id in (said, heard.event_id):
        stored = gateway.event(event_id)
        assert stored is not None
        assert stored.verdict == "accepted"
        assert POLICY_KEY in stored.json["signatures"][peer.name]

    def recommends(json: Any) -> bool:
        body = str(json["content"].get("body"))
        return json["sender"] != gateway.bot_id and "spam" not in body

    peer.recommends = recommends
    with pytest.raises(MatrixFailed, match="calls this spam"):
        await alice.say(room.room_id, "buy spam")
    before = len(gateway.events(room.room_id))
    await alice.say(room.room_id, "!isthmus whois me")
    await gateway.wait_for_log("the policy server calls this spam")
    assert len(gateway.events(room.room_id)) == before + 1


async def greeted(peer: FakePeer) -> None:
    """What the bot says first has come: from now on it is silent until it is asked."""
    async with asyncio.timeout(20):
        while not any(pdu["type"] == "m.room.message" for pdu in peer.received):
            await asyncio.sleep(0.05)
