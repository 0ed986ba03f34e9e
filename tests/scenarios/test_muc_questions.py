"""What a real MUC service answers to our questions."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio
from pydantic import SecretStr

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.config import XmppSettings
from bridge.adapters.xmpp.connection import Connection
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import (
    COMPONENT,
    DATA_FORMS,
    MUC,
    MUC_OWNER,
    MUC_USER,
    add,
    element,
)
from bridge.adapters.xmpp.occupant import archive
from bridge.adapters.xmpp.occupant.admin import affiliated
from bridge.adapters.xmpp.occupant.describe import describe
from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.adapters.xmpp.occupant.selfping import is_in
from bridge.clock import SystemClock
from bridge.demo.servers import Prosody, XmppServer
from bridge.errors import NotFound, Refused
from bridge.ports.chat import ChatInfo
from tests.support.servers import COMPONENT_SECRET

WAIT_S = 5.0
ROOM_CONFIG = "http://jabber.org/protocol/muc#roomconfig"

pytestmark = pytest.mark.asyncio(loop_scope="function")


@dataclass
class Component:
    """A connection whose stanzas pass our questions first; the rest is kept."""

    server: XmppServer
    connection: Connection
    questions: Questions
    room: str = "garden"
    seen: list[ET.Element] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def chat(self) -> Jid:
        return Jid.parse(f"{self.room}@{self.server.muc_domain}")

    def guest(self, name: str) -> Jid:
        return Jid.parse(f"{name}%m.example@gw.{self.server.domain}/x")

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
        presence = outbound.stanza("presence", sender=who, to=self.chat.with_resource(nickname))
        add(add(presence, MUC, "x"), MUC, "history").set("maxstanzas", "0")
        await self.connection.send([presence])
        await self.wait_for("presence", f"{self.chat}/{nickname}", who)

    async def say(
        self, who: Jid, nickname: str, text: str, *, forged: Sequence[ET.Element] = ()
    ) -> None:
        message = outbound.stanza("message", sender=who, to=self.chat, type="groupchat", id=text)
        add(message, COMPONENT, "body", text)
        message.extend(forged)
        await self.connection.send([message])
        await self.wait_for("message", f"{self.chat}/{nickname}", who)


@pytest_asyncio.fixture
async def component(xmpp_server: XmppServer) -> AsyncIterator[Component]:
    connection = Connection(
        settings=XmppSettings(
            domain=f"gw.{xmpp_server.domain}",
            secret=SecretStr(COMPONENT_SECRET),
            port=xmpp_server.ports.component,
        ),
        clock=SystemClock(),
        random=random.Random(),
    )
    component = Component(
        server=xmpp_server,
        connection=connection,
        questions=Questions(wire=connection, random=random.Random()),
    )
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(connection.run()), loop.create_task(component.read())]
    async with asyncio.timeout(WAIT_S):
        await connection.connected.wait()
    yield component
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def make_addresses_visible(component: Component, owner: Jid) -> None:
    query = element(MUC_OWNER, "query")
    form = add(query, DATA_FORMS, "x")
    form.set("type", "submit")
    for name, value in (("FORM_TYPE", ROOM_CONFIG), ("muc#roomconfig_whois", "anyone")):
        entry = add(form, DATA_FORMS, "field")
        entry.set("var", name)
        add(entry, DATA_FORMS, "value", value)
    await component.questions.ask(
        sender=owner, to=component.chat, type="set", payload=query, timeout_s=WAIT_S
    )


async def described(component: Component, chat: Jid) -> ChatInfo:
    bot = Jid.parse(f"isthmus@gw.{component.server.domain}")
    return await describe(component.questions, asker=bot, chat=chat, timeout_s=WAIT_S)


async def pinged(component: Component, session: Jid, nickname: str) -> bool | None:
    occupant = component.chat.with_resource(nickname)
    return await is_in(component.questions, session=session, occupant=occupant, timeout_s=WAIT_S)


async def read_all(component: Component, **where: Any) -> list[archive.ArchivedMessage]:
    reading = archive.read(
        component.questions,
        asker=component.guest("alice"),
        chat=component.chat,
        limit=500,
        timeout_s=WAIT_S,
        **where,
    )
    return [entry async for entry in reading]


async def test_a_room_is_described_pinged_and_read(component: Component) -> None:
    server, chat = component.server, component.chat
    alice, bob = component.guest("alice"), component.guest("bob")

    # Asking twice shows that the first question made no room.
    for nothing in (f"{chat}", f"{chat}", f"nobody@{server.domain}", server.domain):
        with pytest.raises(NotFound):
            await described(component, Jid.parse(nothing))
    assert await pinged(component, alice, "Alice") is False

    await component.enter(alice, "Alice")
    info = await described(component, chat)
    assert (info.chat, info.is_open, info.shows_addresses) == (str(chat), True, False)
    assert (info.has_occupant_ids, info.has_archive) == (isinstance(server, Prosody), True)
    assert await pinged(component, alice, "Alice") is True
    assert await pinged(component, alice, "Alicia") is True  # in, by another name
    assert await pinged(component, bob, "Bob") is False

    questions = component.questions
    owners = await affiliated(
        questions, asker=alice, chat=chat, affiliation="owner", timeout_s=WAIT_S
    )
    assert owners == [alice.bare]
    with pytest.raises(Refused) as refused:
        await affiliated(questions, asker=bob, chat=chat, affiliation="owner", timeout_s=WAIT_S)
    assert refused.value.rule == "forbidden"

    texts = [f"line {number}" for number in range(archive.PAGE + 10)]
    for text in texts:
        await component.say(alice, "Alice", text)
    entries = await read_all(component, after=None, start_ms=0)
    said = [inbound.to_message(inbound.read_stanza(entry.element)) for entry in entries]
    assert [message.text for message in said if message is not None] == texts
    now_ms = SystemClock().now_ms()
    assert all(e.at_ms is not None and abs(now_ms - e.at_ms) < 60_000 for e in entries)

    newest = await archive.newest(questions, asker=alice, chat=chat, timeout_s=WAIT_S)
    assert newest is not None
    assert newest.archive_id == entries[-1].archive_id
    after = await read_all(component, after=entries[-3].archive_id, start_ms=now_ms)
    assert [e.archive_id for e in after] == [e.archive_id for e in entries[-2:]]
    # ejabberd begins anew for an ID that it does not know; the time tells.
    with pytest.raises(NotFound):
        await read_all(component, after="no-such-id", start_ms=now_ms + 25 * 3600 * 1000)


async def test_an_archive_that_shows_addresses_shows_the_true_ones(component: Component) -> None:
    component.room = "glass-house"
    alice = component.guest("alice")
    await component.enter(alice, "Alice")
    await make_addresses_visible(component, alice)
    assert (await described(component, component.chat)).shows_addresses

    forged = element(MUC_USER, "x")
    add(forged, MUC_USER, "item").set("jid", "pope@rome.test")
    await component.say(alice, "Alice", "It is me, the Pope", forged=[forged])
    (entry,) = await read_all(component, after=None, start_ms=None)
    items = entry.element.findall(f"{{{MUC_USER}}}x/{{{MUC_USER}}}item")
    assert [Jid.parse(item.get("jid")).bare for item in items] == [alice.bare]
