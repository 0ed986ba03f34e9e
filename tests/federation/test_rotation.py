"""A signing key is replaced between running servers: rooms go on, what the old key signed verifies
for whoever comes later, and the new key is fetched without anybody's doing."""

from __future__ import annotations

from pathlib import Path
from random import Random

from sqlalchemy import select

from bridge.demo.servers import CertificateAuthority
from bridge.engine.keybook import KeyBook
from bridge.federation.own_keys import KeyFile, OwnKeys
from bridge.ids import KeyId
from bridge.storage.database import Transaction
from bridge.storage.schema import server_keys
from tests.support.matrix_side import MatrixSide, matrix_sides


async def with_key_file(side: MatrixSide, path: Path) -> None:
    book = KeyBook(current=(side.key,))
    path.write_text(book.to_text(), "ascii")
    side.keys = OwnKeys(book, keeper=KeyFile(path), clock=side.clock, random=Random(7))
    await side.restart()


async def known_keys(side: MatrixSide, of: MatrixSide) -> dict[KeyId, int | None]:
    """By ID, when each expired."""

    def unit(tx: Transaction) -> dict[KeyId, int | None]:
        rows = tx.execute(select(server_keys).where(server_keys.c.server == of.name))
        return {KeyId(row.key_id): row.expired_ms for row in rows}

    return await side.database.read(unit)


async def test_rooms_go_on_under_a_new_key_and_newcomers_verify_the_old_one(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 3) as (a, b, late):
        await with_key_file(a, tmp_path / "signing.key")
        alice, bob = a.user("alice"), b.user("bob")
        room = await a.create_room(alice, public=True)
        await b.join(room, bob, a.name)
        await a.say(room, alice, "by the old key")
        await b.wait_for_bodies(room, ["by the old key"])

        old, (retired, new) = a.keys.key_id, (a.keys.key_id, await a.keys.rotate())
        assert retired == old
        await a.say(room, alice, "by the new key")
        await b.wait_for_bodies(room, ["by the old key", "by the new key"])
        await b.say(room, bob, "heard")
        await a.wait_for_bodies(room, ["by the old key", "by the new key", "heard"])
        assert set(await known_keys(b, a)) == {old, new}

        # It never saw the old key in use, and verifies the room that this key has made.
        await late.join(room, late.user("carol"), a.name)
        assert await late.membership(room, alice) == "join"
        known = await known_keys(late, a)
        assert set(known) == {old, new}
        assert known[new] is None
        assert known[old] == a.keys.old[0].expired_ms


async def test_what_is_signed_with_a_retired_key_after_its_time_does_not_count(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    """Whoever finds an old key cannot speak for us with it."""
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (a, b):
        await with_key_file(a, tmp_path / "signing.key")
        alice = a.user("alice")
        room = await a.create_room(alice, public=True)
        await b.join(room, b.user("bob"), a.name)
        await a.keys.rotate()
        await a.say(room, alice, "by the new key")
        await b.wait_for_bodies(room, ["by the new key"])
        # `draft_message` signs with the key that the side began with.
        stolen = await a.draft_message(room, alice, "by the old key")
        assert set(stolen.json["signatures"][a.name]) == {a.key.key_id}
        verdicts = await b.rooms.receiver.take(a.name, "stolen", [stolen.wire()])
        assert verdicts[stolen.event_id]["error"]
        assert await b.bodies(room) == ["by the new key"]
