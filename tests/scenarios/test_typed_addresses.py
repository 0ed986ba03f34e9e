"""What a person types, and the bot's commands as forms: the XMPP component on a real Prosody."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio
from pydantic import SecretStr

from bridge.adapters.xmpp.adapter import XmppAdapter, XmppAddresses
from bridge.adapters.xmpp.config import XmppSettings
from bridge.clock import SystemClock
from bridge.demo.people import NotSeen, XmppPerson
from bridge.demo.servers import Prosody
from bridge.errors import Refused
from bridge.ids import ServerName
from bridge.ports.command import Answer, Argument, Caller, CommandInfo, Outcome
from bridge.storage.database import Database
from tests.support.identity import make_resolver
from tests.support.listener import ScriptedListener
from tests.support.servers import COMPONENT_SECRET, MakeXmppPerson

DOMAIN = "gw.a.test"
BOT = f"isthmus@{DOMAIN}"
GATEWAY = "{jabber:iq:gateway}"
COMMANDS = "http://jabber.org/protocol/commands"
FORM = "{jabber:x:data}"
WAIT_S = 10.0

pytestmark = pytest.mark.asyncio(loop_scope="function")


class Table:
    """`resolve`, which says what it was asked for, and `drop` for others."""

    def commands(self) -> Sequence[CommandInfo]:
        what = Argument(name="WHO", summary="whom to find", required=True, rest=True)
        return [
            CommandInfo(
                name="resolve",
                usage="resolve WHO",
                summary="find somebody",
                in_room=False,
                arguments=(what,),
            ),
            CommandInfo(name="drop", usage="drop", summary="for admins", in_room=False),
        ]

    def commands_of(self, caller: Caller) -> Sequence[CommandInfo]:
        return self.commands()[:1]

    async def answer(self, caller: Caller, line: str) -> Answer:
        return Answer(outcome=Outcome.DONE, text=f"{caller.user_id} wrote:\n{line}")

    async def greet(self, caller: Caller) -> str:
        return f"Hello {caller.user_id}"


@pytest_asyncio.fixture
async def romeo(
    prosody: Prosody, sqlite_database: Database, xmpp_person: MakeXmppPerson
) -> AsyncIterator[XmppPerson]:
    """Somebody on Prosody; the component is connected."""
    clock = SystemClock()
    adapter = XmppAdapter(
        settings=XmppSettings(
            domain=DOMAIN, secret=SecretStr(COMPONENT_SECRET), port=prosody.ports.component
        ),
        addresses=XmppAddresses(domain=DOMAIN, server_name=ServerName(DOMAIN)),
        database=sqlite_database,
        listener=ScriptedListener(),
        commands=Table(),
        clock=clock,
        random=random.Random(),
        resolver=make_resolver(clock, domain=DOMAIN),
    )
    task = asyncio.get_running_loop().create_task(adapter.run())
    try:
        async with asyncio.timeout(WAIT_S):
            await adapter.wait_connected()
        yield await xmpp_person(prosody, "romeo")
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def prompt(romeo: XmppPerson, typed: str) -> str | None:
    query = ET.Element(f"{GATEWAY}query")
    ET.SubElement(query, f"{GATEWAY}prompt").text = typed
    answer = await romeo.ask(DOMAIN, query, type="set")
    return answer.element.findtext(f".//{GATEWAY}jid")


async def test_a_client_learns_addresses_at_the_prompt(romeo: XmppPerson) -> None:
    shown = await romeo.ask(DOMAIN, ET.Element(f"{GATEWAY}query"))
    assert shown.element.findtext(f".//{GATEWAY}prompt") == "Address or phone number"
    assert await prompt(romeo, "+1 555 123 4567") == f"15551234567%example.org@{DOMAIN}"
    assert await prompt(romeo, "#Garden:m.example") == rf"#\47arden%m.example@{DOMAIN}"
    for typed, rule in (("nonsense", "not-acceptable"), ("+15551234567@evil.test", "forbidden")):
        with pytest.raises(Refused) as caught:
            await prompt(romeo, typed)
        assert caught.value.rule == rule


async def test_who_writes_to_a_number_is_told_the_address(romeo: XmppPerson) -> None:
    address = f"15551234567%example.org@{DOMAIN}"
    for local in ("+15551234567", "15551234567", r"+1\20555\20123\204567"):
        error = await romeo.error(romeo.say(f"{local}@{DOMAIN}", "hello"))
        assert (error.condition, error.error_text) == ("redirect", f"The address is {address}")
        assert f"xmpp:15551234567%25example.org@{DOMAIN}" in ET.tostring(error.element, "unicode")
    elsewhere = await romeo.error(romeo.say(f"+447700900123@{DOMAIN}", "hello"))
    assert elsewhere.error_text == "The address is +447700900123@phone.example"
    nobody = await romeo.error(romeo.say(f"+4930123456@{DOMAIN}", "hello"))
    assert nobody.condition == "item-not-found"
    assert nobody.error_text == "I know nobody with the number +4930123456"


async def test_who_subscribes_to_a_number_is_told_the_address(romeo: XmppPerson) -> None:
    romeo.set_presence(to=f"+15551234567@{DOMAIN}", type="subscribe")
    error = await romeo.wait_for(
        lambda stanza: stanza.kind == "presence" and stanza.type == "error", what="the error"
    )
    assert error.condition == "redirect"
    assert error.error_text == f"The address is 15551234567%example.org@{DOMAIN}"


@pytest.mark.parametrize("to", [BOT, DOMAIN])
async def test_the_bot_greets_whoever_subscribes_once(romeo: XmppPerson, to: str) -> None:
    hello = f"Hello @romeo=40a.test:{DOMAIN}"
    romeo.set_presence(to=to, type="subscribe")
    await romeo.hear(hello, sender=to)
    since = romeo.position
    romeo.set_presence(to=to, type="subscribe")
    await romeo.ping(to)
    with pytest.raises(NotSeen):
        await romeo.hear(hello, since=since, timeout_s=0.2)


@pytest.mark.parametrize("to", [BOT, DOMAIN])
async def test_a_command_is_listed_asked_for_filled_in_and_run(romeo: XmppPerson, to: str) -> None:
    node = ET.Element("{http://jabber.org/protocol/disco#items}query", {"node": COMMANDS})
    listed = await romeo.ask(to, node)
    names = [i.get("node") for i in listed.element.iter() if i.tag.endswith("}item")]
    assert names == ["resolve"]
    asked = await romeo.run_command(to, "resolve")
    (command,) = asked.element.iter(f"{{{COMMANDS}}}command")
    assert command.get("status") == "executing"
    field = command.find(f"{FORM}x/{FORM}field")
    assert field is not None
    assert field.get("var") == "WHO"

    filled = ET.Element(
        f"{{{COMMANDS}}}command",
        {"node": "resolve", "sessionid": command.get("sessionid", ""), "action": "complete"},
    )
    form = ET.SubElement(filled, f"{FORM}x", {"type": "submit"})
    answer = ET.SubElement(form, f"{FORM}field", {"var": "WHO"})
    ET.SubElement(answer, f"{FORM}value").text = "+1 555 123 4567"
    done = await romeo.ask(to, filled, type="set")
    (command,) = done.element.iter(f"{{{COMMANDS}}}command")
    assert command.get("status") == "completed"
    lines = [value.text for value in command.iter(f"{FORM}value")]
    assert lines == [f"@romeo=40a.test:{DOMAIN} wrote:", "resolve +1 555 123 4567"]
    with pytest.raises(Refused) as caught:
        await romeo.run_command(to, "drop")
    assert caught.value.rule == "forbidden"
