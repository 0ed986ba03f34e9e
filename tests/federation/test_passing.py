"""Typing, receipts and presence between Matrix sides over real HTTPS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bridge.demo.servers import CertificateAuthority
from bridge.engine.edu import Receipt, TypingEdu
from bridge.ids import EventId, RoomId
from bridge.rooms.passing import UserPresence
from bridge.storage import edus
from bridge.web.application import Endpoint, Request, Response
from tests.support.matrix_side import MatrixSide, matrix_sides, until
from tests.support.openapi import edu_complaints

Sides = Callable[[int], AbstractAsyncContextManager[list[MatrixSide]]]
C = TypeVar("C")


@pytest.fixture
def sides(certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path) -> Sides:
    return lambda count: matrix_sides(certificates, tmp_path, sqlite_template, count)


async def public_room(owner: MatrixSide, *guests: MatrixSide, version: str = "12") -> RoomId:
    room = await owner.create_room(owner.user("alice"), version=version, public=True, name="Garden")
    for guest in guests:
        await guest.join(room, guest.user("bob"), owner.name)
        await owner.wait_for_membership(room, guest.user("bob"), "join")
    return room


def heard(side: MatrixSide, kind: type[C]) -> list[C]:
    return [one for one in side.changes if isinstance(one, kind)]


async def wait_until_heard(side: MatrixSide, kind: type[C], count: int) -> list[C]:
    async def look() -> bool:
        return len(heard(side, kind)) >= count

    await until(look)
    assert len(heard(side, kind)) == count
    return heard(side, kind)


def edus_of(side: MatrixSide, origin: MatrixSide) -> list[Any]:
    return [edu for body in side.transactions(origin=origin.name) for edu in body.get("edus", ())]


@pytest.mark.parametrize("version", ["I.1", "12", "6"])
async def test_all_three_cross_and_are_what_the_specification_says(
    sides: Sides, version: str
) -> None:
    async with sides(2) as (a, b):
        room = await public_room(a, b, version=version)
        alice, bob = a.user("alice"), b.user("bob")
        said = await b.send(room, bob, "org.example.said", {})
        await a.rooms.ephemeral.typing.set(room, alice, True)
        await a.rooms.ephemeral.typing.set(room, alice, False)
        await a.rooms.ephemeral.receipts.read_up_to(room, alice, said)
        await a.rooms.ephemeral.receipts.read_up_to(room, alice, said, thread_id="main")
        a.rooms.ephemeral.presence.set(alice, "online", status="watering")
        receipts = await wait_until_heard(b, Receipt, 2)
        assert {(one.user_id, one.event_id, one.thread_id) for one in receipts} == {
            (alice, said, None),
            (alice, said, "main"),
        }
        (presence,) = await wait_until_heard(b, UserPresence, 1)
        assert (presence.user_id, presence.presence, presence.status) == (
            alice,
            "online",
            "watering",
        )
        await b.rooms.ephemeral.typing.set(room, bob, True)
        (typing,) = await wait_until_heard(a, TypingEdu, 1)
        assert (typing.user_id, typing.typing) == (bob, True)
        sent = [*edus_of(b, a), *edus_of(a, b)]
        assert {edu["edu_type"] for edu in sent} == {"m.typing", "m.receipt", "m.presence"}
        assert [complaint for edu in sent for complaint in edu_complaints(edu)] == []


async def test_receipts_reach_a_peer_that_was_down_and_typing_does_not(sides: Sides) -> None:
    async with sides(2) as (a, b):
        room = await public_room(a, b)
        alice = a.user("alice")
        await b.stop()
        b.changes.clear()
        await a.rooms.ephemeral.typing.set(room, alice, True)
        for number in range(5):
            await a.rooms.ephemeral.receipts.read_up_to(room, alice, EventId(f"${number}"))
        await asyncio.sleep(0.3)
        await b.start()

        async def newest() -> bool:
            return [one.event_id for one in heard(b, Receipt)][-1:] == ["$4"]

        await until(newest)
        assert len(heard(b, Receipt)) <= 2  # what was tried when it was down, and the newest
        assert heard(b, TypingEdu) == []
        rows = await b.rooms.ephemeral.receipts.of_room(room)
        assert [(row.user_id, row.event_id) for row in rows] == [(alice, "$4")]


async def test_a_lost_answer_brings_the_same_edus_again_and_nothing_twice(sides: Sides) -> None:
    async with sides(2) as (a, b):
        room = await public_room(a, b)
        lost: list[Request] = []

        async def lose_first(request: Request, endpoint: Endpoint) -> Response:
            answer = await endpoint(request)
            if "/send/" in request.target and request.json_object().get("edus") and not lost:
                lost.append(request)
                return Response(status=502, json={"errcode": "M_UNKNOWN", "error": "lost"})
            return answer

        b.interfere = lose_first
        await a.rooms.ephemeral.receipts.read_up_to(room, a.user("alice"), EventId("$1"))

        async def nothing_waits() -> bool:
            return not await a.database.read(edus.servers_with_receipts)

        await until(nothing_waits)
        again = [request for request in b.heard if request.target == lost[0].target]
        assert len(again) == 2
        assert again[0].body == again[1].body
        assert len(heard(b, Receipt)) == 1


async def test_who_may_not_enter_the_room_tells_nothing_there(sides: Sides) -> None:
    async with sides(2) as (a, b):
        room = await public_room(a, b)
        alice, bob = a.user("alice"), b.user("bob")
        acl = {"allow": ["*"], "deny": ["localhost"]}
        await b.rooms.ephemeral.receipts.read_up_to(room, bob, EventId("$before"))
        await wait_until_heard(a, Receipt, 1)
        await a.send(room, alice, "m.room.server_acl", acl, state_key="")
        await b.rooms.ephemeral.receipts.read_up_to(room, bob, EventId("$after"))
        await b.rooms.ephemeral.typing.set(room, bob, True)

        async def arrived() -> bool:
            return "m.typing" in [edu["edu_type"] for edu in edus_of(a, b)]

        await until(arrived)
        assert heard(a, TypingEdu) == []
        assert [one.event_id for one in heard(a, Receipt)] == ["$before"]
