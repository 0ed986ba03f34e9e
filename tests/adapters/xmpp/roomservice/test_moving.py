"""What the sessions of an upgraded room see: a silent move, or the end and where it goes on."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

import pytest

from bridge.adapters.xmpp.addresses import AddressBook, Room, from_local
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import MUC_USER, OCCUPANT_ID
from bridge.adapters.xmpp.roomservice.moving import ALIAS_S, MOVED_TEXT, NAME_S, UNRELATED_TEXT
from bridge.adapters.xmpp.roomservice.occupants import People
from bridge.adapters.xmpp.roomservice.rooms import RoomDelivery, RoomService
from bridge.errors import NotFound, Unavailable
from bridge.ids import RoomAlias, RoomId, ServerName, UserId
from bridge.ports.chat import RoomMoved, RoomNotice
from bridge.storage import sessions
from bridge.storage.database import Database
from tests.support.clock import FakeClock
from tests.support.listener import ScriptedListener, ScriptedRoom
from tests.support.wire import RecordingWire, brief, incoming

DOMAIN = "gw.test"
ALIAS = RoomAlias("#garden:m.example")
ROOM = f"#garden%m.example@{DOMAIN}"
OLD, NEW = RoomId("!old:m.example"), RoomId("!new:m.example")
OLD_ROOM, NEW_ROOM = f"!old%m.example@{DOMAIN}", f"!new%m.example@{DOMAIN}"
ALICE, BOB = UserId("@alice:m.example"), UserId("@bob:m.example")
ROMEO = UserId(f"@romeo=40a.test:{DOMAIN}")
JULIET = UserId(f"@juliet=40a.test:{DOMAIN}")
ROMEO_AT, JULIET_AT = "romeo@a.test/x", "juliet@a.test/y"
MUC = "<x xmlns='http://jabber.org/protocol/muc'/>"


@dataclass
class World:
    database: Database
    clock: FakeClock
    wire: RecordingWire = field(default_factory=RecordingWire)
    jobs: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listener = ScriptedListener({"romeo@a.test": ROMEO, "juliet@a.test": JULIET})
        self.old = self.listener.room(
            ScriptedRoom(room_id=OLD, alias=ALIAS, members={ALICE: "Alice", BOB: "Bob"})
        )
        self.rooms = self.service()

    def service(self) -> RoomService:
        book = AddressBook(component=DOMAIN, server=ServerName(DOMAIN))
        return RoomService(
            wire=self.wire,
            database=self.database,
            listener=self.listener,
            people=People(book),
            domain=DOMAIN,
            bot=Jid("isthmus", DOMAIN),
            clock=self.clock,
            random=random.Random(1),
            limits=XmppLimits(joins=2),
            spawn=self.spawn,
        )

    def spawn(self, job: Callable[[], Awaitable[None]]) -> bool:
        self.jobs.append(job)
        return True

    async def enter(self, who: str, nickname: str, room: str = ROOM) -> list[str]:
        stanza = incoming(f"<presence from='{who}' to='{room}/{nickname}'>{MUC}</presence>")
        matrix_id = from_local(Jid.parse(room).local)
        assert not matrix_id.startswith("@")
        await self.rooms.on_presence(stanza, Room(room=matrix_id))  # type: ignore[arg-type]  # a room
        await self.jobs.pop()()
        return self.sent()

    def upgrade(self, *, alias: RoomId | None = NEW, name: RoomAlias | RoomId = ALIAS) -> RoomMoved:
        """`alias`: where the alias leads now; `name`: what the successor is called. Bob has not
        come along."""
        self.new = self.listener.room(
            ScriptedRoom(
                room_id=NEW,
                alias=RoomAlias("#none:m.example"),
                members={ALICE: "Alice"},
                first_room=OLD,
            )
        )
        for user_id, displayname in self.old.members.items():
            if user_id not in (ALICE, BOB):
                self.new.members[user_id] = displayname
        if alias is not None:
            self.listener.aliases[ALIAS] = alias
        self.listener.replaced[OLD] = name
        return RoomMoved(room_id=NEW, replaces=OLD, alias=ALIAS, at_ms=self.clock.now_ms())

    async def deliver(self, delivery: RoomDelivery) -> list[str]:
        await self.rooms.deliver(delivery, key="1", own_id="e.out.1")
        return self.sent()

    def sent(self) -> list[str]:
        return [_brief(xml) for xml in self.wire.take()]

    async def stored(self) -> set[tuple[str, str]]:
        rows = await self.database.read(sessions.list_all)
        return {(row.room_id, row.address) for row in rows}


def _brief(xml: ET.Element) -> str:
    destroy = xml.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}destroy")
    return brief(xml) + ("" if destroy is None else f" destroy={destroy.get('jid')}")


@pytest.fixture
async def world(sqlite_database: Database, clock: FakeClock) -> World:
    return World(sqlite_database, clock)


async def test_a_session_under_the_alias_moves_without_being_asked(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    shown = await world.deliver(world.upgrade())
    assert shown == [
        f"presence unavailable {ROOM}/Bob > {ROMEO_AT}",
        f"presence - {ROOM}/Alice > {ROMEO_AT}",
        f"presence - {ROOM}/Romeo > {ROMEO_AT} 110",
        f"message groupchat {ROOM} > {ROMEO_AT} 104",
        f"message groupchat {ROOM} > {ROMEO_AT} body={MOVED_TEXT}",
    ]
    assert await world.stored() == {(NEW, ROMEO_AT)}
    # What was there before it moved was not delivered to it yet.
    assert await world.deliver(world.new.said(ALICE, "hi")) == [
        f"message groupchat {ROOM}/Alice > {ROMEO_AT} body=hi"
    ]
    assert await world.deliver(world.old.said(ALICE, "late")) == []


async def test_everybody_keeps_their_occupant_id_over_the_move(world: World) -> None:
    """A client would show them twice, as it knows people by it. Spec: XEP-0421, 3.1."""

    async def ids(delivery: RoomDelivery) -> dict[str, str]:
        await world.rooms.deliver(delivery, key="1", own_id="e.out.1")
        return {
            Jid.parse(xml.get("from", "")).resource: found.get("id", "")
            for xml in world.wire.take()
            if (found := xml.find(f"{{{OCCUPANT_ID}}}occupant-id")) is not None
        }

    await world.enter(ROMEO_AT, "Romeo")
    before = await ids(world.old.said(ALICE, "hi"))
    moved = await ids(world.upgrade())
    after = await ids(world.new.said(ALICE, "hi again"))
    assert before["Alice"] == moved["Alice"] == after["Alice"] != ""
    assert moved["Romeo"] != moved["Alice"]


async def test_the_move_that_is_delivered_again_does_nothing(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    moved = world.upgrade()
    world.wire.lost_fences = 1
    with pytest.raises(Unavailable):
        await world.deliver(moved)
    assert len(world.sent()) == 5
    assert await world.deliver(moved) == []
    assert await world.stored() == {(NEW, ROMEO_AT)}


async def test_after_a_restart_the_sessions_of_the_old_room_still_move(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    moved = world.upgrade()
    world.rooms = world.service()
    await world.rooms.load()
    shown = await world.deliver(moved)
    assert f"presence - {ROOM}/Romeo > {ROMEO_AT} 110" in shown
    assert f"presence unavailable {ROOM}/Bob > {ROMEO_AT}" in shown
    assert await world.stored() == {(NEW, ROMEO_AT)}


async def test_an_alias_that_is_on_its_way_is_waited_for(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    moved = world.upgrade(alias=None)
    with pytest.raises(Unavailable):
        await world.deliver(moved)
    world.clock.shift(ALIAS_S - 1)
    world.listener.aliases[ALIAS] = NEW
    assert f"message groupchat {ROOM} > {ROMEO_AT} 104" in await world.deliver(moved)


async def test_nobody_moves_before_the_bridge_has(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    moved = world.upgrade()
    world.listener.replaced.clear()
    with pytest.raises(Unavailable):
        await world.deliver(moved)
    assert await world.stored() == {(OLD, ROMEO_AT)}


async def test_under_a_stranded_alias_the_room_ends_and_names_its_successor(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    moved = world.upgrade(alias=None, name=NEW)
    world.clock.shift(ALIAS_S)
    assert await world.deliver(moved) == [
        f"presence unavailable {ROOM}/Romeo > {ROMEO_AT} 110 destroy={NEW_ROOM}"
    ]
    assert await world.stored() == set()
    assert (await world.enter(ROMEO_AT, "Romeo"))[0].endswith(" gone")
    assert (await world.enter(ROMEO_AT, "Romeo", NEW_ROOM))[1].endswith("100 110")


async def test_under_a_room_id_the_room_ends_and_others_move(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    await world.enter(JULIET_AT, "Juliet", OLD_ROOM)
    moved = world.upgrade(name=NEW)
    shown = await world.deliver(moved)
    # The successor does not call itself so yet, but the alias leads there.
    assert f"presence unavailable {OLD_ROOM}/Juliet > {JULIET_AT} 110 destroy={ROOM}" in shown
    assert f"message groupchat {ROOM} > {ROMEO_AT} 104" in shown
    # Juliet is no occupant until she enters.
    assert f"presence unavailable {ROOM}/Juliet > {ROMEO_AT}" in shown
    assert await world.stored() == {(NEW, ROMEO_AT)}
    assert f"presence - {ROOM}/Romeo > {JULIET_AT}" in await world.enter(JULIET_AT, "Juliet")


async def test_without_an_alias_the_successor_is_named_by_its_id_after_a_while(
    world: World,
) -> None:
    await world.enter(JULIET_AT, "Juliet", OLD_ROOM)
    moved = world.upgrade(alias=None, name=NEW)
    with pytest.raises(Unavailable):
        await world.deliver(moved)
    world.clock.shift(NAME_S)
    assert await world.deliver(moved) == [
        f"presence unavailable {OLD_ROOM}/Juliet > {JULIET_AT} 110 destroy={NEW_ROOM}"
    ]


async def test_an_alias_that_leads_to_a_strange_room_ends_its_sessions_with_the_reason(
    world: World,
) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    other = RoomId("!other:m.example")
    world.listener.room(ScriptedRoom(room_id=other, alias=RoomAlias("#other:m.example")))
    moved = world.upgrade(alias=other)
    await world.rooms.deliver(moved, key="1", own_id="i")
    (gone,) = world.wire.take()
    assert brief(gone) == f"presence unavailable {ROOM}/Romeo > {ROMEO_AT} 110 332"
    assert UNRELATED_TEXT in ET.tostring(gone, encoding="unicode")
    assert await world.stored() == set()


async def test_whose_ghost_may_not_come_along_is_told_where_it_goes_on(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    moved = world.upgrade()
    del world.new.members[ROMEO]
    assert await world.deliver(moved) == [
        f"presence unavailable {ROOM}/Romeo > {ROMEO_AT} 110 destroy={ROOM}"
    ]


async def test_a_nickname_that_somebody_has_there_is_another_one_here(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    await world.enter(JULIET_AT, "Juliet")
    moved = world.upgrade()
    # Juliet is in the successor already, as Romeo.
    await world.enter("juliet@a.test/z", "Romeo", NEW_ROOM)
    shown = await world.deliver(moved)
    (own,) = [line for line in shown if line.endswith(f"> {ROMEO_AT} 110")]
    assert own != f"presence - {ROOM}/Romeo > {ROMEO_AT} 110"
    assert f"presence - {ROOM}/Romeo > {ROMEO_AT}" in shown, "which is she"


async def test_a_successor_that_was_replaced_itself_is_a_step_on_the_way(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    third = RoomId("!third:m.example")
    world.listener.room(ScriptedRoom(room_id=third, alias=RoomAlias("#third:m.example")))
    moved = world.upgrade(alias=third)
    world.listener.replaced[NEW] = third
    await world.deliver(moved)
    assert await world.stored() == {(NEW, ROMEO_AT)}


async def test_a_line_of_the_gateway_reaches_every_session_by_its_own_address(
    world: World,
) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    await world.enter(JULIET_AT, "Juliet", OLD_ROOM)
    assert await world.deliver(RoomNotice(room_id=OLD, text="careful")) == [
        f"message groupchat {ROOM} > {ROMEO_AT} body=careful",
        f"message groupchat {OLD_ROOM} > {JULIET_AT} body=careful",
    ]


async def test_an_alias_that_leads_nowhere_is_stranded(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    moved = world.upgrade(name=NEW)
    world.listener.aliases[ALIAS] = RoomId("!nowhere:m.example")
    with pytest.raises(Unavailable):
        await world.deliver(moved)
    world.clock.shift(ALIAS_S)
    assert await world.deliver(moved) == [
        f"presence unavailable {ROOM}/Romeo > {ROMEO_AT} 110 destroy={NEW_ROOM}"
    ]
    with pytest.raises(NotFound):
        await world.listener.find_room(ALIAS)


async def test_whoever_enters_by_an_alias_that_was_moved_shows_that_it_was(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    await world.enter("bob@a.test/z", "Bobby", OLD_ROOM)
    other = RoomId("!other:m.example")
    world.listener.room(ScriptedRoom(room_id=other, alias=RoomAlias("#other:m.example")))
    world.listener.aliases[ALIAS] = other
    shown = await world.enter(JULIET_AT, "Juliet")
    assert f"presence unavailable {ROOM}/Romeo > {ROMEO_AT} 110 332" in shown
    assert f"presence - {ROOM}/Juliet > {JULIET_AT} 100 110" in shown
    assert await world.stored() == {(OLD, "bob@a.test/z"), (other, JULIET_AT)}


async def test_whoever_enters_before_the_others_have_moved_ends_nobody(world: World) -> None:
    await world.enter(ROMEO_AT, "Romeo")
    moved = world.upgrade()
    world.old.replacement = NEW
    await world.enter(JULIET_AT, "Juliet")
    assert await world.stored() == {(OLD, ROMEO_AT), (NEW, JULIET_AT)}
    shown = await world.deliver(moved)
    assert f"presence - {ROOM}/Romeo > {JULIET_AT}" in shown
    assert f"presence - {ROOM}/Juliet > {ROMEO_AT}" in shown
