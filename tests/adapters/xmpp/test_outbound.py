"""Chat value in, stanza out."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.stream import serialise
from bridge.adapters.xmpp.styling import Body
from bridge.content.model import File, Message
from bridge.ids import RoomId, UserId
from tests.support.wire import incoming

ALICE = Jid("alice%m.example", "gw.test")
ROMEO = Jid("romeo", "a.test", "x")
ROOM = Jid("#garden%m.example", "gw.test", "Alice")


def text_of(message: Message) -> str:
    return serialise(outbound.direct_message(sender=ALICE, to=ROMEO, id="i", message=message))


def test_a_direct_message_asks_for_receipt_and_marker_and_carries_its_origin_id() -> None:
    assert text_of(Message(text="a<b>")) == (
        '<message from="alice%m.example@gw.test" to="romeo@a.test/x" type="chat" id="i">'
        "<body>a&lt;b&gt;</body>"
        '<unstyled xmlns="urn:xmpp:styling:0" />'
        '<origin-id xmlns="urn:xmpp:sid:0" id="i" />'
        '<request xmlns="urn:xmpp:receipts" />'
        '<markable xmlns="urn:xmpp:chat-markers:0" />'
        '<active xmlns="http://jabber.org/protocol/chatstates" /></message>'
    )


def test_formatting_is_written_into_the_body() -> None:
    text = text_of(Message(text="hi", html="<strong>hi</strong>"))
    assert "<body>*hi*</body>" in text
    assert "unstyled" not in text


@given(st.text(min_size=1))
def test_whatever_the_text_is_the_stanza_is_legal_xml_and_reads_back(text: str) -> None:
    written = text_of(Message(text=text))
    read = ET.fromstring(written.encode())
    body = read.findtext("body") or ""
    assert len(body.removeprefix("\u2060").replace("\r", "")) <= len(text)


def test_old_messages_say_when_they_were_written() -> None:
    xml = outbound.direct_message(
        sender=ALICE, to=ROMEO, id="i", message=Message(text="x"), delayed_ms=1_750_000_000_042
    )
    assert 'stamp="2025-06-15T15:06:40.042Z"' in serialise(xml)


def test_an_outgoing_id_leads_back_to_its_row_only_in_its_own_epoch() -> None:
    stanza_id = outbound.outgoing_id("e1", 42)
    assert outbound.find_outbox_id("e1", stanza_id) == 42
    assert outbound.find_outbox_id("e2", stanza_id) is None
    assert outbound.find_outbox_id("e1", "x") is None
    assert outbound.find_outbox_id("e1", "e1.out.9999999999999999999999") is None


def test_an_error_comes_from_where_the_stanza_was_sent_to() -> None:
    request = incoming("<message from='a@b/c' to='x@gw.test' id='7'/>")
    text = serialise(outbound.error_for(request, "gone", "moved", uri="xmpp:y@gw.test"))
    assert text == (
        '<message from="x@gw.test" to="a@b/c" type="error" id="7"><error type="cancel">'
        '<gone xmlns="urn:ietf:params:xml:ns:xmpp-stanzas">xmpp:y@gw.test</gone>'
        '<text xmlns="urn:ietf:params:xml:ns:xmpp-stanzas">moved</text></error></message>'
    )


def test_an_error_about_a_name_that_we_cannot_send_comes_from_the_room() -> None:
    request = incoming("<presence from='a@b/c' to='#r%m@gw.test/\U0001f98a' id='7'/>")
    assert outbound.error_for(request, "conflict").get("from") == "#r%m@gw.test"


def test_a_group_message_carries_the_event_id_as_the_rooms_stanza_id() -> None:
    xml = outbound.groupchat(
        sender=ROOM,
        to=ROMEO,
        id="own",
        body=Body(text="x", unstyled=True),
        stanza_id="$event",
        occupant="o",
        origin_id="origin",
    )
    text = serialise(xml)
    assert '<stanza-id xmlns="urn:xmpp:sid:0" id="$event" by="#garden%m.example@gw.test" />' in text
    assert '<origin-id xmlns="urn:xmpp:sid:0" id="origin" />' in text
    assert '<occupant-id xmlns="urn:xmpp:occupant-id:0" id="o" />' in text


def test_an_occupant_id_differs_between_rooms() -> None:
    alice = UserId("@alice:m")
    assert outbound.occupant_id(RoomId("!a:m"), alice) != outbound.occupant_id(
        RoomId("!b:m"), alice
    )


def test_a_file_is_its_url_in_the_body_and_beside_it() -> None:
    url = "https://gw.example/_isthmus/media/t/m.example/abc/a.png"
    message = Message(text=url, file=File(url=url, mxc="mxc://m.example/abc"))
    xml = outbound.direct_message(sender=ALICE, to=ROMEO, id="i", message=message)
    assert xml.findtext("{jabber:component:accept}body") == url
    assert xml.findtext("{jabber:x:oob}x/{jabber:x:oob}url") == url
    assert "jabber:x:oob" not in text_of(Message(text=url))
