"""Bytes in, elements out; what is too big or too deep loses its content, not the stream."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.adapters.xmpp.stream import Received, Stream

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' "
    b"xmlns='jabber:component:accept' id='sid' from='gw.test'>"
)


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Open:
    """A stream after the header of the server. Nobody wants what is sent to `unwanted`."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.asked: list[tuple[str, str, str, str]] = []
        self.unwanted = "nobody@gw.test"
        self.transport = _Transport()
        self.stream = Stream(
            domain="gw.test",
            secret="s3cret",
            max_bytes=1000,
            max_depth=5,
            on_stanza=self.received.append,
            drops=self._drops,
        )
        self.stream.connection_made(self.transport)
        self.stream.data_received(HEADER)

    def _drops(self, kind: str, sender: str, to: str, type: str) -> bool:
        self.asked.append((kind, sender, to, type))
        return to == self.unwanted

    @property
    def ids(self) -> list[str | None]:
        return [received.element.get("id") for received in self.received]


@pytest.fixture
async def opened() -> Open:
    return Open()


async def test_the_handshake_is_the_digest_of_stream_id_and_secret(opened: Open) -> None:
    digest = hashlib.sha1(b"sids3cret").hexdigest()
    assert opened.transport.written.endswith(f"<handshake>{digest}</handshake>".encode())
    assert not opened.stream.authenticated.done()
    opened.stream.data_received(b"<handshake/>")
    assert opened.stream.authenticated.done()


async def test_stanzas_come_whole_however_the_bytes_are_cut(opened: Open) -> None:
    data = "<message from='a@b' to='c@gw.test'><body>é🦊</body></message>".encode()
    for at in range(len(data)):
        opened.stream.data_received(data[at : at + 1])
    (received,) = opened.received
    assert received.flaw is None
    assert received.element.findtext("{jabber:component:accept}body") == "é🦊"


async def test_a_stanza_in_the_client_namespace_is_one_of_ours(opened: Open) -> None:
    opened.stream.data_received(b"<message xmlns='jabber:client' from='a@b' to='c@gw.test'/>")
    assert opened.received[0].element.tag == "{jabber:component:accept}message"


async def test_a_big_stanza_arrives_without_its_content(opened: Open) -> None:
    opened.stream.data_received(b"<message from='a@b' to='c@d' id='1'><body>")
    for _ in range(40):
        opened.stream.data_received(b"x" * 100)
    opened.stream.data_received(b"</body></message><message from='a@b' to='c@d'><body>y</body>")
    opened.stream.data_received(b"</message>")
    big, small = opened.received
    assert (big.flaw, big.element.get("id"), len(big.element)) == ("too-big", "1", 0)
    assert small.flaw is None


async def test_many_small_stanzas_in_one_read_are_not_big(opened: Open) -> None:
    opened.stream.data_received(b"<message from='a@b' to='c@d'><body>x</body></message>" * 100)
    assert [r.flaw for r in opened.received] == [None] * 100


async def test_an_endless_list_of_elements_is_let_go_while_it_comes(opened: Open) -> None:
    opened.stream.data_received(b"<message from='a@b' to='c@d'>")
    for _ in range(10):
        opened.stream.data_received(b"<x><y/></x>" * 5000)
    opened.stream.data_received(b"</message>")
    assert [r.flaw for r in opened.received] == ["too-big"]


async def test_a_deep_stanza_arrives_without_its_content(opened: Open) -> None:
    deep = b"<a>" * 5000 + b"</a>" * 5000
    opened.stream.data_received(b"<message from='a@b' to='c@d'>" + deep + b"</message>")
    opened.stream.data_received(b"<message from='a@b' to='c@d'><a><b><c/></b></a></message>")
    assert [r.flaw for r in opened.received] == ["too-deep", None]


async def test_endless_text_is_let_go_while_it_comes(opened: Open) -> None:
    opened.stream.data_received(b"<message from='a@b' to='c@d' id='1'><body>")
    tracemalloc.start()
    for _ in range(100):
        opened.stream.data_received(b"x" * 2**16)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    opened.stream.data_received(b"</body></message><iq from='a@b' to='c@d' id='2'/>")
    assert [r.flaw for r in opened.received] == ["too-big", None]
    assert held_bytes < 2**20


async def test_of_each_stanza_is_asked_at_its_start_whether_it_is_wanted(opened: Open) -> None:
    opened.stream.data_received(b"<handshake/><message from='a@b/c' to='d@gw.test' type='chat'>")
    opened.stream.data_received(b"<message/></message><presence xmlns='jabber:client'/>")
    assert opened.asked == [("message", "a@b/c", "d@gw.test", "chat"), ("presence", "", "", "")]


async def test_unwanted_stanzas_are_passed_over_however_the_bytes_are_cut(opened: Open) -> None:
    unwanted = "<message id='%d' to='nobody@gw.test'><body>é&lt;<!-- > --></body><x/></message>"
    wanted = "<message id='%d' to='c@gw.test'><body>é🦊</body></message>"
    data = "".join((wanted if n % 3 == 0 else unwanted) % n for n in range(8)).encode()
    for size in range(1, 40):
        opened.received.clear()
        for at in range(0, len(data), size):
            opened.stream.data_received(data[at : at + size])
        assert opened.ids == ["0", "3", "6"]
        bodies = [r.element.findtext("{jabber:component:accept}body") for r in opened.received]
        assert bodies == ["é🦊"] * 3


async def test_what_stands_in_an_unwanted_stanza_is_no_stanza(opened: Open) -> None:
    inner = b"<message from='romeo@a.test' to='c@gw.test' id='forged'/>"
    opened.stream.data_received(
        b"<message to='nobody@gw.test'>" + inner + b"<message>" + inner + b"</message></message>"
        b"<message to='c@gw.test' id='true'/>"
    )
    assert opened.ids == ["true"]
    assert len(opened.asked) == 2


async def test_an_unwanted_stanza_may_be_big_and_deep(opened: Open) -> None:
    deep = b"<a>" * 5000 + b"x" * 5000 + b"</a>" * 5000
    opened.stream.data_received(b"<message to='nobody@gw.test'>" + deep + b"</message>")
    opened.stream.data_received(b"<message to='c@gw.test' id='1'><a><b><c/></b></a></message>")
    assert [(r.element.get("id"), r.flaw) for r in opened.received] == [("1", None)]


async def test_big_after_unwanted_is_big(opened: Open) -> None:
    unwanted = b"<message to='nobody@gw.test'><body>x</body></message>"
    big = b"<message to='c@gw.test'><body>" + b"x" * 1001 + b"</body></message>"
    small = b"<message to='c@gw.test'><body>" + b"x" * 800 + b"</body></message>"
    opened.stream.data_received(unwanted * 9 + big + unwanted * 99 + small)
    assert [r.flaw for r in opened.received] == ["too-big", None]


_NAMES = st.sampled_from(["body", "message", "x", "urn:a}x", "jabber:client}message"])
_TEXT = st.text("abé🦊<&>'\" \n", max_size=6)
_ATTRIBUTES = st.dictionaries(
    st.sampled_from(["id", "type", "{http://www.w3.org/XML/1998/namespace}lang"]), _TEXT, max_size=2
)


def _element(
    name: str, attributes: dict[str, str], text: str, inner: list[ET.Element]
) -> ET.Element:
    tag = "{" + (name if "}" in name else f"jabber:component:accept}}{name}")
    xml = ET.Element(tag, attributes)
    xml.text = text
    for child in inner:
        child.tail = text[:2]
        xml.append(child)
    return xml


_TREES = st.recursive(
    st.builds(_element, _NAMES, _ATTRIBUTES, _TEXT, st.just([])),
    lambda inner: st.builds(_element, _NAMES, _ATTRIBUTES, _TEXT, st.lists(inner, max_size=3)),
    max_leaves=6,
)


@given(trees=st.lists(st.tuples(_TREES, st.booleans()), max_size=5), size=st.integers(1, 300))
async def test_what_is_wanted_comes_as_it_was_said(
    trees: list[tuple[ET.Element, bool]], size: int
) -> None:
    opened = Open()
    expected = []
    data = b""
    for tree, is_wanted in trees:
        to = "c@gw.test" if is_wanted else opened.unwanted
        stanza = ET.Element("{jabber:component:accept}message", {"to": to})
        stanza.append(tree)
        data += ET.tostring(stanza, "utf-8")
        if is_wanted:
            expected.append(ET.canonicalize(ET.tostring(stanza, "unicode")))
    opened.stream = Stream(
        domain="gw.test",
        secret="s3cret",
        max_bytes=100_000,
        max_depth=50,
        on_stanza=opened.received.append,
        drops=lambda kind, sender, to, type: to == opened.unwanted,
    )
    opened.stream.connection_made(opened.transport)
    data = HEADER + data
    for at in range(0, len(data), size):
        opened.stream.data_received(data[at : at + size])
    found = [ET.canonicalize(ET.tostring(r.element, "unicode")) for r in opened.received]
    assert found == expected


async def test_a_stream_error_says_why_it_ends(opened: Open) -> None:
    opened.stream.data_received(
        b"<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
        b"<text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>no</text></stream:error>"
        b"</stream:stream>"
    )
    assert opened.transport.closed
    opened.stream.connection_lost(None)
    closed = opened.stream.closed.result()
    assert (closed.condition, closed.text, closed.is_polite) == ("not-authorized", "no", True)


async def test_what_is_not_xml_ends_the_stream(opened: Open) -> None:
    opened.stream.data_received(b"<message></presence>")
    opened.stream.connection_lost(None)
    assert opened.stream.closed.result().condition == "not-well-formed"


async def test_what_came_whole_before_a_fault_is_not_lost(opened: Open) -> None:
    opened.stream.data_received(b"<message to='c@gw.test' id='1'/><message></presence>")
    assert opened.ids == ["1"]
    assert opened.stream.is_closed


async def test_a_doctype_ends_the_stream() -> None:
    opened = Open()
    opened.stream.connection_made(opened.transport)
    opened.stream.data_received(b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + HEADER.partition(b"?>")[2])
    assert opened.stream.is_closed
    opened.stream.connection_lost(None)
    assert opened.stream.closed.result().condition == "not-well-formed"


async def test_nothing_is_heard_after_the_end_of_the_stream(opened: Open) -> None:
    opened.stream.data_received(b"</stream:stream><message to='c@gw.test' id='1'/>")
    opened.stream.data_received(b"<message to='c@gw.test' id='2'/>")
    opened.stream.connection_lost(None)
    closed = opened.stream.closed.result()
    assert (opened.ids, closed.condition, closed.is_polite) == ([], "", True)
