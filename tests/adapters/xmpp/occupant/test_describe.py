"""What a foreign chat says about itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import DATA_FORMS, DISCO_INFO, MAM, OCCUPANT_ID
from bridge.adapters.xmpp.occupant.describe import describe
from bridge.errors import NotFound, Refused, Unavailable
from bridge.ports.chat import ChatInfo
from tests.support.answers import AnsweringWire, answer_to, error_to

BOT = Jid.parse("isthmus@gw.example")
CHAT = Jid.parse("garden@muc.example")
ROOM = "<identity category='conference' type='text'/>"


def info(identity: str, features: Sequence[str] = (), form_name: str = "") -> AnsweringWire:
    found = "".join(f"<feature var='{feature}'/>" for feature in features)
    form = (
        f"<x xmlns='{DATA_FORMS}' type='result'><field var='muc#roomconfig_roomname'>"
        f"<value>{form_name}</value></field></x>"
        if form_name
        else ""
    )
    content = f"<query xmlns='{DISCO_INFO}'>{identity}{found}{form}</query>"
    return AnsweringWire(lambda iq: [answer_to(iq, content)])


async def ask(wire: AnsweringWire, chat: Jid = CHAT) -> ChatInfo:
    return await describe(wire.questions, asker=BOT, chat=chat, timeout_s=0.02)


async def test_a_room_with_everything() -> None:
    wire = info(
        "<identity category='client' type='pc'/>"
        "<identity category='conference' type='text' name='The  garden '/>",
        ["muc_open", "muc_unsecured", "muc_nonanonymous", "muc_hidden", OCCUPANT_ID, MAM],
    )
    assert await ask(wire) == ChatInfo(
        chat=str(CHAT),
        name="The garden",
        is_open=True,
        is_hidden=True,
        shows_addresses=True,
        has_occupant_ids=True,
        has_archive=True,
    )


async def test_a_room_with_nothing_is_open_and_shows_no_addresses() -> None:
    assert await ask(info(ROOM)) == ChatInfo(
        chat=str(CHAT),
        name=None,
        is_open=True,
        shows_addresses=False,
        has_occupant_ids=False,
        has_archive=False,
    )


@pytest.mark.parametrize("feature", ["muc_membersonly", "muc_passwordprotected"])
async def test_a_room_that_keeps_people_out_is_not_open(feature: str) -> None:
    assert not (await ask(info(ROOM, [feature]))).is_open


async def test_the_name_may_stand_in_the_form_alone() -> None:
    assert (await ask(info(ROOM, form_name="Roses"))).name == "Roses"


async def test_an_older_archive_is_none_that_we_read() -> None:
    assert not (await ask(info(ROOM, ["urn:xmpp:mam:1"]))).has_archive


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "<identity category='account' type='registered'/>",
        "<identity category='conference' type='irc'/>",
        "<identity category='server' type='im'/>",
    ],
)
async def test_what_is_no_room_is_not_found(identity: str) -> None:
    with pytest.raises(NotFound, match="no chat room has this address"):
        await ask(info(identity))


@pytest.mark.parametrize("chat", ["muc.example", "garden@muc.example/Alice"])
async def test_a_service_or_an_occupant_is_not_even_asked(chat: str) -> None:
    wire = info(ROOM)
    with pytest.raises(NotFound):
        await ask(wire, Jid.parse(chat))
    assert not wire.sent


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ("item-not-found", NotFound),
        ("service-unavailable", NotFound),
        ("subscription-required", NotFound),
        ("forbidden", Refused),
        ("remote-server-not-found", Unavailable),
    ],
)
async def test_an_error_says_whether_to_ask_again(condition: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await ask(AnsweringWire(lambda iq: [error_to(iq, condition)]))


async def test_an_answer_without_content_is_no_room() -> None:
    with pytest.raises(NotFound):
        await ask(AnsweringWire(lambda iq: [answer_to(iq)]))
