"""Rooms that the gateway upgrades on somebody's word, with people of a real Synapse in them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bridge.demo.people import MatrixPerson
from bridge.demo.people.seen import MatrixFailed
from bridge.demo.servers import CertificateAuthority, Synapse, XmppServer
from bridge.ids import RoomVersionId
from tests.support.chats import ARRIVAL_S, Coven, ask_in_room
from tests.support.gateway import Gateway, signing_key_of_synapse, verify
from tests.support.servers import MakeMatrixPerson


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    xmpp_server: XmppServer, synapse: Synapse, certificates: CertificateAuthority
) -> AsyncIterator[Gateway]:
    settings = {
        "permissions": {synapse.server_name: "user"},
        "portals": {"version": "10"},
    }
    async with Gateway(xmpp_server, certificates, settings=settings) as server:
        yield server


async def admin(gateway: Gateway, line: str) -> str:
    """`isthmus admin`: what it printed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "admin", "--config", str(gateway.config)),
        *line.split(),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        printed, _ = await child.communicate()
    return printed.decode()


async def state_of(person: MatrixPerson, room_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(type, state key) -> content; what is empty is left out."""
    state = await person.state(room_id)
    return {key: event["content"] for key, event in state.items() if event["content"]}


async def see_tombstone(person: MatrixPerson, room_id: str, gateway: Gateway) -> str:
    """Where the room goes on."""
    seen = await person.wait_for(
        lambda seen: seen.room_id == room_id and seen.type == "m.room.tombstone",
        what="the tombstone",
        timeout_s=ARRIVAL_S,
    )
    assert seen.sender == gateway.bot_id
    assert seen.body == "This room has been replaced"
    return str(seen.content["replacement_room"])


def verify_all(gateway: Gateway, synapse: Synapse, room_id: str) -> None:
    keys = {
        gateway.server_name: gateway.signing_key,
        synapse.server_name: signing_key_of_synapse(synapse.folder),
    }
    version = RoomVersionId(gateway.room_version(room_id) or "")
    stored = [event for event in gateway.events(room_id) if event.verdict == "accepted"]
    assert len(stored) >= 8
    for event in stored:
        verify(event, version, keys)


@pytest.fixture
async def mallory(synapse: Synapse, matrix_person: MakeMatrixPerson) -> MatrixPerson:
    return await matrix_person(synapse, "mallory")


async def test_a_private_room_of_synapse_is_upgraded_by_the_bot_on_its_owners_word(
    gateway: Gateway, synapse: Synapse, matrix_person: MakeMatrixPerson, mallory: MatrixPerson
) -> None:
    alice = await matrix_person(synapse, "alice-upgrades")
    friend = await matrix_person(synapse, "friend-upgrades")
    old = await alice.create_room(
        name="Study",
        topic="books",
        preset="private_chat",
        version="10",
        alias=f"study-{gateway.component}",
        invite=[gateway.bot_id, friend.user_id],
        power_level_content_override={"users": {alice.user_id: 100, gateway.bot_id: 100}},
    )
    await alice.see_membership(old, gateway.bot_id, "join", timeout_s=ARRIVAL_S)
    await friend.join(old)
    await alice.ban(old, mallory.user_id, "spills ink")

    async def call(room_id: str, person: MatrixPerson, line: str, expect: str) -> str:
        return await ask_in_room(person, gateway, room_id, f"!isthmus {line}", expect=expect)

    # Who has no power there is refused, and so is a version that is none.
    await call(old, friend, f"upgrade {old} 12", "only members of")
    await call(old, alice, f"upgrade {old} 13", "is not known here")
    await call(old, alice, f"upgrade {old} 2", "not made")

    # 10 -> 12: the members are invited, power and bans are carried, the bot is the creator.
    await alice.say(old, f"!isthmus upgrade {old} 12")
    new = await see_tombstone(alice, old, gateway)
    assert ":" not in new
    for person in (alice, friend):
        invite = await person.see_invite(sender=gateway.bot_id, timeout_s=ARRIVAL_S)
        assert invite.room_id == new
        await person.join(new, via=[gateway.server_name])
    state = await state_of(alice, new)
    create = state["m.room.create", ""]
    assert create["room_version"] == "12"
    assert create["predecessor"]["room_id"] == old
    assert state["m.room.name", ""] == {"name": "Study"}
    assert state["m.room.topic", ""]["topic"] == "books"
    assert state["m.room.join_rules", ""] == {"join_rule": "invite"}
    assert state["m.room.power_levels", ""]["users"] == {alice.user_id: 100}
    assert state["m.room.member", mallory.user_id] == {
        "membership": "ban",
        "reason": "spills ink",
    }
    # The alias is Synapse's and stays where it was, so it is not claimed by the new room.
    assert ("m.room.canonical_alias", "") not in state
    await alice.say(new, "the new study")
    await friend.hear("the new study", room=new, timeout_s=ARRIVAL_S)
    await alice.set_state(new, "m.room.topic", {"topic": "maps"})
    with pytest.raises(MatrixFailed):
        await alice.invite(new, mallory.user_id)
    with pytest.raises(MatrixFailed):
        await friend.set_state(new, "m.room.topic", {"topic": "mine"})
    with pytest.raises(MatrixFailed):
        await friend.say(old, "anybody here?")
    verify_all(gateway, synapse, new)

    # 12 -> 11: the bot is no creator any more, and keeps the highest level.
    await alice.say(new, f"!isthmus upgrade {new} 11")
    newer = await see_tombstone(alice, new, gateway)
    await alice.wait_for(
        lambda seen: seen.section == "invite" and seen.room_id == newer,
        what="the second invite",
        timeout_s=ARRIVAL_S,
    )
    await alice.join(newer, via=[gateway.server_name])
    state = await state_of(alice, newer)
    assert state["m.room.create", ""]["room_version"] == "11"
    assert state["m.room.create", ""]["predecessor"]["room_id"] == new
    assert state["m.room.topic", ""]["topic"] == "maps"
    users = state["m.room.power_levels", ""]["users"]
    assert users[alice.user_id] == 100
    assert users[gateway.bot_id] >= 100
    assert state["m.room.member", mallory.user_id]["membership"] == "ban"
    tombstones = await state_of(alice, new)
    assert tombstones["m.room.tombstone", ""]["replacement_room"] == newer
    verify_all(gateway, synapse, newer)

    # 11 -> I.1: Synapse would stay behind, and the bot says so.
    answer = await call(newer, alice, f"upgrade {newer} I.1", "cannot take part")
    assert synapse.server_name in answer
    assert ("m.room.tombstone", "") not in await state_of(alice, newer)
    answer = await call(newer, alice, f"upgrade {newer} I.1 anyway", "could not be invited")
    assert alice.user_id in answer
    newest = await see_tombstone(alice, newer, gateway)
    assert gateway.room_version(newest) == "I.1"
    with pytest.raises(MatrixFailed):
        await alice.join(newest, via=[gateway.server_name])


async def test_a_portals_room_keeps_its_alias_and_its_chat(
    coven: Coven, gateway: Gateway, synapse: Synapse
) -> None:
    alice, romeo = coven.alice, coven.romeo
    old = await coven.join()
    assert gateway.room_version(old) == "10"
    await alice.say(old, "in the old room")
    await romeo.person.hear("in the old room")

    for version in ("12", "11"):
        printed = await admin(gateway, f"upgrade {coven.alias} {version}")
        assert f"{old} is replaced by" in printed
        assert f"Its alias {coven.alias} leads there now." in printed
        new = await see_tombstone(alice, old, gateway)
        assert await alice.resolve_alias(coven.alias) == new
        assert await alice.join(coven.alias) == new
        state = await state_of(alice, new)
        assert state["m.room.create", ""]["room_version"] == version
        assert state["m.room.canonical_alias", ""]["alias"] == coven.alias
        assert ("m.room.canonical_alias", "") not in await state_of(alice, old)
        await alice.say(new, f"hello from version {version}")
        await romeo.person.hear(f"hello from version {version}", timeout_s=ARRIVAL_S)
        romeo.say(f"good evening, version {version}")
        await alice.hear(f"good evening, version {version}", room=new, timeout_s=ARRIVAL_S)
        verify_all(gateway, synapse, new)
        old = new
