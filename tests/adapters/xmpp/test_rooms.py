"""The room service over a recording wire: order, retries and races that a server rarely shows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree as ET

import pytest

from bridge.adapters.xmpp.addresses import AddressBook, Room
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.roomservice.occupants import (
    MAX_WAITING,
    People,
    ServedRoom,
    Session,
)
from bridge.adapters.xmpp.roomservice.places import OnClient, Places, tell_nobody
from bridge.adapters.xmpp.roomservice.rooms import RoomDelivery, RoomService
from bridge.errors import Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, ServerName, UserId
from bridge.ports.ephemeral import ShowRead, ShowTyping
from bridge.storage import nicknames, sessions
from bridge.storage.database import Database
from tests.support.clock import FakeClock, settle
from tests.support.listener import ScriptedListener, ScriptedRoom
from tests.support.wire import RecordingWire, brief, incoming

DOMAIN = "gw.test"
ALIAS = RoomAlias("#garden:m.example")
ROOM = f"#garden%m.example@{DOMAIN}"
ROOM_ID = RoomId("!abc:m.example")
ALICE = UserId("@alice:m.example")
ROMEO = UserId(f"@romeo=40a.test:{DOMAIN}")
JULIET = UserId(f"@juliet=40a.test:{DOMAIN}")
MUC = "<x xmlns='http://jabber.org/protocol/muc'/>"


@dataclass
class World:
    database: Database
    clock: FakeClock
    wire: RecordingWire = field(default_factory=RecordingWire)
    jobs: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    on_gone: OnClient = tell_nobody
    there: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listener = ScriptedListener({"romeo@a.test": ROMEO, "juliet@a.test": JULIET})
        self.garden = self.listener.room(
            ScriptedRoom(room_id=ROOM_ID, alias=ALIAS, members={ALICE: "Alice"})
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
            limits=XmppLimits(joins=2, session_ping_timeout_s=0.05),
            spawn=self.spawn,
            on_gone=self.on_gone,
            on_there=lambda client, entered_by: self.there.append(f"{client} in {entered_by}"),
        )

    def spawn(self, job: Callable[[], Awaitable[None]]) -> bool:
        self.jobs.append(job)
        return True

    async def presence(self, who: str, nickname: str, inner: str = MUC, type: str = "") -> None:
        kind = f" type='{type}'" if type else ""
        stanza = incoming(f"<presence from='{who}' to='{ROOM}/{nickname}'{kind}>{inner}</presence>")
        await self.rooms.on_presence(stanza, Room(room=ALIAS))

    async def enter(self, who: str, nickname: str) -> list[str]:
        await self.presence(who, nickname)
        await self.jobs.pop()()
        return [brief(xml) for xml in self.wire.take()]

    async def deliver(self, delivery: RoomDelivery) -> list[str]:
        await self.rooms.deliver(delivery, key="1", own_id="e.out.1")
        return [brief(xml) for xml in self.wire.take()]


@pytest.fixture
async def world(sqlite_database: Database, clock: FakeClock) -> World:
    return World(sqlite_database, clock)


async def test_entering_shows_others_self_subject_and_the_way_out(world: World) -> None:
    *shown, told = await world.enter("romeo@a.test/x", "Romeo")
    assert shown == [
        f"presence - {ROOM}/Alice > romeo@a.test/x",
        f"presence - {ROOM}/Romeo > romeo@a.test/x 100 110",
        f"message groupchat {ROOM} > romeo@a.test/x subject=Roses",
    ]
    assert told.startswith(f"message chat isthmus@{DOMAIN} > romeo@a.test body=You are now a")
    assert told.endswith(f"leave {ROOM}")


async def test_a_room_without_a_topic_still_ends_with_a_subject(world: World) -> None:
    world.garden.topic = None
    assert f"message groupchat {ROOM} > romeo@a.test/x subject=" in await world.enter(
        "romeo@a.test/x", "Romeo"
    )


async def test_a_session_is_a_row_and_a_new_service_knows_it(world: World) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    world.rooms = world.service()
    await world.rooms.load()
    (session,) = world.rooms.remembered()
    assert (str(session.address), str(session.entered_by)) == ("romeo@a.test/x", ROOM)
    assert await world.deliver(world.garden.said(ALICE, "hi")) == [
        f"message groupchat {ROOM}/Alice > romeo@a.test/x body=hi"
    ]


async def test_what_came_with_the_join_is_not_shown_again(world: World) -> None:
    old = world.garden.said(ALICE, "old")
    await world.enter("romeo@a.test/x", "Romeo")
    assert await world.deliver(old) == []


async def test_a_kick_is_shown_again_when_its_fence_was_lost_and_then_ends_the_session(
    world: World,
) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    kick = world.garden.went(ROMEO, by=ALICE, reason="out")
    world.wire.lost_fences = 1
    shown = f"presence unavailable {ROOM}/Romeo > romeo@a.test/x 110 307"
    with pytest.raises(Unavailable):
        await world.deliver(kick)
    assert [brief(xml) for xml in world.wire.take()] == [shown]
    # They know by now, and the room treats them so.
    said = incoming(
        f"<message type='groupchat' from='romeo@a.test/x' to='{ROOM}'><body>hey!</body></message>"
    )
    await world.rooms.on_message(said, _accept_nothing)
    assert brief(world.wire.take()[0]).endswith("not-acceptable")
    assert await world.deliver(kick) == [shown]
    assert await world.deliver(kick) == []
    assert world.rooms.remembered() == []
    assert await world.database.read(sessions.list_all) == []
    assert await world.database.read(lambda tx: nicknames.find(tx, ROOM_ID, ROMEO)) is None


async def _accept_nothing(stanza: Stanza, room_id: RoomId) -> None:
    raise AssertionError(f"taken into {room_id}")


async def test_an_old_departure_does_not_end_a_session_that_came_after_it(world: World) -> None:
    left = world.garden.went(ROMEO)
    await world.enter("romeo@a.test/x", "Romeo")
    assert await world.deliver(left) == []
    assert world.rooms.is_occupant(Jid.parse("romeo@a.test/x"), Jid.parse(f"{ROOM}/Romeo"))


async def test_whoever_is_kicked_while_entering_sees_it_and_is_out(world: World) -> None:
    world.listener.gate = asyncio.Event()
    await world.presence("romeo@a.test/x", "Romeo")
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(world.jobs.pop()))
        await world.listener.at_gate.wait()
        position = world.garden.position
        world.garden.members[ROMEO] = "Romeo"
        await world.rooms.deliver(world.garden.came(ROMEO, "Romeo"), key="1", own_id="i")
        await world.rooms.deliver(world.garden.went(ROMEO, by=ALICE), key="2", own_id="i")
        world.garden.position = position
        world.listener.gate.set()
    shown = [brief(xml) for xml in world.wire.take()]
    assert shown[-2:] == [
        f"message groupchat {ROOM} > romeo@a.test/x subject=Roses",
        f"presence unavailable {ROOM}/Romeo > romeo@a.test/x 110 307",
    ]
    assert world.rooms.remembered() == []
    assert await world.database.read(sessions.list_all) == []


async def _run(job: Callable[[], Awaitable[None]]) -> None:
    await job()


async def test_whoever_goes_away_while_entering_leaves_nothing_behind(world: World) -> None:
    world.listener.gate = asyncio.Event()
    await world.presence("romeo@a.test/x", "Romeo")
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(world.jobs.pop()))
        await world.listener.at_gate.wait()
        await world.presence("romeo@a.test/x", "Romeo", inner="", type="unavailable")
        world.listener.gate.set()
    assert world.wire.take() == []
    assert world.rooms.remembered() == []


async def test_too_much_live_traffic_while_entering_ends_the_attempt(world: World) -> None:
    world.listener.gate = asyncio.Event()
    await world.presence("romeo@a.test/x", "Romeo")
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(world.jobs.pop()))
        await world.listener.at_gate.wait()
        for _ in range(MAX_WAITING + 5):
            await world.rooms.deliver(world.garden.said(ALICE, "x"), key="1", own_id="i")
        world.listener.gate.set()
    assert "remote-server-timeout" in brief(world.wire.take()[-1])
    assert world.rooms.remembered() == []


async def test_a_slow_join_is_answered_goes_on_and_ends_in_an_invitation(world: World) -> None:
    world.listener.gate = asyncio.Event()
    await world.presence("romeo@a.test/x", "Romeo")
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(world.jobs.pop()))
        await world.listener.at_gate.wait()
        await world.clock.advance(2)
        assert world.wire.take() == []
        await world.clock.advance(17)
        (hint,) = world.wire.take()
        assert brief(hint).startswith(
            f"message chat isthmus@{DOMAIN} > romeo@a.test body=Entering {ROOM} takes a while"
        )
        await world.clock.advance(2)
        (late,) = world.wire.take()
        assert brief(late).endswith("remote-server-timeout")
        world.listener.gate.set()
    (invited,) = world.wire.take()
    assert (invited.get("from"), invited.get("to")) == (ROOM, "romeo@a.test")
    assert world.rooms.remembered() == []


async def test_a_slow_join_that_fails_after_all_is_told_with_the_reason(world: World) -> None:
    world.listener.gate = asyncio.Event()
    world.listener.failures["enter"] = Refused("nobody lets you in", errcode="M_FORBIDDEN")
    await world.presence("romeo@a.test/x", "Romeo")
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(world.jobs.pop()))
        await world.listener.at_gate.wait()
        await world.clock.advance(21)
        world.wire.take()
        world.listener.gate.set()
    (told,) = world.wire.take()
    assert brief(told) == (
        f"message chat isthmus@{DOMAIN} > romeo@a.test "
        f"body=You could not enter {ROOM} after all: nobody lets you in"
    )


async def test_who_goes_away_while_entering_is_told_nothing_of_it(world: World) -> None:
    world.listener.gate = asyncio.Event()
    await world.presence("romeo@a.test/x", "Romeo")
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(world.jobs.pop()))
        await world.listener.at_gate.wait()
        await world.presence("romeo@a.test/x", "Romeo", "", type="unavailable")
        await world.clock.advance(4)
        assert world.wire.take() == []
        world.listener.gate.set()


async def test_only_so_many_enter_at_the_same_time(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.presence(f"{name}@a.test/x", name)
    assert len(world.jobs) == 2
    assert [brief(xml) for xml in world.wire.take()] == [
        f"presence error {ROOM}/c > c@a.test/x resource-constraint"
    ]


async def test_a_second_request_while_entering_is_one_request(world: World) -> None:
    await world.presence("romeo@a.test/x", "Romeo")
    await world.presence("romeo@a.test/x", "Romeo")
    assert len(world.jobs) == 1


async def test_presence_without_a_join_is_not_a_join(world: World) -> None:
    await world.presence("romeo@a.test/x", "Romeo", inner="")
    assert world.jobs == []
    assert brief(world.wire.take()[0]).endswith("not-acceptable")


async def test_a_client_that_enters_anew_sees_everything_and_the_others_nothing(
    world: World,
) -> None:
    await world.enter("juliet@a.test/x", "Juliet")
    await world.enter("romeo@a.test/x", "Romeo")
    again = await world.enter("romeo@a.test/x", "Romeo")
    assert f"presence - {ROOM}/Romeo > romeo@a.test/x 100 110" in again
    assert all("juliet@a.test/x" not in line for line in again)


async def test_a_client_that_may_not_enter_anew_is_out_for_the_others(world: World) -> None:
    await world.enter("juliet@a.test/x", "Juliet")
    await world.enter("romeo@a.test/x", "Romeo")
    world.listener.failures["enter"] = Refused("banned", rule="banned")
    assert await world.enter("romeo@a.test/x", "Romeo") == [
        f"presence unavailable {ROOM}/Romeo > juliet@a.test/x",
        f"presence error {ROOM}/Romeo > romeo@a.test/x forbidden",
    ]


async def test_an_offline_member_does_not_keep_a_nickname(world: World) -> None:
    await world.enter("romeo@a.test/x", "Lover")
    await world.presence("romeo@a.test/x", "Lover", inner="", type="unavailable")
    world.wire.take()
    shown = await world.enter("juliet@a.test/x", "Lover")
    assert f"presence - {ROOM}/Lover > juliet@a.test/x 100 110" in shown
    shown = await world.enter("romeo@a.test/x", "Lover")
    assert shown == [f"presence error {ROOM}/Lover > romeo@a.test/x conflict"]


async def test_members_without_a_session_are_not_shown_as_occupants(world: World) -> None:
    world.garden.members[JULIET] = "Juliet"
    shown = await world.enter("romeo@a.test/x", "Romeo")
    assert all("Juliet" not in line for line in shown)
    assert await world.deliver(world.garden.came(JULIET, "Juliet")) == []


async def test_members_with_the_same_name_are_told_apart_and_keep_their_names(
    world: World,
) -> None:
    bob, other = UserId("@bob:m.example"), UserId("@bob:n.example")
    await world.enter("romeo@a.test/x", "Romeo")
    first = await world.deliver(world.garden.came(bob, "Bob"))
    second = await world.deliver(world.garden.came(other, "Bob"))
    assert first == [f"presence - {ROOM}/Bob > romeo@a.test/x"]
    assert second == [f"presence - {ROOM}/Bob (n.example) > romeo@a.test/x"]
    await world.deliver(world.garden.went(bob))
    assert await world.deliver(world.garden.came(other, "Bob")) == []


async def bounce(world: World, condition: str = "recipient-unavailable") -> None:
    stanza = incoming(
        f"<message type='error' from='romeo@a.test/x' to='{ROOM}/Alice'><error type='cancel'>"
        f"<{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    await world.rooms.on_message(stanza, lambda stanza, room_id: asyncio.sleep(0))


async def check(world: World, *answers: str) -> list[str]:
    """Carries out the one check that is due; `answers` come back, with the id of the question.
    Returns what was sent after the question."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(world.jobs.pop()))
        await settle()
        question = world.wire.take()
        assert [xml.tag.rpartition("}")[2] for xml in question] == ["message", "iq"]
        for answer in answers:
            kind, type, condition = answer.split()
            xml = incoming(
                f"<{kind} type='{type}' id='{question[0].get('id')}' from='romeo@a.test/x' "
                f"to='{ROOM}'><error type='cancel'><{condition} "
                "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></" + kind + ">"
            ).xml
            assert world.rooms.checking.take(xml)
    return [brief(xml) for xml in world.wire.take()]


OUT = f"presence unavailable {ROOM}/Romeo > romeo@a.test/x 110 333"


async def test_a_bounced_message_has_its_client_checked_once_and_other_errors_do_not(
    world: World,
) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    await bounce(world, "feature-not-implemented")
    assert world.jobs == []
    await bounce(world)
    await bounce(world)
    assert len(world.jobs) == 1
    assert await check(world, "message error service-unavailable") == [OUT]
    assert world.rooms.remembered() == []
    assert await world.database.read(sessions.list_all) == []


async def test_presence_that_bounces_has_its_client_checked_too(world: World) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    gone = (
        "<error type='cancel'><remote-server-not-found "
        "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
    )
    await world.presence("romeo@a.test/x", "Alice", inner=gone, type="error")
    assert await check(world, "message error remote-server-not-found") == [OUT]


@pytest.mark.parametrize(
    "answer",
    ["iq result x", "iq error service-unavailable", "iq error feature-not-implemented"],
)
async def test_a_client_that_answers_in_any_way_is_there(world: World, answer: str) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    await bounce(world)
    assert await check(world, answer) == []
    assert len(world.rooms.remembered()) == 1
    assert world.there == [f"romeo@a.test/x in {ROOM}"]


async def test_a_silent_client_is_gone_and_nobody_else_can_answer_for_it(world: World) -> None:
    await world.enter("juliet@a.test/x", "Juliet")
    await world.enter("romeo@a.test/x", "Romeo")
    await bounce(world)
    stranger = incoming(f"<iq type='result' id='check.1' from='tybalt@a.test/x' to='{ROOM}'/>").xml
    assert not world.rooms.checking.take(stranger)
    assert await check(world) == [f"presence unavailable {ROOM}/Romeo > juliet@a.test/x 333", OUT]
    assert world.there == []


async def test_silence_says_nothing_when_the_stream_was_lost_meanwhile(world: World) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    await bounce(world)
    async with asyncio.TaskGroup() as group:
        group.create_task(_expect_unavailable(world.jobs.pop()))
        await settle()
        world.rooms.checking.on_connected()
    assert len(world.rooms.remembered()) == 1


async def test_a_check_that_failed_does_not_end_a_session_that_came_after_it(
    world: World,
) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    await bounce(world)
    checked = world.jobs.pop()
    await world.enter("romeo@a.test/x", "Romeo")
    world.jobs.append(checked)
    assert await check(world, "message error service-unavailable") == []
    assert len(world.rooms.remembered()) == 1


async def test_a_delivery_while_disconnected_is_tried_again(world: World) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    world.wire.is_up = False
    message = world.garden.said(ALICE, "later")
    with pytest.raises(Unavailable):
        await world.deliver(message)
    world.wire.is_up = True
    assert len(await world.deliver(message)) == 1


async def test_an_entry_that_breaks_off_with_the_connection_leaves_no_session(
    world: World,
) -> None:
    world.listener.gate = asyncio.Event()
    await world.presence("romeo@a.test/x", "Romeo")
    async with asyncio.TaskGroup() as group:
        group.create_task(_expect_unavailable(world.jobs.pop()))
        await world.listener.at_gate.wait()
        world.wire.is_up = False
        world.listener.gate.set()
        await settle()
    assert world.rooms.remembered() == []
    world.wire.is_up = True
    world.listener.gate = None
    assert len(await world.enter("romeo@a.test/x", "Romeo")) == 4


async def _expect_unavailable(job: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(Unavailable):
        await job()


async def test_whoever_goes_away_before_the_room_is_found_leaves_nothing_behind(
    world: World,
) -> None:
    await world.presence("romeo@a.test/x", "Romeo")
    await world.presence("romeo@a.test/x", "Romeo", inner="", type="unavailable")
    await world.jobs.pop()()
    assert world.wire.take() == []
    assert world.rooms.remembered() == []


async def test_whoever_goes_away_while_entering_and_comes_back_enters(world: World) -> None:
    world.listener.gate = asyncio.Event()
    await world.presence("romeo@a.test/x", "Romeo")
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(world.jobs.pop()))
        await world.listener.at_gate.wait()
        await world.presence("romeo@a.test/x", "Romeo", inner="", type="unavailable")
        await world.presence("romeo@a.test/x", "Lover")
        assert world.jobs == []
        world.listener.gate.set()
    await world.jobs.pop()()
    shown = [brief(xml) for xml in world.wire.take()]
    assert f"presence - {ROOM}/Lover > romeo@a.test/x 100 110" in shown


async def test_whoever_asks_again_during_a_slow_join_is_answered_again(world: World) -> None:
    world.listener.gate = asyncio.Event()
    await world.presence("romeo@a.test/x", "Romeo")
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(world.jobs.pop()))
        await world.listener.at_gate.wait()
        await world.clock.advance(21)
        world.wire.take()
        await world.presence("romeo@a.test/x", "Romeo")
        (late,) = world.wire.take()
        assert brief(late).endswith("remote-server-timeout")
        world.listener.gate.set()


async def test_one_person_does_not_take_all_places_of_those_who_enter(world: World) -> None:
    await world.presence("romeo@a.test/x", "Romeo")
    await world.presence("romeo@a.test/y", "Romeo")
    assert len(world.jobs) == 1
    assert brief(world.wire.take()[0]).endswith("resource-constraint")
    await world.presence("juliet@a.test/x", "Juliet")
    assert len(world.jobs) == 2


async def test_what_changed_while_somebody_entered_is_not_taken_back(world: World) -> None:
    await world.enter("juliet@a.test/x", "Juliet")
    view = await world.listener.enter(address="x", target=ROOM_ID, nickname="x", history_limit=0)
    await world.deliver(world.garden.went(ALICE))
    room = ServedRoom(room_id=ROOM_ID)
    room.set_member(ALICE, None, view.info.position + 1)
    room.see(view)
    assert ALICE not in room.members
    room.see(replace(view, info=replace(view.info, position=view.info.position + 1)))
    assert ALICE in room.members


async def test_rooms_that_nobody_is_in_are_let_go(world: World) -> None:
    places = Places(world.database)
    kept = places.room(RoomId("!kept:m.example"))
    places.register(
        kept,
        Session(address=Jid.parse("romeo@a.test/x"), entered_by=Jid.parse(ROOM), nickname="Romeo"),
    )
    for number in range(3000):
        places.room(RoomId(f"!{number}:m.example"))
    assert places.find_room(kept.room_id) is kept
    assert places.find_room(RoomId("!1:m.example")) is None


def rights_in(xml: ET.Element) -> str:
    item = xml.find("{*}x/{*}item")
    assert item is not None
    return f"{item.get('affiliation')}/{item.get('role')}"


async def test_new_rights_are_shown_to_all_and_again_when_the_fence_was_lost(
    world: World,
) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    change = world.garden.power(ROMEO, 50)
    world.wire.lost_fences = 1
    with pytest.raises(Unavailable):
        await world.deliver(change)
    (first,) = world.wire.take()
    assert brief(first) == f"presence - {ROOM}/Romeo > romeo@a.test/x 110"
    assert rights_in(first) == "admin/moderator"
    assert await world.deliver(change) == [brief(first)]
    await world.rooms.deliver(world.garden.power(ALICE, 100), key="2", own_id="i")
    (second,) = world.wire.take()
    assert (brief(second), rights_in(second)) == (
        f"presence - {ROOM}/Alice > romeo@a.test/x",
        "owner/moderator",
    )
    await world.rooms.deliver(world.garden.power(ALICE, 100), key="3", own_id="i")
    assert world.wire.take() == []


async def test_rights_are_known_again_after_a_restart(world: World) -> None:
    world.garden.levels[ALICE] = 100
    await world.enter("romeo@a.test/x", "Romeo")
    world.rooms = world.service()
    await world.rooms.load()
    bob = UserId("@bob:m.example")
    world.garden.levels[bob] = 50
    await world.rooms.deliver(world.garden.came(bob, "Bob"), key="1", own_id="i")
    (arrived,) = world.wire.take()
    assert rights_in(arrived) == "admin/moderator"


async def test_a_new_name_is_shown_again_when_its_fence_was_lost(world: World) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    renamed = world.garden.came(ALICE, "Alicia")
    shown = [
        f"presence unavailable {ROOM}/Alice > romeo@a.test/x 303",
        f"presence - {ROOM}/Alicia > romeo@a.test/x",
    ]
    world.wire.lost_fences = 1
    with pytest.raises(Unavailable):
        await world.deliver(renamed)
    assert [brief(xml) for xml in world.wire.take()] == shown
    assert await world.deliver(renamed) == shown
    assert await world.deliver(renamed) == []
    found = await world.database.read(lambda tx: nicknames.find(tx, ROOM_ID, ALICE))
    assert found == "Alicia"


async def test_a_new_name_is_shown_again_after_a_crash_before_its_fence(world: World) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    renamed = world.garden.came(ALICE, "Alicia")
    world.wire.lost_fences = 1
    with pytest.raises(Unavailable):
        await world.deliver(renamed)
    shown = [brief(xml) for xml in world.wire.take()]
    world.rooms = world.service()
    await world.rooms.load()
    assert await world.deliver(renamed) == shown


async def test_the_past_of_somebody_without_a_nickname_is_shown_all_the_same(
    world: World,
) -> None:
    world.garden.past(UserId("@gone:m.example"), "one")
    world.garden.past(UserId("@\U0001f98a:m.example"), "two")
    shown = await world.enter("romeo@a.test/x", "Romeo")
    assert f"message groupchat {ROOM}/@gone:m.example > romeo@a.test/x body=one" in shown
    assert f"message groupchat {ROOM} > romeo@a.test/x body=two" in shown


async def test_an_invitation_through_the_room_is_answered(world: World) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    stanza = incoming(
        f"<message from='romeo@a.test/x' to='{ROOM}'>"
        "<x xmlns='http://jabber.org/protocol/muc#user'><invite to='nurse@a.test'/></x></message>"
    )
    await world.rooms.on_message(stanza, lambda stanza, room_id: asyncio.sleep(0))
    assert brief(world.wire.take()[0]).endswith("feature-not-implemented")


async def test_typing_and_reading_are_shown_to_the_others_in_a_small_room(world: World) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    await world.enter("juliet@a.test/x", "Juliet")
    await world.rooms.show(ShowTyping(sender=ALICE, typing=True, room_id=ROOM_ID))
    states = world.wire.take()
    assert [(xml.get("from"), xml.get("to")) for xml in states] == [
        (f"{ROOM}/Alice", "romeo@a.test/x"),
        (f"{ROOM}/Alice", "juliet@a.test/x"),
    ]
    assert {xml[0].tag.rpartition("}")[2] for xml in states} == {"composing"}
    await world.rooms.show(ShowRead(sender=ROMEO, message_id="$1", room_id=ROOM_ID))
    (marker,) = world.wire.take()
    assert (marker.get("from"), marker.get("to")) == (f"{ROOM}/Romeo", "juliet@a.test/x")
    assert marker[0].get("id") == "$1"


async def test_states_of_strangers_and_in_great_rooms_are_not_shown(world: World) -> None:
    await world.enter("romeo@a.test/x", "Romeo")
    stranger = UserId("@stranger:m.example")
    await world.rooms.show(ShowTyping(sender=stranger, typing=True, room_id=ROOM_ID))
    for number in range(XmppLimits().states_sessions):
        await world.enter(f"romeo@a.test/more{number}", "Romeo")
    await world.rooms.show(ShowTyping(sender=ALICE, typing=True, room_id=ROOM_ID))
    assert world.wire.take() == []


async def test_a_client_that_is_not_in_any_more_is_told_of(world: World) -> None:
    gone: list[tuple[str, str]] = []

    def on_gone(client: Jid, entered_by: Jid) -> None:
        gone.append((str(client), str(entered_by)))

    world.on_gone = on_gone
    world.rooms = world.service()
    await world.enter("romeo@a.test/x", "Romeo")
    assert gone == []
    await world.presence("romeo@a.test/x", "Romeo", "", type="unavailable")
    assert gone == [("romeo@a.test/x", ROOM)]
    world.listener.failures["enter"] = Refused("no", errcode="M_FORBIDDEN")
    await world.enter("juliet@a.test/x", "Juliet")
    assert set(gone[1:]) == {("juliet@a.test/x", ROOM)}
