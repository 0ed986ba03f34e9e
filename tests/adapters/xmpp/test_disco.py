"""Questions about rooms: each may become a question to another server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from bridge.adapters.xmpp.addresses import AddressBook, Room
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.disco import Disco
from bridge.adapters.xmpp.roomservice.occupants import People
from bridge.adapters.xmpp.roomservice.rooms import RoomService
from bridge.ids import RoomAlias, RoomId, ServerName
from bridge.ports.matrix import RoomInfo
from bridge.storage.database import Database
from tests.support.clock import FakeClock, settle
from tests.support.listener import ScriptedListener, ScriptedRoom
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


async def test_only_so_many_rooms_are_asked_for_at_the_same_time(
    sqlite_database: Database, clock: FakeClock
) -> None:
    listener = SlowListener()
    book = AddressBook(component="gw.test", server=ServerName("gw.test"))
    people = People(book)
    rooms = RoomService(
        wire=RecordingWire(),
        database=sqlite_database,
        listener=listener,
        people=people,
        domain="gw.test",
        bot=book.bot_jid,
        clock=clock,
        random=random.Random(1),
        limits=XmppLimits(),
        spawn=refuse_job,
    )
    disco = Disco(
        listener=listener,
        rooms=rooms,
        people=people,
        commands=None,
        resolver=None,
        timeout_s=10,
        lookups=1,
    )
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
