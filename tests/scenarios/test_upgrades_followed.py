"""Rooms that a real Synapse upgrades, followed by people of two federated Prosodys and of MUCs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import pytest_asyncio

from bridge.adapters.xmpp.addresses import to_uri
from bridge.adapters.xmpp.jid import Jid
from bridge.demo.people import MatrixPerson, Muc, Stanza, XmppPerson
from bridge.demo.people.stanza import MUC_USER, STANZAS, client_tag
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from bridge.errors import Refused
from bridge.identity import localparts
from tests.support.chats import ARRIVAL_S, ask_in_room, bodies, open_bot_chat, said_in
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

FOLLOW_S = 45.0
DISCO_INFO = "http://jabber.org/protocol/disco#info"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    prosody_pair: tuple[Prosody, Prosody], synapse: Synapse, certificates: CertificateAuthority
) -> AsyncIterator[Gateway]:
    permissions = {synapse.server_name: "admin", "a.test": "user", "b.test": "user"}
    settings = {"permissions": permissions}
    async with Gateway(prosody_pair[0], certificates, settings=settings) as server:
        yield server


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


async def test_isthmus_dies_between_the_tombstone_and_the_invitation_and_follows_all_the_same(
    scene: Scene,
) -> None:
    gateway, alice, juliet, room = scene.gateway, scene.alice, scene.juliet, scene.room
    await juliet.enter(room, "Juliet")
    await alice.set_state(scene.room_id, "m.room.join_rules", {"join_rule": "invite"})
    await alice.say(scene.room_id, "before")
    await juliet.hear("before", sender=room)
    start = juliet.position
    successor = await alice.upgrade(scene.room_id, "11")
    await until(lambda: _move_status(gateway, scene.room_id) == "moving")
    await gateway.kill()
    await alice.say(successor, "first")
    await gateway.start()
    await alice.invite(successor, gateway.ghost(juliet.address))
    await see_moved(juliet, room)
    await alice.say(successor, "after")
    await juliet.hear("after", sender=room)
    said = juliet.say_in(room, "here I am")
    await juliet.reflection(said)
    await alice.hear("here I am", room=successor)
    lines = [line for line in said_in(juliet, room, start) if "upgraded" not in line]
    assert [line for line in lines if "replaced" not in line] == ["first", "after", "here I am"]


async def test_a_tombstone_that_leads_to_a_strange_room_moves_nobody(scene: Scene) -> None:
    gateway, alice, juliet, room = scene.gateway, scene.alice, scene.juliet, scene.room
    await juliet.enter(room, "Juliet")
    trap = await alice.create_room(name="Trap", preset="public_chat")
    await alice.set_state(
        scene.room_id, "m.room.tombstone", {"body": "come", "replacement_room": trap}
    )
    await juliet.wait_for(
        lambda stanza: (
            stanza.type == "groupchat" and stanza.sender == room and trap in (stanza.body or "")
        ),
        what="a word about the tombstone",
        timeout_s=FOLLOW_S,
    )
    await until(lambda: _move_status(gateway, scene.room_id) == "refused")
    ghost = gateway.ghost(juliet.address)
    await gateway.see_membership(ghost, trap, "leave")
    await alice.see_membership(trap, ghost, "leave")
    await alice.say(scene.room_id, "who is still here?")
    await juliet.hear("who is still here?", sender=room)
    said = juliet.say_in(room, "all of us")
    await juliet.reflection(said)
    await alice.hear("all of us", room=scene.room_id)
    assert not [one for one in juliet.transcript if one.type == "unavailable"]


async def test_a_direct_chat_goes_on_in_its_successor(scene: Scene) -> None:
    gateway, alice, juliet = scene.gateway, scene.alice, scene.juliet
    ghost, address = gateway.ghost(juliet.address), gateway.address(scene.alice.user_id)
    room_id = await alice.create_direct(ghost)
    await alice.see_membership(room_id, ghost, "join")
    await alice.say(room_id, "before")
    await juliet.hear("before", sender=address)
    juliet.say(address, "before, too")
    await alice.hear("before, too", room=room_id, sender=ghost)

    successor = await alice.upgrade(room_id, "11")
    await alice.say(successor, "first")
    await alice.invite(successor, ghost)
    await alice.see_membership(successor, ghost, "join", timeout_s=FOLLOW_S)
    await juliet.hear("first", sender=address, timeout_s=FOLLOW_S)
    juliet.say(address, "hello again")
    await alice.hear("hello again", room=successor, sender=ghost)
    await alice.say(successor, "after")
    await juliet.hear("after", sender=address)
    heard = [s.body for s in juliet.transcript if s.bare_sender == address and s.body]
    assert heard == ["before", "first", "after"]
    said = bodies(list(alice.transcript), successor, ghost)
    assert said == ["hello again"]


async def test_a_plumbed_room_is_followed_while_everybody_talks_on(
    scene: Scene, prosody_pair: tuple[Prosody, Prosody]
) -> None:
    gateway, alice = scene.gateway, scene.alice
    label = scene.room.partition("%")[0].rpartition("-")[2]
    chat = f"coven-{label}@{prosody_pair[0].muc_domain}"
    romeo = Muc(scene.juliet, chat)
    await romeo.enter("Romeo")
    room_id = scene.room_id
    await alice.invite(room_id, gateway.bot_id)
    await alice.see_membership(room_id, gateway.bot_id, "join", timeout_s=ARRIVAL_S)
    levels = {"users": {alice.user_id: 100, gateway.bot_id: 50}}
    await alice.set_state(room_id, "m.room.power_levels", levels)
    await ask_in_room(alice, gateway, room_id, f"!isthmus plumb {chat}", expect="are bridged")
    await romeo.see_arrive("Alice", timeout_s=ARRIVAL_S)
    romeo.say("good evening")
    await alice.hear("good evening", room=room_id, timeout_s=ARRIVAL_S)
    start = romeo.person.position

    ups: list[str] = []
    is_over = asyncio.Event()

    async def talk_up() -> None:
        while not is_over.is_set():
            ups.append(f"up {len(ups)}")
            romeo.say(ups[-1])
            await asyncio.sleep(0.2)

    async def talk_down(until_done: asyncio.Event) -> None:
        number = 0
        while not until_done.is_set():
            await alice.say(room_id, f"down {number}")
            number += 1
            await asyncio.sleep(0.1)

    upgraded = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(talk_up())
        tasks.create_task(talk_down(upgraded))
        await asyncio.sleep(1.0)
        successor = await alice.upgrade(room_id, "11")
        upgraded.set()
        for number in range(5):
            await alice.say(successor, f"on {number}")
        await romeo.person.hear("on 4", sender=chat, timeout_s=FOLLOW_S)
        await asyncio.sleep(1.0)
        is_over.set()
    for up in ups:
        await alice.hear(up, timeout_s=FOLLOW_S)

    # What came before the tombstone went out, and everything in the successor: once, in order.
    past = [
        (json.loads(text)["type"], json.loads(text)["content"].get("body"))
        for (text,) in gateway.query(
            "SELECT events.json FROM stream_events JOIN events USING (event_id)"
            " WHERE events.room_id = ? ORDER BY position",
            room_id,
        )
    ]
    upto = [type for type, _ in past].index("m.room.tombstone")
    said = [body for _, body in past[:upto] if str(body).startswith("down")]
    late = [body for _, body in past[upto:] if str(body).startswith("down")]
    heard = [line for line in said_in(romeo.person, chat, start) if line[:3] != "up "]
    assert said
    assert heard == [*said, *(f"on {number}" for number in range(5))]
    await alice.wait_for(
        lambda _: (
            len([s for s in alice.transcript if "is not carried to" in (s.body or "")]) == len(late)
        ),
        what="the word that nothing is carried from here any more",
    )
    arrived = [
        body
        for room in (room_id, successor)
        for body in bodies(list(alice.transcript), room)
        if body.startswith("up ")
    ]
    # What crossed the upgrade on its way is said again in the successor, behind what is newer.
    assert sorted(arrived, key=ups.index) == ups
    again = gateway.query(
        "SELECT count(*) FROM local_transactions WHERE transaction_id LIKE ?", "%.note.again/%"
    )
    assert len([a for a, b in pairwise(arrived) if ups.index(a) > ups.index(b)]) <= again[0][0]
    # She never left the chat, and the successor says what it is bridged to.
    gone = [s for s in romeo.person.transcript.since(start) if s.type == "unavailable"]
    assert not gone
    assert [t for t, _ in await alice.state(successor) if t == "uk.half-shot.bridge"]


async def test_the_room_of_a_muc_is_upgraded_by_command_and_followed(
    scene: Scene, prosody_pair: tuple[Prosody, Prosody]
) -> None:
    gateway, alice = scene.gateway, scene.alice
    label = scene.room.partition("%")[0].rpartition("-")[2]
    romeo = Muc(scene.juliet, f"coven-{label}@{prosody_pair[0].muc_domain}")
    await romeo.enter("Romeo")
    alias = localparts.alias_for(romeo.address, gateway.server_name)
    room_id = await alice.join(alias)
    await romeo.see_arrive("Alice", timeout_s=ARRIVAL_S)
    romeo.say("good evening")
    await alice.hear("good evening", room=room_id, timeout_s=ARRIVAL_S)
    start = romeo.person.position

    bot_room = await open_bot_chat(alice, gateway)
    await ask_in_room(alice, gateway, bot_room, f"upgrade {room_id} 11", expect="!")
    tombstone = await alice.wait_for(
        lambda seen: seen.room_id == room_id and seen.type == "m.room.tombstone",
        what="the tombstone",
    )
    successor = str(tombstone.content["replacement_room"])
    await until(lambda: _move_status(gateway, room_id) == "moved")
    romeo.say("is anybody here?")
    assert await alice.join(alias) == successor
    await alice.say(successor, "I am")
    heard = await romeo.person.hear("I am", sender=romeo.address, timeout_s=ARRIVAL_S)
    assert heard.nickname == "Alice"
    romeo.say("so am I")
    await alice.hear("so am I", room=successor, timeout_s=ARRIVAL_S)
    said = [event["content"].get("body") for event in await alice.messages(successor)]
    assert said.count("is anybody here?") == 1
    assert not [s for s in romeo.person.transcript.since(start) if s.type == "unavailable"]


def _move_status(gateway: Gateway, room_id: str) -> str | None:
    rows = gateway.query("SELECT status FROM portals WHERE kind = 'moved' AND chat = ?", room_id)
    return str(rows[0][0]) if rows else None


async def until(look: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not look():
            await asyncio.sleep(0.05)
