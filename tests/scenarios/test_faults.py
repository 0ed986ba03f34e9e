"""What happens when a part dies, hangs or is cut off, with real servers on both sides.

Nothing acknowledged is lost, nothing is doubled, the order of each chat is kept; whoever has to
wait is told so, and what cannot be delivered is reported to its author. `tests/support/traffic.py`
says how that is counted; `tests/chaos` plays more rounds of the first test.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random, SystemRandom

import pytest
import pytest_asyncio

from bridge.demo.people import NotSeen, SeenEvent, Stanza, XmppPerson
from bridge.demo.servers import CertificateAuthority, Prosody, Relay, Synapse
from bridge.errors import Refused
from tests.support.gateway import Gateway
from tests.support.servers import (
    MakeMatrixPerson,
    MakeXmppPerson,
    make_prosody,
)
from tests.support.traffic import Traffic, make_traffic, play_rounds

Pair = tuple[Prosody, Prosody]
NOTICE_S = 2
IMPATIENT = {"delivery": {"waiting_notice_s": NOTICE_S, "retry_max_s": 2}}


@pytest_asyncio.fixture
async def traffic(
    request: pytest.FixtureRequest,
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> Traffic:
    """People and chats of this test alone."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:6]
    alice = await matrix_person(synapse, f"alice-{name}")
    juliet = await xmpp_person(prosody_pair[0], f"juliet-{name}")
    return await make_traffic(
        gateway=gateway,
        alice=alice,
        juliet=juliet,
        alias=f"garden-{name}",
        server_name=synapse.server_name,
        muc=f"coven-{name}@{prosody_pair[0].muc_domain}",
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(prosody_pair: Pair, certificates: CertificateAuthority) -> AsyncIterator[Gateway]:
    """With the usual settings."""
    async with Gateway(prosody_pair[0], certificates) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient(
    prosody_pair: Pair, certificates: CertificateAuthority
) -> AsyncIterator[Gateway]:
    """Beside the second Prosody; says after two seconds that something waits."""
    async with Gateway(prosody_pair[1], certificates, settings=IMPATIENT) as server:
        yield server


def texts(stanzas: Sequence[Stanza], start: str) -> list[str]:
    return [s.body for s in stanzas if s.body is not None and s.body.startswith(start)]


def answers(message_id: str) -> Callable[[Stanza], bool]:
    """The error or the reflection."""
    return lambda stanza: stanza.id == message_id and stanza.type in ("error", "groupchat")


def reports_in(room_id: str) -> Callable[[SeenEvent], bool]:
    """A line that says that something could not be delivered."""
    return lambda seen: seen.room_id == room_id and "could not be delivered" in (seen.body or "")


# --- Isthmus dies, hangs, stops -------------------------------------------------------------------


@pytest.mark.timeout(400)
async def test_three_rounds_of_kill_9_lose_double_and_disorder_nothing(traffic: Traffic) -> None:
    seed = int(os.environ.get("ISTHMUS_CHAOS_SEED", SystemRandom().randrange(10**9)))
    await play_rounds(traffic, seed=seed, rounds=3)


async def test_stopping_in_the_middle_of_traffic_loses_nothing_and_leaves_nothing_unanswered(
    traffic: Traffic, gateway: Gateway
) -> None:
    one = traffic.begin("stop", random=Random(1))
    codes: list[int | None] = []

    async def stop_twice() -> None:
        for _ in range(2):
            await asyncio.sleep(2.0)
            codes.append(await gateway.stop())
            await gateway.start()

    await one.write(120, pause_s=0.15, others=[stop_twice()])
    await one.until_quiet()
    print(one.summary())
    assert codes == [0, 0]
    assert not one.findings()
    assert not one.unanswered()


async def test_a_frozen_gateway_goes_on_where_it_was(traffic: Traffic, gateway: Gateway) -> None:
    one = traffic.begin("frozen", random=Random(2))

    async def freeze() -> None:
        await asyncio.sleep(1.0)
        gateway.freeze()
        try:
            await asyncio.sleep(15.0)
        finally:
            gateway.thaw()

    await one.write(60, pause_s=0.1, others=[freeze()])
    await one.until_quiet()
    print(one.summary())
    assert not one.findings()
    assert not one.unanswered()


# --- Synapse is down ------------------------------------------------------------------------------


async def test_what_is_written_while_synapse_is_down_arrives_later_and_the_author_is_told(
    impatient: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice-down")
    romeo = await xmpp_person(prosody_pair[1], "romeo-down")
    traffic = await make_traffic(
        gateway=impatient,
        alice=alice,
        juliet=romeo,
        alias="garden-down",
        server_name=synapse.server_name,
    )
    direct, room = traffic.chats
    romeo.say(direct.address, "before")
    await alice.hear("before", room=direct.room_id)

    count = 60
    start = romeo.position
    said = [romeo.say(direct.address, f"direct {number}") for number in range(10)]
    await romeo.receipt(said[0])
    await synapse.kill()
    said += [romeo.say(direct.address, f"direct {number}") for number in range(10, count)]
    shouted = [romeo.say_in(room.address, f"room {number}") for number in range(count)]
    # The room is ours as well: what stands in it is acknowledged, whoever is away.
    for message_id in shouted:
        await romeo.reflection(message_id, timeout_s=30)
    told = await romeo.wait_for(
        lambda stanza: (
            stanza.bare_sender == impatient.bot_address
            and "stored and waits" in (stanza.body or "")
        ),
        what="the notice that the messages wait",
        timeout_s=30,
        since=start,
    )
    assert told.type == "chat"
    with pytest.raises(NotSeen):
        await romeo.receipt(said[-1], timeout_s=1.0)

    await synapse.start()
    await alice.hear(f"direct {count - 1}", room=direct.room_id, timeout_s=60)
    await alice.hear(f"room {count - 1}", room=room.room_id, timeout_s=60)
    for message_id in said:
        await romeo.receipt(message_id, timeout_s=30)
    for chat in traffic.chats:
        expected = [f"{chat.name} {number}" for number in range(count)]
        history = [e["content"].get("body", "") for e in await alice.messages(chat.room_id)]
        assert [b for b in reversed(history) if b.startswith(f"{chat.name} ")] == expected
    seen = romeo.transcript.since(start)
    assert not [stanza for stanza in seen if stanza.type == "error"]
    assert len([s for s in seen if "stored and waits" in (s.body or "")]) == 1

    await alice.say(direct.room_id, "back again")
    await romeo.hear("back again")


async def test_what_matrix_says_while_isthmus_is_down_arrives_when_it_is_back(
    traffic: Traffic, gateway: Gateway
) -> None:
    await gateway.stop()
    count = 40
    for chat in traffic.chats:
        for number in range(count):
            await traffic.alice.say(chat.room_id, f"{chat.name} {number}")
    await gateway.start()
    for chat in traffic.chats:
        await traffic.juliet.hear(f"{chat.name} {count - 1}", timeout_s=60)
        expected = [f"{chat.name} {number}" for number in range(count)]
        assert texts(list(traffic.juliet.transcript), f"{chat.name} ") == expected


# --- Prosody is down ------------------------------------------------------------------------------


async def test_prosody_restarts_and_everything_finds_its_way_again(
    impatient: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    prosody = prosody_pair[1]
    alice = await matrix_person(synapse, "alice-prosody")
    romeo = await xmpp_person(prosody, "romeo-prosody")
    traffic = await make_traffic(
        gateway=impatient,
        alice=alice,
        juliet=romeo,
        alias="garden-prosody",
        server_name=synapse.server_name,
    )
    direct, room = traffic.chats
    ghost = impatient.ghost(romeo.address)
    said = romeo.say(direct.address, "before")
    await romeo.receipt(said)
    await alice.sync()
    begin = alice.position

    await prosody.stop()
    for number in range(10):
        await alice.say(direct.room_id, f"direct {number}")
        await alice.say(room.room_id, f"room {number}")
    told = await alice.wait_for(
        lambda seen: seen.sender == ghost and "still waiting" in (seen.body or ""),
        what="the notice that a message waits",
        timeout_s=30,
        since=begin,
    )
    assert told.room_id == direct.room_id
    assert told.content["msgtype"] == "m.notice"

    await prosody.start()
    await romeo.login()
    start = romeo.position
    await impatient.wait_until_ready()
    await romeo.hear("direct 9", timeout_s=30)
    assert texts(romeo.transcript.since(start), "direct ") == [f"direct {n}" for n in range(10)]

    # A new session is not in the room, and hears so; for Matrix nobody has gone.
    with pytest.raises(Refused, match="not-acceptable"):
        await romeo.ping(f"{room.address}/Juliet")
    entry = await romeo.enter(room.address, "Juliet")
    assert texts(entry.history, "room ") == [f"room {n}" for n in range(10)]
    await romeo.ping(f"{room.address}/Juliet")
    said = romeo.say_in(room.address, "in again")
    await romeo.reflection(said)
    await alice.hear("in again", room=room.room_id)
    assert not [seen for seen in alice.transcript.since(begin) if seen.state_key == ghost]
    reports = [s for s in alice.transcript.since(begin) if "could not be" in (s.body or "")]
    assert not reports


async def test_prosody_restarts_in_the_middle_of_traffic(
    traffic: Traffic, gateway: Gateway, prosody_pair: Pair
) -> None:
    """The client finds its server again and enters the room again, as clients do."""
    one = traffic.begin("prosody", random=Random(3))
    juliet = traffic.juliet

    async def restart() -> None:
        await asyncio.sleep(2.0)
        await prosody_pair[0].restart()
        await juliet.login()
        await gateway.wait_until_ready()
        for chat in traffic.chats[1:]:
            await juliet.enter(chat.address, "Juliet", history=100)

    await one.write(90, pause_s=0.15, others=[restart()])
    await one.until_quiet()
    print(one.summary())
    assert not one.findings(was_offline=True)


# --- the link between XMPP servers ----------------------------------------------------------------


async def test_a_cut_link_between_xmpp_servers_is_reported_and_heals(
    certificates: CertificateAuthority,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    here = make_prosody("a.test", federation="cert", authority=certificates)
    there = make_prosody("b.test", federation="cert", authority=certificates)
    to_there, to_here = Relay(there.ports.server), Relay(here.ports.server)
    here.reach(there, port=to_there.port)
    there.reach(here, port=to_here.port)
    async with to_there, to_here, here, there, Gateway(here, certificates) as gateway:
        alice = await matrix_person(synapse, "alice-cut")
        juliet = await xmpp_person(here, "juliet-cut")
        romeo = await xmpp_person(there, "romeo-cut")
        traffic = await make_traffic(
            gateway=gateway,
            alice=alice,
            juliet=romeo,
            alias="garden-cut",
            server_name=synapse.server_name,
        )
        direct, room = traffic.chats
        await juliet.enter(room.address, "Other")
        await alice.say(direct.room_id, "before")
        await romeo.hear("before")

        await to_there.down()
        await to_here.down()
        begin, start = alice.position, juliet.position
        await alice.say(direct.room_id, "into the void")
        await alice.say(room.room_id, "to whom it reaches")
        told = await alice.wait_for(
            reports_in(direct.room_id), what="the report", timeout_s=40, since=begin
        )
        assert told.content["msgtype"] == "m.notice"
        # His server says that he cannot be reached: his session ends, his membership stays.
        await juliet.hear("to whom it reaches", sender=room.address)
        await juliet.see_go(room.address, "Juliet", timeout_s=40, since=start)

        await to_there.up()
        await to_here.up()
        await _until_heard(romeo, direct.address, gateway)
        with pytest.raises(Refused, match="not-acceptable"):
            await romeo.ping(f"{room.address}/Juliet", timeout_s=20)
        entry = await romeo.enter(room.address, "Juliet")
        assert "to whom it reaches" in texts(entry.history, "to whom")
        await alice.say(room.room_id, "all here again")
        await romeo.hear("all here again", sender=room.address)
        await juliet.hear("all here again", sender=room.address)

        # A link that swallows what it is given, and breaks later: the same.
        position = alice.position
        to_there.hole()
        to_here.hole()
        await alice.say(direct.room_id, "swallowed")
        async with asyncio.timeout(20):
            done = "SELECT 1 FROM outbox WHERE status = 'done' AND payload LIKE '%swallowed%'"
            while not gateway.query(done):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # until the relay has swallowed it
        assert to_there.swallowed_bytes
        to_there.cut()
        to_here.cut()
        to_there.heal()
        to_here.heal()
        await alice.wait_for(
            reports_in(direct.room_id), what="the second report", timeout_s=40, since=position
        )
        await alice.say(direct.room_id, "healed")
        await romeo.hear("healed", timeout_s=40)
        assert not [s for s in romeo.transcript if s.body == "swallowed"]
        ghost = gateway.ghost(romeo.address)
        assert not [seen for seen in alice.transcript.since(begin) if seen.state_key == ghost]


async def _until_heard(person: XmppPerson, address: str, gateway: Gateway) -> None:
    """The first stanzas after a cut may still bounce: tried until one is answered."""
    async with asyncio.timeout(40):
        while True:
            try:
                await person.ping(gateway.component, timeout_s=5)
            except (NotSeen, Refused):
                await asyncio.sleep(0.5)
            else:
                return


# --- what cannot be delivered ---------------------------------------------------------------------


async def test_whoever_may_not_speak_in_a_room_is_told(traffic: Traffic, gateway: Gateway) -> None:
    alice, juliet, room = traffic.alice, traffic.juliet, traffic.chats[1]
    ghost = gateway.ghost(juliet.address)
    levels = (await alice.state(room.room_id))["m.room.power_levels", ""]["content"]
    await alice.set_state(room.room_id, "m.room.power_levels", {**levels, "events_default": 50})
    begin = alice.position
    async with asyncio.timeout(20):
        while True:  # until the new levels have come here
            said = juliet.say_in(room.address, "hush?")
            answer = await juliet.wait_for(answers(said))
            if answer.type == "error":
                break
    assert answer.condition == "forbidden"
    assert answer.error_text

    await alice.kick(room.room_id, ghost, "enough")
    await juliet.see_go(room.address, "Juliet")
    said = juliet.say_in(room.address, "and now?")
    assert (await juliet.error(said)).condition == "not-acceptable"
    await alice.sync(wait_s=1)
    bodies = [seen.body for seen in alice.transcript.since(begin)]
    assert "and now?" not in bodies


async def test_a_message_to_an_unknown_jid_is_reported_while_the_others_go_on(
    traffic: Traffic, gateway: Gateway
) -> None:
    alice = traffic.alice
    for address in ("nobody@a.test", "nobody@nowhere.test"):
        ghost = gateway.ghost(address)
        lonely = await alice.create_direct(ghost)
        await alice.see_membership(lonely, ghost, "join")
        await alice.say(lonely, "anybody?")
        told = await alice.wait_for(
            reports_in(lonely), what=f"the report about {address}", timeout_s=30
        )
        assert told.sender == ghost
        assert address in (told.body or "")
    await alice.say(traffic.chats[0].room_id, "you are there")
    await traffic.juliet.hear("you are there")


async def test_a_message_to_an_unknown_matrix_user_is_refused_while_the_others_go_on(
    traffic: Traffic, gateway: Gateway, synapse: Synapse
) -> None:
    juliet = traffic.juliet
    said = juliet.say(gateway.address(synapse.user_id("nobody-at-all")), "anybody?")
    assert (await juliet.error(said, timeout_s=20)).error_text
    said = juliet.say(traffic.chats[0].address, "you are there")
    await traffic.alice.hear("you are there")
    await juliet.receipt(said)
