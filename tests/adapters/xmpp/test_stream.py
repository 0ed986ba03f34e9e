"""Bytes in, elements out; what is too big or too deep loses its content, not the stream."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

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
    """A stream after the header of the server."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.transport = _Transport()
        self.stream = Stream(
            domain="gw.test",
            secret="s3cret",
            max_bytes=1000,
            max_depth=5,
            on_stanza=self.received.append,
        )
        self.stream.connection_made(self.transport)
        self.stream.data_received(HEADER)


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
