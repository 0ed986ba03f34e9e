"""What is announced at an address, and questions about rooms, which may go to another server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from bridge.adapters.xmpp.addresses import AddressBook, Bot, Person, Room
from bridge.adapters.xmpp.commands import AdHoc
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.disco import Disco
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.roomservice.occupants import People
from bridge.adapters.xmpp.roomservice.rooms import RoomService
from bridge.ids import RoomAlias, RoomId, ServerName, UserId
from bridge.ports.matrix import RoomInfo
from bridge.storage.database import Database
from tests.support.clock import FakeClock, settle
from tests.support.identity import make_resolver
from tests.support.listener import LeaveOnly, ScriptedListener, ScriptedRoom
from tests.support.wire import RecordingWire, brief, incoming

ALIAS = RoomAlias("#garden:m.example")


class SlowListener(ScriptedListener):
    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.room(ScriptedRoom(room_id=RoomId("!abc:m.example"), alias=ALIAS))

    async def describe_room(
        self, target: RoomAlias | RoomId, *, address: str | None = None
    ) -> RoomInfo | None:
        await self.open.wait()
        return await super().describe_room(target, address=address)


def refuse_job(job: Callable[[], Awaitable[None]]) -> bool:
    return False


def make_disco(
    listener: ScriptedListener,
    database: Database,
    clock: FakeClock,
    *,
    full: bool,
    table: LeaveOnly | None = None,
) -> Disco:
    """`full`: with commands and a resolver."""
    book = AddressBook(component="gw.test", server=ServerName("gw.test"))
    people = People(book)
    rooms = RoomService(
        wire=RecordingWire(),
        database=database,
        listener=listener,
        people=people,
        domain="gw.test",
        bot=book.bot_jid,
        clock=clock,
        random=random.Random(1),
        limits=XmppLimits(),
        spawn=refuse_job,
    )
    return Disco(
        listener=listener,
        rooms=rooms,
        people=people,
        commands=AdHoc(table=table or LeaveOnly(), clock=clock, new_id=lambda: "s1")
        if full
        else None,
        resolver=make_resolver(clock, domain="gw.test") if full else None,
        timeout_s=10,
        lookups=1,
    )


async def test_only_so_many_rooms_are_asked_for_at_the_same_time(
    sqlite_database: Database, clock: FakeClock
) -> None:
    listener = SlowListener()
    disco = make_disco(listener, sqlite_database, clock, full=False)
    answers: list[str] = []

    async def ask() -> None:
        request = incoming(
            "<iq type='get' id='1' from='a@b.test/c' to='#garden%m.example@gw.test'>"
            "<query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
        )
        answers.append(brief(await disco.answer(request, Room(room=ALIAS))).split()[-1])

    async with asyncio.TaskGroup() as group:
        group.create_task(ask())
        await settle()
        await ask()
        assert answers == ["resource-constraint"]
        listener.open.set()
    await ask()
    assert answers == ["resource-constraint", "a@b.test/c", "a@b.test/c"]


COMMANDS = "http://jabber.org/protocol/commands"
INFO = "http://jabber.org/protocol/disco#info"
ITEMS = "http://jabber.org/protocol/disco#items"
ALICE = Person(user_id=UserId("@alice:m.example"))


def question(to: str, payload: str, *, type: str = "get") -> Stanza:
    return incoming(f"<iq type='{type}' id='1' from='a@b.test/c' to='{to}'>{payload}</iq>")


async def features(disco: Disco, to: str, where: Bot | Person | Room) -> set[str | None]:
    answer = await disco.answer(question(to, f"<query xmlns='{INFO}'/>"), where)
    return {node.get("var") for node in answer.iter(f"{{{INFO}}}feature")}


@pytest.mark.parametrize("full", [True, False])
async def test_what_is_announced_is_answered(
    sqlite_database: Database, clock: FakeClock, full: bool
) -> None:
    disco = make_disco(ScriptedListener(), sqlite_database, clock, full=full)
    gateway = question("gw.test", "<query xmlns='jabber:iq:gateway'/>")
    at_domain = await features(disco, "gw.test", Bot())
    assert ("jabber:iq:gateway" in at_domain, COMMANDS in at_domain) == (full, full)
    assert (await disco.answer(gateway, Bot())).get("type") == ("result" if full else "error")
    at_bot = await features(disco, "isthmus@gw.test", Bot())
    assert ("jabber:iq:gateway" in at_bot, COMMANDS in at_bot) == (False, full)
    assert COMMANDS not in await features(disco, "alice%m.example@gw.test", ALICE)


async def test_the_prompt_stands_at_the_domain_alone(
    sqlite_database: Database, clock: FakeClock
) -> None:
    disco = make_disco(ScriptedListener(), sqlite_database, clock, full=True)
    payload = "<query xmlns='jabber:iq:gateway'><prompt>+15551234567</prompt></query>"
    answer = await disco.answer(question("gw.test", payload, type="set"), Bot())
    assert answer.findtext(".//{jabber:iq:gateway}jid") == "15551234567%example.org@gw.test"
    for to, where in (("isthmus@gw.test", Bot()), ("alice%m.example@gw.test", ALICE)):
        answer = await disco.answer(question(to, payload, type="set"), where)
        assert brief(answer).endswith("service-unavailable")


@pytest.mark.parametrize("to", ["gw.test", "isthmus@gw.test"])
async def test_commands_stand_at_the_bot_and_at_the_domain(
    sqlite_database: Database, clock: FakeClock, to: str
) -> None:
    disco = make_disco(ScriptedListener(), sqlite_database, clock, full=True)
    listed = await disco.answer(question(to, f"<query xmlns='{ITEMS}' node='{COMMANDS}'/>"), Bot())
    items = [(item.get("jid"), item.get("node")) for item in listed[0]]
    assert items == [(to, "leave"), (to, "list")]
    described = await disco.answer(question(to, f"<query xmlns='{INFO}' node='list'/>"), Bot())
    assert described[0][0].get("type") == "command-node"
    run = question(to, f"<command xmlns='{COMMANDS}' node='list'/>", type="set")
    assert (await disco.answer(run, Bot()))[0].get("status") == "completed"


async def test_a_person_has_no_commands(sqlite_database: Database, clock: FakeClock) -> None:
    disco = make_disco(ScriptedListener(), sqlite_database, clock, full=True)
    to = "alice%m.example@gw.test"
    for payload, type in (
        (f"<query xmlns='{ITEMS}' node='{COMMANDS}'/>", "get"),
        (f"<query xmlns='{INFO}' node='{COMMANDS}'/>", "get"),
        (f"<command xmlns='{COMMANDS}' node='list'/>", "set"),
    ):
        answer = await disco.answer(question(to, payload, type=type), ALICE)
        assert answer.get("type") == "error"


async def test_a_command_on_a_room_knows_the_room(
    sqlite_database: Database, clock: FakeClock
) -> None:
    listener = ScriptedListener()
    listener.room(ScriptedRoom(room_id=RoomId("!abc:m.example"), alias=ALIAS))
    table = LeaveOnly()
    disco = make_disco(listener, sqlite_database, clock, full=True, table=table)
    run = question(
        "#garden%m.example@gw.test", f"<command xmlns='{COMMANDS}' node='leave'/>", type="set"
    )
    assert (await disco.answer(run, Room(room=ALIAS)))[0].get("status") == "completed"
    ((caller, line),) = table.called
    assert (caller.room_id, caller.user_id, line) == (
        "!abc:m.example",
        "@a=40b.test:gw.test",
        "leave",
    )
