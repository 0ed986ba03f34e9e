"""Our guests in real chat rooms: the XMPP side alone, with a bridge side that only keeps books."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from pydantic import SecretStr

from bridge.adapters.xmpp.adapter import XmppAdapter, XmppAddresses
from bridge.adapters.xmpp.config import XmppSettings
from bridge.clock import SystemClock
from bridge.content.model import Message
from bridge.demo.people import Muc
from bridge.demo.servers import XmppServer
from bridge.errors import Refused
from bridge.ids import EventId, RoomId, ServerName, TraceId, UserId
from bridge.ports.chat import ChatPost, ChatSubject, Delivery, GuestEnter, GuestLeave, GuestRename
from bridge.storage import guests
from bridge.storage.database import Database
from tests.support.foreign import Bridge
from tests.support.servers import COMPONENT_SECRET, MakeXmppPerson, make_prosody

ALICE = UserId("@alice:m.example")
BOB = UserId("@bob:m.example")
WAIT_S = 10.0

pytestmark = pytest.mark.asyncio(loop_scope="function")


@dataclass
class Side:
    """The adapter over a real server; `restart` is a new process."""

    server: XmppServer
    database: Database
    room: str
    bridge: Bridge = field(init=False)
    adapter: XmppAdapter = field(init=False)
    task: asyncio.Task[None] | None = None
    numbers: int = 0

    def __post_init__(self) -> None:
        self.bridge = Bridge(database=self.database, clock=SystemClock(), chat=self.room)

    async def start(self) -> None:
        domain = f"gw.{self.server.domain}"
        self.adapter = XmppAdapter(
            settings=XmppSettings(
                domain=domain,
                secret=SecretStr(COMPONENT_SECRET),
                port=self.server.ports.component,
            ),
            addresses=XmppAddresses(domain=domain, server_name=ServerName(domain)),
            database=self.database,
            listener=self.bridge,
            commands=None,
            clock=SystemClock(),
            random=random.Random(),
        )
        self.task = asyncio.get_running_loop().create_task(self.adapter.run())
        async with asyncio.timeout(WAIT_S):
            await self.adapter.wait_connected()

    async def kill(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def deliver(self, delivery: Delivery, number: int | None = None) -> str | None:
        self.numbers += 1
        return await self.adapter.deliver(
            delivery, outbox_id=number or self.numbers, trace=TraceId("t")
        )

    async def enter(self, user_id: UserId = ALICE, name: str = "Alice") -> None:
        await self.deliver(GuestEnter(chat=self.room, user_id=user_id, displayname=name))

    async def post(
        self, text: str, sender: UserId = ALICE, number: int | None = None
    ) -> str | None:
        post = ChatPost(
            chat=self.room,
            sender=sender,
            sender_name="Alice",
            event_id=EventId("$e"),
            room_id=RoomId("!r:gw.test"),
            at_ms=0,
            message=Message(text=text),
        )
        return await self.deliver(post, number)

    async def told(self, *wanted: str) -> None:
        """Until each has been told."""
        await until(lambda: all(line in self.bridge.told for line in wanted), self.bridge.told)

    async def rows(self) -> list[tuple[str, str]]:
        found = await self.database.read(lambda tx: guests.list_all(tx, adapter="xmpp"))
        return [(row.user_id, row.nickname) for row in found]


async def until(is_so: Callable[[], bool], seen: object) -> None:
    try:
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not in time; seen: {seen}") from None


@pytest_asyncio.fixture
async def side(
    xmpp_server: XmppServer, sqlite_database: Database, request: pytest.FixtureRequest
) -> AsyncIterator[Side]:
    room = f"{abs(hash(request.node.name)) % 10**8}@{xmpp_server.muc_domain}"
    side = Side(xmpp_server, sqlite_database, room)
    await side.start()
    yield side
    await side.kill()


async def owned(side: Side, make: MakeXmppPerson) -> Muc:
    romeo = await make(side.server, "romeo")
    muc = Muc(romeo, side.room)
    await muc.enter("romeo")
    return muc


async def test_messages_cross_both_ways_and_leaving_is_seen(
    side: Side, xmpp_person: MakeXmppPerson
) -> None:
    muc = await owned(side, xmpp_person)
    await side.enter()
    await muc.see_arrive("Alice")
    assert "roll romeo" in side.bridge.told
    assert await side.post("from alice")
    await muc.person.hear("from alice", sender=side.room)
    muc.say("from romeo")
    await side.told("romeo: from romeo")
    muc.set_subject("Roses")
    await side.told("subject Roses")
    await side.deliver(GuestLeave(chat=side.room, user_id=ALICE, reason="bye"))
    await muc.see_go("Alice")
    assert await side.rows() == []
    assert not [line for line in side.bridge.told if "alice" in line]


async def test_a_subject_is_set_by_who_may(side: Side, xmpp_person: MakeXmppPerson) -> None:
    muc = await owned(side, xmpp_person)
    await muc.configure({"muc#roomconfig_changesubject": False})
    await side.enter()
    subject = ChatSubject(chat=side.room, sender=ALICE, text="Tea", room_id=RoomId("!r:gw.test"))
    with pytest.raises(Refused):
        await side.deliver(subject)
    await muc.configure({"muc#roomconfig_changesubject": True})
    await side.deliver(subject)
    await muc.person.wait_for(lambda stanza: stanza.subject == "Tea", what="the new subject")
    assert "subject Tea" not in side.bridge.told


async def test_a_short_absence_is_seen_by_nobody(side: Side, xmpp_person: MakeXmppPerson) -> None:
    muc = await owned(side, xmpp_person)
    await side.enter()
    await side.enter(BOB, "Bob")
    since = muc.person.position
    await side.kill()
    await side.start()
    assert await side.post("back")
    assert await side.post("me, too", BOB)
    await muc.person.hear("me, too", sender=side.room)
    muc.say("welcome back")
    await side.told("romeo: welcome back")
    gone = [
        stanza
        for stanza in muc.person.transcript.since(since)
        if stanza.kind == "presence" and stanza.type == "unavailable"
    ]
    assert gone == []


async def test_a_nickname_that_is_taken_and_a_new_one(
    side: Side, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(side.server, "romeo")
    muc = Muc(romeo, side.room)
    await muc.enter("Alice")
    await side.enter()
    await side.told("in as Alice (m.example), wanted Alice")
    await side.deliver(GuestRename(chat=side.room, user_id=ALICE, displayname="Alicia"))
    await muc.see_arrive("Alicia")
    assert await side.rows() == [(ALICE, "Alicia")]
    assert await side.post("it is me")


async def test_kicked_and_banned(side: Side, xmpp_person: MakeXmppPerson) -> None:
    muc = await owned(side, xmpp_person)
    await side.enter()
    await side.enter(BOB, "Bob")
    await muc.kick("Alice", "too loud")
    await until(lambda: any("kicked" in line for line in side.bridge.told), side.bridge.told)
    assert any(line.endswith(": too loud") for line in side.bridge.told)
    await muc.ban(f"bob%m.example@gw.{side.server.domain}", "worse")
    await until(lambda: any("banned" in line for line in side.bridge.told), side.bridge.told)
    with pytest.raises(Refused, match="banned"):
        await side.enter(BOB, "Bob")


async def test_what_was_missed_while_we_were_down_comes_once_in_order(
    side: Side, xmpp_person: MakeXmppPerson
) -> None:
    muc = await owned(side, xmpp_person)
    await side.enter()
    await side.enter(BOB, "Bob")
    muc.say("before")
    await side.told("romeo: before")
    await side.post("posted before", number=900)
    side.bridge.told.clear()
    await side.kill()
    for number in range(70):
        muc.say(f"missed {number}")
    await muc.person.hear("missed 69", sender=side.room)
    await side.start()
    muc.say("after")
    await side.told("romeo: after")
    said = [line for line in side.bridge.told if line.startswith("romeo:")]
    assert said == [*(f"romeo: missed {number}" for number in range(70)), "romeo: after"]
    since = muc.person.position
    await side.post("posted before", number=900)
    await side.post("posted after", BOB)
    await muc.person.hear("posted after", sender=side.room)
    lines = [text for _, text in muc.lines(since=since)]
    assert "posted before" not in lines
    others = [line for line in side.bridge.told if not line.startswith(("romeo:", "roll", "name"))]
    assert [line for line in others if not line.startswith("subject")] == []
    assert len(await side.rows()) == 2


async def test_the_affiliation_of_people_and_a_confirmation(
    side: Side, xmpp_person: MakeXmppPerson
) -> None:
    muc = await owned(side, xmpp_person)
    domain = side.server.domain
    romeo = UserId(f"@romeo=40{domain}:gw.{domain}")
    waiting = asyncio.get_running_loop().create_task(
        side.adapter.await_confirmation(side.room, "code-42", timeout_s=WAIT_S)
    )
    await muc.see_arrive("Matrix")
    muc.say("is it code-42?")
    muc.say("code-42")
    assert await waiting == "romeo"
    await muc.see_go("Matrix")
    assert side.bridge.told == []
    await muc.affiliate(f"alice%m.example@gw.{domain}", "admin")
    await side.enter()
    assert await side.adapter.affiliation(side.room, ALICE) == "admin"
    assert await side.adapter.affiliation(side.room, romeo) == "owner"


async def test_hidden_addresses_stay_hidden_and_people_stay_who_they_are(
    side: Side, xmpp_person: MakeXmppPerson
) -> None:
    muc = await owned(side, xmpp_person)
    await muc.show_addresses("moderators")
    domain = side.server.domain
    await muc.affiliate(f"alice%m.example@gw.{domain}", "admin")
    await side.enter()
    muc.say("one")
    await side.told("romeo: one")
    await muc.rename("montague")
    muc.say("two")
    await side.told("montague: two")
    first, second = [message.sender for message in side.bridge.messages]
    assert f"romeo@{domain}" not in repr((side.bridge.changes, side.bridge.messages))
    if domain == "a.test":  # it has occupant IDs
        assert first == second
        assert first.startswith(f"{side.room}/i")
    else:
        assert (first, second) == (f"{side.room}/nromeo", f"{side.room}/nmontague")
        assert "-romeo left" in side.bridge.told


async def test_shown_addresses_are_the_people_until_they_are_hidden(
    side: Side, xmpp_person: MakeXmppPerson
) -> None:
    muc = await owned(side, xmpp_person)
    await muc.show_addresses("anyone")
    romeo = f"romeo@{side.server.domain}"
    await side.enter()
    muc.say("shown")
    await side.told("romeo: shown")
    assert side.bridge.messages[-1].sender == romeo
    await side.kill()
    muc.say("shown and missed")
    await muc.person.hear("shown and missed", sender=side.room)
    await side.start()
    await side.told("romeo: shown and missed")
    assert side.bridge.messages[-1].sender == romeo
    await until(lambda: "roll romeo" in side.bridge.told, side.bridge.told)
    await muc.show_addresses("moderators")
    muc.say("hidden")
    await side.told("romeo: hidden")
    assert side.bridge.messages[-1].sender != romeo


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_restart_of_the_service_is_survived(
    sqlite_database: Database, xmpp_person: MakeXmppPerson, how: str
) -> None:
    async with make_prosody() as server:
        side = Side(server, sqlite_database, f"garden@{server.muc_domain}")
        await side.start()
        muc = await owned(side, xmpp_person)
        await muc.configure({"muc#roomconfig_persistentroom": True})
        await side.enter()
        await side.enter(BOB, "Bob")
        muc.say("before")
        await side.told("romeo: before")
        side.bridge.told.clear()
        await muc.person.drop()
        await (server.stop() if how == "stopped" else server.kill())
        await server.start()
        await muc.person.login()
        await muc.enter("romeo")
        await muc.see_arrive("Alice")
        await muc.see_arrive("Bob")
        muc.say("after")
        await side.told("romeo: after")
        assert await side.post("here again", BOB)
        told = [line for line in side.bridge.told if line.startswith("@")]
        assert told == []
        assert "romeo: before" not in side.bridge.told
        await side.kill()


async def test_a_room_that_ended_with_its_service_is_entered_again(
    sqlite_database: Database, xmpp_person: MakeXmppPerson
) -> None:
    """As the clients of its people do: otherwise the first who comes back owns another room."""
    async with make_prosody() as server:
        side = Side(server, sqlite_database, f"garden@{server.muc_domain}")
        await side.start()
        muc = await owned(side, xmpp_person)
        await side.enter()
        await muc.person.drop()
        await server.kill()
        await server.start()
        await until(lambda: side.adapter.status.state == "connected", "status")
        await muc.person.login()
        await asyncio.sleep(0.5)
        await muc.enter("romeo")
        await muc.see_arrive("Alice")
        assert await side.post("still here")
        assert not [line for line in side.bridge.told if line.startswith("@")]
        await side.kill()
