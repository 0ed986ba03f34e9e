"""Typing, read receipts and presence between us, a real Synapse, and people on a real Prosody."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from bridge.demo.people import MatrixPerson, XmppPerson
from bridge.demo.people.stanza import client_tag
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from bridge.engine.edu import Receipt, TypingEdu
from bridge.ids import EventId, RoomId, UserId
from bridge.rooms.passing import UserPresence
from tests.support.gateway import Gateway
from tests.support.matrix_side import MatrixSide, matrix_sides, until
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

Pair = tuple[Prosody, Prosody]
CHAT_STATES = "http://jabber.org/protocol/chatstates"
STOPPED = ("paused", "active")
MARKERS = "urn:xmpp:chat-markers:0"
CLIENT_API = "/_matrix/client/v3"


@asynccontextmanager
async def our_side(
    certificates: CertificateAuthority, folder: Path, template: Path
) -> AsyncIterator[MatrixSide]:
    async with matrix_sides(certificates, folder, template, 1) as (side,):
        yield side


async def set_presence(alice: MatrixPerson, presence: str, status: str) -> None:
    path = f"{CLIENT_API}/presence/{quote(alice.user_id, safe='')}/status"
    await alice.request("PUT", path, {"presence": presence, "status_msg": status})


async def read_in_thread(alice: MatrixPerson, room: str, event_id: str, thread: str) -> None:
    path = f"{CLIENT_API}/rooms/{quote(room, safe='')}/receipt/m.read/{quote(event_id, safe='')}"
    await alice.request("POST", path, {"thread_id": thread})


async def see_typing(
    alice: MatrixPerson, room: str, users: list[str], *, since: int, timeout_s: float = 15.0
) -> None:
    await alice.wait_for(
        lambda seen: (
            seen.type == "m.typing"
            and seen.room_id == room
            and sorted(seen.content["user_ids"]) == sorted(users)
        ),
        what=f"{users} typing",
        since=since,
        timeout_s=timeout_s,
    )


async def see_read(
    alice: MatrixPerson, room: str, event_id: str, user: str, *, thread: str | None = None
) -> None:
    def is_it(content: dict[str, object]) -> bool:
        kinds = content.get(event_id)
        read = kinds.get("m.read") if isinstance(kinds, dict) else None
        entry = read.get(user) if isinstance(read, dict) else None
        return isinstance(entry, dict) and entry.get("thread_id") == thread

    await alice.wait_for(
        lambda seen: seen.type == "m.receipt" and seen.room_id == room and is_it(seen.content),
        what=f"{user} has read {event_id} ({thread})",
    )


async def see_presence(
    alice: MatrixPerson, user: str, presence: str, status: str | None = None, *, since: int = 0
) -> None:
    await alice.wait_for(
        lambda seen: (
            seen.section == "presence"
            and seen.sender == user
            and seen.content.get("presence") == presence
            and seen.content.get("status_msg") == status
        ),
        what=f"{user} {presence}",
        since=since,
    )


async def test_all_three_cross_between_us_and_a_synapse(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice"), us.user("bob")
        her = UserId(alice.user_id)
        ephemeral = us.rooms.ephemeral
        ephemeral.presence.set(bob, "online", status="in the garden")
        room = await us.create_room(bob, name="Garden")
        await us.invite(room, bob, her)
        await alice.see_invite(sender=bob)
        await alice.join(room)
        await us.wait_for_membership(room, her, "join")

        # Her server is told of whoever is there when it comes in.
        await see_presence(alice, bob, "online", "in the garden")
        await see_typing_both_ways(us, alice, bob, room)
        await see_receipts_both_ways(us, alice, bob, room)

        ephemeral.presence.set(bob, "unavailable", status="at tea")
        await see_presence(alice, bob, "unavailable", "at tea")
        await set_presence(alice, "online", "reading")

        async def told(status: str, presence: str) -> bool:
            return any(
                (one.user_id, one.presence, one.status) == (her, presence, status)
                for one in us.changes
                if isinstance(one, UserPresence)
            )

        await until(lambda: told("reading", "online"))
        await set_presence(alice, "unavailable", "asleep")
        await until(lambda: told("asleep", "unavailable"))
        ephemeral.presence.set(bob, "offline")
        await see_presence(alice, bob, "offline")


async def see_typing_both_ways(
    us: MatrixSide, alice: MatrixPerson, bob: UserId, room: RoomId
) -> None:
    typing = us.rooms.ephemeral.typing
    for _ in range(2):  # the same again is no repetition
        start = alice.position
        await typing.set(room, bob, True)
        await see_typing(alice, room, [bob], since=start)
        start = alice.position
        await typing.set(room, bob, False)
        await see_typing(alice, room, [], since=start)
    for expected in (True, False):
        await alice.set_typing(room, expected)
        edu = TypingEdu(room_id=room, user_id=UserId(alice.user_id), typing=expected)
        await wait_until_told(us, edu)


async def see_receipts_both_ways(
    us: MatrixSide, alice: MatrixPerson, bob: UserId, room: RoomId
) -> None:
    receipts = us.rooms.ephemeral.receipts
    asked = EventId(await alice.say(room, "have you seen the roses?"))
    await us.wait_for_bodies(room, ["have you seen the roses?"])
    await receipts.read_up_to(room, bob, asked)
    await see_read(alice, room, asked, bob)
    await receipts.read_up_to(room, bob, asked, thread_id="main")
    await see_read(alice, room, asked, bob, thread="main")

    answered = await us.say(room, bob, "I have")
    await alice.hear("I have", room=room)
    await alice.mark_read(room, answered)

    async def told(thread: str | None) -> bool:
        return any(
            (one.user_id, one.event_id, one.thread_id) == (alice.user_id, answered, thread)
            for one in us.changes
            if isinstance(one, Receipt)
        )

    await until(lambda: told(None))
    await read_in_thread(alice, room, answered, "main")
    await until(lambda: told("main"))
    rows = await receipts.of_room(room)
    assert {(row.user_id, row.event_id, row.thread_id) for row in rows} == {
        (bob, asked, None),
        (bob, asked, "main"),
        (alice.user_id, answered, None),
        (alice.user_id, answered, "main"),
    }


async def test_what_bob_read_while_synapse_was_down_it_hears_of(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice_away"), us.user("bob")
        room = await us.create_room(bob, name="Attic")
        await us.invite(room, bob, UserId(alice.user_id))
        await alice.see_invite(sender=bob)
        await alice.join(room)
        await us.wait_for_membership(room, UserId(alice.user_id), "join")
        first = EventId(await alice.say(room, "one"))
        second = EventId(await alice.say(room, "two"))
        await us.wait_for_bodies(room, ["one", "two"])
        await synapse.stop()
        await us.rooms.ephemeral.receipts.read_up_to(room, bob, first)
        await us.rooms.ephemeral.receipts.read_up_to(room, bob, second)
        await us.restart()
        await synapse.start()
        await see_read(alice, room, second, bob)


async def wait_until_told(us: MatrixSide, change: TypingEdu) -> None:
    async def look() -> bool:
        return change in us.changes

    await until(look)


# --- through the gateway --------------------------------------------------------------------------


def chat_state(person: XmppPerson, to: str, state: str) -> None:
    message = ET.Element(client_tag("message"), {"to": to, "type": "chat"})
    ET.SubElement(message, f"{{{CHAT_STATES}}}{state}")
    person.send(message)


def mark_displayed(person: XmppPerson, to: str, message_id: str) -> None:
    message = ET.Element(client_tag("message"), {"to": to, "type": "chat"})
    ET.SubElement(message, f"{{{MARKERS}}}displayed", {"id": message_id})
    person.send(message)


@pytest.mark.timeout(180)
async def test_typing_and_reading_cross_between_synapse_and_xmpp(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_types")
    juliet = await xmpp_person(prosody_pair[0], "juliet_types")
    ghost, her = gateway.ghost(juliet.address), gateway.address(alice.user_id)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    asked = await alice.say(room, "are you there?")
    heard = await juliet.hear("are you there?", sender=her)

    start = alice.position
    chat_state(juliet, her, "composing")
    await see_typing(alice, room, [ghost], since=start)
    start = alice.position
    chat_state(juliet, her, "paused")
    await see_typing(alice, room, [], since=start)
    mark_displayed(juliet, her, heard.id)
    await see_read(alice, room, asked, ghost)

    # And what she does is shown to juliet, whose client has shown that it knows chat states.
    position = juliet.position
    await alice.set_typing(room, True)
    await juliet.wait_for(
        lambda s: (
            s.bare_sender == her and s.element.find(f"{{{CHAT_STATES}}}composing") is not None
        ),
        what="composing",
        since=position,
    )
    await alice.set_typing(room, False)
    await juliet.wait_for(
        lambda s: (
            s.bare_sender == her
            and any(s.element.find(f"{{{CHAT_STATES}}}{one}") is not None for one in STOPPED)
        ),
        what="a pause",
        since=position,
    )


@pytest.mark.timeout(180)
async def test_presence_crosses_between_synapse_and_xmpp(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_there")
    juliet = await xmpp_person(prosody_pair[0], "juliet_there")
    ghost, her = gateway.ghost(juliet.address), gateway.address(alice.user_id)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    await alice.say(room, "hello")
    await juliet.hear("hello", sender=her)

    # Juliet and alice may see each other.
    await juliet.ask(None, ET.Element("{jabber:iq:roster}query"))
    juliet.set_presence(to=her, type="subscribe")
    await juliet.wait_for(lambda s: s.bare_sender == her and s.type == "subscribed")
    await juliet.wait_for(lambda s: s.bare_sender == her and s.type == "subscribe")
    juliet.set_presence(to=her, type="subscribed")
    await juliet.wait_for(lambda s: s.kind == "presence" and s.bare_sender == her and s.type == "")
    juliet.set_presence(show="away", status="on the balcony")
    await see_presence(alice, ghost, "unavailable", "on the balcony")
    juliet.set_presence(status="back")
    await see_presence(alice, ghost, "online", "back")

    position = juliet.position
    await set_presence(alice, "online", "writing letters")
    await juliet.wait_for(
        lambda s: (
            s.kind == "presence"
            and s.bare_sender == her
            and s.element.findtext(client_tag("status")) == "writing letters"
        ),
        what="alice's status",
        since=position,
    )


def say_markable(person: XmppPerson, to: str, body: str, type: str = "chat") -> str:
    message = ET.Element(client_tag("message"), {"to": to, "type": type})
    ET.SubElement(message, client_tag("body")).text = body
    ET.SubElement(message, f"{{{MARKERS}}}markable")
    ET.SubElement(message, f"{{{CHAT_STATES}}}active")
    return person.send(message)


async def see_state(person: XmppPerson, sender: str, state: str, *, since: int) -> None:
    """`sender`: an address, or in a room an occupant's."""
    await person.wait_for(
        lambda s: (
            sender in (s.sender, s.bare_sender)
            and s.element.find(f"{{{CHAT_STATES}}}{state}") is not None
        ),
        what=f"{state} of {sender}",
        since=since,
    )


def markers(person: XmppPerson, *, since: int = 0) -> list[tuple[str, str | None]]:
    """Who was shown to have read what."""
    found = [(s, s.element.find(f"{{{MARKERS}}}displayed")) for s in person.transcript.since(since)]
    return [(stanza.sender, node.get("id")) for stanza, node in found if node is not None]


async def see_marker(person: XmppPerson, sender: str, message_id: str) -> None:
    await person.wait_for(
        lambda s: (
            s.sender == sender
            and (node := s.element.find(f"{{{MARKERS}}}displayed")) is not None
            and node.get("id") == message_id
        ),
        what=f"{sender} has read {message_id}",
        timeout_s=15,
    )


@pytest.mark.timeout(180)
async def test_who_wrote_on_xmpp_sees_what_was_read_once_and_nothing_anew_after_a_restart(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_reads")
    juliet = await xmpp_person(prosody_pair[0], "juliet_read")
    ghost, her = gateway.ghost(juliet.address), gateway.address(alice.user_id)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    await alice.say(room, "hello")
    await juliet.hear("hello", sender=her)
    plain = juliet.say(her, "one")
    await alice.hear("one", room=room)
    asking = say_markable(juliet, her, "two")
    second = await alice.hear("two", room=room)
    await alice.mark_read(room, second.event_id)
    await see_marker(juliet, her, asking)
    answer = await alice.say(room, "three")
    await alice.mark_read(room, answer)
    await juliet.hear("three")

    await gateway.restart()
    since = juliet.position
    await alice.say(room, "four")
    await juliet.hear("four", timeout_s=30)
    assert [s for s in juliet.transcript.since(since) if s.body is None] == []
    assert markers(juliet) == [(her, asking)]
    assert plain != asking


@pytest.mark.timeout(240)
async def test_in_a_room_everybody_sees_who_types_and_reads(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_room")
    await alice.set_display_name("Alice")
    juliet = await xmpp_person(prosody_pair[0], "juliet_room")
    romeo = await xmpp_person(prosody_pair[1], "romeo_room")
    room_id = await alice.create_room(
        name="The Garden", alias="garden-states", preset="public_chat"
    )
    room = gateway.address(f"#garden-states:{synapse.server_name}")
    await juliet.enter(room, "Juliet")
    await romeo.enter(room, "Romeo", timeout_s=30)
    ghost = gateway.ghost(juliet.address)
    await alice.see_membership(room_id, gateway.ghost(romeo.address), "join")

    # From Matrix.
    since = (juliet.position, romeo.position)
    await alice.set_typing(room_id, True)
    await see_state(juliet, f"{room}/Alice", "composing", since=since[0])
    await see_state(romeo, f"{room}/Alice", "composing", since=since[1])
    say_markable(romeo, room, "who reads this?", "groupchat")
    said = await alice.hear("who reads this?", room=room_id)
    await alice.mark_read(room_id, said.event_id)
    for person in (juliet, romeo):
        await see_marker(person, f"{room}/Alice", said.event_id)

    start = alice.position
    await alice.set_typing(room_id, False)
    await see_typing(alice, room_id, [], since=start)

    # From XMPP, to both sides.
    start, position = alice.position, romeo.position
    message = ET.Element(client_tag("message"), {"to": room, "type": "groupchat"})
    ET.SubElement(message, f"{{{CHAT_STATES}}}composing")
    juliet.send(message)
    await see_typing(alice, room_id, [ghost], since=start)
    await see_state(romeo, f"{room}/Juliet", "composing", since=position)
    message = ET.Element(client_tag("message"), {"to": room, "type": "groupchat"})
    ET.SubElement(message, f"{{{MARKERS}}}displayed", {"id": said.event_id})
    juliet.send(message)
    await see_read(alice, room_id, said.event_id, ghost)
    await see_marker(romeo, f"{room}/Juliet", said.event_id)

    # Who disappears types no more; who types is not shown their own state.
    start = alice.position
    await juliet.drop()
    await see_typing(alice, room_id, [], since=start)
    assert markers(romeo).count((f"{room}/Romeo", said.event_id)) == 0
