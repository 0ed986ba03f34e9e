"""The past of a foreign chat, in pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.adapters.xmpp.inbound import read_stanza, to_message
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import DATA_FORMS, MAM, MUC_USER, RSM
from bridge.adapters.xmpp.occupant import archive
from bridge.errors import NotFound, Refused
from tests.support.answers import AnsweringWire, answer_to, error_to

SESSION = Jid.parse("alice%m.example@gw.example/guest")
CHAT = Jid.parse("garden@muc.example")
STAMP = "2026-11-22T17:10:26.123456Z"


def said(text: str) -> str:
    return (
        f"<message xmlns='jabber:client' from='{CHAT}/Romeo' type='groupchat' id='i-{text}'>"
        f"<body>{text}</body></message>"
    )


@dataclass
class Archive:
    """An archive as XEP-0059 wants it: what stands after an ID, or the end."""

    entries: list[tuple[str, str]]
    asked: list[ET.Element] = field(default_factory=list)
    sent: Callable[[str], str] = said
    is_forgetful: bool = False
    """It begins with its oldest entry where it does not know an ID: ejabberd does."""
    is_sloppy: bool = False
    """It never says that it has said everything."""

    def answer(self, iq: ET.Element) -> list[str]:
        query = iq.find(f"{{{MAM}}}query")
        assert query is not None
        self.asked.append(query)
        window = query.find(f"{{{RSM}}}set")
        assert window is not None
        count = int(window.findtext(f"{{{RSM}}}max") or "1000")
        ids = [id for id, _ in self.entries]
        after = window.findtext(f"{{{RSM}}}after")
        if after is not None and after not in ids:
            if not self.is_forgetful:
                return [error_to(iq, "item-not-found")]
            after = None
        rest = self.entries[ids.index(after) + 1 if after is not None else 0 :]
        is_last = window.find(f"{{{RSM}}}before") is not None
        page = rest[-count:] if is_last else rest[:count]
        complete = "true" if len(page) == len(rest) and not self.is_sloppy else "false"
        span = f"<first>{page[0][0]}</first><last>{page[-1][0]}</last>" if page else ""
        fin = f"<fin xmlns='{MAM}' complete='{complete}'><set xmlns='{RSM}'>{span}</set></fin>"
        return [*(self.result(iq, query, *entry) for entry in page), answer_to(iq, fin)]

    def result(self, iq: ET.Element, query: ET.Element, id: str, text: str) -> str:
        return (
            f"<message from='{CHAT}' to='{iq.get('from')}'>"
            f"<result xmlns='{MAM}' queryid='{query.get('queryid')}' id='{id}'>"
            f"<forwarded xmlns='urn:xmpp:forward:0'>"
            f"<delay xmlns='urn:xmpp:delay' stamp='{STAMP}'/>{self.sent(text)}</forwarded>"
            "</result></message>"
        )


def entries(count: int) -> list[tuple[str, str]]:
    return [(f"id{number}", f"line {number}") for number in range(count)]


async def read(
    store: Archive,
    *,
    after: str | None = None,
    start_ms: int | None = None,
    limit: int = 1000,
) -> list[archive.ArchivedMessage]:
    wire = AnsweringWire(store.answer)
    return [
        entry
        async for entry in archive.read(
            wire.questions,
            asker=SESSION,
            chat=CHAT,
            after=after,
            start_ms=start_ms,
            limit=limit,
            timeout_s=0.05,
        )
    ]


async def test_pages_are_put_together_in_order() -> None:
    store = Archive(entries(2 * archive.PAGE + 5))
    found = await read(store)
    assert [entry.archive_id for entry in found] == [id for id, _ in store.entries]
    assert len(store.asked) == 3


async def test_an_archived_message_reads_like_a_live_one() -> None:
    (entry,) = await read(Archive([("a", "hello")]))
    stanza = read_stanza(entry.element)
    assert (stanza.kind, stanza.type, stanza.id) == ("message", "groupchat", "i-hello")
    assert (str(stanza.sender), stanza.to) == (f"{CHAT}/Romeo", SESSION)
    message = to_message(stanza)
    assert message is not None
    assert message.text == "hello"
    assert entry.at_ms == 1795367426123


async def test_the_component_namespace_is_read_as_well() -> None:
    store = Archive([("a", "hello")])
    store.sent = lambda text: said(text).replace("jabber:client", "jabber:component:accept")
    (entry,) = await read(store)
    assert to_message(read_stanza(entry.element)) is not None


async def test_what_an_author_forged_is_left_out() -> None:
    def forging(_: str) -> str:
        x = f"<x xmlns='{MUC_USER}'><item jid='"
        return (
            f"<message xmlns='jabber:client' from='{CHAT}/Romeo' type='groupchat'>"
            "<delay xmlns='urn:xmpp:delay' stamp='2001-01-01T00:00:00Z'/>"
            f"{x}pope@rome.test'/></x><body>x</body>{x}romeo@a.test'/></x></message>"
        )

    (entry,) = await read(Archive([("a", "")], sent=forging))
    items = entry.element.findall(f"{{{MUC_USER}}}x/{{{MUC_USER}}}item")
    assert [item.get("jid") for item in items] == ["romeo@a.test"]
    assert archive.delay_ms(entry.element) is None
    assert entry.at_ms == 1795367426123


async def test_it_goes_on_after_an_id_and_forgets_the_time() -> None:
    store = Archive(entries(5))
    found = await read(store, after="id2", start_ms=5)
    assert [entry.archive_id for entry in found] == ["id3", "id4"]
    assert store.asked[0].find(f"{{{DATA_FORMS}}}x") is None


async def test_an_id_that_the_archive_has_forgotten_is_not_found() -> None:
    with pytest.raises(NotFound):
        await read(Archive(entries(5)), after="gone")


async def test_an_archive_that_begins_anew_for_a_forgotten_id_is_found_out() -> None:
    store = Archive(entries(5), is_forgetful=True)
    at_ms = 1795367426123
    with pytest.raises(NotFound):
        await read(store, after="gone", start_ms=at_ms + 25 * 3600 * 1000)
    # Only clocks differ: what is known already is for the reader to see.
    assert len(await read(store, after="gone", start_ms=at_ms + 23 * 3600 * 1000)) == 5
    assert len(await read(store, after="gone")) == 5


async def test_a_start_is_asked_for_in_a_form_on_each_page() -> None:
    store = Archive(entries(3))
    await read(store, start_ms=1795367426123)
    form = store.asked[0].find(f"{{{DATA_FORMS}}}x")
    assert form is not None
    fields = {f.get("var"): f.findtext(f"{{{DATA_FORMS}}}value") for f in form}
    assert fields == {"FORM_TYPE": MAM, "start": "2026-11-22T17:10:26.123Z"}


async def test_the_limit_ends_it() -> None:
    store = Archive(entries(200))
    assert len(await read(store, limit=70)) == 70
    windows = [query.findtext(f"{{{RSM}}}set/{{{RSM}}}max") for query in store.asked]
    assert windows == ["50", "20"]


async def test_an_archive_that_never_ends_is_not_asked_for_ever() -> None:
    store = Archive(entries(60), is_sloppy=True)
    assert len(await read(store)) == 60
    assert len(store.asked) == 3


async def test_a_page_that_was_cut_off_goes_on_behind_what_was_kept() -> None:
    store = Archive([(f"id{number}", f"{number}" + "x" * 150_000) for number in range(15)])
    found = await read(store)
    assert [entry.archive_id for entry in found] == [id for id, _ in store.entries]
    assert len(store.asked) == 3


@pytest.mark.parametrize(
    "stanza",
    [
        f"<presence xmlns='jabber:client' from='{CHAT}/Romeo'/>",
        f"<message xmlns='jabber:client' from='{CHAT}/Romeo' type='chat'><body>x</body></message>",
        "<message xmlns='jabber:client' from='garden@evil.example/Romeo' type='groupchat'/>",
        "<message xmlns='jabber:client' type='groupchat'/>",
        "<message xmlns='urn:other' type='groupchat'/>",
        "",
    ],
)
async def test_only_group_messages_of_this_chat_count(stanza: str) -> None:
    store = Archive(entries(3))
    store.sent = lambda text: stanza if text == "line 1" else said(text)
    assert [entry.archive_id for entry in await read(store)] == ["id0", "id2"]


async def test_a_refusal_passes_through() -> None:
    wire = AnsweringWire(lambda iq: [error_to(iq, "forbidden", type="auth")])
    with pytest.raises(Refused) as refused:
        await archive.newest(wire.questions, asker=SESSION, chat=CHAT, timeout_s=0.05)
    assert refused.value.rule == "forbidden"


async def test_the_newest_entry_is_the_last_one_whatever_it_is() -> None:
    store = Archive(entries(80))
    store.sent = lambda _: f"<presence xmlns='jabber:client' from='{CHAT}/Romeo'/>"
    wire = AnsweringWire(store.answer)
    entry = await archive.newest(wire.questions, asker=SESSION, chat=CHAT, timeout_s=0.05)
    assert entry is not None
    assert entry.archive_id == "id79"


async def test_an_empty_archive_has_no_newest_entry() -> None:
    wire = AnsweringWire(Archive([]).answer)
    assert await archive.newest(wire.questions, asker=SESSION, chat=CHAT, timeout_s=0.05) is None
    assert await read(Archive([])) == []


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1500),
        ("1970-01-01T01:00:00.001+01:00", 1),
        ("2026-11-22T17:10:26.1234567Z", 1795367426123),
        ("1970-01-01T00:00:00", 0),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_stamps(text: str | None, at_ms: int | None) -> None:
    assert archive.stamp_ms(text) == at_ms


@given(st.text())
def test_no_stamp_breaks_the_reader(text: str) -> None:
    archive.stamp_ms(text)
