"""Several bridges in one MUC: what is said once is heard once, everywhere.

`gw.a.test` makes rooms of version I.1, which no Synapse knows; `plain.a.test` and `gw.b.test` make
rooms of the usual version. All three visit MUCs of the first Prosody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio

from bridge.demo.people import Muc, Stanza, XmppPerson
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from bridge.identity import localparts
from tests.support.chats import ARRIVAL_S, bodies, said_in
from tests.support.gateway import Gateway, verify
from tests.support.servers import (
    COMPONENT_SECRET,
    MakeMatrixPerson,
    MakeXmppPerson,
    make_prosody,
)

QUIET_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridges:
    """`extensible` and `plain` stand beside `here`, `far` beside `there`."""

    here: Prosody
    there: Prosody
    extensible: Gateway
    plain: Gateway
    far: Gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bridges(certificates: CertificateAuthority) -> AsyncIterator[Bridges]:
    here = make_prosody(
        "a.test",
        federation="cert",
        authority=certificates,
        components={"gw.a.test": COMPONENT_SECRET, "plain.a.test": COMPONENT_SECRET},
    )
    there = make_prosody("b.test", federation="cert", authority=certificates)
    here.reach(there)
    there.reach(here)
    async with (
        here,
        there,
        Gateway(here, certificates, settings={"portals": {"version": "I.1"}}) as extensible,
        Gateway(here, certificates, component="plain.a.test") as plain,
        Gateway(there, certificates) as far,
    ):
        yield Bridges(here=here, there=there, extensible=extensible, plain=plain, far=far)


def alias_of(chat: str, gateway: Gateway) -> str:
    return localparts.alias_for(chat, gateway.server_name)


async def test_a_portal_room_of_version_i_1_is_shared_by_two_gateways(
    bridges: Bridges, xmpp_person: MakeXmppPerson
) -> None:
    chat = f"coven@{bridges.here.muc_domain}"
    ours, theirs = bridges.extensible, bridges.far
    romeo = Muc(await xmpp_person(bridges.here, "romeo"), chat)
    await romeo.enter("Romeo")
    juliet = await xmpp_person(bridges.there, "juliet")
    room = theirs.address(alias_of(chat, ours))
    await juliet.enter(room, "Juliet", timeout_s=40)
    await juliet.see_arrive(room, "Romeo", timeout_s=ARRIVAL_S)
    await romeo.person.wait_for(
        lambda _: len(romeo.occupants()) > 1, what="juliet's guest", timeout_s=ARRIVAL_S
    )

    said = [f"line {number}" for number in range(4)]
    for number, line in enumerate(said):
        if number % 2:
            romeo.say(line)
            await juliet.hear(line, sender=room, timeout_s=ARRIVAL_S)
        else:
            juliet.say_in(room, line)
            await romeo.person.hear(line, sender=chat, timeout_s=ARRIVAL_S)
    romeo.say("*strong*")
    await juliet.hear("*strong*", sender=room, timeout_s=ARRIVAL_S)
    said.append("*strong*")
    await asyncio.sleep(QUIET_S)
    assert said_in(romeo.person, chat) == said
    assert said_in(juliet, room) == said

    (room_id,) = {
        room_id for room_id in ours.rooms() & theirs.rooms() if ours.room_version(room_id) == "I.1"
    }
    keys = {str(one.server_name): one.signing_key for one in (ours, theirs)}
    stored = []
    for gateway in (ours, theirs):
        assert gateway.room_version(room_id) == "I.1"
        events = {event.event_id: event for event in gateway.events(room_id)}
        for event in events.values():
            assert event.verdict == "accepted"
            verify(event, "I.1", keys)
        stored.append(events)
    messages = [event for event in stored[0].values() if event.type == "m.message"]
    assert [event.content["m.text"][-1]["body"] for event in messages][:4] == said[:4]
    assert "<strong>strong</strong>" in messages[4].content["m.text"][0]["body"]
    assert not [event for event in stored[0].values() if event.type == "m.room.message"]
    for event in messages:
        assert stored[1][event.event_id].json == event.json


def repeat_everything(person: XmppPerson, chat: str, nickname: str) -> None:
    """What a careless bridge does: it says again what others said, under their name."""

    def repeat(stanza: Stanza) -> None:
        is_line = stanza.type == "groupchat" and stanza.bare_sender == chat
        if is_line and stanza.body and not stanza.is_delayed and stanza.nickname != nickname:
            person.say_in(chat, f"<{stanza.nickname}> {stanza.body}")

    person.transcript.watch(repeat)


async def test_two_gateways_and_another_bridge_in_one_muc_make_no_loop_and_no_echo(
    bridges: Bridges,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    chat = f"crossroads@{bridges.here.muc_domain}"
    romeo = Muc(await xmpp_person(bridges.here, "romeo"), chat)
    await romeo.enter("Romeo")
    other = Muc(await xmpp_person(bridges.here, "other-bridge"), chat)
    await other.enter("Echo")
    alice = await matrix_person(synapse, "alice")
    await alice.set_display_name("Alice")
    rooms = [await alice.join(alias_of(chat, one)) for one in (bridges.plain, bridges.far)]
    assert rooms[0] != rooms[1]
    await romeo.person.wait_for(
        lambda _: len(romeo.occupants()) >= 4, what="two guests of alice", timeout_s=ARRIVAL_S
    )
    guests = set(romeo.occupants()) - {"Romeo", "Echo"}
    assert len(guests) == 2
    begin, start = alice.position, romeo.person.position
    repeat_everything(other.person, chat, "Echo")

    lines = {"from romeo"}
    romeo.say("from romeo")
    for name, room_id in zip(("plain", "far"), rooms, strict=True):
        lines.add(f"from alice by {name}")
        await alice.say(room_id, f"from alice by {name}")
    for room_id in rooms:
        for line in lines:
            await alice.hear(line, room=room_id, timeout_s=ARRIVAL_S, since=begin)
    for line in lines:
        await romeo.person.hear(line, sender=chat, timeout_s=ARRIVAL_S, since=start)
    await alice.wait_for(
        lambda seen: seen.body == "<Romeo> from romeo" and seen.room_id == rooms[1],
        what="the other bridge",
        since=begin,
    )
    for _ in range(2):  # whatever comes too much has had its chance
        await asyncio.sleep(QUIET_S / 2)
        await alice.sync()

    heard = Counter(said_in(romeo.person, chat, since=start))
    authors = {nickname for nickname, body in romeo.lines(since=start) if body in lines}
    assert authors == {"Romeo", *guests}
    assert {body: heard[body] for body in lines} == dict.fromkeys(lines, 1)
    repeated = [body for body in heard if body.startswith("<")]
    assert len(repeated) == len(lines)
    assert sum(heard.values()) == 2 * len(lines)
    for room_id in rooms:
        seen = Counter(bodies(alice.transcript.since(begin), room_id))
        assert seen == Counter(heard.keys()), room_id
