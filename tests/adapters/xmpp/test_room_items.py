"""The list of rooms as items of the domain, read in pages from both ends."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from bridge.adapters.xmpp.addresses import Bot
from bridge.adapters.xmpp.namespaces import RSM
from bridge.adapters.xmpp.room_items import PAGE
from bridge.ids import RoomAlias, RoomId
from bridge.ports.matrix import PublicRoom
from bridge.storage.database import Database
from tests.adapters.xmpp.test_disco import ITEMS, make_disco, question
from tests.support.clock import FakeClock
from tests.support.listener import ScriptedListener
from tests.support.wire import brief


def listing(count: int) -> ScriptedListener:
    listener = ScriptedListener()
    listener.listed = [
        PublicRoom(room_id=RoomId(f"!r{number}:m.example"), members=1, name=f"Room {number}")
        for number in range(count)
    ]
    return listener


async def asked(
    listener: ScriptedListener,
    database: Database,
    clock: FakeClock,
    window: str | None = None,
    to: str = "gw.test",
) -> ET.Element:
    disco = make_disco(listener, database, clock, full=False)
    inner = "" if window is None else f"<set xmlns='{RSM}'>{window}</set>"
    return await disco.answer(question(to, f"<query xmlns='{ITEMS}'>{inner}</query>"), Bot())


def names(answer: ET.Element) -> list[str | None]:
    return [item.get("name") for item in answer[0].iter(f"{{{ITEMS}}}item")]


def end(answer: ET.Element, which: str) -> str | None:
    return answer[0].findtext(f"{{{RSM}}}set/{{{RSM}}}{which}")


async def test_rooms_are_items_under_their_alias_or_their_id(
    sqlite_database: Database, clock: FakeClock
) -> None:
    listener = ScriptedListener()
    listener.listed = [
        PublicRoom(
            room_id=RoomId("!a:m.example"),
            members=3,
            name="The\n Garden\x02",
            canonical_alias=RoomAlias("#garden:m.example"),
        ),
        PublicRoom(room_id=RoomId("!aB"), members=1),
        PublicRoom(room_id=RoomId("!" + "A" * 400), members=1, name="no address holds it"),
    ]
    answer = await asked(listener, sqlite_database, clock)
    assert [dict(item.attrib) for item in answer[0]] == [
        {"jid": "#garden%m.example@gw.test", "name": "The Garden\ufffd"},
        {"jid": "!a\\42@gw.test"},
    ]
    # The bot's own address is no service of rooms.
    assert names(await asked(listener, sqlite_database, clock, to="isthmus@gw.test")) == []


async def test_a_long_list_comes_in_part_and_says_so(
    sqlite_database: Database, clock: FakeClock
) -> None:
    answer = await asked(listing(PAGE), sqlite_database, clock)
    assert len(names(answer)) == PAGE
    assert answer[0].find(f"{{{RSM}}}set") is None
    answer = await asked(listing(PAGE + 7), sqlite_database, clock)
    assert len(names(answer)) == PAGE
    assert (end(answer, "last"), end(answer, "count")) == (
        f"!r{PAGE - 1}:m.example",
        str(PAGE + 7),
    )


async def test_pages_are_read_forwards_and_backwards(
    sqlite_database: Database, clock: FakeClock
) -> None:
    listener, seen, after = listing(7), list[str | None](), ""
    while True:
        window = f"<max>3</max>{after}"
        answer = await asked(listener, sqlite_database, clock, window)
        seen += names(answer)
        assert end(answer, "count") == "7"
        if len(names(answer)) < 3:
            break
        after = f"<after>{end(answer, 'last')}</after>"
    assert seen == [f"Room {number}" for number in range(7)]

    back, before = list[str | None](), "<before/>"
    while True:
        answer = await asked(listener, sqlite_database, clock, f"<max>3</max>{before}")
        back = names(answer) + back
        first = answer[0].find(f"{{{RSM}}}set/{{{RSM}}}first")
        assert first is not None
        if first.get("index") == "0":
            break
        before = f"<before>{first.text}</before>"
    assert back == seen


async def test_only_the_number_is_told_where_that_is_asked(
    sqlite_database: Database, clock: FakeClock
) -> None:
    answer = await asked(listing(7), sqlite_database, clock, "<max>0</max>")
    assert (names(answer), end(answer, "count")) == ([], "7")
    assert end(answer, "first") is None


@pytest.mark.parametrize(
    ("window", "condition"),
    [
        ("<max>many</max>", "bad-request"),
        ("<max>-1</max>", "bad-request"),
        ("<after>nothing</after>", "bad-request"),
        ("<after>!r1:m.example</after><before>!r3:m.example</before>", "bad-request"),
        ("<after>!gone:m.example</after>", "item-not-found"),
        ("<before>!gone:m.example</before>", "item-not-found"),
    ],
)
async def test_what_is_no_page_is_refused(
    sqlite_database: Database, clock: FakeClock, window: str, condition: str
) -> None:
    answer = await asked(listing(5), sqlite_database, clock, window)
    assert brief(answer).endswith(condition)
