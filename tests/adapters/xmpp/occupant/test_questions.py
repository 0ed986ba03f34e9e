"""Questions to foreign chats, and what counts as an answer."""

from __future__ import annotations

import asyncio
import random
from xml.etree import ElementTree as ET

import pytest

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import MAM, PING, element
from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.errors import NotFound, Refused, Unavailable
from tests.support.answers import AnsweringWire, answer_to, error_to, raw

BOT = Jid.parse("isthmus@gw.example")
CHAT = Jid.parse("garden@muc.example")


async def ask(wire: AnsweringWire, *, timeout_s: float = 0.02) -> ET.Element:
    return await wire.questions.ask(
        sender=BOT, to=CHAT, type="get", payload=element(PING, "ping"), timeout_s=timeout_s
    )


async def test_the_result_comes_back() -> None:
    wire = AnsweringWire(lambda iq: [answer_to(iq, "<found xmlns='urn:x'/>")])
    answer = await ask(wire)
    assert answer.find("{urn:x}found") is not None
    (sent,) = wire.take()
    assert (sent.get("from"), sent.get("to"), sent.get("type")) == (str(BOT), str(CHAT), "get")
    assert [child.tag for child in sent] == [f"{{{PING}}}ping"]


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ("item-not-found", NotFound),
        ("gone", NotFound),
        ("forbidden", Refused),
        ("not-allowed", Refused),
        ("registration-required", Refused),
        ("service-unavailable", Refused),
        ("feature-not-implemented", Refused),
        ("something-new", Refused),
        ("remote-server-not-found", Unavailable),
        ("remote-server-timeout", Unavailable),
        ("resource-constraint", Unavailable),
        ("recipient-unavailable", Unavailable),
        ("internal-server-error", Unavailable),
    ],
)
async def test_an_error_raises_by_its_condition(condition: str, kind: type[Exception]) -> None:
    wire = AnsweringWire(lambda iq: [error_to(iq, condition, text="so  it\nis")])
    with pytest.raises(kind, match=r"\(so it is\)") as raised:
        await ask(wire)
    if isinstance(raised.value, Refused):
        assert raised.value.rule == condition


@pytest.mark.parametrize(
    "other",
    [
        {"sender": "garden@evil.example"},
        {"sender": "muc.example"},
        {"sender": f"{CHAT}/somebody"},
        {"to": "alice%m.example@gw.example"},
        {"id": "ask.0000000000000000.1"},
        {"type": "get"},
    ],
)
async def test_an_answer_from_elsewhere_is_not_taken(other: dict[str, str]) -> None:
    type = other.pop("type", "result")
    wire = AnsweringWire(lambda iq: [answer_to(iq, type=type, **other)])
    with pytest.raises(Unavailable):
        await ask(wire)
    assert len(wire.not_taken) == 1


async def test_no_answer_in_time_is_unavailable_and_a_late_one_is_not_taken() -> None:
    wire = AnsweringWire()
    with pytest.raises(Unavailable, match=r"muc\.example does not answer"):
        await ask(wire)
    assert not wire.questions.take(raw(answer_to(wire.sent[0])))


async def test_without_a_connection_it_is_unavailable_and_nothing_stays_open() -> None:
    wire = AnsweringWire(lambda iq: [answer_to(iq)])
    wire.is_up = False
    for _ in range(10):
        with pytest.raises(Unavailable, match="not connected"):
            await ask(wire)
    wire.is_up = True
    await ask(wire)


async def test_a_broken_stream_fails_what_is_open() -> None:
    wire = AnsweringWire()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(_fails(wire))
        while not wire.sent:
            await asyncio.sleep(0)
        wire.questions.on_disconnected()
    assert asked.result() == "the XMPP server went away"


async def test_open_questions_are_bounded() -> None:
    wire = AnsweringWire()
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(_fails(wire))
        while len(wire.sent) < 3:
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too many"):
            await ask(wire)
        wire.questions.on_disconnected()


async def test_an_answer_to_an_earlier_process_is_not_mistaken() -> None:
    wire = AnsweringWire()
    with pytest.raises(Unavailable):
        await ask(wire)
    earlier = wire.sent[0]
    wire.questions = Questions(wire=wire, random=random.Random(2))
    wire.script = lambda iq: [answer_to(iq, id=earlier.get("id", "")), answer_to(iq, "<b/>")]
    answer = await ask(wire)
    assert len(answer) == 1
    assert len(wire.not_taken) == 1


# --- archives ----------------------------------------------------------------------------------


def result(iq: ET.Element, id: str, *, sender: str = str(CHAT), text: str = "") -> str:
    query = iq.find(f"{{{MAM}}}query")
    name = "" if query is None else query.get("queryid", "")
    return (
        f"<message from='{sender}' to='{iq.get('from')}'>"
        f"<result xmlns='{MAM}' queryid='{name}' id='{id}'>{text}</result></message>"
    )


async def collect(wire: AnsweringWire, *, results_max: int = 10) -> tuple[list[str | None], bool]:
    collected = await wire.questions.collect(
        sender=BOT,
        to=CHAT,
        payload=element(MAM, "query"),
        results_max=results_max,
        timeout_s=0.02,
    )
    return [found.get("id") for found in collected.results], collected.is_cut


async def test_results_of_an_archive_are_kept_in_order() -> None:
    wire = AnsweringWire(lambda iq: [result(iq, "a"), result(iq, "b"), answer_to(iq)])
    assert await collect(wire) == (["a", "b"], False)
    assert not wire.not_taken


async def test_results_from_elsewhere_or_after_the_answer_are_no_part_of_it() -> None:
    wire = AnsweringWire(
        lambda iq: [
            result(iq, "x", sender="garden@evil.example"),
            result(iq, "y", sender=f"{CHAT}/somebody"),
            result(iq, "a"),
            answer_to(iq),
            result(iq, "z"),
        ]
    )
    assert await collect(wire) == (["a"], False)
    assert len(wire.not_taken) == 3


async def test_results_beyond_the_number_are_cut_off() -> None:
    wire = AnsweringWire(lambda iq: [*(result(iq, f"{n}") for n in range(5)), answer_to(iq)])
    assert await collect(wire, results_max=3) == (["0", "1", "2"], True)
    assert not wire.not_taken


async def test_results_beyond_the_bytes_are_cut_off() -> None:
    big = "x" * 1_000_000
    wire = AnsweringWire(
        lambda iq: [
            *(result(iq, f"{n}", text=big) for n in range(3)),
            result(iq, "small"),
            answer_to(iq),
        ]
    )
    assert await collect(wire) == (["0", "1"], True)


async def test_a_result_that_lost_its_content_is_not_answered_by_anybody() -> None:
    wire = AnsweringWire(
        lambda iq: [
            f"<message from='{CHAT}' to='{iq.get('from')}'/>",
            f"<message from='{CHAT}/somebody' to='{iq.get('from')}'/>",
            answer_to(iq),
        ]
    )
    assert await collect(wire) == ([], False)
    assert [stanza.get("from") for stanza in wire.not_taken] == [f"{CHAT}/somebody"]


async def test_a_question_that_is_none_to_an_archive_takes_no_results() -> None:
    wire = AnsweringWire(
        lambda iq: [
            (
                f"<message from='{CHAT}' to='{iq.get('from')}'>"
                f"<result xmlns='{MAM}' queryid='{iq.get('id')}' id='1'/></message>"
            ),
            answer_to(iq),
        ]
    )
    await ask(wire)
    assert len(wire.not_taken) == 1


async def _fails(wire: AnsweringWire) -> str:
    with pytest.raises(Unavailable) as raised:
        await ask(wire, timeout_s=5)
    return raised.value.reason
