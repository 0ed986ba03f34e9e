"""Whether a guest is still in."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import PING
from bridge.adapters.xmpp.occupant.selfping import is_in
from tests.support.answers import AnsweringWire, answer_to, error_to

SESSION = Jid.parse("alice%m.example@gw.example/guest")
OCCUPANT = Jid.parse("garden@muc.example/Alice")


async def ask(wire: AnsweringWire) -> bool | None:
    return await is_in(wire.questions, session=SESSION, occupant=OCCUPANT, timeout_s=0.02)


async def test_a_result_means_in() -> None:
    wire = AnsweringWire(lambda iq: [answer_to(iq)])
    assert await ask(wire) is True
    assert [(sent.get("to"), sent[0].tag) for sent in wire.sent] == [
        (str(OCCUPANT), f"{{{PING}}}ping")
    ]


@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        ("service-unavailable", True),
        ("feature-not-implemented", True),
        ("not-acceptable", False),
        ("not-allowed", False),
        ("bad-request", False),
        ("remote-server-not-found", None),
        ("remote-server-timeout", None),
        ("recipient-unavailable", None),
        ("resource-constraint", None),
    ],
)
async def test_an_error_decides(condition: str, verdict: bool | None) -> None:
    assert await ask(AnsweringWire(lambda iq: [error_to(iq, condition)])) is verdict


async def test_an_error_that_passes_decides_nothing() -> None:
    wire = AnsweringWire(lambda iq: [error_to(iq, "service-unavailable", type="wait")])
    assert await ask(wire) is None


async def test_silence_decides_nothing() -> None:
    assert await ask(AnsweringWire()) is None


@pytest.mark.parametrize(
    ("condition", "verdict"),
    [("", True), ("forbidden", True), ("item-not-found", False), ("remote-server-timeout", None)],
)
async def test_nobody_of_that_name_depends_on_whether_the_room_exists(
    condition: str, verdict: bool | None
) -> None:
    def script(iq: ET.Element) -> list[str]:
        if iq.get("to") == str(OCCUPANT):
            return [error_to(iq, "item-not-found")]
        return [error_to(iq, condition) if condition else answer_to(iq)]

    wire = AnsweringWire(script)
    assert await ask(wire) is verdict
    assert [sent.get("to") for sent in wire.sent] == [str(OCCUPANT), str(OCCUPANT.bare)]
