"""Who has which affiliation, as the room tells it."""

from __future__ import annotations

import pytest

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import MUC_ADMIN
from bridge.adapters.xmpp.occupant.admin import affiliated
from bridge.errors import Refused
from tests.support.answers import AnsweringWire, answer_to, error_to

BOT = Jid.parse("isthmus@gw.example")
CHAT = Jid.parse("garden@muc.example")


async def test_addresses_are_read_and_what_is_none_is_left_out() -> None:
    items = (
        "<item affiliation='owner' jid='romeo@a.test'/>"
        "<item affiliation='owner' jid='@@'/><item affiliation='owner'/>"
        "<item affiliation='admin' jid='nurse@a.test'/>"
    )
    wire = AnsweringWire(lambda iq: [answer_to(iq, f"<query xmlns='{MUC_ADMIN}'>{items}</query>")])
    found = await affiliated(
        wire.questions, asker=BOT, chat=CHAT, affiliation="owner", timeout_s=0.02
    )
    assert [str(jid) for jid in found] == ["romeo@a.test"]
    (item,) = wire.sent[0].iterfind(f"{{{MUC_ADMIN}}}query/{{{MUC_ADMIN}}}item")
    assert item.attrib == {"affiliation": "owner"}


async def test_a_room_that_does_not_tell_refuses() -> None:
    wire = AnsweringWire(lambda iq: [error_to(iq, "forbidden", type="auth")])
    with pytest.raises(Refused):
        await affiliated(wire.questions, asker=BOT, chat=CHAT, affiliation="owner", timeout_s=0.02)
