"""Rooms of every version that a real Synapse still makes and we take part in, entered from XMPP."""

from __future__ import annotations

import pytest

from bridge.demo.servers import Prosody, Synapse
from bridge.ids import RoomVersionId
from tests.support.gateway import Gateway, signing_key_of_synapse, verify
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson


@pytest.mark.parametrize("version", ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"])
async def test_people_of_both_sides_talk_in_a_room_of_any_version(
    version: str,
    gateway: Gateway,
    prosody_pair: tuple[Prosody, Prosody],
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, f"alice-v{version}")
    juliet = await xmpp_person(prosody_pair[0], f"juliet-v{version}")
    alias = f"version-{version}"
    room_id = await alice.create_room(
        name="Old walls", alias=alias, preset="public_chat", version=version
    )
    await alice.say(room_id, "before you came")
    room = gateway.address(f"#{alias}:{synapse.server_name}")
    entry = await juliet.enter(room, "Juliet", timeout_s=40)
    assert "before you came" in [stanza.body for stanza in entry.history]
    await alice.see_membership(room_id, gateway.ghost(juliet.address), "join", timeout_s=20)

    said = juliet.say_in(room, f"hello, version {version}")
    await juliet.reflection(said)
    await alice.hear(f"hello, version {version}", room=room_id)
    await alice.say(room_id, "well met")
    await juliet.hear("well met", sender=room)
    await alice.set_state(room_id, "m.room.topic", {"topic": "bricks"})
    await juliet.wait_for(lambda stanza: stanza.subject == "bricks", what="the topic")
    await alice.kick(room_id, gateway.ghost(juliet.address), "closing time")
    gone = await juliet.see_go(room, "Juliet")
    assert 307 in gone.statuses

    assert gateway.room_version(room_id) == version
    keys = {
        gateway.server_name: gateway.signing_key,
        synapse.server_name: signing_key_of_synapse(synapse.folder),
    }
    stored = [event for event in gateway.events(room_id) if event.verdict == "accepted"]
    assert len(stored) >= 10
    for event in stored:
        verify(event, RoomVersionId(version), keys)
