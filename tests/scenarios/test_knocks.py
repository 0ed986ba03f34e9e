"""Knocks between a real Synapse and us, both ways."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from bridge.demo.people import MatrixPerson
from bridge.demo.servers import CertificateAuthority, Synapse
from bridge.ids import RoomId, ServerName, UserId
from bridge.rooms import handshake
from tests.scenarios.test_federation_synapse import our_side
from tests.support.matrix_side import MatrixSide
from tests.support.network import trace
from tests.support.servers import MakeMatrixPerson


async def knock(us: MatrixSide, room: RoomId, user: UserId, server: str, reason: str) -> None:
    await us.rooms.handshake.knock(
        user_id=user,
        room_id=room,
        via=[ServerName(server)],
        trace_id=trace(),
        reason=reason,
    )


async def knocked_room(alice: MatrixPerson, version: str) -> RoomId:
    room = await alice.create_room(name="Walled garden", preset="private_chat", version=version)
    await alice.set_state(room, "m.room.join_rules", {"join_rule": "knock"})
    return RoomId(room)


@pytest.mark.parametrize("version", ["10", "12"])
async def test_our_user_knocks_at_a_room_of_synapse(
    version: str,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Synapse tells no server outside the room that it refused a knock: ours knocks anew.
    monkeypatch.setattr(handshake, "SAME_KNOCK_MS", 0)
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, f"alice-k{version}"), us.user("bob")
        room, server = await knocked_room(alice, version), synapse.server_name
        await knock(us, room, bob, server, "It rains.")
        seen = await alice.see_membership(room, bob, "knock")
        assert seen.content["reason"] == "It rains."
        row = await us.rooms.handshake._outside.find_invite(room, bob)
        assert row is not None
        told = {one["type"]: one["content"] for one in row.room_state}
        assert told["m.room.name"] == {"name": "Walled garden"}
        assert "m.room.create" in told

        await alice.kick(room, bob, "We are full.")
        since = alice.position
        await knock(us, room, bob, server, "It still rains.")
        await alice.see_membership(room, bob, "knock", since=since)
        # Taken back, and once more.
        since = alice.position
        await us.leave(room, bob)
        await alice.see_membership(room, bob, "leave", since=since)
        await knock(us, room, bob, server, "I am still here.")
        await alice.wait_for(
            lambda one: one.content.get("reason") == "I am still here.",
            what="the last knock",
            since=since,
        )
        await alice.invite(room, bob)
        await us.wait_for_membership(room, bob, "invite")
        await us.join(room, bob)
        await alice.see_membership(room, bob, "join")
        await us.say(room, bob, "thank you")
        await alice.hear("thank you", room=room, sender=bob)


@pytest.mark.parametrize("version", ["10", "12"])
async def test_a_user_of_synapse_knocks_at_a_room_of_ours(
    version: str,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, f"alice-o{version}"), us.user("bob")
        alice_id = UserId(alice.user_id)
        room = await us.create_room(bob, version=version, name="Garden")
        await us.send(room, bob, "m.room.join_rules", {"join_rule": "knock"}, state_key="")
        path = f"/_matrix/client/v3/knock/{quote(room, safe='')}"
        for reason in ("first", "second"):
            await alice.request(
                "POST", path, {"reason": reason}, query={"via": us.name, "server_name": us.name}
            )
            await us.wait_for_membership(room, alice_id, "knock")
            if reason == "first":
                await us.kick(room, bob, alice_id, "not today")
                await us.wait_for_membership(room, alice_id, "leave")
        await us.invite(room, bob, alice_id)
        await alice.see_invite(sender=bob)
        await alice.join(room)
        await us.wait_for_membership(room, alice_id, "join")
        await us.say(room, bob, "welcome")
        await alice.hear("welcome", room=room, sender=bob)
