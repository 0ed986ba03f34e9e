"""Rooms that a real Synapse upgrades, followed by people of two federated Prosodys and of MUCs."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import pytest

from bridge.adapters.xmpp.addresses import to_uri
from bridge.adapters.xmpp.jid import Jid
from bridge.demo.people import MatrixPerson, Stanza, XmppPerson
from bridge.demo.people.stanza import MUC_USER, STANZAS, client_tag
from bridge.demo.servers import Prosody, Synapse
from bridge.errors import Refused
from tests.support.chats import said_in
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

FOLLOW_S = 45.0
DISCO_INFO = "http://jabber.org/protocol/disco#info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Alice on Synapse with a public room; Juliet on our Prosody, Romeo on the other one."""

    gateway: Gateway
    alice: MatrixPerson
    juliet: XmppPerson
    romeo: XmppPerson
    room_id: str
    room: str
    """By its alias."""

    async def upgrade(self, version: str = "11") -> str:
        """Returns when Juliet and Romeo are members of the successor."""
        successor = await self.alice.upgrade(self.room_id, version)
        for person in (self.juliet, self.romeo):
            await self.gateway.see_membership(
                self.gateway.ghost(person.address), successor, "join", timeout_s=FOLLOW_S
            )
        return successor


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest,
    gateway: Gateway,
    prosody_pair: tuple[Prosody, Prosody],
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> Scene:
    """People of this test alone."""
    label = hashlib.sha256(request.node.name.encode()).hexdigest()[:6]
    alice = await matrix_person(synapse, f"alice-{label}")
    await alice.set_display_name("Alice")
    juliet = await xmpp_person(prosody_pair[0], f"juliet-{label}")
    romeo = await xmpp_person(prosody_pair[1], f"romeo-{label}")
    alias = f"garden-{label}"
    room_id = await alice.create_room(
        name="The Garden", topic="Flowers", alias=alias, preset="public_chat", version="10"
    )
    return Scene(
        gateway=gateway,
        alice=alice,
        juliet=juliet,
        romeo=romeo,
        room_id=room_id,
        room=gateway.address(f"#{alias}:{synapse.server_name}"),
    )


async def see_destroyed(person: XmppPerson, room: str) -> str:
    """The room goes for this client; where it goes on."""
    seen = await person.wait_for(
        lambda stanza: (
            stanza.kind == "presence"
            and stanza.type == "unavailable"
            and stanza.bare_sender == room
            and _alternative(stanza) is not None
        ),
        what="the end of the room with an alternative",
        timeout_s=FOLLOW_S,
    )
    assert 110 in seen.statuses
    return _alternative(seen) or ""


def _alternative(stanza: Stanza) -> str | None:
    found = stanza.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}destroy")
    return None if found is None else found.get("jid")


def _gone_to(stanza: Stanza) -> str | None:
    found = stanza.find(f"{client_tag('error')}/{{{STANZAS}}}gone")
    return None if found is None else found.text


async def see_moved(person: XmppPerson, room: str) -> None:
    await person.wait_for(
        lambda stanza: (
            stanza.type == "groupchat" and stanza.sender == room and 104 in stanza.statuses
        ),
        what="the room's new configuration",
        timeout_s=FOLLOW_S,
    )


async def test_sessions_under_the_alias_move_silently_and_all_talk_on(scene: Scene) -> None:
    alice, juliet, romeo, room = scene.alice, scene.juliet, scene.romeo, scene.room
    await juliet.enter(room, "Juliet")
    await romeo.enter(room, "Romeo", timeout_s=30)
    await alice.say(scene.room_id, "in the old garden")
    await juliet.hear("in the old garden", sender=room)
    await romeo.hear("in the old garden", sender=room)
    start = juliet.position

    successor = await scene.upgrade()
    for person in (juliet, romeo):
        await see_moved(person, room)

    await alice.say(successor, "in the new garden")
    for person in (juliet, romeo):
        heard = await person.hear("in the new garden", sender=room)
        assert heard.nickname == "Alice"
    said = juliet.say_in(room, "roses here, too")
    reflected = await juliet.reflection(said)
    event = await alice.hear("roses here, too", room=successor)
    assert event.sender == scene.gateway.ghost(juliet.address)
    assert reflected.stanza_ids[room] == event.event_id
    assert (await romeo.hear("roses here, too", sender=room)).nickname == "Juliet"
    romeo.say_in(room, "and lilies")
    await alice.hear("and lilies", room=successor)
    await juliet.hear("and lilies", sender=room)

    # Nobody was told to go, and one line of the gateway's own was said.
    since = juliet.transcript.since(start)
    assert not [s for s in since if s.type == "unavailable" and 110 in s.statuses]
    assert len([s for s in since if s.type == "groupchat" and s.sender == room and s.body]) == 1
    lines = ["in the new garden", "roses here, too", "and lilies"]
    assert [line for line in said_in(juliet, room, start) if "upgraded" not in line] == lines

    # The past of the address is that of both rooms.
    await romeo.exit(room)
    again = await romeo.enter(room, "Romeo", timeout_s=30)
    assert [one.body for one in again.history] == ["in the old garden", *lines]
    assert again.subject.subject == "Flowers"


async def test_sessions_under_a_room_id_are_told_the_new_address_and_go_on_there(
    scene: Scene,
) -> None:
    gateway, alice, juliet, romeo = scene.gateway, scene.alice, scene.juliet, scene.romeo
    old = gateway.address(scene.room_id)
    await juliet.enter(old, "Juliet")
    await romeo.enter(scene.room, "Romeo", timeout_s=30)
    await alice.say(scene.room_id, "in the old garden")
    await juliet.hear("in the old garden", sender=old)

    successor = await scene.upgrade()
    address = await see_destroyed(juliet, old)
    assert address == scene.room
    await see_moved(romeo, scene.room)
    entry = await juliet.enter(address, "Juliet")
    assert "in the old garden" in [one.body for one in entry.history]
    await alice.say(successor, "in the new garden")
    await juliet.hear("in the new garden", sender=address)
    said = juliet.say_in(address, "roses here, too")
    await juliet.reflection(said)
    await alice.hear("roses here, too", room=successor)
    await romeo.hear("roses here, too", sender=address)

    # Who comes by the old ID is told, too, and so is who asks about it.
    uri = to_uri(Jid.parse(address), "join")
    start = juliet.position
    with pytest.raises(Refused) as refusal:
        await juliet.enter(old, "Juliet")
    assert refusal.value.rule == "gone"
    with pytest.raises(Refused) as refusal:
        await juliet.ask(old, ET.Element(f"{{{DISCO_INFO}}}query"))
    assert refusal.value.rule == "gone"
    errors = [one for one in juliet.transcript.since(start) if one.type == "error"]
    assert [_gone_to(one) for one in errors] == [uri, uri]
