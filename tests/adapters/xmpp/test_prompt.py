"""`jabber:iq:gateway`: what a person types, and the JID that a client adds."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from bridge.adapters.xmpp.prompt import answer_prompt
from tests.support.clock import FakeClock
from tests.support.identity import make_resolver
from tests.support.wire import brief, incoming

GATEWAY = "{jabber:iq:gateway}"


async def ask(clock: FakeClock, type: str, inner: str) -> ET.Element:
    request = incoming(
        f"<iq type='{type}' id='g1' from='romeo@a.test/x' to='gw.example'>"
        f"<query xmlns='jabber:iq:gateway'>{inner}</query></iq>"
    )
    return await answer_prompt(request, make_resolver(clock))


async def test_a_client_gets_a_prompt_that_says_what_may_be_typed(clock: FakeClock) -> None:
    answer = await ask(clock, "get", "")
    assert answer.get("type") == "result"
    description = answer.findtext(f"{GATEWAY}query/{GATEWAY}desc") or ""
    assert "+1 555 123 4567" in description
    assert "@alice:example.org" in description
    assert answer.findtext(f"{GATEWAY}query/{GATEWAY}prompt") == "Address or phone number"


@pytest.mark.parametrize(
    ("typed", "jid"),
    [
        ("+1 555 123 4567", "15551234567%example.org@gw.example"),
        ("+44 7700 900123", "+447700900123@phone.example"),
        ("@alice:m.example", "alice%m.example@gw.example"),
        (" https://matrix.to/#/#garden:m.example ", "#garden%m.example@gw.example"),
        ("matrix:r/garden:m.example", "#garden%m.example@gw.example"),
        ("juliet@capulet.lit", "juliet@capulet.lit"),
        ("xmpp:coven@chat.lit?join", "coven@chat.lit"),
    ],
)
async def test_what_is_typed_becomes_a_jid(clock: FakeClock, typed: str, jid: str) -> None:
    answer = await ask(clock, "set", f"<prompt>{typed}</prompt>")
    assert answer.get("type") == "result"
    assert [(node.tag, node.text) for node in answer[0]] == [(f"{GATEWAY}jid", jid)]


@pytest.mark.parametrize(
    ("inner", "condition"),
    [
        ("", "bad-request"),
        ("<prompt> </prompt>", "bad-request"),
        ("<prompt>somebody</prompt>", "not-acceptable"),
        ("<prompt>+49 30 123456</prompt>", "item-not-found"),
        ("<prompt>nobody@gw.example</prompt>", "item-not-found"),
        ("<prompt>+15551234567@evil.example</prompt>", "forbidden"),
    ],
)
async def test_what_leads_nowhere_is_answered_in_words(
    clock: FakeClock, inner: str, condition: str
) -> None:
    answer = await ask(clock, "set", inner)
    assert brief(answer).split()[-1] == condition
    assert answer.findtext(".//{urn:ietf:params:xml:ns:xmpp-stanzas}text")
