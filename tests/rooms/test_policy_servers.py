"""Rooms with a policy server: what it has not signed does not leave, and is not shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import pytest
import pytest_asyncio

from bridge.engine.keys import SigningKey
from bridge.engine.policy_server import NAMES, POLICY_KEY, STABLE, UNSTABLE
from bridge.engine.signing import sign_event
from bridge.engine.versions import get_version
from bridge.errors import Refused, Unavailable
from bridge.ids import EventId, RoomId, RoomVersionId, ServerName, TraceId
from bridge.rooms.network import Json
from bridge.rooms.policy_server import REST_S
from tests.support.clock import FakeClock
from tests.support.network import Network, Server

GUARD = ServerName("guard.example")
KEY = SigningKey.from_seed("policy_server", b"p" * 32)
SPAM = "buy now"


class Guarded:
    """A room of `home` with `other` and the policy server in it."""

    def __init__(self, network: Network, home: Server, other: Server, guard: Server) -> None:
        self.network, self.home, self.other, self.guard = network, home, other, guard
        self.room_id = RoomId("")
        self.version = RoomVersionId("10")
        self.asked: list[tuple[str, Json]] = []
        self.key = KEY
        self.unknown_paths: set[str] = set()
        self._numbers = iter(range(1000))
        network.policy = self.answer

    def answer(self, path: str, pdu: Json) -> Json:
        if path in self.unknown_paths:
            raise Refused("what?", errcode="M_UNRECOGNIZED", rule="peer")
        self.asked.append((path, pdu))
        if SPAM in str(pdu["content"]):
            raise Refused("that is spam", errcode="M_FORBIDDEN", rule="peer")
        signed = sign_event(pdu, get_version(self.version), server=GUARD, key=self.key)
        return {GUARD: {POLICY_KEY: signed["signatures"][GUARD][POLICY_KEY]}}

    async def open(self) -> None:
        home = self.home
        self.room_id = await home.backend.create_room(
            creator=home.user("alice"), txn="room", public=True, version=self.version
        )
        for server in (self.other, self.guard):
            await server.backend.join(
                user_id=server.user("u"), room_id=self.room_id, via=[home.name]
            )
        await self.network.deliver()

    async def name(self, type: str = STABLE.event_type, **content: Any) -> None:
        named = {"via": GUARD, "public_keys": {"ed25519": self.key.verify_key_base64}}
        await self.send(self.home, type, content or named, state_key="")

    async def send(
        self, server: Server, type: str, content: Json, state_key: str | None = None
    ) -> EventId:
        event_id = await server.backend.send(
            room_id=self.room_id,
            sender=server.user("alice" if server is self.home else "u"),
            type=type,
            content=content,
            state_key=state_key,
            txn=f"{server.name}{next(self._numbers)}",
            trace=TraceId("t"),
        )
        await self.network.deliver()
        return event_id

    async def say(self, text: str, server: Server | None = None) -> EventId:
        return await self.send(server or self.home, "m.room.message", {"body": text})

    async def say_unasked(self, text: str) -> EventId:
        """By the other server, which does not ask."""
        with patch.object(self.other.rooms.sender._policy_servers, "find", never):
            event_id = await self.other.backend.send(
                room_id=self.room_id,
                sender=self.other.user("u"),
                type="m.room.message",
                content={"body": text},
                txn=f"unasked{next(self._numbers)}",
                trace=TraceId("t"),
            )
        await self.network.deliver()
        return event_id


async def never(*_: object) -> None:
    return None


@pytest_asyncio.fixture
async def room(network: Network) -> AsyncIterator[Guarded]:
    servers = [await network.add(name) for name in ("home.example", "other.example", GUARD)]
    guarded = Guarded(network, servers[0], servers[1], servers[2])
    await guarded.open()
    yield guarded


async def signatures(server: Server, event_id: EventId) -> Any:
    found = await server.rooms.queries.streamed([event_id])
    return found[event_id].pdu.json["signatures"]


async def test_a_room_without_one_asks_nobody(room: Guarded) -> None:
    await room.say("hello")
    assert room.asked == []


async def test_what_it_recommends_carries_its_signature(room: Guarded) -> None:
    await room.name()
    event_id = await room.say("hello")
    for server in (room.home, room.other):
        assert POLICY_KEY in (await signatures(server, event_id))[GUARD]
    assert await room.other.bodies(room.room_id) == ["hello"]
    # Once, by the author's server: whoever receives it looks at the signature.
    assert [(path, pdu["content"]) for path, pdu in room.asked] == [
        (STABLE.sign_path, {"body": "hello"})
    ]


async def test_what_it_refuses_is_not_sent_and_the_author_reads_why(room: Guarded) -> None:
    await room.name()
    with pytest.raises(Refused, match="that is spam") as caught:
        await room.say(SPAM)
    assert (caught.value.errcode, caught.value.rule) == ("M_FORBIDDEN", "policy_server")
    for server in (room.home, room.other):
        assert await server.bodies(room.room_id) == []
    await room.say("sorry")
    assert await room.other.bodies(room.room_id) == ["sorry"]


async def test_while_it_is_away_what_we_send_waits(room: Guarded, clock: FakeClock) -> None:
    await room.name()
    room.guard.down = True
    with pytest.raises(Unavailable, match="policy server of this room cannot be asked"):
        await room.say("hello")
    asked = len(room.network.requests)
    with pytest.raises(Unavailable) as caught:
        await room.say("hello")
    assert len(room.network.requests) == asked  # it rests
    assert caught.value.retry_after_s == REST_S
    room.guard.down = False
    clock.shift(REST_S + 1)
    await room.say("hello")
    assert await room.other.bodies(room.room_id) == ["hello"]


async def test_who_may_can_always_let_go_of_it(room: Guarded) -> None:
    await room.name()
    room.guard.down = True
    await room.send(room.home, STABLE.event_type, {}, state_key="")
    await room.say("free")
    assert await room.other.bodies(room.room_id) == ["free"]
    assert room.asked == []


async def test_when_nobody_of_it_is_in_the_room_it_counts_no_more(room: Guarded) -> None:
    await room.name()
    await room.guard.backend.leave(user_id=room.guard.user("u"), room_id=room.room_id)
    await room.network.deliver()
    room.asked.clear()
    await room.say(SPAM)
    assert await room.other.bodies(room.room_id) == [SPAM]
    assert room.asked == []


@pytest.mark.parametrize("text", ["hello", SPAM])
async def test_what_came_unsigned_is_asked_about_and_shown_if_it_signs(
    room: Guarded, text: str
) -> None:
    await room.name()
    event_id = await room.say_unasked(text)
    assert (await room.home.bodies(room.room_id) == [text]) is (text != SPAM)
    assert room.asked[-1][1]["content"] == {"body": text}
    found = await room.home.rooms.queries.streamed([event_id])
    if text == SPAM:
        assert event_id not in found or not found[event_id].applies
    else:
        assert POLICY_KEY in found[event_id].pdu.json["signatures"][GUARD]


async def test_what_came_unsigned_while_it_is_away_is_not_shown(room: Guarded) -> None:
    await room.name()
    room.guard.down = True
    await room.say_unasked("hello")
    assert await room.home.bodies(room.room_id) == []
    # Nobody is held up by that.
    room.guard.down = False
    room.network.clock.shift(REST_S + 1)
    await room.say("here")
    assert await room.home.bodies(room.room_id) == ["here"]


async def test_a_flood_of_unsigned_events_asks_a_server_that_is_away_once(room: Guarded) -> None:
    await room.name()
    room.guard.down = True
    room.network.requests.clear()
    for number in range(10):
        await room.say_unasked(f"flood {number}")
    asked = [one for one in room.network.requests if one[:2] == ("policy_sign", "home.example")]
    assert len(asked) == 1


async def test_a_signature_by_another_key_is_none(room: Guarded) -> None:
    await room.name()
    room.key = SigningKey.from_seed("policy_server", b"q" * 32)
    with pytest.raises(Refused, match="not by the key that the room names"):
        await room.say("hello")
    # The room names the new one: what the old one has signed is asked about again.
    await room.name()
    await room.say("hello again")
    assert await room.other.bodies(room.room_id) == ["hello again"]


async def test_whoever_comes_in_is_asked_about_by_the_resident_server(room: Guarded) -> None:
    await room.name()
    late = await room.network.add("late.example")
    await late.backend.join(user_id=late.user("u"), room_id=room.room_id, via=[room.home.name])
    await room.network.deliver()
    assert room.asked[-1][1]["content"]["membership"] == "join"
    for server in (room.home, room.other, late):
        member = await server.backend.member(room.room_id, late.user("u"))
        assert member is not None
        assert member.membership == "join"


async def test_whom_it_does_not_want_is_not_let_in(room: Guarded) -> None:
    await room.name()
    late = await room.network.add("late.example")
    refuse = room.answer

    def answer(path: str, pdu: Json) -> Json:
        if pdu["content"].get("membership") == "join":
            raise Refused("not you", errcode="M_FORBIDDEN", rule="peer")
        return refuse(path, pdu)

    room.network.policy = answer
    with pytest.raises(Refused, match="not you"):
        await late.backend.join(user_id=late.user("u"), room_id=room.room_id, via=[room.home.name])
    assert await room.home.backend.member(room.room_id, late.user("u")) is None


async def test_invites_are_signed_by_it_also_where_it_invites_its_own(room: Guarded) -> None:
    await room.name()
    for server in (room.other, room.guard):
        target = server.user("guest")
        await room.home.backend.invite(
            room_id=room.room_id, sender=room.home.user("alice"), target=target, txn=f"i{target}"
        )
        await room.network.deliver()
        member = await room.other.backend.member(room.room_id, target)
        assert member is not None
        assert member.membership == "invite"


@pytest.mark.parametrize("names", NAMES, ids=lambda one: one.event_type)
async def test_it_is_asked_under_the_name_that_it_knows(room: Guarded, names: Any) -> None:
    await room.name(UNSTABLE.event_type, via=GUARD, public_key=KEY.verify_key_base64)
    room.unknown_paths = {one.sign_path for one in NAMES if one is not names}
    await room.say("hello")
    assert [path for path, _ in room.asked] == [names.sign_path]
    assert await room.other.bodies(room.room_id) == ["hello"]


async def test_a_room_that_names_us_is_open(room: Guarded) -> None:
    """We are no policy server."""
    key = KEY.verify_key_base64
    await room.name(via=room.home.name, public_keys={"ed25519": key})
    await room.say("hello")
    assert await room.home.bodies(room.room_id) == ["hello"]


async def test_a_message_is_sent_once_whatever_is_asked_again(room: Guarded) -> None:
    await room.name()
    ids = {
        await room.home.backend.send(
            room_id=room.room_id,
            sender=room.home.user("alice"),
            type="m.room.message",
            content={"body": "once"},
            txn="the same",
            trace=TraceId("t"),
        )
        for _ in range(2)
    }
    await room.network.deliver()
    assert len(ids) == 1
    assert await room.other.bodies(room.room_id) == ["once"]
    assert len(room.asked) == 1
