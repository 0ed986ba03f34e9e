"""Two and three Matrix sides federate over real HTTPS: what one does, the others see."""

from __future__ import annotations

from pathlib import Path

from bridge.demo.servers import CertificateAuthority
from tests.support.matrix_side import matrix_sides


async def test_an_invited_user_joins_and_both_talk(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (a, b):
        alice, bob = a.user("alice"), b.user("bob")
        room = await a.create_room(alice, name="Garden")
        await a.invite(room, alice, bob)
        assert await b.membership(room, bob) == "invite"
        await b.join(room, bob)
        assert await a.membership(room, bob) == "join"
        await a.say(room, alice, "hello")
        await b.wait_for_bodies(room, ["hello"])
        await b.say(room, bob, "hello yourself")
        await a.wait_for_bodies(room, ["hello", "hello yourself"])
