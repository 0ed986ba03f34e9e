"""Two and three Matrix sides federate over real HTTPS: what one does, the others see."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from bridge.demo.servers import CertificateAuthority
from bridge.federation.sender import MAX_UNDIGESTED
from bridge.ids import RoomId
from bridge.storage import peers, streams
from bridge.storage.database import Transaction
from bridge.storage.schema import stream_acceptances
from bridge.web.application import Endpoint, Request, Response
from tests.support.matrix_side import MatrixSide, matrix_sides, until

Sides = Callable[[int], AbstractAsyncContextManager[list[MatrixSide]]]


@pytest.fixture
def sides(certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path) -> Sides:
    return lambda count: matrix_sides(certificates, tmp_path, sqlite_template, count)


async def public_room(owner: MatrixSide, *guests: MatrixSide) -> RoomId:
    """A room of `alice`, with a `bob` of each guest in it."""
    room = await owner.create_room(owner.user("alice"), public=True, name="Garden")
    for guest in guests:
        await guest.join(room, guest.user("bob"), owner.name)
    return room


def is_transaction(request: Request) -> bool:
    return "/federation/v1/send/" in request.target


async def test_an_invited_user_joins_and_both_talk(sides: Sides) -> None:
    async with sides(2) as (a, b):
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
        # The invite went by itself; only what was said went by transaction.
        sent = [pdu["type"] for body in b.transactions() for pdu in body["pdus"]]
        assert sent == ["m.room.message"]


async def test_an_invite_that_is_taken_back_is_gone_there_as_well(sides: Sides) -> None:
    async with sides(2) as (a, b):
        alice, bob = a.user("alice"), b.user("bob")
        room = await a.create_room(alice)
        await a.invite(room, alice, bob)
        assert await b.membership(room, bob) == "invite"
        await a.kick(room, alice, bob, "a mistake")
        await b.wait_for_membership(room, bob, "leave")


async def test_a_kicked_server_hears_of_the_kick_and_of_nothing_after_it(sides: Sides) -> None:
    async with sides(3) as (a, b, c):
        alice, bob = a.user("alice"), b.user("bob")
        room = await public_room(a, b, c)
        await a.say(room, alice, "before")
        await a.kick(room, alice, bob, "enough")
        await a.say(room, alice, "after")
        await c.wait_for_bodies(room, ["before", "after"])
        await b.wait_for_membership(room, bob, "leave")
        said = [
            pdu["content"].get("body") or pdu["content"].get("reason")
            for body in b.transactions(origin=a.name)
            for pdu in body["pdus"]
            if pdu["content"].get("membership") != "join"
        ]
        assert said == ["before", "enough"]


async def test_the_resident_server_tells_the_others_of_whom_it_let_in(sides: Sides) -> None:
    async with sides(3) as (a, b, c):
        room = await public_room(a, b)
        await c.join(room, c.user("bob"), a.name)
        await b.wait_for_membership(room, c.user("bob"), "join")
        # So that they talk to each other without the resident.
        await a.stop()
        await c.say(room, c.user("bob"), "can you hear me")
        await b.wait_for_bodies(room, ["can you hear me"])
        await b.say(room, b.user("bob"), "yes")
        await c.wait_for_bodies(room, ["can you hear me", "yes"])
        await a.start()
        await a.wait_for_bodies(room, ["can you hear me", "yes"])


async def test_users_of_three_servers_talk_across_each_other_and_agree(sides: Sides) -> None:
    async with sides(3) as (a, b, c):
        room = await public_room(a, b, c)
        speakers = [(a, a.user("alice")), (b, b.user("bob")), (c, c.user("bob"))]
        for number in range(10):
            for side, user in speakers:
                await side.say(room, user, f"{user} {number}")
        for side, _ in speakers:
            for _, user in speakers:
                await side.wait_for_bodies(room, [f"{user} {number}" for number in range(10)])


@pytest.mark.parametrize("who", ["the sender", "the peer", "both"])
async def test_what_is_said_while_a_peer_is_down_arrives_in_order_after_a_restart(
    sides: Sides, who: str
) -> None:
    async with sides(3) as (a, b, c):
        alice = a.user("alice")
        room = await public_room(a, b, c)
        await b.stop()
        wanted = [f"message {number}" for number in range(120)]
        for body in wanted[:60]:
            await a.say(room, alice, body)
        await c.wait_for_bodies(room, wanted[:60])  # nobody else is held up

        async def failed() -> bool:
            state = await a.database.read(lambda tx: peers.state(tx, b.name))
            return state.failures > 0

        await until(failed)
        if who != "the peer":
            await a.restart()
        await b.start()
        if who == "both":
            await b.restart()
        for body in wanted[60:]:
            await a.say(room, alice, body)
        await b.wait_for_bodies(room, wanted)
        await c.wait_for_bodies(room, wanted)


async def test_a_peer_that_works_slowly_is_never_given_too_much_at_once(sides: Sides) -> None:
    async with sides(2) as (a, b):
        alice = a.user("alice")
        room = await public_room(a, b)
        await b.stop()
        wanted = [f"message {number}" for number in range(300)]
        for body in wanted:
            await a.say(room, alice, body)
        most = 0

        async def watch(request: Request, endpoint: Endpoint) -> Response:
            nonlocal most
            answer = await endpoint(request)
            if is_transaction(request):
                given = sum(len(body["pdus"]) for body in b.transactions(origin=a.name))
                known = len(await b.bodies(room))
                most = max(most, given - known)
            return answer

        b.interfere = watch
        await b.start()
        await b.wait_for_bodies(room, wanted, timeout_s=60.0)
        assert most <= MAX_UNDIGESTED
        assert len(await a.bodies(room)) == 300


async def test_a_lost_answer_costs_nothing(sides: Sides) -> None:
    async with sides(2) as (a, b):
        alice = a.user("alice")
        room = await public_room(a, b)
        lost = 0

        async def lose(request: Request, endpoint: Endpoint) -> Response:
            nonlocal lost
            answer = await endpoint(request)
            if is_transaction(request) and lost < 3:
                lost += 1
                return Response(status=502, body=b"<html>", content_type="text/html")
            return answer

        b.interfere = lose
        wanted = [f"message {number}" for number in range(20)]
        for body in wanted:
            await a.say(room, alice, body)
        await b.wait_for_bodies(room, wanted)
        assert await b.bodies(room) == wanted
        targets = [one.target for one in b.heard if is_transaction(one)]
        assert targets[0] == targets[1] == targets[2] == targets[3]
        bodies = [one.body for one in b.heard if is_transaction(one)]
        assert bodies[0] == bodies[3]


async def test_a_peer_that_refuses_for_a_while_gets_everything_in_the_end(sides: Sides) -> None:
    async with sides(2) as (a, b):
        alice = a.user("alice")
        room = await public_room(a, b)
        refused = 0

        async def refuse(request: Request, endpoint: Endpoint) -> Response:
            nonlocal refused
            if is_transaction(request) and refused < 3:
                refused += 1
                return Response(status=403, json={"errcode": "M_FORBIDDEN", "error": "go away"})
            return await endpoint(request)

        b.interfere = refuse
        await a.say(room, alice, "please")
        await b.wait_for_bodies(room, ["please"])
        assert refused == 3


async def test_a_server_that_was_away_shows_itself_and_gets_what_it_missed(sides: Sides) -> None:
    """The peer rests for very long; that we are back it learns from us."""
    async with sides(2) as (a, b):
        alice, bob = a.user("alice"), b.user("bob")
        room = await public_room(a, b)
        await b.stop()
        await a.say(room, alice, "where are you")

        async def failed() -> bool:
            state = await a.database.read(lambda tx: peers.state(tx, b.name))
            return state.failures > 0

        await until(failed)
        far = a.clock.now_ms() + 3_600_000
        await a.database.write(
            lambda tx: peers.failed(tx, b.name, next_attempt_ms=far, error="down")
        )
        await until(lambda: _rests(a, b))
        await b.start()
        await b.wait_for_bodies(room, ["where are you"])
        empty = [body for body in a.transactions(origin=b.name) if not body["pdus"]]
        assert len(empty) == 1
        await b.say(room, bob, "here")
        await a.wait_for_bodies(room, ["here"])


async def _rests(side: MatrixSide, peer: MatrixSide) -> bool:
    return peer.name in side.running.sender._resting


async def test_a_server_outside_the_access_list_is_told_so_per_event(sides: Sides) -> None:
    async with sides(2) as (a, b):
        room = await public_room(a, b)
        acl = {"allow": ["nobody.example"]}
        await a.send(room, a.user("alice"), "m.room.server_acl", acl, state_key="")
        said = await b.say(room, b.user("bob"), "not for you")

        async def answered() -> list[str | None]:
            def unit(tx: Transaction) -> list[str | None]:
                rows = streams.read_since(tx, stream_acceptances, 0, 100)
                return [row["error"] for row in rows if row["event_id"] == said]

            return await b.database.read(unit)

        (error,) = await until(answered)
        assert error is not None
        assert await a.bodies(room) == []
