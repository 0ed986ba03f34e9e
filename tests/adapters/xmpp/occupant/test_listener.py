"""What is dropped at its start tag is exactly what would be taken and make no difference."""

from __future__ import annotations

import itertools
from copy import copy
from typing import Any, Literal
from xml.etree import ElementTree as ET

import pytest

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import COMPONENT, MUC_USER, OCCUPANT_ID, STANZA_ID
from bridge.adapters.xmpp.occupant.chat import Guest, VisitedChat
from bridge.adapters.xmpp.occupant.listener import Listening
from bridge.adapters.xmpp.occupant.presences import MucPresence
from bridge.adapters.xmpp.occupant.reading import Reading
from bridge.ids import TraceId, UserId
from bridge.ports.ephemeral import ChatRead, ChatTyping
from tests.support.clock import FakeClock

ROOM = "garden@muc.test"
EPOCH = "e"
LISTENER, GUEST, STRANGER = "l%m.test@gw.test", "g%m.test@gw.test", "s%m.test@gw.test"
OWN_ID = f"{EPOCH}.out.7"


class Recorder:
    """A keeper that notes what it is told."""

    def __init__(self, chat: VisitedChat) -> None:
        self.chat = chat
        self.told: list[str] = []

    def find(self, chat: str) -> VisitedChat | None:
        return self.chat if chat == ROOM else None

    def on_told(self, chat: VisitedChat) -> None:
        self.told.append("told")

    def on_removed(self, chat: VisitedChat, guest: Guest, presence: MucPresence) -> None:
        self.told.append("removed")

    def on_lost(self, chat: VisitedChat) -> None:
        self.told.append("lost")

    def on_destroyed(self, chat: VisitedChat, presence: MucPresence) -> None:
        self.told.append("destroyed")

    def on_configured(self, chat: VisitedChat) -> None:
        self.told.append("configured")

    def on_created(self, chat: VisitedChat, guest: Guest) -> None:
        self.told.append("created")

    def on_private(self, xml: ET.Element) -> None:
        self.told.append("private")

    def on_renamed(self, chat: VisitedChat, guest: Guest) -> None:
        self.told.append("renamed")

    def on_read(self, chat: VisitedChat, archive_id: str) -> None:
        self.told.append("read")

    def on_identity(self, chat: VisitedChat) -> None:
        self.told.append("identity")

    def is_small(self, chat: VisitedChat) -> bool:
        return False

    def on_state(self, change: ChatTyping | ChatRead) -> None:
        self.told.append("state")


class World:
    """A listener and another guest in a chat."""

    def __init__(
        self,
        clock: FakeClock,
        state: Literal["out", "entering", "in", "leaving"] = "in",
        asked: str | None = None,
        nickname: str = "guest",
    ) -> None:
        self.chat = VisitedChat(Jid.parse(ROOM), EPOCH, 100)
        self.chat.is_silent = False
        self.listener = self._guest(LISTENER, "listener")
        self.guest = self._guest(GUEST, nickname)
        self.guest.state, self.guest.asked = state, asked
        self.chat.listener = self.listener
        self.recorder = Recorder(self.chat)
        self.listening = Listening(
            keeper=self.recorder,
            reading=Reading(adapter="xmpp", new_trace=lambda: TraceId("t")),
            clock=clock,
            component="gw.test",
        )

    def _guest(self, address: str, nickname: str) -> Guest:
        user_id = UserId(f"@{address.partition('%')[0]}:m.test")
        return self.chat.add(
            Guest(user_id=user_id, jid=Jid.parse(address), nickname=nickname, state="in")
        )

    def drops(self, xml: ET.Element) -> bool:
        kind = xml.tag.rpartition("}")[2]
        return self.listening.drops(
            kind, xml.get("from", ""), xml.get("to", ""), xml.get("type", "")
        )

    def look(self) -> tuple[Any, ...]:
        """All that a stanza could change."""
        chat = self.chat
        people = [(g.state, g.nickname, g.asked, g.affiliation) for g in chat.guests.values()]
        reflected = [chat.reflections.has_seen(OWN_ID)]
        plain = (chat.listener, chat.subject, chat.gaps, chat.in_history, chat.heard_s)
        tables = (chat.table, chat.coming, chat.undecided, chat.waiting, self.recorder.told)
        return (people, reflected, plain, *(copy(table) for table in tables))


def stanza(kind: str, sender: str, to: str, type: str, inner: str = "") -> ET.Element:
    text = f"<{kind} xmlns='{COMPONENT}' id='{OWN_ID}' type='{type}'>{inner}</{kind}>"
    xml = ET.fromstring(text)
    xml.set("from", sender)
    xml.set("to", to)
    if not type:
        del xml.attrib["type"]
    return xml


INNER = {
    "message": (
        "<body>hello</body>"
        f"<stanza-id xmlns='{STANZA_ID}' by='{ROOM}' id='a1'/>"
        f"<occupant-id xmlns='{OCCUPANT_ID}' id='o'/>"
    ),
    "presence": (
        f"<x xmlns='{MUC_USER}'><item affiliation='owner' role='none' nick='new'/>"
        "<status code='110'/><status code='307'/></x>"
    ),
    "iq": "",
}
GUESTS: list[tuple[Literal["out", "entering", "in", "leaving"], str | None, str]] = [
    ("in", None, "guest"),
    ("in", "asked", "guest"),
    ("entering", "asked", "guest"),
    ("entering", None, "guest"),
    ("leaving", None, "guest"),
    ("out", None, "guest"),
    ("out", None, ""),
]


@pytest.mark.parametrize(("state", "asked", "nickname"), GUESTS)
async def test_what_is_dropped_would_have_been_taken_and_changed_nothing(
    clock: FakeClock,
    state: Literal["out", "entering", "in", "leaving"],
    asked: str | None,
    nickname: str,
) -> None:
    dropped = 0
    for kind, by, to, type in itertools.product(
        INNER,
        ("/romeo", "/guest", "/asked", "/listener", "", "/"),
        (LISTENER, GUEST, STRANGER, ""),
        ("", "unavailable", "error", "groupchat", "chat", "normal", "result", "subscribe"),
    ):
        for inner in (INNER[kind], INNER[kind].replace("110", "101"), ""):
            world = World(clock, state, asked, nickname)
            xml = stanza(kind, ROOM + by, to, type, inner)
            if not world.drops(xml):
                continue
            dropped += 1
            before = world.look()
            assert world.listening.take(xml)
            assert world.look() == before
    assert dropped


@pytest.mark.parametrize("nickname", ["romeo", "listener"])
async def test_copies_of_a_message_are_dropped_but_the_listeners(
    clock: FakeClock, nickname: str
) -> None:
    world = World(clock)
    copies = [stanza("message", f"{ROOM}/{nickname}", to, "groupchat") for to in (LISTENER, GUEST)]
    assert [world.drops(copy) for copy in copies] == [False, True]


async def test_the_presence_of_others_is_dropped_but_the_listeners(clock: FakeClock) -> None:
    world = World(clock)
    copies = [stanza("presence", f"{ROOM}/romeo", to, "") for to in (LISTENER, GUEST)]
    assert [world.drops(copy) for copy in copies] == [False, True]


@pytest.mark.parametrize(
    ("kind", "by", "type"),
    [
        ("message", "guest", "groupchat"),
        ("message", "guest", "error"),
        ("message", "", "error"),
        ("message", "romeo", "chat"),
        ("message", "", ""),
        ("presence", "guest", ""),
        ("presence", "guest", "unavailable"),
        ("presence", "guest", "error"),
        ("presence", "romeo", "error"),
        ("iq", "romeo", "get"),
        ("iq", "", "result"),
    ],
)
async def test_what_concerns_a_guest_is_never_dropped(
    clock: FakeClock, kind: str, by: str, type: str
) -> None:
    sender = f"{ROOM}/{by}" if by else ROOM
    assert not World(clock).drops(stanza(kind, sender, GUEST, type))


async def test_to_who_asks_for_a_nickname_every_presence_may_be_the_answer(
    clock: FakeClock,
) -> None:
    world = World(clock, state="entering", asked="asked")
    assert not world.drops(stanza("presence", f"{ROOM}/another", GUEST, ""))


async def test_what_comes_from_elsewhere_is_not_dropped(clock: FakeClock) -> None:
    world = World(clock)
    for kind in ("message", "presence"):
        assert not world.drops(stanza(kind, "orchard@muc.test/romeo", GUEST, "groupchat"))


async def test_when_the_listener_goes_the_next_one_is_heard_at_once(clock: FakeClock) -> None:
    world = World(clock)
    message = stanza("message", f"{ROOM}/romeo", GUEST, "groupchat")
    assert world.drops(message)
    inner = f"<x xmlns='{MUC_USER}'><item affiliation='none' role='none'/></x>"
    gone = stanza("presence", f"{ROOM}/listener", LISTENER, "unavailable", inner)
    assert not world.drops(gone)
    assert world.listening.take(gone)
    assert not world.drops(message)
