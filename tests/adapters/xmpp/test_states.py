"""Chat states, markers and presence as stanzas: what is read from them, and what is shown."""

from __future__ import annotations

import asyncio
from xml.etree import ElementTree as ET

import pytest

from bridge.adapters.xmpp.addresses import AddressBook
from bridge.adapters.xmpp.direct import Direct
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.states import States
from bridge.ids import ServerName, TraceId, UserId
from bridge.ports.ephemeral import (
    Availability,
    ChatEphemeral,
    ChatPresence,
    ChatRead,
    ChatTyping,
    ShowPresence,
    ShowRead,
    ShowTyping,
)
from bridge.storage.database import Database
from tests.support.clock import FakeClock
from tests.support.listener import ScriptedListener
from tests.support.wire import RecordingWire, incoming

ALICE = UserId("@alice:m.example")
GHOST = "alice%m.example@gw.test"
BOB_GHOST = "bob%m.example@gw.test"
ROMEO = "romeo@a.test"
STATES = "http://jabber.org/protocol/chatstates"
MARKERS = "urn:xmpp:chat-markers:0"


class World:
    def __init__(self, database: Database, clock: FakeClock) -> None:
        book = AddressBook(component="gw.test", server=ServerName("gw.test"))
        self.epoch = database.epoch
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

    async def message(self, inner: str, *, client: str = "x", type: str = "chat") -> None:
        await self.direct.on_message(
            incoming(
                f"<message from='{ROMEO}/{client}' to='{GHOST}' type='{type}'>{inner}</message>"
            ),
            ALICE,
        )

    async def presence(
        self, client: str, inner: str = "", *, type: str = "", to: str = GHOST
    ) -> None:
        kind = f" type='{type}'" if type else ""
        full = f"{ROMEO}/{client}" if client else ROMEO
        await self.direct.on_presence(
            incoming(f"<presence from='{full}' to='{to}'{kind}>{inner}</presence>"), ALICE
        )

    def told(self) -> list[ChatEphemeral]:
        told, self.listener.passing = self.listener.passing, []
        return told

    def sent(self) -> list[str]:
        return [_brief(xml) for xml in self.wire.take()]


def _brief(xml: ET.Element) -> str:
    inner = " ".join(
        child.tag.rpartition("}")[2]
        + (f"={child.text}" if child.text else "")
        + (f" id={child.get('id')}" if child.get("id") else "")
        for child in xml
    )
    return f"{xml.get('type', '-')} {xml.get('from')} > {xml.get('to')}: {inner}"


@pytest.fixture
async def world(sqlite_database: Database, clock: FakeClock) -> World:
    return World(sqlite_database, clock)


def state(name: str) -> str:
    return f"<{name} xmlns='{STATES}'/>"


def there(availability: Availability, status: str | None = None) -> ChatPresence:
    return ChatPresence(sender=ROMEO, availability=availability, status_text=status)


# --- from people --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "typing"),
    [
        ("composing", True),
        ("paused", False),
        ("active", False),
        ("inactive", False),
        ("gone", False),
    ],
)
async def test_a_chat_state_says_who_types(world: World, name: str, typing: bool) -> None:
    await world.message(state(name))
    assert world.told() == [ChatTyping(sender=ROMEO, typing=typing, to_user=ALICE)]
    assert world.sent() == []


async def test_a_message_is_accepted_beside_its_state(world: World) -> None:
    await world.message(f"<body>hi</body>{state('active')}")
    assert world.told() == [ChatTyping(sender=ROMEO, typing=False, to_user=ALICE)]
    assert world.listener.accepted.get_nowait().message.text == "hi"


async def test_what_was_kept_for_later_is_no_state_of_now(world: World) -> None:
    await world.message(f"{state('composing')}<delay xmlns='urn:xmpp:delay' stamp='x'/>")
    await world.message(state("composing"), type="error")
    assert world.told() == []


async def test_a_marker_names_the_delivery_that_was_read(world: World) -> None:
    ours, theirs = f"{world.epoch}.out.7", "abc"
    for id in (ours, theirs):
        await world.message(f"<displayed xmlns='{MARKERS}' id='{id}'/>")
    assert world.told() == [
        ChatRead(sender=ROMEO, message_id=ours, outbox_id=7, to_user=ALICE),
        ChatRead(sender=ROMEO, message_id=theirs, outbox_id=None, to_user=ALICE),
    ]


async def test_who_asks_to_be_told_of_reading_is_noted(world: World) -> None:
    await world.message(f"<body>one</body><markable xmlns='{MARKERS}'/>")
    assert not world.listener.accepted.get_nowait().wants_marker  # no id that could be told
    stanza = incoming(
        f"<message from='{ROMEO}/x' to='{GHOST}' type='chat' id='m1'><body>two</body>"
        f"<markable xmlns='{MARKERS}'/></message>"
    )
    await world.direct.on_message(stanza, ALICE)
    assert world.listener.accepted.get_nowait().wants_marker


async def test_somebody_is_as_available_as_their_most_available_client(world: World) -> None:
    await world.presence("phone", "<show>away</show><status>tea</status>")
    assert world.told() == [there("away", "tea")]
    await world.presence("desk", "<priority>5</priority>")
    assert world.told() == [there("available")]
    await world.presence("desk", "<show>xa</show>")
    assert world.told() == [there("away", "tea")]
    await world.presence("phone", type="unavailable")
    assert world.told() == [there("xa")]
    await world.presence("desk", type="unavailable")
    assert world.told() == [there("unavailable")]


async def test_the_same_presence_to_many_of_ours_is_told_once(world: World) -> None:
    await world.presence("phone")
    await world.presence("phone", to=BOB_GHOST)
    assert world.told() == [there("available")]
    await world.presence("phone", type="unavailable")
    assert world.told() == []
    await world.presence("phone", type="unavailable", to=BOB_GHOST)
    assert world.told() == [there("unavailable")]


async def test_a_server_may_say_that_all_clients_are_gone(world: World) -> None:
    await world.presence("phone")
    await world.presence("desk")
    world.told()
    await world.presence("", type="unavailable")
    assert world.told() == [there("unavailable")]


async def test_who_is_still_in_a_room_is_there_until_they_say_how(world: World) -> None:
    room = Jid.parse("#garden%m.example@gw.test")
    phone = Jid.parse(f"{ROMEO}/phone")
    world.states.on_there(phone, room)
    assert world.told() == [there("available")]
    await world.presence("desk", "<show>away</show>")
    assert world.told() == [there("away")]
    world.states.on_there(phone, room)
    assert world.told() == []
    await world.presence("desk", type="unavailable")
    assert world.told() == [there("available")]
    world.states.on_gone(phone, room)
    assert world.told() == [there("unavailable")]


async def test_presence_to_the_bot_is_nobodys_business(world: World) -> None:
    for to in ("isthmus@gw.test", "gw.test"):
        await world.presence("phone", to=to)
    assert world.told() == []


@pytest.mark.parametrize("text", ["", "x", "129", "-129", "1" * 50, "-", "--1"])
async def test_a_priority_that_is_none_is_zero(world: World, text: str) -> None:
    await world.presence("phone", f"<status>a</status><priority>{text}</priority>")
    await world.presence("desk", "<status>b</status><priority>-1</priority>")
    assert world.told() == [there("available", "a")]


# --- to people ----------------------------------------------------------------------------------


async def test_states_go_only_to_whom_they_are_known_to(world: World) -> None:
    types = ShowTyping(sender=ALICE, typing=True, to=ROMEO)
    await world.states.show_typing(types, Jid.parse(ROMEO))
    assert world.sent() == []
    await world.message(state("active"))
    await world.states.show_typing(types, Jid.parse(ROMEO))
    stops = ShowTyping(sender=ALICE, typing=False, to=ROMEO)
    await world.states.show_typing(stops, Jid.parse(ROMEO))
    assert world.sent() == [
        f"chat {GHOST} > {ROMEO}: composing no-store",
        f"chat {GHOST} > {ROMEO}: paused no-store",
    ]


async def test_a_marker_goes_to_all_clients_of_the_author(world: World) -> None:
    await world.states.show_read(
        ShowRead(sender=ALICE, message_id="m1", to=ROMEO), Jid.parse(ROMEO)
    )
    assert world.sent() == [f"chat {GHOST} > {ROMEO}: displayed id=m1 store"]


async def test_presence_goes_to_subscribers_once_and_answers_their_probes(world: World) -> None:
    away = ShowPresence(sender=ALICE, availability="away", status_text="tea", idle_since_ms=0)
    await world.states.show_presence(away)
    assert world.sent() == []
    await world.presence("", type="subscribe")
    face = f"- {GHOST} > {ROMEO}: show=away status=tea idle"
    assert face in world.sent()
    await world.states.show_presence(away)
    assert world.sent() == []
    gone = ShowPresence(sender=ALICE, availability="unavailable")
    await world.states.show_presence(gone)
    assert world.sent() == [f"unavailable {GHOST} > {ROMEO}: "]
    await world.presence("x", type="probe")
    assert world.sent() == [f"unavailable {GHOST} > {ROMEO}/x: "]


async def test_after_a_connection_each_who_lets_us_see_them_is_asked_once(
    world: World, clock: FakeClock
) -> None:
    await world.presence("", type="subscribe")
    await world.presence("", type="subscribed")
    await world.presence("", type="subscribed", to=BOB_GHOST)
    world.sent()
    task = asyncio.get_running_loop().create_task(world.states.run())
    world.states.on_connected()
    for _ in range(100):
        await clock.advance(0.05)
        await asyncio.sleep(0.002)
        if world.wire.sent:
            break
    await clock.advance(1)
    task.cancel()
    assert world.sent() == [f"probe {GHOST} > {ROMEO}: "]


async def test_a_stranger_sees_no_presence(world: World) -> None:
    await world.states.show_presence(ShowPresence(sender=ALICE, availability="available"))
    await world.presence("x", type="probe")
    assert world.sent() == [f"unavailable {GHOST} > {ROMEO}/x: "]
