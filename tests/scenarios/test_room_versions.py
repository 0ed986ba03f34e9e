"""Rooms of every version that a real Synapse still makes and we take part in, entered from XMPP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bridge.demo.servers import Prosody, Synapse
from bridge.ids import RoomVersionId
from tests.support.gateway import Gateway, signing_key_of_synapse, verify
from tests.support.matrix_side import until
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


@pytest.mark.parametrize("version", ["1", "2"])
async def test_a_room_whose_servers_name_its_events_is_lived_in(
    version: str,
    gateway: Gateway,
    prosody_pair: tuple[Prosody, Prosody],
    synapse: Synapse,
    other_synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    """Redaction, leave and return, an invite of one of our people, a server that enters by us."""
    alice = await matrix_person(synapse, f"alice-old{version}")
    bob = await matrix_person(other_synapse, f"bob-old{version}")
    juliet = await xmpp_person(prosody_pair[0], f"juliet-old{version}")
    ghost = gateway.ghost(juliet.address)
    room_id = await alice.create_room(name="Older walls", preset="private_chat", version=version)
    room = gateway.address(room_id)
    await alice.invite(room_id, ghost)
    assert gateway.room_version(room_id) == version
    await juliet.enter(room, "Juliet", timeout_s=40)
    await alice.see_membership(room_id, ghost, "join", timeout_s=20)
    said = juliet.say_in(room, "a word too many")
    await juliet.reflection(said)
    heard = await alice.hear("a word too many", room=room_id)

    # Of another server: by the redact level, which alice has.
    await alice.redact(room_id, heard.event_id)
    await _comes_true(lambda: _is_redacted(gateway, heard.event_id))
    own = await alice.say(room_id, "nor this")
    await juliet.hear("nor this", sender=room)
    await alice.redact(room_id, own)
    await _comes_true(lambda: _is_redacted(gateway, own))

    # Nobody of ours is in the room while something is said: that is fetched at the return.
    await alice.kick(room_id, ghost, "a walk")
    assert 307 in (await juliet.see_go(room, "Juliet")).statuses
    await alice.say(room_id, "while you were out")
    await alice.invite(room_id, ghost)
    entry = await juliet.enter(room, "Juliet", timeout_s=40)
    assert "while you were out" in [stanza.body for stanza in entry.history]
    await alice.say(room_id, "welcome back")
    await juliet.hear("welcome back", sender=room)

    # A third server comes in, and is let in by us.
    await alice.set_state(room_id, "m.room.join_rules", {"join_rule": "public"})
    await _comes_true(
        lambda: any(
            event.json["type"] == "m.room.join_rules"
            and event.json["content"]["join_rule"] == "public"
            for event in gateway.events(room_id)
        )
    )
    await bob.join(room_id, via=[gateway.server_name])
    await alice.see_membership(room_id, bob.user_id, "join", timeout_s=20)
    await bob.say(room_id, "from the third")
    await juliet.hear("from the third", sender=room)
    said = juliet.say_in(room, "hello to both")
    await juliet.reflection(said)
    await alice.hear("hello to both", room=room_id)
    await bob.hear("hello to both", room=room_id)

    keys = {
        gateway.server_name: gateway.signing_key,
        synapse.server_name: signing_key_of_synapse(synapse.folder),
        other_synapse.server_name: signing_key_of_synapse(other_synapse.folder),
    }
    for event in gateway.events(room_id):
        assert event.verdict == "accepted"
        if not _is_redacted(gateway, event.event_id):
            verify(event, RoomVersionId(version), keys)


async def _comes_true(is_so: Callable[[], bool]) -> None:
    async def look() -> bool:
        return is_so()

    await until(look)


def _is_redacted(gateway: Gateway, event_id: str) -> bool:
    event = gateway.event(event_id)
    return (
        event is not None and event.json["type"] == "m.room.message" and not event.json["content"]
    )
