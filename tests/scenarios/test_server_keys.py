"""Our keys as real servers see them: rotated while it runs, and we as a notary."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from tests.support.chats import ARRIVAL_S, ask_in_room
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson


async def rotate(gateway: Gateway) -> str:
    """`isthmus admin keys rotate`; what it printed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "admin", "--config", str(gateway.config)),
        *("keys", "rotate"),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        printed, _ = await child.communicate()
    assert child.returncode == 0, printed
    return printed.decode()


def signing_keys(gateway: Gateway, room_id: str) -> list[str]:
    """By which of its keys the gateway's own events of a room are signed, in their order."""
    return [
        key_id
        for event in gateway.events(room_id)
        if event.json["sender"] == gateway.bot_id
        for key_id in event.json["signatures"][gateway.server_name]
    ]


@pytest.mark.timeout(240)
async def test_after_a_rotation_new_and_old_events_verify_also_through_us_as_the_notary(
    prosody: Prosody, certificates: CertificateAuthority, matrix_person: MakeMatrixPerson
) -> None:
    async with Gateway(prosody, certificates) as gateway, Synapse(certificates) as first:
        alice = await matrix_person(first, "alice")
        room_id = await alice.create_room(preset="public_chat", invite=[gateway.bot_id])
        await alice.see_membership(room_id, gateway.bot_id, "join", timeout_s=ARRIVAL_S)
        await ask_in_room(alice, gateway, room_id, "!isthmus help", expect="You can write to me")

        # The new key signs without a restart, and the peer takes what it signs.
        printed = await rotate(gateway)
        assert "signs from now on" in printed
        await ask_in_room(alice, gateway, room_id, "!isthmus whois me", expect="Here:")
        old, *_, new = signing_keys(gateway, room_id)
        assert old != new
        assert f"{new} signs from now on. {old} stays published" in printed

        # A server that never saw the old key in use joins by way of us while the room's own server
        # is gone: of that one's keys it hears from us alone, of ours both from ourselves.
        trusting = {"trusted_key_servers": [{"server_name": gateway.server_name}]}
        async with Synapse(certificates, overrides=trusting) as second:
            await first.stop()
            carol = await matrix_person(second, "carol")
            assert await carol.join(room_id, via=[gateway.server_name]) == room_id
            members = await carol.members(room_id)
            assert members[alice.user_id] == "join"
            assert members[gateway.bot_id] == "join"
            await ask_in_room(
                carol, gateway, room_id, "!isthmus help", expect="You can write to me"
            )

            assert "from notary server" in second.log.read_text("utf-8")

            # What was rotated stays rotated.
            await gateway.restart()
            await ask_in_room(
                carol, gateway, room_id, "!isthmus help", expect="You can write to me"
            )
        assert set(signing_keys(gateway, room_id)) == {old, new}
        assert signing_keys(gateway, room_id)[-1] == new
