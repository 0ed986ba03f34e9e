"""What a real MUC service answers to our questions."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio
from pydantic import SecretStr

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.config import XmppSettings
from bridge.adapters.xmpp.connection import Connection
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import MUC, add
from bridge.adapters.xmpp.occupant import archive
from bridge.adapters.xmpp.occupant.admin import affiliated
from bridge.adapters.xmpp.occupant.describe import describe
from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.adapters.xmpp.occupant.selfping import is_in
from bridge.clock import SystemClock
from bridge.demo.servers import Prosody
from bridge.errors import NotFound, Refused
from tests.support.servers import COMPONENT_SECRET

DOMAIN = "gw.a.test"
ALICE = Jid.parse(f"alice%m.example@{DOMAIN}/x")
BOB = Jid.parse(f"bob%m.example@{DOMAIN}/x")
BOT = Jid.parse(f"isthmus@{DOMAIN}")
CHAT = Jid.parse("garden@muc.a.test")
WAIT_S = 5.0

pytestmark = pytest.mark.asyncio(loop_scope="function")


@dataclass
class Component:
    """A connection whose stanzas pass our questions first; the rest is kept."""

    connection: Connection
    questions: Questions
    seen: list[ET.Element] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        while True:
            element = (await self.connection.receive()).element
            if not self.questions.take(element):
                self.seen.append(element)
                self.news.set()

    async def wait_for(self, kind: str, sender: str, to: Jid) -> ET.Element:
        async with asyncio.timeout(WAIT_S):
            while True:
                for element in self.seen:
                    name = element.tag.rpartition("}")[2]
                    if (name, element.get("from"), element.get("to")) == (kind, sender, str(to)):
                        self.seen.remove(element)
                        return element
                self.news.clear()
                await self.news.wait()

    async def enter(self, who: Jid, nickname: str) -> None:
        presence = outbound.stanza("presence", sender=who, to=CHAT.with_resource(nickname))
        add(add(presence, MUC, "x"), MUC, "history").set("maxstanzas", "0")
        await self.connection.send([presence])
        await self.wait_for("presence", f"{CHAT}/{nickname}", who)

    async def say(self, who: Jid, nickname: str, text: str) -> None:
        message = outbound.stanza("message", sender=who, to=CHAT, type="groupchat", id=text)
        add(message, "jabber:component:accept", "body", text)
        await self.connection.send([message])
        await self.wait_for("message", f"{CHAT}/{nickname}", who)


@pytest_asyncio.fixture
async def component(prosody: Prosody) -> AsyncIterator[Component]:
    connection = Connection(
        settings=XmppSettings(
            domain=DOMAIN, secret=SecretStr(COMPONENT_SECRET), port=prosody.ports.component
        ),
        clock=SystemClock(),
        random=random.Random(),
    )
    component = Component(connection, Questions(wire=connection, random=random.Random()))
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(connection.run()), loop.create_task(component.read())]
    async with asyncio.timeout(WAIT_S):
        await connection.connected.wait()
    yield component
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_room_is_described_read_and_pinged(component: Component) -> None:
    questions = component.questions

    for nothing in (CHAT, Jid.parse("alice@a.test"), Jid.parse("garden@a.test")):
        with pytest.raises(NotFound):
            await describe(questions, asker=BOT, chat=nothing, timeout_s=WAIT_S)
    # Asking twice shows that the first question made no room.
    with pytest.raises(NotFound):
        await describe(questions, asker=BOT, chat=CHAT, timeout_s=WAIT_S)
    alice_in = CHAT.with_resource("Alice")
    assert await is_in(questions, session=ALICE, occupant=alice_in, timeout_s=WAIT_S) is False

    await component.enter(ALICE, "Alice")
    info = await describe(questions, asker=BOT, chat=CHAT, timeout_s=WAIT_S)
    assert (info.chat, info.is_open, info.shows_addresses) == (str(CHAT), True, False)
    assert (info.has_occupant_ids, info.has_archive) == (True, True)
    assert await is_in(questions, session=ALICE, occupant=alice_in, timeout_s=WAIT_S) is True
    bob_in = CHAT.with_resource("Bob")
    assert await is_in(questions, session=BOB, occupant=bob_in, timeout_s=WAIT_S) is False

    owners = await affiliated(
        questions, asker=ALICE, chat=CHAT, affiliation="owner", timeout_s=WAIT_S
    )
    assert owners == [ALICE.bare]
    with pytest.raises(Refused) as refused:
        await affiliated(questions, asker=BOB, chat=CHAT, affiliation="owner", timeout_s=WAIT_S)
    assert refused.value.rule == "forbidden"

    texts = [f"line {number}" for number in range(archive.PAGE + 10)]
    for text in texts:
        await component.say(ALICE, "Alice", text)
    entries = [
        entry
        async for entry in archive.read(
            questions,
            asker=ALICE,
            chat=CHAT,
            after=None,
            start_ms=0,
            limit=500,
            timeout_s=WAIT_S,
        )
    ]
    bodies = []
    for entry in entries:
        message = inbound.to_message(inbound.read_stanza(entry.element))
        if message is not None:
            bodies.append(message.text)
    assert bodies == texts
    now_ms = SystemClock().now_ms()
    assert all(e.at_ms is not None and abs(now_ms - e.at_ms) < 60_000 for e in entries)

    newest = await archive.newest(questions, asker=ALICE, chat=CHAT, timeout_s=WAIT_S)
    assert newest is not None
    assert newest.archive_id == entries[-1].archive_id
    after = [
        entry.archive_id
        async for entry in archive.read(
            questions,
            asker=ALICE,
            chat=CHAT,
            after=entries[-3].archive_id,
            start_ms=None,
            limit=500,
            timeout_s=WAIT_S,
        )
    ]
    assert after == [entry.archive_id for entry in entries[-2:]]
    with pytest.raises(NotFound):
        async for _ in archive.read(
            questions,
            asker=ALICE,
            chat=CHAT,
            after="no-such-id",
            start_ms=None,
            limit=500,
            timeout_s=WAIT_S,
        ):
            pass
