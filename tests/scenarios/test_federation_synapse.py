"""Our Matrix side and a real Synapse: rooms of either, bursts, and outages of either."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.demo.people import MatrixPerson
from bridge.demo.servers import CertificateAuthority, Synapse
from bridge.ids import RoomId, ServerName, UserId
from bridge.ids import parse_room_alias as alias_of
from tests.support.matrix_side import MatrixSide, matrix_sides
from tests.support.servers import MakeMatrixPerson

BURST = 300
BURST_TIMEOUT_S = 90.0


@asynccontextmanager
async def our_side(
    certificates: CertificateAuthority, folder: Path, template: Path
) -> AsyncIterator[MatrixSide]:
    async with matrix_sides(certificates, folder, template, 1) as (side,):
        yield side


async def shared_room(us: MatrixSide, bob: UserId, alice: MatrixPerson) -> RoomId:
    """A room of bob's (ours) that alice (of the Synapse) was invited to and joined."""
    room = await us.create_room(bob, name="Garden")
    await us.invite(room, bob, UserId(alice.user_id))
    await alice.see_invite(sender=bob)
    await alice.join(room)
    await us.wait_for_membership(room, UserId(alice.user_id), "join")
    return room


def bodies_in(alice: MatrixPerson, room: RoomId, sender: UserId) -> list[str]:
    """What `/sync` showed of somebody, in its order."""
    return [
        seen.body or ""
        for seen in alice.transcript
        if seen.section == "timeline" and seen.room_id == room and seen.sender == sender
        if seen.type == "m.room.message"
    ]


async def test_a_user_of_synapse_is_invited_into_our_room_and_both_talk(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice"), us.user("bob")
        room = await shared_room(us, bob, alice)
        await us.say(room, bob, "hello from us")
        await alice.hear("hello from us", room=room, sender=bob)
        await alice.say(room, "hello from synapse")
        await us.wait_for_bodies(room, ["hello from us", "hello from synapse"])

        # Our state reaches her, and what she does is judged by ours.
        await us.send(room, bob, "m.room.topic", {"topic": "roses"}, state_key="")
        await alice.wait_for(
            lambda seen: seen.type == "m.room.topic" and seen.content == {"topic": "roses"},
            what="the topic",
        )
        await us.kick(room, bob, UserId(alice.user_id), "enough")
        left = await alice.see_membership(room, alice.user_id, "leave")
        assert left.content["reason"] == "enough"


async def test_a_room_of_synapse_is_joined_by_our_user_and_both_talk(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice"), us.user("bob")
        room = RoomId(await alice.create_room(preset="private_chat"))
        await alice.say(room, "before you came")
        await alice.invite(room, bob)
        await us.wait_for_membership(room, bob, "invite")
        await us.join(room, bob)
        await alice.see_membership(room, bob, "join")
        for number in range(5):
            await alice.say(room, f"question {number}")
            await us.wait_for_bodies(room, [f"question {n}" for n in range(number + 1)])
            await us.say(room, bob, f"answer {number}")
            await alice.hear(f"answer {number}", room=room, sender=bob)
        await us.leave(room, bob)
        await alice.see_membership(room, bob, "leave")

        # An invitation that is turned down.
        other = RoomId(await alice.create_room(preset="private_chat"))
        await alice.invite(other, bob)
        await us.wait_for_membership(other, bob, "invite")
        await us.leave(other, bob)
        await alice.see_membership(other, bob, "leave")


async def test_a_public_room_is_joined_by_its_alias(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice"), us.user("bob")
        alias = f"#meadow:{synapse.server_name}"
        created = await alice.create_room(preset="public_chat", alias="meadow")
        room, servers = await us.requests.query_directory(
            ServerName(synapse.server_name), alias_of(alias)
        )
        assert room == created
        await us.join(room, bob, *servers)
        await alice.say(room, "welcome")
        await us.wait_for_bodies(room, ["welcome"])

        # And the other way round: our alias, resolved and joined by Synapse.
        ours = await us.create_room(bob, public=True, alias=alias_of(f"#attic:{us.name}"))
        assert await alice.join(f"#attic:{us.name}") == ours
        await us.wait_for_membership(ours, UserId(alice.user_id), "join")


@pytest.mark.timeout(180)
async def test_a_burst_of_ours_arrives_whole_and_in_order(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice"), us.user("bob")
        room = await shared_room(us, bob, alice)
        wanted = [f"burst {number}" for number in range(BURST)]
        begin = time.monotonic()
        for body in wanted:
            await us.say(room, bob, body)
        written_s = time.monotonic() - begin
        await alice.hear(wanted[-1], room=room, sender=bob, timeout_s=BURST_TIMEOUT_S)
        arrived_s = time.monotonic() - begin
        print(
            f"\n{BURST} events written in {written_s:.1f} s, with Synapse after {arrived_s:.1f} s"
        )
        assert bodies_in(alice, room, bob) == wanted


@pytest.mark.timeout(180)
async def test_a_burst_of_synapse_arrives_whole_and_in_order(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice"), us.user("bob")
        room = await shared_room(us, bob, alice)
        wanted = [f"burst {number}" for number in range(100)]
        begin = time.monotonic()
        for body in wanted:
            await alice.say(room, body)
        await us.wait_for_bodies(room, wanted, timeout_s=BURST_TIMEOUT_S)
        print(f"\n100 events of Synapse with us after {time.monotonic() - begin:.1f} s")


@pytest.mark.timeout(180)
async def test_what_is_said_during_an_outage_of_either_arrives_after_it(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice"), us.user("bob")
        room = await shared_room(us, bob, alice)

        await us.stop()
        missed = [f"you were out {number}" for number in range(250)]
        for body in missed:
            await alice.say(room, body)
        begin = time.monotonic()
        await us.start()
        await us.wait_for_bodies(room, missed, timeout_s=60.0)
        print(f"\nafter our outage: {time.monotonic() - begin:.1f} s")

        await synapse.stop()
        waiting = [f"synapse was out {number}" for number in range(60)]
        for body in waiting:
            await us.say(room, bob, body)
        await us.restart()
        begin = time.monotonic()
        await synapse.start()
        await alice.hear(waiting[-1], room=room, sender=bob, timeout_s=60.0)
        print(f"after the outage of Synapse: {time.monotonic() - begin:.1f} s with its start")
        assert bodies_in(alice, room, bob) == waiting


@pytest.mark.timeout(180)
async def test_what_a_restarted_synapse_no_longer_sends_is_fetched(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    """Its queue is gone with its process: it sends a room's newest event, and nothing before."""
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice"), us.user("bob")
        room = await shared_room(us, bob, alice)
        await alice.say(room, "hello")
        await us.wait_for_bodies(room, ["hello"])
        await us.stop()
        missed = [f"you were out {number}" for number in range(250)]
        for body in missed:
            await alice.say(room, body)
        await synapse.restart()
        begin = time.monotonic()
        await us.start()
        await us.wait_for_bodies(room, missed, timeout_s=60.0)
        print(f"\n250 missed events fetched {time.monotonic() - begin:.1f} s after our start")
