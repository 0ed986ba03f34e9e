"""Plumbing by the bot: who may, who may not, and that nobody stays behind; on real servers."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from bridge.demo.people import MatrixPerson, Muc, NotSeen
from bridge.demo.servers import CertificateAuthority, Synapse, XmppServer
from tests.support.chats import ARRIVAL_S, Coven, ask_in_room, ask_on_xmpp, bodies, open_bot_chat
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    xmpp_server: XmppServer, synapse: Synapse, certificates: CertificateAuthority
) -> AsyncIterator[Gateway]:
    permissions = {
        synapse.server_name: "user",
        synapse.user_id("boss"): "admin",
        synapse.user_id("nobody"): "none",
        xmpp_server.domain: "user",
        f"nobody@{xmpp_server.domain}": "none",
    }
    async with Gateway(xmpp_server, certificates, settings={"permissions": permissions}) as server:
        yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class Parlour:
    """An existing room of somebody, with the bot in it."""

    owner: MatrixPerson
    room_id: str
    alias: str


async def make_parlour(owner: MatrixPerson, gateway: Gateway, label: str) -> Parlour:
    server = owner.user_id.partition(":")[2]
    room_id = await owner.create_room(
        name="The Parlour",
        alias=f"parlour-{label}",
        preset="public_chat",
        invite=[gateway.bot_id],
        power_level_content_override={"users": {gateway.bot_id: 50}},
    )
    await owner.see_membership(room_id, gateway.bot_id, "join", timeout_s=ARRIVAL_S)
    return Parlour(owner=owner, room_id=room_id, alias=f"#parlour-{label}:{server}")


async def call_in(parlour: Parlour, gateway: Gateway, line: str, *, expect: str) -> str:
    """A command in a room of several people is called by the bot's name."""
    return await ask_in_room(
        parlour.owner, gateway, parlour.room_id, f"!isthmus {line}", expect=expect
    )


async def joined_of(person: MatrixPerson, room_id: str, server: str) -> set[str]:
    members = await person.members(room_id)
    return {
        user
        for user, membership in members.items()
        if membership == "join" and user.endswith(f":{server}")
    }


async def test_an_admin_plumbs_talks_and_unplumbs_and_nobody_stays_behind(
    coven: Coven,
    gateway: Gateway,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
) -> None:
    romeo, chat = coven.romeo, coven.chat
    await romeo.configure({"muc#roomconfig_changesubject": True})
    boss = await matrix_person(synapse, "boss")
    await boss.set_display_name("Boss")
    parlour = await make_parlour(boss, gateway, coven.label)
    room_id = parlour.room_id
    await coven.alice.join(room_id)

    await call_in(parlour, gateway, f"plumb {chat}", expect=f"{chat} and {room_id} are bridged")
    listed = await call_in(parlour, gateway, "list", expect=chat)
    assert room_id in listed
    for nickname in ("Boss", "Alice"):
        await romeo.see_arrive(nickname, timeout_s=ARRIVAL_S)
    romeo_id = await coven.ghost_of("Romeo", room_id)
    romeo.say("good evening")
    for person in (boss, coven.alice):
        await person.hear("good evening", room=room_id, sender=romeo_id, timeout_s=ARRIVAL_S)
    await coven.alice.say(room_id, "welcome")
    heard = await romeo.person.hear("welcome", sender=chat, timeout_s=ARRIVAL_S)
    assert heard.nickname == "Alice"
    await boss.set_state(room_id, "m.room.topic", {"topic": "tea and cake"})
    await romeo.person.wait_for(
        lambda stanza: (
            stanza.bare_sender == chat
            and stanza.is_subject_change
            and stanza.subject == "tea and cake"
        ),
        what="the new subject",
        timeout_s=ARRIVAL_S,
    )
    assert [t for t, _ in await boss.state(room_id) if t == "uk.half-shot.bridge"]

    begin, start = boss.position, romeo.person.position
    await call_in(parlour, gateway, f"unplumb {chat}", expect="not bridged any more")
    for nickname in ("Boss", "Alice"):
        await romeo.see_go(nickname, timeout_s=ARRIVAL_S, since=start)
    await boss.see_membership(room_id, romeo_id, "leave", timeout_s=ARRIVAL_S, since=begin)
    assert set(romeo.occupants()) == {"Romeo"}
    assert await joined_of(boss, room_id, gateway.server_name) <= {gateway.bot_id}
    state = await boss.state(room_id)
    assert not [
        event
        for (type, _), event in state.items()
        if type in ("uk.half-shot.bridge", "m.bridge") and event["content"]
    ]
    await boss.say(room_id, "among ourselves")
    romeo.say("alone again")
    answer = await call_in(parlour, gateway, "list", expect="")
    assert chat not in answer
    assert "alone again" not in bodies(boss.transcript.since(begin), room_id)
    assert "among ourselves" not in [body for _, body in romeo.lines(since=start)]


async def test_who_is_not_known_to_rule_the_muc_has_it_confirmed_there_by_a_code(
    coven: Coven, gateway: Gateway, xmpp_server: XmppServer, xmpp_person: MakeXmppPerson
) -> None:
    alice, chat = coven.alice, coven.chat
    puck = Muc(await xmpp_person(xmpp_server, f"puck-{coven.label}"), chat)
    await puck.enter("Puck")
    parlour = await make_parlour(alice, gateway, coven.label)
    answer = await call_in(parlour, gateway, f"plumb {chat}", expect="write exactly this")
    code = re.search(r"(bridge !\S+ [0-9]{6})", answer)
    assert code is not None
    begin = alice.position
    # Somebody who does not rule there confirms nothing.
    puck.say(code[1])
    await coven.romeo.person.hear(code[1], sender=chat)
    with pytest.raises(NotSeen):
        await alice.wait_for(
            lambda seen: "are bridged now" in (seen.body or ""), timeout_s=2, since=begin
        )
    coven.romeo.say(code[1])
    await alice.wait_for(
        lambda seen: seen.room_id == parlour.room_id and "are bridged now" in (seen.body or ""),
        what="the confirmation",
        timeout_s=ARRIVAL_S,
        since=begin,
    )
    await coven.romeo.see_arrive("Alice", timeout_s=ARRIVAL_S)
    coven.romeo.say("come in")
    await alice.hear("come in", room=parlour.room_id, timeout_s=ARRIVAL_S)
    await call_in(parlour, gateway, f"unplumb {chat}", expect="not bridged any more")


async def test_an_owner_on_xmpp_plumbs_with_the_power_of_their_ghost(
    coven: Coven, gateway: Gateway
) -> None:
    alice, romeo, chat = coven.alice, coven.romeo, coven.chat
    await romeo.show_addresses()
    parlour = await make_parlour(alice, gateway, coven.label)
    room = gateway.address(parlour.alias)
    await romeo.person.enter(room, "Romeo", timeout_s=40)
    ghost = gateway.ghost(romeo.person.address)
    await alice.see_membership(parlour.room_id, ghost, "join", timeout_s=ARRIVAL_S)

    line = f"plumb {chat} {parlour.alias}"
    await ask_on_xmpp(romeo.person, gateway.bot_address, line, expect="power level")
    levels = (await alice.state(parlour.room_id))["m.room.power_levels", ""]["content"]
    levels["users"][ghost] = 50
    await alice.set_state(parlour.room_id, "m.room.power_levels", levels)
    await alice.say(parlour.room_id, "now you may")
    await romeo.person.hear("now you may", sender=room)
    start = romeo.person.position
    answer = await ask_on_xmpp(romeo.person, gateway.bot_address, line, expect=chat)
    code = re.search(r"(bridge !\S+ [0-9]{6})", answer)
    if "write exactly this" in answer and code is not None:  # the MUC did not tell who he is
        romeo.say(code[1])
    await romeo.person.wait_for(
        lambda stanza: (
            stanza.bare_sender == gateway.bot_address and "are bridged now" in (stanza.body or "")
        ),
        what="that it is done",
        timeout_s=ARRIVAL_S,
        since=start,
    )
    await romeo.see_arrive("Alice", timeout_s=ARRIVAL_S)
    await alice.say(parlour.room_id, "well done")
    await romeo.person.hear("well done", sender=chat, timeout_s=ARRIVAL_S)
    await ask_on_xmpp(
        romeo.person, gateway.bot_address, f"unplumb {chat}", expect="not bridged any more"
    )


async def test_who_has_not_the_power_is_refused_in_words_on_both_networks(
    coven: Coven,
    gateway: Gateway,
    synapse: Synapse,
    xmpp_server: XmppServer,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    boss = await matrix_person(synapse, "boss")
    parlour = await make_parlour(boss, gateway, coven.label)
    line = f"plumb {coven.chat} {parlour.alias}"

    # A user of the gateway who is nobody in that room.
    chat = await open_bot_chat(coven.alice, gateway)
    await ask_in_room(coven.alice, gateway, chat, line, expect="power level 50")
    puck = await xmpp_person(xmpp_server, f"puck-{coven.label}")
    await ask_on_xmpp(puck, gateway.bot_address, line, expect="power level 50")
    # Somebody who may not even ask.
    nobody = await matrix_person(synapse, "nobody")
    chat = await open_bot_chat(nobody, gateway)
    await ask_in_room(nobody, gateway, chat, line, expect="is for users")
    stranger = await xmpp_person(xmpp_server, "nobody")
    await ask_on_xmpp(stranger, gateway.bot_address, line, expect="is for users")

    assert set(coven.romeo.occupants()) == {"Romeo"}
    assert "uk.half-shot.bridge" not in {type for type, _ in await boss.state(parlour.room_id)}

    # What is bridged is parted by nobody else, either.
    await call_in(parlour, gateway, f"plumb {coven.chat}", expect="are bridged now")
    line = f"unplumb {coven.chat}"
    await ask_on_xmpp(puck, gateway.bot_address, line, expect="power level 50")
    await ask_on_xmpp(stranger, gateway.bot_address, line, expect="is for users")
    await call_in(parlour, gateway, line, expect="not bridged any more")


async def test_why_tells_where_a_message_went(coven: Coven, gateway: Gateway) -> None:
    alice = coven.alice
    chat = await open_bot_chat(alice, gateway)
    room_id = await coven.join()
    said = await alice.say(room_id, "where does this go?")
    await coven.romeo.person.hear("where does this go?", sender=coven.chat, timeout_s=ARRIVAL_S)
    deadline = time.monotonic() + ARRIVAL_S
    while True:  # the proof of delivery follows the message
        told = await ask_in_room(alice, gateway, chat, f"why {said}", expect=said)
        if "Nothing more happens" in told or time.monotonic() > deadline:
            break
    assert "Nothing more happens" in told
    assert "to chat" in told
    nobody = f"why {said[:-3]}xyz"
    await ask_in_room(alice, gateway, chat, nobody, expect="no such message")
