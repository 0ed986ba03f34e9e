"""The connection against a server of a few lines: fences, refusals, suspicion, back-pressure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import cast
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio
from pydantic import SecretStr

from bridge.adapters.xmpp.config import XmppLimits, XmppSettings
from bridge.adapters.xmpp.connection import Connection
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.outbound import notice
from bridge.errors import Refused, Unavailable
from tests.support.clock import FakeClock

DOMAIN = "gw.test"
HEADER = (
    "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' "
    "xmlns='jabber:component:accept' id='s'>"
)
WAIT_S = 5.0


class TinyServer:
    """Accepts a component and gives back what it sends to itself. `bans` words: they end the
    stream, politely, with an error or without a word."""

    def __init__(self) -> None:
        self.text = ""
        self.answers_fences = True
        self.ban = ""
        self.ending = "<stream:error><policy-violation/></stream:error></stream:stream>"
        self.connections = 0
        self._server: asyncio.Server | None = None
        self.writer: asyncio.StreamWriter | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Returns when no socket is left: a loop that ends before leaves them to the collector."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writer = writer
        self._writers.append(writer)
        parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(("end",))
        writer.write(HEADER.encode())
        while data := await reader.read(65536):
            parser.feed(data)
            for _, node in cast(Iterator[tuple[str, ET.Element]], parser.read_events()):
                self._on_element(node, writer)
        writer.close()

    def _on_element(self, node: ET.Element, writer: asyncio.StreamWriter) -> None:
        name = node.tag.rpartition("}")[2]
        if name == "handshake":
            writer.write(b"<handshake/>")
        elif name == "message":
            self.text += node.findtext("{*}body") or ""
            if self.ban and self.ban in self.text:
                self.text = ""
                writer.write(self.ending.encode())
                writer.close()
        elif name == "iq" and self.answers_fences:
            writer.write(ET.tostring(node))


@pytest_asyncio.fixture
async def server() -> AsyncIterator[TinyServer]:
    server = TinyServer()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def connection(server: TinyServer, clock: FakeClock) -> AsyncIterator[Connection]:
    limits = XmppLimits(inbound_stanzas=10, fence_timeout_s=2, stanza_bytes=1000)
    settings = XmppSettings(
        domain=DOMAIN, secret=SecretStr("s"), port=await server.start(), limits=limits
    )
    connection = Connection(settings=settings, clock=clock, random=random.Random(1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(connection.run())
        async with asyncio.timeout(WAIT_S):
            await connection.connected.wait()
        yield connection
        task.cancel()


def line(text: str, *, sender: str = f"x@{DOMAIN}") -> ET.Element:
    return notice(sender=Jid.parse(sender), to=Jid.parse("romeo@a.test"), text=text)


async def say(connection: Connection, text: str, key: str) -> None:
    await connection.fenced(key, lambda: connection.send([line(text)]))


async def test_a_fenced_delivery_returns_after_the_server_has_read_it(
    connection: Connection, server: TinyServer
) -> None:
    await say(connection, "hello", "1")
    assert server.text == "hello"


async def test_fences_of_one_moment_are_one_stanza(
    connection: Connection, server: TinyServer
) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(say(connection, f"{number},", str(number)))
    assert server.text == "".join(f"{number}," for number in range(50))
    assert connection._fence_number < 5


async def test_a_fence_on_the_next_stream_proves_nothing(
    connection: Connection, server: TinyServer, clock: FakeClock
) -> None:
    async def write() -> None:
        await connection.send([line("x")])
        assert server.writer is not None
        server.writer.close()
        await until(lambda: not connection.connected.is_set())
        await reconnect(connection, clock)

    with pytest.raises(Unavailable):
        await connection.fenced("1", write)


async def test_a_fence_of_an_earlier_process_proves_nothing(
    connection: Connection, server: TinyServer
) -> None:
    server.answers_fences = False
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(outcome(say(connection, "x", "1")))
        await until(lambda: server.text == "x")
        assert server.writer is not None
        server.writer.write(
            f"<iq type='result' from='{DOMAIN}' to='{DOMAIN}' id='fence-1'/>".encode()
        )
    assert isinstance(waiting.result(), Unavailable)


async def test_a_lost_stream_fails_the_fence_and_connects_again(
    connection: Connection, server: TinyServer, clock: FakeClock
) -> None:
    server.answers_fences = False
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(outcome(say(connection, "x", "1")))
        await until(lambda: server.text == "x")
        assert server.writer is not None
        server.writer.close()
    assert isinstance(waiting.result(), Unavailable)
    with pytest.raises(Unavailable):
        await say(connection, "y", "1")
    server.answers_fences = True
    await reconnect(connection, clock)
    await say(connection, "z", "1")


async def outcome(job: object) -> Exception | None:
    assert asyncio.iscoroutine(job)
    try:
        await job
    except (Unavailable, Refused) as exc:
        return exc
    return None


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


async def reconnect(connection: Connection, clock: FakeClock) -> None:
    async with asyncio.timeout(WAIT_S):
        while not connection.connected.is_set():
            await clock.advance(5)
            await asyncio.sleep(0.005)


async def test_what_closes_the_stream_twice_goes_alone_and_is_refused(
    connection: Connection, server: TinyServer, clock: FakeClock
) -> None:
    server.ban = "guilty"
    for _ in range(2):
        assert isinstance(await outcome(say(connection, "guilty", "1")), Unavailable)
        await reconnect(connection, clock)
    failed = await outcome(say(connection, "guilty", "1"))
    assert isinstance(failed, Refused)
    assert failed.rule == "closes-stream"
    await reconnect(connection, clock)
    await say(connection, "innocent", "2")


async def test_a_server_that_shuts_down_politely_accuses_nobody(
    connection: Connection, server: TinyServer, clock: FakeClock
) -> None:
    server.ban, server.ending = "x", "</stream:stream>"
    for _ in range(6):
        assert isinstance(await outcome(say(connection, "x", "1")), Unavailable)
        await reconnect(connection, clock)
    server.ban = ""
    await say(connection, "x", "1")


@pytest.mark.parametrize(
    ("stanza", "rule"),
    [
        (line("x" * 2000), "stanza-size"),
        (line("x", sender="x@elsewhere.test"), "stanza-address"),
        (line("x", sender=f"X@{DOMAIN}"), "stanza-address"),
        (line("x", sender=f"x@{DOMAIN}/\U0001f98a"), "stanza-address"),
    ],
)
async def test_a_stanza_that_would_close_the_stream_is_not_written(
    connection: Connection, server: TinyServer, stanza: ET.Element, rule: str
) -> None:
    with pytest.raises(Refused) as refused:
        await connection.send([line("before"), stanza])
    assert refused.value.rule == rule
    await say(connection, "after", "1")
    assert server.text == "after"


async def test_an_illegal_character_is_not_written(connection: Connection) -> None:
    stanza = line("x")
    stanza.set("id", "\x00")
    with pytest.raises(Refused) as refused:
        await connection.send([stanza])
    assert refused.value.rule == "stanza-character"


async def test_reading_stops_while_too_much_waits_and_goes_on_after(
    connection: Connection, server: TinyServer
) -> None:
    assert server.writer is not None
    count, filling = 3000, "x" * 900
    for number in range(count):
        text = f"<message from='a@b' to='x@{DOMAIN}' id='{number}'>{filling}</message>"
        server.writer.write(text.encode())
    await until(lambda: len(connection._inbox) >= 10)
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert len(connection._inbox) < count / 2
    async with asyncio.timeout(WAIT_S):
        ids = [(await connection.receive()).element.get("id") for _ in range(count)]
    assert ids == [str(number) for number in range(count)]
    await say(connection, "still up", "1")


async def test_what_is_taken_or_dropped_at_its_arrival_does_not_wait(
    server: TinyServer, clock: FakeClock
) -> None:
    taken: list[str | None] = []

    def take(xml: ET.Element) -> bool:
        taken.append(xml.get("id"))
        return xml.get("type") == "groupchat"

    settings = XmppSettings(domain=DOMAIN, secret=SecretStr("s"), port=await server.start())
    connection = Connection(
        settings=settings,
        clock=clock,
        random=random.Random(1),
        drops=lambda kind, sender, to, type: (kind, to) == ("message", f"x@{DOMAIN}"),
        take=take,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(connection.run())
        await until(lambda: server.writer is not None and connection.connected.is_set())
        assert server.writer is not None
        for number, (to, type) in enumerate(
            [("x", "groupchat"), ("y", "groupchat"), ("y", "chat")]
        ):
            text = f"<message from='a@b' to='{to}@{DOMAIN}' type='{type}' id='{number}'/>"
            server.writer.write(text.encode())
        async with asyncio.timeout(WAIT_S):
            received = await connection.receive()
        assert (received.element.get("id"), taken) == ("2", ["1", "2"])
        assert not connection.has_unread
        task.cancel()


async def test_an_address_that_is_no_server_is_said_so(clock: FakeClock) -> None:
    settings = XmppSettings(domain=DOMAIN, secret=SecretStr("s"), port=1)
    connection = Connection(settings=settings, clock=clock, random=random.Random(1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(connection.run())
        await until(lambda: connection.status.state == "unreachable")
        assert "127.0.0.1:1 is not there" in connection.status.text
        task.cancel()


async def test_what_the_server_sent_before_it_heard_of_our_stop_is_still_received(
    connection: Connection, server: TinyServer
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(connection.stop())
        await until(lambda: not connection.connected.is_set())
        with pytest.raises(Unavailable):
            await connection.send([line("too late")])
        assert server.writer is not None
        server.writer.write(ET.tostring(line("just in time")) + b"</stream:stream>")
    async with asyncio.timeout(WAIT_S):
        received = await connection.receive()
    assert received.element.findtext("{*}body") == "just in time"
    assert not connection.has_unread
    assert server.connections == 1
