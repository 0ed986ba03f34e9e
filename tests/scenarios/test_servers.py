"""The servers and the people of the other scenarios prove themselves, without Isthmus."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.demo.people import Muc, NotSeen
from bridge.demo.servers import (
    CertificateAuthority,
    Child,
    Isthmus,
    PostgreSQL,
    Prosody,
    Relay,
    ServerFailed,
    Synapse,
    XmppServer,
    check_ports,
    who_listens,
)
from bridge.demo.servers.prosody import Federation
from bridge.errors import Misconfigured, Refused, Unavailable
from tests.support.servers import (
    COMPONENT_SECRET,
    MakeMatrixPerson,
    MakeXmppPerson,
    make_ejabberd,
    make_prosody,
    prosody_pair_running,
)


async def test_two_people_on_one_prosody_talk(
    prosody: Prosody, xmpp_person: MakeXmppPerson
) -> None:
    alice = await xmpp_person(prosody, "alice")
    bob = await xmpp_person(prosody, "bob")
    said = alice.say(bob.full_address, "hello <bob> & 🦊")
    heard = await bob.hear("hello <bob> & 🦊", sender="alice@a.test")
    await alice.receipt(said)
    bob.say(heard.sender, "hello alice")
    await alice.hear("hello alice", sender="bob@a.test")


async def test_a_message_to_nobody_bounces_with_its_id(
    prosody: Prosody, xmpp_person: MakeXmppPerson
) -> None:
    alice = await xmpp_person(prosody, "alice")
    said = alice.say("nobody@a.test", "anybody?")
    assert (await alice.error(said)).condition == "service-unavailable"


async def test_a_wrong_password_is_refused(prosody: Prosody, xmpp_person: MakeXmppPerson) -> None:
    alice = await xmpp_person(prosody, "alice")
    await alice.logout()
    alice._password = "wrong"
    with pytest.raises(Refused):
        await alice.login()


async def test_people_meet_in_a_room(prosody: Prosody, xmpp_person: MakeXmppPerson) -> None:
    room = f"tea@{prosody.muc_domain}"
    alice = await xmpp_person(prosody, "alice")
    bob = await xmpp_person(prosody, "bob")
    entry = await alice.enter(room, "alice")
    assert entry.self_presence.item["affiliation"] == "owner"
    said = alice.say_in(room, "first")
    assert (await alice.reflection(said)).stanza_ids
    alice.set_subject(room, "tea time")
    await alice.wait_for(lambda stanza: stanza.subject == "tea time", what="the new subject")

    entry = await bob.enter(room, "Bob the Fox")
    assert set(entry.occupants) == {"alice", "Bob the Fox"}
    assert [message.body for message in entry.history] == ["first"]
    assert entry.subject.subject == "tea time"
    await alice.see_arrive(room, "Bob the Fox")
    bob.say_in(room, "from the fox")
    heard = await alice.hear("from the fox", sender=room)
    assert heard.nickname == bob.nickname_in(room)
    await bob.exit(room)
    await alice.see_go(room, heard.nickname)


async def test_a_room_that_refuses_a_nickname_says_why(
    prosody: Prosody, xmpp_person: MakeXmppPerson
) -> None:
    alice = await xmpp_person(prosody, "alice")
    with pytest.raises(Refused) as refusal:
        await alice.enter(f"den@{prosody.muc_domain}", "🦊")
    assert refusal.value.rule == "jid-malformed"


async def test_waiting_in_vain_shows_what_came_instead(
    prosody: Prosody, xmpp_person: MakeXmppPerson
) -> None:
    alice = await xmpp_person(prosody, "alice")
    alice.say(alice.full_address, "a monologue")
    await alice.hear("a monologue")
    with pytest.raises(NotSeen, match="a monologue"):
        await alice.hear("an answer", timeout_s=0.05)


async def test_a_component_shakes_hands_and_odd_nicknames_are_seen_raw(
    xmpp_server: XmppServer, xmpp_person: MakeXmppPerson
) -> None:
    alice = await xmpp_person(xmpp_server, "alice")
    component = next(iter(xmpp_server.components))
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", xmpp_server.ports.component)
        writer.write(
            f"<stream:stream xmlns='jabber:component:accept' to='{component}'"
            " xmlns:stream='http://etherx.jabber.org/streams'>".encode()
        )
        await reader.readuntil(b"?>")
        header = (await reader.readuntil(b">")).decode()
        stream_id = header.partition(" id='")[2].partition("'")[0]
        proof = hashlib.sha1((stream_id + COMPONENT_SECRET).encode()).hexdigest()
        writer.write(f"<handshake>{proof}</handshake>".encode())
        await reader.readuntil(b"<handshake/>")
        alice.say(f"any%where@{component}", "to the component")
        message = await reader.readuntil(b"</message>")
        assert b"to the component" in message
        # ejabberd takes no such nickname, from anybody.
        nickname = "🦊 fox" if isinstance(xmpp_server, Prosody) else "fox"
        sender = f"tea@{component}/{nickname}"
        answer = f"<message from='{sender}' to='{alice.address}'><body>got it</body></message>"
        writer.write(answer.encode())
        heard = await alice.hear("got it", sender=f"tea@{component}")
        assert heard.sender == sender
        writer.close()
        await writer.wait_closed()


async def test_a_room_is_set_up_moderated_and_read_back(
    xmpp_server: XmppServer, xmpp_person: MakeXmppPerson
) -> None:
    room = f"coven@{xmpp_server.muc_domain}"
    romeo = await xmpp_person(xmpp_server, "romeo")
    puck = await xmpp_person(xmpp_server, "puck")
    owner, guest = Muc(romeo, room), Muc(puck, room)
    await owner.enter("Romeo")
    await guest.enter("Puck")
    assert guest.occupants()["Romeo"].address is None
    assert guest.occupants()["Romeo"].affiliation == "owner"
    await owner.see_arrive("Puck")
    assert (owner.occupants()["Puck"].address or "").startswith("puck@")
    with pytest.raises(Refused):
        await guest.kick("Romeo")
    guest.say("one")
    await guest.rename("Robin")
    gone = await owner.see_go("Puck")
    assert 303 in gone.statuses
    guest.say("two")
    await romeo.hear("two", sender=room)
    archived = [(message.nickname, message.body) for message in await owner.archive()]
    assert archived == [("Puck", "one"), ("Robin", "two")]
    await owner.affiliate(puck.address, "member")
    await owner.kick("Robin", "too loud")
    gone = await guest.see_go("Robin")
    assert {110, 307} <= gone.statuses
    assert gone.reason == "too loud"
    await owner.show_addresses()
    await guest.enter("Puck")
    assert (guest.occupants()["Romeo"].address or "").startswith("romeo@")
    assert guest.occupants()["Puck"].affiliation == "member"
    await owner.ban(puck.address, "for good")
    assert 301 in (await guest.see_go("Puck")).statuses


@pytest.mark.parametrize("make", [make_prosody, make_ejabberd])
async def test_a_room_outlives_a_restart_of_its_server_and_may_show_addresses(
    make: Callable[..., XmppServer], xmpp_person: MakeXmppPerson
) -> None:
    async with make(shows_addresses=True) as server:
        room = f"coven@{server.muc_domain}"
        romeo = await xmpp_person(server, "romeo")
        puck = await xmpp_person(server, "puck")
        owner, guest = Muc(romeo, room), Muc(puck, room)
        await owner.enter("Romeo")
        owner.set_subject("toil and trouble")
        said = owner.say("before")
        await romeo.reflection(said)
        await server.restart()
        await romeo.login()
        await puck.login()
        entry = await guest.enter("Puck")
        assert entry.subject.subject == "toil and trouble"
        assert [message.body for message in await guest.archive()] == ["before"]
        entry = await owner.enter("Romeo")
        assert entry.self_presence.item["affiliation"] == "owner"
        await guest.see_arrive("Romeo")
        assert (guest.occupants()["Romeo"].address or "").startswith("romeo@")


async def test_prosody_keeps_accounts_over_a_restart_and_a_kill(
    xmpp_person: MakeXmppPerson,
) -> None:
    async with make_prosody() as server:
        alice = await xmpp_person(server, "alice")
        await server.restart()
        await alice.login()
        await server.kill()
        with pytest.raises(Unavailable):
            await alice.login(timeout_s=2)
        await server.start()
        await alice.login()
        alice.say(alice.full_address, "back")
        await alice.hear("back")


@pytest.mark.parametrize("federation", ["dialback", "cert"])
async def test_people_on_two_prosodys_talk_both_ways(
    federation: Federation, certificates: CertificateAuthority, xmpp_person: MakeXmppPerson
) -> None:
    async with prosody_pair_running(federation, certificates) as (here, there):
        alice = await xmpp_person(here, "alice")
        bob = await xmpp_person(there, "bob")
        alice.say("bob@b.test", "over the wire")
        await bob.hear("over the wire", sender="alice@a.test")
        said = bob.say("alice@a.test", "and back")
        await alice.hear("and back", sender="bob@b.test")
        await bob.receipt(said)
        room = f"far@{there.muc_domain}"
        await alice.enter(room, "alice")
        said = alice.say("nobody@gw.b.test", "no component is connected there")
        assert (await alice.error(said)).condition == "remote-server-timeout"
        await alice.logout()
        await bob.logout()


async def test_a_relay_cuts_and_heals_a_federated_link(
    certificates: CertificateAuthority, xmpp_person: MakeXmppPerson
) -> None:
    here = make_prosody("a.test", federation="cert", authority=certificates)
    there = make_prosody("b.test", federation="cert", authority=certificates)
    async with Relay(there.ports.server) as forth, Relay(here.ports.server) as back:
        here.reach(there, port=forth.port)
        there.reach(here, port=back.port)
        async with here, there:
            alice = await xmpp_person(here, "alice")
            bob = await xmpp_person(there, "bob")
            alice.say("bob@b.test", "one", receipt=False)
            await bob.hear("one")
            assert forth.link_count == 1
            await forth.down()
            await back.down()
            lost = alice.say("bob@b.test", "two", receipt=False)
            await alice.error(lost)
            await forth.up()
            await back.up()
            alice.say("bob@b.test", "three", receipt=False)
            await bob.hear("three")
            assert bob.transcript.find(lambda stanza: stanza.body == "two") is None
            await alice.logout()
            await bob.logout()


async def test_a_relay_swallows_and_cuts() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with asyncio.timeout(10), Relay(server.sockets[0].getsockname()[1]) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        relay.hole()
        writer.write(b"b")
        while relay.swallowed_bytes == 0:
            await asyncio.sleep(0.01)
        relay.heal()
        writer.write(b"c")
        assert await reader.read(1) == b"c"
        relay.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
        await relay.down()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", relay.port)
        await relay.up()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"d")
        assert await reader.read(1) == b"d"
        writer.close()
    server.close()


async def test_two_people_on_one_synapse_talk(
    synapse: Synapse, matrix_person: MakeMatrixPerson
) -> None:
    alice = await matrix_person(synapse, "alice")
    bob = await matrix_person(synapse, "bob")
    room = await alice.create_direct(bob.user_id)
    invite = await bob.see_invite(sender=alice.user_id)
    assert invite.room_id == room
    assert invite.content["is_direct"] is True
    await bob.join(room)
    await alice.see_membership(room, bob.user_id, "join")
    await alice.say_html(room, "a *word*", "a <em>word</em>")
    heard = await bob.hear("a *word*", sender=alice.user_id)
    assert heard.content["formatted_body"] == "a <em>word</em>"
    assert (await alice.members(room))[bob.user_id] == "join"


async def test_who_is_kicked_sees_the_reason(
    synapse: Synapse, matrix_person: MakeMatrixPerson
) -> None:
    alice = await matrix_person(synapse, "gustav")
    bob = await matrix_person(synapse, "hedwig")
    room = await alice.create_room(name="a room", invite=[bob.user_id])
    await bob.see_invite(sender=alice.user_id)
    await bob.join(room)
    await alice.kick(room, bob.user_id, "enough")
    gone = await bob.see_membership(room, bob.user_id, "leave")
    assert gone.content["reason"] == "enough"


async def test_an_encrypted_room_carries_what_nobody_reads(
    synapse: Synapse, matrix_person: MakeMatrixPerson
) -> None:
    carol = await matrix_person(synapse, "carol")
    room = await carol.create_room(encrypted=True)
    event_id = await carol.say_encrypted(room)
    seen = await carol.wait_for(lambda seen: seen.event_id == event_id, what="the junk")
    assert seen.type == "m.room.encrypted"
    assert ("m.room.encryption", "") in await carol.state(room)


async def test_people_on_two_synapses_talk_in_the_default_room_version(
    synapse: Synapse, other_synapse: Synapse, matrix_person: MakeMatrixPerson
) -> None:
    dora = await matrix_person(synapse, "dora")
    emil = await matrix_person(other_synapse, "emil")
    room = await dora.create_direct(emil.user_id)
    await emil.see_invite(sender=dora.user_id)
    await emil.join(room)
    await dora.say(room, "over federation")
    await emil.hear("over federation", room=room, sender=dora.user_id)
    await emil.say(room, "and back")
    await dora.hear("and back", room=room, sender=emil.user_id)
    create = (await emil.state(room))["m.room.create", ""]
    assert create["content"]["room_version"] == "12"


async def test_synapse_runs_on_postgresql(
    certificates: CertificateAuthority, postgresql: PostgreSQL, matrix_person: MakeMatrixPerson
) -> None:
    name = await postgresql.create_database("synapse_here")
    async with Synapse(certificates, database=(postgresql, name)) as server:
        frida = await matrix_person(server, "frida")
        room = await frida.create_room(name="a room")
        await frida.say(room, "stored")
        await frida.hear("stored", room=room)
    assert await postgresql.query("SELECT count(*) > 0 FROM events", database=name) == "t"
    await postgresql.drop_database(name)


async def test_a_waiting_person_does_not_mind_a_restart_of_synapse(
    other_synapse: Synapse, matrix_person: MakeMatrixPerson
) -> None:
    ida = await matrix_person(other_synapse, "ida")
    room = await ida.create_room(name="a room")
    await other_synapse.kill()
    with pytest.raises(Unavailable):
        await ida.say(room, "nobody is there")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ida.hear("again", room=room, timeout_s=60))
        await other_synapse.start()
        said = await ida.say(room, "again")
    assert waiting.result().event_id == said


async def test_an_isthmus_that_cannot_start_says_why(tmp_path: Path) -> None:
    gateway = Isthmus(tmp_path / "missing.yaml", ready_url="http://127.0.0.1:1/", folder=tmp_path)
    with pytest.raises(ServerFailed, match="ended while starting"):
        await gateway.start()
    assert gateway.log_tail()
    assert not gateway.is_running


async def test_postgresql_answers_and_copies_databases(postgresql: PostgreSQL) -> None:
    first = await postgresql.create_database("first")
    await postgresql.query("CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)", database=first)
    second = await postgresql.create_database("second", template=first)
    assert await postgresql.query("SELECT n, n * 2 FROM t", database=second) == "1|2\n2|4"
    await postgresql.drop_database(second)
    await postgresql.drop_database(first)


async def test_each_test_gets_an_empty_database(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    name = postgresql_url.rpartition("/")[2]
    assert (
        await postgresql.query(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database=name
        )
        == "0"
    )


async def test_a_taken_port_is_named_with_its_owner(prosody: Prosody) -> None:
    port = prosody.ports.client
    listener = who_listens(port)
    assert listener is not None
    assert listener.pid == prosody.pid
    with pytest.raises(Misconfigured, match=rf"clients: port {port} is taken by process"):
        check_ports({"clients": port})


async def test_a_server_that_does_not_start_shows_its_log() -> None:
    server = make_prosody(extra_global="this is not lua")
    with pytest.raises(ServerFailed, match=r"prosody\.cfg\.lua"):
        await server.start()
    await server.close()
    assert not server.folder.exists()


async def test_a_frozen_server_answers_after_thawing(
    xmpp_person: MakeXmppPerson,
) -> None:
    async with make_prosody() as server:
        alice = await xmpp_person(server, "alice")
        server.freeze()
        alice.say(alice.full_address, "through the ice")
        with pytest.raises(NotSeen):
            await alice.hear("through the ice", timeout_s=0.2)
        server.thaw()
        await alice.hear("through the ice")
        assert server.rss_bytes() > 1_000_000
        await alice.logout()


async def test_the_ended_server_leaves_nothing() -> None:
    async with make_prosody() as server:
        pid, folder = server.pid, server.folder
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


_OWNER = """
import asyncio, pathlib, sys
from bridge.demo.servers import Prosody

async def own() -> None:
    async with Prosody("a.test", folder=pathlib.Path(sys.argv[1])) as server:
        pathlib.Path(sys.argv[1], "known").write_text(str(server.pid))
        await asyncio.sleep(60)

asyncio.run(own())
"""


async def test_a_server_dies_with_a_killed_owner(tmp_path: Path) -> None:
    owner = Child(
        [sys.executable, "-c", _OWNER, tmp_path],
        name="owner",
        folder=Path.cwd(),
        log=tmp_path / "owner.log",
    )
    owner.spawn()
    known = tmp_path / "known"
    async with asyncio.timeout(20):
        while not known.exists() or not known.read_text():
            assert owner.is_running, (tmp_path / "owner.log").read_text()
            await asyncio.sleep(0.02)
        await owner.kill()
        server_pid = int(known.read_text())
        while Path(f"/proc/{server_pid}/cmdline").exists():
            if not Path(f"/proc/{server_pid}/cmdline").read_bytes():
                break  # dead, and waiting for whoever inherited it to reap it
            await asyncio.sleep(0.02)
