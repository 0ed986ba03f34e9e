"""What the view prints: one line per thing said or seen, whatever is in it."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from bridge.demo.people import SeenEvent, Stanza, XmppPerson
from bridge.demo.view import View, matrix_line, visible, xmpp_line

ROOM = "#garden%m.test@gw.test"
ALICE = "@alice:m.test"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stanza(xml: str) -> Stanza:
    return Stanza(element=ET.fromstring(xml.replace(" ", " xmlns='jabber:client' ", 1)))


def event(type: str, content: dict[str, Any], **more: Any) -> SeenEvent:
    section = more.pop("section", "timeline")
    return SeenEvent(
        section=section,
        room_id="!r",
        event={"type": type, "sender": "@bob:m.test", "content": content, **more},
    )


@pytest.fixture
def juliet() -> XmppPerson:
    return XmppPerson("juliet@x.test", "secret", port=1)


def test_a_narrow_place_gets_lines_that_name_their_side() -> None:
    out = io.StringIO()
    View(out).line("XMPP", "juliet", "<- a@b: one\ntwo")
    first, second = out.getvalue().splitlines()
    assert first[8:] == "  XMPP    juliet <- a@b: one"
    assert second == " " * 18 + "two"


def test_a_wide_place_gets_two_columns() -> None:
    out = io.StringIO()
    view = View(out, width=120)
    view.line("XMPP", "juliet", "left")
    view.line("Matrix", "alice", "right")
    left, right = out.getvalue().splitlines()
    assert left.index("juliet left") < left.index("|")
    assert right.index("|") < right.index("alice right")
    assert left.index("|") == right.index("|")
    assert max(len(left), len(right)) <= 120


def test_a_long_line_stays_in_its_column() -> None:
    out = io.StringIO()
    View(out, width=120).line("XMPP", "juliet", "word " * 60)
    lines = out.getvalue().splitlines()
    assert len(lines) > 3
    assert {line.index("|") for line in lines} == {lines[0].index("|")}


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, no_color: str | None, coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    terminal, file = Terminal(), io.StringIO()
    View(terminal, width=80).line("XMPP", "juliet", "hello")
    View(file, width=80).line("XMPP", "juliet", "hello")
    assert ("\x1b" in terminal.getvalue()) is coloured
    assert "\x1b" not in file.getvalue()


def test_what_a_guest_sends_cannot_move_the_cursor() -> None:
    assert visible("a\x1b[2Jb\rc\u202ed\ne") == "a\\x1b[2Jb\\rc\\u202ed\ne"
    assert len(visible("x" * 100_000)) < 1100


def test_messages_are_shown_with_who_wrote_them(juliet: XmppPerson) -> None:
    chat = stanza("<message from='a%m.test@gw.test/x' type='chat'><body>hi</body></message>")
    assert xmpp_line(chat, juliet) == "<- a%m.test@gw.test: hi"
    group = stanza(f"<message from='{ROOM}/Alice' type='groupchat'><body>hi</body></message>")
    assert xmpp_line(group, juliet) == "<- Alice: hi"
    assert matrix_line(event("m.room.message", {"body": "hi"}), ALICE) == "<- @bob:m.test: hi"
    extensible = event("m.message", {"m.text": [{"body": "hi"}]})
    assert matrix_line(extensible, ALICE) == "<- @bob:m.test: hi"


def test_topics_members_and_invitations_are_shown(juliet: XmppPerson) -> None:
    topic = stanza(f"<message from='{ROOM}' type='groupchat'><subject>T</subject></message>")
    assert xmpp_line(topic, juliet) == "sees the topic: T"
    assert matrix_line(event("m.room.topic", {"topic": "T"}, state_key=""), ALICE) == (
        "sees the topic: T"
    )
    joined = event("m.room.member", {"membership": "join"}, state_key="@j:gw.test")
    assert matrix_line(joined, ALICE) == "sees: @j:gw.test joins"
    invited = event("m.room.member", {"membership": "invite"}, state_key=ALICE, section="invite")
    assert matrix_line(invited, ALICE) == "is invited by @bob:m.test"


def test_an_error_is_shown_in_its_words(juliet: XmppPerson) -> None:
    error = stanza(
        "<message from='a@b' type='error'><error type='cancel'>"
        "<gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>moved</text></error></message>"
    )
    assert xmpp_line(error, juliet) == "sees a message come back: moved"


@pytest.mark.parametrize(
    "xml",
    [
        "<iq from='a@b' type='result'/>",
        "<message from='a@b' type='chat'><received xmlns='urn:xmpp:receipts' id='1'/></message>",
        "<presence from='juliet@x.test/demo'/>",
    ],
)
def test_what_no_client_shows_is_not_shown(juliet: XmppPerson, xml: str) -> None:
    assert xmpp_line(stanza(xml), juliet) is None


def test_ones_own_events_are_not_shown_twice() -> None:
    own = event("m.room.message", {"body": "hi"})
    assert matrix_line(own, "@bob:m.test") is None
    assert matrix_line(event("m.typing", {}, section="ephemeral"), ALICE) is None
