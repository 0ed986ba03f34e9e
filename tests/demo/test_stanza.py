"""Stanzas as scripted people read them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from bridge.demo.people import Stanza


def stanza(text: str) -> Stanza:
    return Stanza(element=ET.fromstring(text))


def test_a_kick_tells_status_and_reason() -> None:
    kick = stanza(
        "<presence xmlns='jabber:client' type='unavailable' from='tea@muc/🦊'>"
        "<x xmlns='http://jabber.org/protocol/muc#user'>"
        "<item affiliation='none' role='none'><reason>enough</reason></item>"
        "<status code='307'/><status code='110'/></x></presence>"
    )
    assert kick.kind == "presence"
    assert (kick.bare_sender, kick.nickname) == ("tea@muc", "🦊")
    assert kick.statuses == {110, 307}
    assert kick.reason == "enough"
    assert kick.item == {"affiliation": "none", "role": "none"}


def test_an_error_tells_condition_and_words() -> None:
    error = stanza(
        "<message xmlns='jabber:client' type='error' id='m1'><body>lost</body>"
        "<error type='cancel'>"
        "<item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>no such room</text>"
        "</error></message>"
    )
    assert (error.condition, error.error_text) == ("item-not-found", "no such room")
    assert not error.is_subject_change


def test_a_message_tells_its_receipts_and_assigned_ids() -> None:
    message = stanza(
        "<message xmlns='jabber:client' from='a@b/c'><body/>"
        "<request xmlns='urn:xmpp:receipts'/>"
        "<stanza-id xmlns='urn:xmpp:sid:0' by='b' id='$1'/></message>"
    )
    assert message.wants_receipt
    assert message.body == ""
    assert message.stanza_ids == {"b": "$1"}
    assert message.receipt_for is None
    receipt = stanza(
        "<message xmlns='jabber:client'><received xmlns='urn:xmpp:receipts' id='m1'/></message>"
    )
    assert receipt.receipt_for == "m1"


def test_a_long_stanza_is_shown_cut() -> None:
    message = stanza(f"<message xmlns='jabber:client'><body>{'x' * 2000}</body></message>")
    assert len(str(message)) < 500
    assert "more)" in str(message)
