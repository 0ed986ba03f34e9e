"""Presence subscriptions, and what becomes of stanzas that are no messages."""

from __future__ import annotations

import pytest

from bridge.adapters.xmpp.addresses import AddressBook
from bridge.adapters.xmpp.direct import Direct
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.states import States
from bridge.content.model import Message
from bridge.errors import Unavailable
from bridge.ids import EventId, ServerName, TraceId, UserId
from bridge.ports.chat import DirectMessage
from bridge.storage.database import Database
from tests.support.clock import FakeClock
from tests.support.listener import ScriptedListener
from tests.support.wire import RecordingWire, brief, incoming

ALICE = UserId("@alice:m.example")
GHOST = "alice%m.example@gw.test"


class World:
    def __init__(self, database: Database, clock: FakeClock) -> None:
        book = AddressBook(component="gw.test", server=ServerName("gw.test"))
        self.clock = clock
        self.wire = RecordingWire()
        self.listener = ScriptedListener()
        self.states = States(
            wire=self.wire,
            database=database,
            listener=self.listener,
            jid_of=book.jid_of,
            clock=clock,
            probes_per_s=20,
        )
        self.direct = Direct(
            adapter="xmpp",
            wire=self.wire,
            database=database,
            listener=self.listener,
            jid_of=book.jid_of,
            bot=book.bot_jid,
            clock=clock,
            new_trace=lambda: TraceId("trace"),
            states=self.states,
        )

    async def presence(self, type: str) -> list[str]:
        stanza = incoming(f"<presence from='romeo@a.test/x' to='{GHOST}' type='{type}'/>")
        await self.direct.on_presence(stanza, ALICE)
        return [brief(xml) for xml in self.wire.take()]

    async def message(self, rest: str) -> list[str]:
        stanza = incoming(f"<message from='romeo@a.test/x' to='{GHOST}' {rest}</message>")
        await self.direct.on_message(stanza, ALICE)
        return [brief(xml) for xml in self.wire.take()]


@pytest.fixture
async def world(sqlite_database: Database, clock: FakeClock) -> World:
    return World(sqlite_database, clock)


ANSWER = f"{GHOST} > romeo@a.test"


async def test_a_subscription_is_granted_and_asked_for_in_return(world: World) -> None:
    assert await world.presence("subscribe") == [
        f"presence subscribed {ANSWER}",
        f"presence - {ANSWER}",
        f"presence subscribe {ANSWER}",
    ]


async def test_who_sees_us_and_is_seen_is_not_asked_again(world: World) -> None:
    await world.presence("subscribe")
    assert await world.presence("subscribed") == []
    assert await world.presence("subscribe") == [
        f"presence subscribed {ANSWER}",
        f"presence - {ANSWER}",
    ]


async def test_somebody_is_met_once(world: World) -> None:
    bot, romeo = UserId("@isthmus:gw.test"), Jid.parse("romeo@a.test")
    assert await world.direct.meets(romeo, bot)
    assert not await world.direct.meets(romeo, bot)
    stanza = incoming("<presence from='romeo@a.test' to='isthmus@gw.test' type='subscribe'/>")
    await world.direct.on_presence(stanza, bot)
    assert not await world.direct.meets(romeo, bot)
    assert await world.direct.meets(Jid.parse("juliet@a.test"), bot)


async def test_a_probe_is_answered_from_the_table_and_never_by_unsubscribed(
    world: World,
) -> None:
    assert await world.presence("probe") == [f"presence unavailable {ANSWER}/x"]
    await world.presence("subscribe")
    assert await world.presence("probe") == [f"presence - {ANSWER}/x"]


async def test_an_ended_subscription_is_confirmed_and_forgotten(world: World) -> None:
    await world.presence("subscribe")
    assert await world.presence("unsubscribe") == [
        f"presence unsubscribed {ANSWER}",
        f"presence unavailable {ANSWER}",
    ]
    assert await world.presence("probe") == [f"presence unavailable {ANSWER}/x"]


@pytest.mark.parametrize("type", ["unavailable", "error", "nonsense"])
async def test_other_presence_is_not_answered(world: World, type: str) -> None:
    assert await world.presence(type) == []


async def test_a_message_without_an_id_gets_one(world: World) -> None:
    await world.message("type='chat'><body>hi</body>")
    assert world.listener.accepted.get_nowait().stanza_id == "trace"


@pytest.mark.parametrize(
    "rest",
    [
        "type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/>",
        "type='chat'><received xmlns='urn:xmpp:receipts' id='1'/>",
        "type='chat'><displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
        "type='chat'><encrypted xmlns='eu.siacs.conversations.axolotl'><header/></encrypted>",
        "type='error' id='unknown'><body>x</body>",
    ],
)
async def test_what_is_no_message_is_not_taken_for_one(world: World, rest: str) -> None:
    assert await world.message(rest) == []
    assert world.listener.accepted.empty()


@pytest.mark.parametrize(
    "inner",
    [
        "<reactions xmlns='urn:xmpp:reactions:0' id='1'><reaction>x</reaction></reactions>",
        "<retract xmlns='urn:xmpp:message-retract:1' id='1'/>",
        "<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>",
        "<x xmlns='jabber:x:conference' jid='room@muc.a.test'/>",
        "<x xmlns='http://jabber.org/protocol/muc#user'><invite/></x><body>invited</body>",
        "<encrypted xmlns='eu.siacs.conversations.axolotl'><payload>AA</payload></encrypted>",
        "<encrypted xmlns='urn:xmpp:omemo:2'><payload>A</payload></encrypted><body>fallback</body>",
        "<x xmlns='jabber:x:encrypted'>AA</x><body>This message is encrypted.</body>",
    ],
)
async def test_what_cannot_be_carried_is_answered(world: World, inner: str) -> None:
    (answer,) = await world.message(f"type='chat' id='1'>{inner}")
    assert answer.startswith("message error")
    assert "feature-not-implemented" in answer
    assert world.listener.accepted.empty()


async def test_a_text_beside_a_receipt_is_a_message(world: World) -> None:
    await world.message("type='chat'><received xmlns='urn:xmpp:receipts' id='1'/><body>x</body>")
    assert world.listener.accepted.get_nowait().message.text == "x"


async def test_answers_come_from_an_address_that_we_can_send_from(world: World) -> None:
    for resource in ("phone", "\U0001f98a"):
        stanza = incoming(
            f"<message from='romeo@a.test/x' to='{GHOST}/{resource}'><body>x</body></message>"
        )
        await world.direct.on_message(stanza, ALICE)
    assert world.listener.accepted.get_nowait().sent_to == f"{GHOST}/phone"
    assert world.listener.accepted.get_nowait().sent_to == GHOST


async def test_the_bot_does_not_talk_with_a_machine_for_ever(world: World) -> None:
    line = incoming(
        "<message from='echo@a.test/x' to='isthmus@gw.test' type='chat'><body>x</body></message>"
    )
    for _ in range(61):
        await world.direct.on_command(line)
    *answers, last = [brief(xml) for xml in world.wire.take()]
    assert all(answer.startswith("message chat") for answer in answers)
    assert "resource-constraint" in last
    await world.clock.advance(60)
    await world.direct.on_command(line)
    assert brief(world.wire.take()[0]).startswith("message chat")


async def test_a_group_message_to_a_person_is_refused(world: World) -> None:
    (answer,) = await world.message("type='groupchat'><body>x</body>")
    assert answer.endswith("service-unavailable")


async def test_what_cannot_be_stored_now_is_answered_so(world: World) -> None:
    world.listener.failures["accept"] = Unavailable("the database is away")
    (answer,) = await world.message("type='chat' id='1'><body>x</body>")
    assert answer.endswith("resource-constraint")


async def test_a_late_delivery_says_when_it_was_written(world: World) -> None:
    async def deliver(at_ms: int) -> bool:
        message = DirectMessage(
            to="romeo@a.test",
            sender=ALICE,
            event_id=EventId("$e"),
            at_ms=at_ms,
            message=Message(text="x"),
        )
        await world.direct.deliver(message, key="1", own_id="i")
        (xml,) = world.wire.take()
        return xml.find("{urn:xmpp:delay}delay") is not None

    assert not await deliver(world.clock.now_ms())
    assert await deliver(world.clock.now_ms() - 120_000)
