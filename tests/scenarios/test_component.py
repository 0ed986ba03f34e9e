"""The XMPP component against a real Prosody, with a scripted bridge side behind it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio
from pydantic import SecretStr

from bridge.adapters.xmpp.adapter import XmppAdapter, XmppAddresses
from bridge.adapters.xmpp.config import XmppLimits, XmppSettings
from bridge.adapters.xmpp.connection import Status
from bridge.clock import SystemClock
from bridge.content.model import Message
from bridge.demo.people import NotSeen, Stanza, XmppPerson
from bridge.demo.servers import CertificateAuthority, Prosody
from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomAlias, RoomId, ServerName, TraceId, UserId
from bridge.ports.chat import (
    BotNotice,
    ChatMessage,
    Delivery,
    DirectMessage,
    Failure,
    Receipt,
    RoomInvite,
)
from bridge.ports.ephemeral import (
    ChatEphemeral,
    ChatPresence,
    ChatRead,
    ChatTyping,
    ShowPresence,
    ShowRead,
    ShowTyping,
)
from bridge.storage.database import Database
from tests.support.listener import NOW_MS, LeaveOnly, ScriptedListener, ScriptedRoom
from tests.support.servers import (
    COMPONENT_SECRET,
    PASSWORD,
    MakeXmppPerson,
    make_prosody,
    prosody_pair_running,
)

DOMAIN = "gw.a.test"
ALICE = UserId("@alice:m.example")
ALICE_JID = "alice%m.example@gw.a.test"
CAROL = UserId("@carol:m.example")
ROOM_ID = RoomId("!abc:m.example")
ALIAS = RoomAlias("#garden:m.example")
ROOM = "#garden%m.example@gw.a.test"
TRACE = TraceId("t")
WAIT_S = 10.0

pytestmark = pytest.mark.asyncio(loop_scope="function")


def ghost(name: str) -> UserId:
    return UserId(f"@{name}=40a.test:{DOMAIN}")


@dataclass
class World:
    """One adapter on one database; `restart` makes a new adapter on the same rows."""

    prosody: Prosody
    database: Database
    listener: ScriptedListener
    commands: LeaveOnly
    adapter: XmppAdapter
    task: asyncio.Task[None]
    outbox_id: int = 0

    async def deliver(self, delivery: Delivery, *, outbox_id: int | None = None) -> None:
        self.outbox_id += 1
        async with asyncio.timeout(WAIT_S):
            await self.adapter.deliver(delivery, outbox_id=outbox_id or self.outbox_id, trace=TRACE)

    async def next_accepted(self) -> ChatMessage:
        async with asyncio.timeout(WAIT_S):
            return await self.listener.accepted.get()

    async def restart(self) -> None:
        await self.stop()
        self.adapter = make_adapter(self.prosody, self.database, self.listener, self.commands)
        await self.start()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self.adapter.run())
        async with asyncio.timeout(WAIT_S):
            await self.adapter.wait_connected()

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


def make_adapter(
    prosody: Prosody,
    database: Database,
    listener: ScriptedListener,
    commands: LeaveOnly,
    *,
    secret: str = COMPONENT_SECRET,
    limits: XmppLimits | None = None,
    statuses: list[Status] | None = None,
) -> XmppAdapter:
    settings = XmppSettings(
        domain=DOMAIN,
        secret=SecretStr(secret),
        port=prosody.ports.component,
        limits=limits or XmppLimits(session_ping_timeout_s=2),
    )
    return XmppAdapter(
        settings=settings,
        addresses=XmppAddresses(domain=DOMAIN, server_name=ServerName(DOMAIN)),
        database=database,
        listener=listener,
        commands=commands,
        clock=SystemClock(),
        random=random.Random(),
        on_status=(statuses if statuses is not None else []).append,
    )


@pytest_asyncio.fixture
async def world(prosody: Prosody, sqlite_database: Database) -> AsyncIterator[World]:
    listener = ScriptedListener(
        {f"{n}@a.test": ghost(n) for n in ("romeo", "juliet", "nurse", "tybalt")}
    )
    commands = LeaveOnly()
    adapter = make_adapter(prosody, sqlite_database, listener, commands)
    world = World(
        prosody=prosody,
        database=sqlite_database,
        listener=listener,
        commands=commands,
        adapter=adapter,
        task=asyncio.get_running_loop().create_task(asyncio.sleep(0)),
    )
    await world.start()
    yield world
    await world.stop()


@pytest.fixture
def garden(world: World) -> ScriptedRoom:
    room = ScriptedRoom(room_id=ROOM_ID, alias=ALIAS, topic_sender=ALICE)
    room.members = {ALICE: "Alice", CAROL: "Carol"}
    room.levels = {ALICE: 100}
    return world.listener.room(room)


def direct(to: str, text: str) -> DirectMessage:
    return DirectMessage(
        to=to, sender=ALICE, event_id=EventId("$e"), at_ms=NOW_MS * 2, message=Message(text=text)
    )


def item_of(stanza: Stanza) -> dict[str, str]:
    return stanza.item


# --- one to one -------------------------------------------------------------------------------


async def test_a_message_reaches_the_bridge_with_everything_that_is_needed_to_answer(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    sent = romeo.say(ALICE_JID, "*hello* you")
    message = await world.next_accepted()
    assert (message.sender, message.session) == ("romeo@a.test", romeo.full_address)
    assert (message.to_user, message.to_room, message.sent_to) == (ALICE, None, ALICE_JID)
    assert (message.stanza_id, message.wants_receipt) == (sent, True)
    assert message.message.text == "*hello* you"
    assert message.message.html == "<strong>hello</strong> you"
    assert message.message.language is None


async def test_a_delivery_returns_when_the_server_has_it_and_the_person_reads_it(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await world.deliver(direct("romeo@a.test", "a & b <c> \x07 \U0001f98a"))
    heard = await romeo.hear("a & b <c> \ufffd \U0001f98a", sender=ALICE_JID)
    assert heard.id == f"{world.database.epoch}.out.1"


async def test_receipts_failures_and_notices_come_from_where_the_message_went(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    me = romeo.full_address
    await world.deliver(Receipt(to=me, sent_from=ALICE_JID, stanza_id="m1"))
    assert (await romeo.receipt("m1")).sender == ALICE_JID
    await world.deliver(
        Failure(
            to=me,
            sent_from=ALICE_JID,
            stanza_id="m2",
            in_room=False,
            errcode="M_FORBIDDEN",
            text="She is not there",
        )
    )
    error = await romeo.error("m2")
    assert (error.sender, error.condition, error.error_text) == (
        ALICE_JID,
        "forbidden",
        "She is not there",
    )
    await world.deliver(BotNotice(to="romeo@a.test", text="It waits"))
    await romeo.hear("It waits", sender=f"isthmus@{DOMAIN}")


async def test_a_bounce_finds_the_delivery_that_caused_it(world: World) -> None:
    await world.deliver(direct("nobody-there@a.test", "hello?"), outbox_id=77)
    async with asyncio.timeout(WAIT_S):
        bounced = await world.listener.bounced.get()
    assert (bounced.outbox_id, bounced.condition) == (77, "service-unavailable")
    assert "no such account" in (bounced.text or "")


async def test_a_refused_message_is_answered_with_the_reason(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    world.listener.failures["accept"] = Refused("nothing for you", errcode="M_FORBIDDEN")
    error = await romeo.error(romeo.say(ALICE_JID, "hello"))
    assert (error.condition, error.error_text) == ("forbidden", "nothing for you")


async def test_another_spelling_of_an_address_is_told_the_real_one(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    error = await romeo.error(romeo.say("@alice\\3am.example@gw.a.test".replace("@a", "a", 1), "x"))
    assert error.condition == "gone"
    assert "xmpp:alice%25m.example@gw.a.test" in ET.tostring(error.element, "unicode")


async def test_a_wrapped_ghost_of_ours_is_redirected_to_the_person(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    error = await romeo.error(romeo.say("juliet=40a.test%gw.a.test@gw.a.test", "x"))
    assert error.condition == "redirect"
    assert "xmpp:juliet@a.test" in ET.tostring(error.element, "unicode")


async def test_the_bot_answers_under_its_name_and_under_the_bare_domain(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    romeo.say(f"isthmus@{DOMAIN}", "help", receipt=False)
    await romeo.hear("romeo@a.test said help", sender=f"isthmus@{DOMAIN}")
    romeo.say(DOMAIN, "list", receipt=False)
    await romeo.hear("romeo@a.test said list", sender=DOMAIN)


async def test_a_subscription_is_still_both_after_our_restart(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await romeo.ask(None, ET.Element("{jabber:iq:roster}query"))
    romeo.set_presence(to=ALICE_JID, type="subscribe")
    await romeo.wait_for(lambda s: s.sender == ALICE_JID and s.type == "subscribed")
    await romeo.wait_for(lambda s: s.sender == ALICE_JID and s.type == "subscribe")
    romeo.set_presence(to=ALICE_JID, type="subscribed")
    await romeo.wait_for(lambda s: s.kind == "presence" and s.sender == ALICE_JID and s.type == "")
    await eventually_subscribed(romeo, ALICE_JID, "both")
    await romeo.logout()
    await world.restart()
    start = romeo.position
    await romeo.login()
    await romeo.wait_for(
        lambda s: s.kind == "presence" and s.sender == ALICE_JID and s.type == "", since=start
    )
    await eventually_subscribed(romeo, ALICE_JID, "both")


async def eventually_subscribed(person: XmppPerson, jid: str, state: str) -> None:
    """Asks for the roster until the item says so."""
    async with asyncio.timeout(WAIT_S):
        while True:
            answer = await person.ask(None, ET.Element("{jabber:iq:roster}query"))
            items = {
                i.get("jid"): i.get("subscription") for i in answer.element.iter() if i.get("jid")
            }
            if items.get(jid) == state:
                return
            await asyncio.sleep(0.02)


# --- the stream -------------------------------------------------------------------------------


async def test_a_restarted_server_is_found_again_and_waiting_deliveries_go_out(
    sqlite_database: Database,
) -> None:
    server = make_prosody()
    await server.start()
    try:
        await server.register("romeo", PASSWORD)
        listener = ScriptedListener()
        adapter = make_adapter(server, sqlite_database, listener, LeaveOnly())
        world = World(
            prosody=server,
            database=sqlite_database,
            listener=listener,
            commands=LeaveOnly(),
            adapter=adapter,
            task=asyncio.get_running_loop().create_task(asyncio.sleep(0)),
        )
        await world.start()
        await server.stop()
        with pytest.raises(Unavailable):
            await world.deliver(direct("romeo@a.test", "lost?"), outbox_id=5)
        await server.start()
        async with asyncio.timeout(WAIT_S):
            await adapter.wait_connected()
        async with XmppPerson("romeo@a.test", PASSWORD, port=server.ports.client) as romeo:
            await world.deliver(direct("romeo@a.test", "not lost"), outbox_id=5)
            await romeo.hear("not lost")
        await world.stop()
    finally:
        await server.stop()


async def test_a_wrong_secret_is_said_in_plain_words(
    prosody: Prosody, sqlite_database: Database
) -> None:
    statuses: list[Status] = []
    adapter = make_adapter(
        prosody,
        sqlite_database,
        ScriptedListener(),
        LeaveOnly(),
        secret="wrong",
        statuses=statuses,
    )
    task = asyncio.get_running_loop().create_task(adapter.run())
    async with asyncio.timeout(WAIT_S):
        while not statuses:
            await asyncio.sleep(0.01)
    task.cancel()
    assert statuses[0].state == "refused"
    assert "refused the component secret" in statuses[0].text
    with pytest.raises(Unavailable):
        await adapter.deliver(direct("romeo@a.test", "x"), outbox_id=1, trace=TRACE)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_server_that_hangs_is_left_and_found_again(
    sqlite_database: Database,
) -> None:
    server = make_prosody()
    async with server:
        limits = XmppLimits(keepalive_s=0.2, fence_timeout_s=0.5)
        statuses: list[Status] = []
        adapter = make_adapter(
            server,
            sqlite_database,
            ScriptedListener(),
            LeaveOnly(),
            limits=limits,
            statuses=statuses,
        )
        task = asyncio.get_running_loop().create_task(adapter.run())
        async with asyncio.timeout(WAIT_S):
            await adapter.wait_connected()
            server.freeze()
            while statuses[-1].state != "unreachable":
                await asyncio.sleep(0.02)
        server.thaw()
        async with asyncio.timeout(30):
            await adapter.wait_connected()
            while True:
                with contextlib.suppress(Unavailable):
                    await adapter.deliver(direct("x@a.test", "up"), outbox_id=1, trace=TRACE)
                    break
                await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_oversize_message_of_ours_is_refused_and_the_stream_goes_on(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    with pytest.raises(Refused) as refused:
        await world.deliver(direct("romeo@a.test", "x" * 600_000))
    assert refused.value.rule == "stanza-size"
    await world.deliver(direct("romeo@a.test", "still here"))
    await romeo.hear("still here")


async def test_an_oversize_message_to_us_is_answered_and_the_stream_goes_on(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    error = await romeo.error(romeo.say(ALICE_JID, "y" * 200_000))
    assert error.condition == "policy-violation"
    romeo.say(ALICE_JID, "small")
    assert (await world.next_accepted()).message.text == "small"


async def test_a_deep_stanza_is_answered_and_the_stream_goes_on(
    world: World, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    deep = "<a xmlns='x'>" + "<a>" * 150 + "</a>" * 150 + "</a>"
    romeo.send_raw(
        f"<message to='{ALICE_JID}' id='deep' type='chat'><body>d</body>{deep}</message>"
    )
    assert (await romeo.error("deep")).condition == "policy-violation"
    romeo.say(ALICE_JID, "flat")
    assert (await world.next_accepted()).message.text == "flat"


async def test_what_the_server_closes_the_stream_over_is_parked_and_the_rest_goes_on(
    prosody: Prosody, sqlite_database: Database, xmpp_person: MakeXmppPerson
) -> None:
    """Our own limit is set above the server's: a delivery that closes the stream each time."""
    romeo = await xmpp_person(prosody, "romeo")
    adapter = make_adapter(
        prosody,
        sqlite_database,
        ScriptedListener(),
        LeaveOnly(),
        limits=XmppLimits(stanza_bytes=10_000_000),
    )
    task = asyncio.get_running_loop().create_task(adapter.run())

    async def persist(delivery: Delivery, outbox_id: int) -> None:
        """What the outbox does: again, until taken or refused."""
        while True:
            try:
                await adapter.wait_connected()
                await adapter.deliver(delivery, outbox_id=outbox_id, trace=TRACE)
                return
            except Unavailable:
                await asyncio.sleep(0.02)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        guilty = group.create_task(_outcome(persist(direct("romeo@a.test", "z" * 1_500_000), 1)))
        group.create_task(persist(direct("romeo@a.test", "innocent"), 2))
    assert guilty.result() == "closes-stream"
    await romeo.hear("innocent")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _outcome(delivery: object) -> str:
    assert asyncio.iscoroutine(delivery)
    try:
        await delivery
    except Refused as exc:
        return exc.rule
    return "taken"


# --- questions --------------------------------------------------------------------------------


async def test_disco_tells_the_domain_a_room_a_person_and_nobody_apart(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    muc = "http://jabber.org/protocol/muc"

    async def features(jid: str) -> tuple[set[str], set[tuple[str, str]]]:
        query = ET.Element("{http://jabber.org/protocol/disco#info}query")
        answer = (await romeo.ask(jid, query)).element
        return (
            {f.get("var", "") for f in answer.iter() if f.tag.endswith("feature")},
            {
                (i.get("category", ""), i.get("type", ""))
                for i in answer.iter()
                if i.tag.endswith("identity")
            },
        )

    of_domain, kinds = await features(DOMAIN)
    assert muc in of_domain
    assert ("conference", "text") in kinds
    of_room, kinds = await features(ROOM)
    assert {muc, "muc_nonanonymous", "urn:xmpp:sid:0"} <= of_room
    assert kinds == {("conference", "text")}
    of_person, kinds = await features(ALICE_JID)
    assert muc not in of_person
    assert kinds == {("account", "registered")}
    for nowhere in (f"nobody@{DOMAIN}", f"#nowhere%m.example@{DOMAIN}"):
        with pytest.raises(Refused) as refused:
            await features(nowhere)
        assert refused.value.rule == "item-not-found"
    await romeo.ping(ALICE_JID)
    with pytest.raises(Refused) as refused:
        await romeo.ask(ALICE_JID, ET.Element("{x:unknown}query"))
    assert refused.value.rule == "service-unavailable"


async def test_a_name_card_has_the_display_name(world: World, xmpp_person: MakeXmppPerson) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    card = (await romeo.ask(ALICE_JID, ET.Element("{vcard-temp}vCard"))).element
    assert card.findtext("{vcard-temp}vCard/{vcard-temp}FN") == "Alice Liddell"


# --- rooms ------------------------------------------------------------------------------------


async def test_entering_shows_occupants_self_history_and_subject_in_this_order(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    garden.past(ALICE, "first")
    garden.past(CAROL, "second")
    romeo = await xmpp_person(world.prosody, "romeo")
    entry = await romeo.enter(ROOM, "Romeo")
    own = entry.self_presence
    assert {100, 110} <= own.statuses
    assert 210 not in own.statuses
    assert set(entry.occupants) == {"Alice", "Carol", "Romeo"}
    assert entry.occupants["Alice"].item == {
        "affiliation": "owner",
        "role": "moderator",
        "jid": ALICE_JID,
    }
    assert own.item["jid"] == "romeo@a.test"
    assert [m.body for m in entry.history] == ["first", "second"]
    assert all(m.is_delayed for m in entry.history)
    assert entry.history[0].stanza_ids == {ROOM: "$past1"}
    assert entry.subject.subject == "Roses"
    assert world.listener.entered == [("romeo@a.test", "Romeo")]


async def test_a_new_member_is_told_once_how_to_leave(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await romeo.enter(ROOM, "Romeo")
    told = await romeo.wait_for(lambda s: s.bare_sender == f"isthmus@{DOMAIN}")
    assert told.body is not None
    assert f"leave {ROOM}" in told.body
    await romeo.exit(ROOM)
    start = romeo.position
    await romeo.enter(ROOM, "Romeo")
    await romeo.ping(f"{ROOM}/Romeo")
    assert not [s for s in romeo.transcript.since(start) if s.bare_sender == f"isthmus@{DOMAIN}"]


async def test_a_message_comes_back_to_all_sessions_with_the_authors_id(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    await romeo.enter(ROOM, "Romeo")
    await juliet.enter(ROOM, "Juliet")
    await romeo.see_arrive(ROOM, "Juliet")
    sent = romeo.say_in(ROOM, "hello all")
    message = await world.next_accepted()
    assert (message.to_room, message.to_user) == (ROOM_ID, None)
    await world.deliver(garden.said(ghost("romeo"), "hello all", stanza_id=sent))
    for person in (romeo, juliet):
        seen = await person.reflection(sent)
        assert seen.sender == f"{ROOM}/Romeo"
        assert seen.stanza_ids == {ROOM: "$event101"}
    await world.deliver(garden.said(ALICE, "welcome"))
    assert (await juliet.hear("welcome", sender=ROOM)).nickname == "Alice"


async def test_what_happens_while_somebody_enters_comes_after_the_subject_and_once(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    await juliet.enter(ROOM, "Juliet")
    world.listener.gate, world.listener.at_gate = asyncio.Event(), asyncio.Event()
    entering = asyncio.get_running_loop().create_task(romeo.enter(ROOM, "Romeo"))
    await world.listener.at_gate.wait()
    await world.deliver(garden.said(ALICE, "in the view already"))
    view_position = garden.position
    later = garden.said(ALICE, "live")
    await world.deliver(later)
    garden.position = view_position
    world.listener.gate.set()
    entry = await entering
    live = await romeo.hear("live", sender=ROOM)
    seen = [s for s in romeo.transcript if s.bare_sender == ROOM]
    assert seen.index(live) > seen.index(entry.subject)
    await romeo.ping(f"{ROOM}/Romeo")
    assert [s.body for s in seen if s.body] == ["live"]


async def test_a_self_ping_says_whether_we_are_in(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    with pytest.raises(Refused) as refused:
        await romeo.ping(f"{ROOM}/Romeo")
    assert refused.value.rule == "not-acceptable"
    await romeo.enter(ROOM, "Romeo")
    assert (await romeo.ping(f"{ROOM}/Romeo")).type == "result"


async def test_a_kick_arrives_as_307_with_reason_and_actor_and_ends_the_session(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    await romeo.enter(ROOM, "Romeo")
    await juliet.enter(ROOM, "Juliet")
    await world.deliver(garden.went(ghost("romeo"), by=ALICE, reason="too loud"))
    seen = await romeo.see_go(ROOM, "Romeo")
    assert {110, 307} <= seen.statuses
    assert seen.reason == "too loud"
    actor = next(e for e in seen.element.iter() if e.tag.endswith("}actor"))
    assert (actor.get("jid"), actor.get("nick")) == (ALICE_JID, "Alice")
    assert (await juliet.see_go(ROOM, "Romeo")).statuses == {307}
    with pytest.raises(Refused) as refused:
        await romeo.ping(f"{ROOM}/Romeo")
    assert refused.value.rule == "not-acceptable"
    error = await romeo.error(romeo.say_in(ROOM, "but"))
    assert error.condition == "not-acceptable"


async def test_new_rights_are_seen_at_once_and_known_after_a_restart(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    await romeo.enter(ROOM, "Romeo")
    await juliet.enter(ROOM, "Juliet")
    power = garden.power(ghost("juliet"), 50)
    since = romeo.position
    await world.deliver(power)

    def promoted(stanza: Stanza) -> bool:
        item = stanza.item if stanza.nickname == "Juliet" else {}
        return item.get("affiliation") == "admin"

    assert (await romeo.wait_for(promoted, since=since)).statuses == set()
    assert (await juliet.wait_for(promoted)).statuses == {110}
    await world.restart()
    bob = UserId("@bob:m.example")
    garden.levels[bob] = 100
    await world.deliver(garden.came(bob, "Bob"))
    assert (await romeo.see_arrive(ROOM, "Bob")).item["affiliation"] == "owner"


async def test_a_subject_that_cannot_be_stored_is_answered(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await romeo.enter(ROOM, "Romeo")
    world.listener.failures["set_topic"] = Unavailable("the database is away")
    error = await romeo.error(romeo.set_subject(ROOM, "Thorns"))
    assert (error.condition, error.error_text) == ("resource-constraint", "the database is away")


async def test_an_encrypted_message_is_answered_and_not_carried(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await romeo.enter(ROOM, "Romeo")
    secret = (
        "<encrypted xmlns='eu.siacs.conversations.axolotl'><payload>AA</payload></encrypted>"
        "<body>I sent you an OMEMO encrypted message</body>"
    )
    romeo.send_raw(f"<message to='{ALICE_JID}' type='chat' id='s1'>{secret}</message>")
    romeo.send_raw(f"<message to='{ROOM}' type='groupchat' id='s2'>{secret}</message>")
    for sent in ("s1", "s2"):
        assert "without encryption" in ((await romeo.error(sent)).error_text or "")
    assert world.listener.accepted.empty()


async def test_a_ban_is_301_and_a_matrix_member_leaving_has_no_status(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await romeo.enter(ROOM, "Romeo")
    await world.deliver(garden.went(CAROL))
    assert (await romeo.see_go(ROOM, "Carol")).statuses == frozenset()
    await world.deliver(garden.went(ghost("romeo"), by=ALICE, membership="ban"))
    seen = await romeo.see_go(ROOM, "Romeo")
    assert {110, 301} <= seen.statuses
    assert seen.item["affiliation"] == "outcast"


async def test_a_nickname_of_another_xmpp_person_is_refused_before_anybody_joins(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    await romeo.enter(ROOM, "Lover")
    with pytest.raises(Refused) as refused:
        await juliet.enter(ROOM, "LOVER")
    assert refused.value.rule == "conflict"
    assert world.listener.entered == [("romeo@a.test", "Lover")]
    await juliet.enter(ROOM, "Juliet")


async def test_a_matrix_member_gives_way_to_a_nickname_by_303(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    await juliet.enter(ROOM, "Juliet")
    entry = await romeo.enter(ROOM, "Alice")
    assert 210 not in entry.self_presence.statuses
    assert set(entry.occupants) == {"Alice", "Alice (m.example)", "Carol", "Juliet"}
    gone = await juliet.see_go(ROOM, "Alice")
    assert 303 in gone.statuses
    assert gone.item["nick"] == "Alice (m.example)"
    await world.deliver(garden.said(ALICE, "so I am another"))
    assert (await romeo.hear("so I am another")).nickname == "Alice (m.example)"


@pytest.mark.parametrize(
    ("display_name", "shown"),
    [
        ("\U0001f98a", "fox"),
        ("\u2460", "1"),
        ("\u05d0\u05d1\u05d2", "\u05d0\u05d1\u05d2"),
        ("\u05d3\u05d4", "\u05d3\u05d4 \u05d1"),
        ("x" * 300, "x" * 60),
    ],
)
async def test_matrix_names_become_nicknames_that_every_server_takes(
    world: World,
    garden: ScriptedRoom,
    xmpp_person: MakeXmppPerson,
    display_name: str,
    shown: str,
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    garden.members[UserId("@other:m.example")] = "\u05d3\u05d4"
    await romeo.enter(ROOM, "Romeo")
    await world.deliver(garden.came(UserId("@fox:m.example"), display_name))
    await romeo.see_arrive(ROOM, shown)


async def test_an_emoji_nickname_that_somebody_asks_for_is_replaced_and_said(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    entry = await romeo.enter(ROOM, "\U0001f98a Romeo")
    assert entry.self_presence.nickname == "Romeo"
    assert {110, 210} <= entry.self_presence.statuses


async def test_a_renamed_member_is_shown_by_303(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await romeo.enter(ROOM, "Romeo")
    await world.deliver(garden.came(ALICE, "Alice Liddell"))
    gone = await romeo.see_go(ROOM, "Alice")
    assert (303 in gone.statuses, gone.item["nick"]) == (True, "Alice Liddell")
    await romeo.see_arrive(ROOM, "Alice Liddell")


async def test_somebody_may_change_their_nickname(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    await romeo.enter(ROOM, "Romeo")
    await juliet.enter(ROOM, "Juliet")
    romeo.set_presence(to=f"{ROOM}/Montague")
    assert 303 in (await juliet.see_go(ROOM, "Romeo")).statuses
    assert 110 in (await romeo.see_arrive(ROOM, "Montague")).statuses
    refused = romeo.set_presence(to=f"{ROOM}/Juliet")
    assert (await romeo.error(refused)).condition == "conflict"
    assert (await romeo.ping(f"{ROOM}/Montague")).type == "result"


async def test_going_offline_ends_the_session_and_coming_back_enters_again(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    await romeo.enter(ROOM, "Romeo")
    await juliet.enter(ROOM, "Juliet")
    await romeo.drop()
    await juliet.see_go(ROOM, "Romeo")
    assert world.listener.left.empty()
    start = juliet.position
    await romeo.login()
    await romeo.enter(ROOM, "Romeo")
    await juliet.see_arrive(ROOM, "Romeo", since=start)


async def test_two_clients_of_a_person_share_a_nickname(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    await juliet.enter(ROOM, "Juliet")
    await romeo.enter(ROOM, "Romeo")
    async with XmppPerson("romeo@a.test", PASSWORD, port=world.prosody.ports.client) as phone:
        entry = await phone.enter(ROOM, "Romeo on the phone")
        assert entry.self_presence.nickname == "Romeo"
        assert {110, 210} <= entry.self_presence.statuses
        await world.deliver(garden.said(ALICE, "to both"))
        await phone.hear("to both")
        await romeo.hear("to both")
        await phone.exit(ROOM)
    await juliet.ping(f"{ROOM}/Juliet")
    assert not [s for s in juliet.transcript if s.type == "unavailable"]
    assert (await romeo.ping(f"{ROOM}/Romeo")).type == "result"


async def test_one_room_under_two_addresses_shows_each_session_its_own(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    by_id = f"!abc%m.example@{DOMAIN}"
    await romeo.enter(ROOM, "Romeo")
    await juliet.enter(by_id, "Juliet")
    await romeo.see_arrive(ROOM, "Juliet")
    await world.deliver(garden.said(ALICE, "both"))
    assert (await romeo.hear("both")).stanza_ids == {ROOM: "$event101"}
    assert (await juliet.hear("both")).stanza_ids == {by_id: "$event101"}


async def test_sessions_survive_our_restart_and_the_gone_are_removed(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    await romeo.enter(ROOM, "Romeo")
    await juliet.enter(ROOM, "Juliet")
    await romeo.see_arrive(ROOM, "Juliet")
    await world.stop()
    await juliet.drop()
    world.adapter = make_adapter(
        world.prosody,
        world.database,
        world.listener,
        world.commands,
        limits=XmppLimits(session_ping_timeout_s=60),  # the server says it, not our patience
    )
    await world.start()
    await romeo.see_go(ROOM, "Juliet")
    await world.deliver(garden.said(ALICE, "after the restart"))
    assert (await romeo.hear("after the restart")).nickname == "Alice"
    romeo.say_in(ROOM, "still in")
    assert (await world.next_accepted()).to_room == ROOM_ID


async def test_who_may_not_enter_is_told_why(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    for failure, condition in (
        (Refused("not invited"), "registration-required"),
        (Refused("You are banned from this room"), "forbidden"),
        (Refused("no such version", errcode="M_INCOMPATIBLE_ROOM_VERSION"), "not-allowed"),
        (NotFound("no such room"), "item-not-found"),
        (Unavailable("no answer"), "remote-server-timeout"),
    ):
        world.listener.failures["enter"] = failure
        with pytest.raises(Refused) as refused:
            await romeo.enter(ROOM, "Romeo")
        assert refused.value.rule == condition
    world.listener.failures.clear()
    await romeo.enter(ROOM, "Romeo")


async def test_a_slow_join_is_answered_and_ends_in_an_invitation(
    prosody: Prosody, sqlite_database: Database, xmpp_person: MakeXmppPerson
) -> None:
    listener = ScriptedListener({"romeo@a.test": ghost("romeo")})
    listener.room(ScriptedRoom(room_id=ROOM_ID, alias=ALIAS))
    listener.gate = asyncio.Event()
    adapter = make_adapter(
        prosody,
        sqlite_database,
        listener,
        LeaveOnly(),
        limits=XmppLimits(join_timeout_s=0.1),
    )
    task = asyncio.get_running_loop().create_task(adapter.run())
    async with asyncio.timeout(WAIT_S):
        await adapter.wait_connected()
    romeo = await xmpp_person(prosody, "romeo")
    with pytest.raises(Refused) as refused:
        await romeo.enter(ROOM, "Romeo")
    assert refused.value.rule == "remote-server-timeout"
    listener.gate.set()
    invited = await romeo.wait_for(lambda s: s.kind == "message" and s.sender == ROOM)
    assert any(e.tag.endswith("}invite") for e in invited.element.iter())
    await romeo.enter(ROOM, "Romeo")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_whoever_enters_slowly_sees_that_it_is_under_way_and_how_it_ends(
    prosody: Prosody, sqlite_database: Database, xmpp_person: MakeXmppPerson
) -> None:
    listener = ScriptedListener({"romeo@a.test": ghost("romeo")})
    listener.room(ScriptedRoom(room_id=ROOM_ID, alias=ALIAS))
    listener.gate = asyncio.Event()
    limits = XmppLimits(join_hint_s=0.1, join_timeout_s=1)
    adapter = make_adapter(prosody, sqlite_database, listener, LeaveOnly(), limits=limits)
    task = asyncio.get_running_loop().create_task(adapter.run())
    async with asyncio.timeout(WAIT_S):
        await adapter.wait_connected()
    romeo = await xmpp_person(prosody, "romeo")

    def told(begin: str) -> Callable[[Stanza], bool]:
        return lambda s: s.bare_sender == f"isthmus@{DOMAIN}" and (s.body or "").startswith(begin)

    with pytest.raises(Refused):
        await romeo.enter(ROOM, "Romeo")
    hint = await romeo.wait_for(told(f"Entering {ROOM} takes a while"))
    refusal = await romeo.wait_for(lambda s: s.kind == "presence" and s.type == "error")
    order = romeo.transcript.since(0)
    assert order.index(hint) < order.index(refusal)
    listener.failures["enter"] = Refused("nobody lets you in", errcode="M_FORBIDDEN")
    listener.gate.set()
    await romeo.wait_for(told(f"You could not enter {ROOM} after all: nobody lets you in"))
    # What is quick is not spoken of.
    listener.failures.clear()
    listener.gate = None
    since = romeo.position
    await romeo.enter(ROOM, "Romeo")
    assert [s for s in romeo.transcript.since(since) if told("Entering")(s)] == []
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_states_and_presence_cross_a_real_server(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    mercutio = await xmpp_person(world.prosody, "mercutio")
    listener, adapter = world.listener, world.adapter

    async def told(wanted: ChatEphemeral) -> None:
        async with asyncio.timeout(WAIT_S):
            while wanted not in listener.passing:
                await asyncio.sleep(0.02)

    def is_shown(name: str, sender: str) -> Callable[[Stanza], bool]:
        return lambda s: (
            s.bare_sender == sender and any(child.tag.endswith("}" + name) for child in s.element)
        )

    # One-to-one: a state is shown once a client has shown that it knows them.
    states = "http://jabber.org/protocol/chatstates"
    mercutio.send_raw(
        f"<message to='{ALICE_JID}' type='chat'><composing xmlns='{states}'/></message>"
    )
    await told(ChatTyping(sender="mercutio@a.test", typing=True, to_user=ALICE))
    await adapter.show(ShowTyping(sender=ALICE, typing=True, to="mercutio@a.test"))
    await mercutio.wait_for(is_shown("composing", ALICE_JID))
    await adapter.show(ShowRead(sender=ALICE, message_id="m1", to="mercutio@a.test"))
    marker = await mercutio.wait_for(is_shown("displayed", ALICE_JID))
    assert marker.element[0].get("id") == "m1"

    # A delivered message can be marked as read.
    message = DirectMessage(
        to="mercutio@a.test",
        sender=ALICE,
        event_id=EventId("$e"),
        at_ms=NOW_MS,
        message=Message(text="hi"),
    )
    await world.deliver(message)
    heard = await mercutio.hear("hi")
    markers = "urn:xmpp:chat-markers:0"
    assert heard.find(f"{{{markers}}}markable") is not None
    mercutio.send_raw(
        f"<message to='{ALICE_JID}' type='chat'>"
        f"<displayed xmlns='{markers}' id='{heard.id}'/></message>"
    )
    await told(
        ChatRead(
            sender="mercutio@a.test", message_id=heard.id, outbox_id=world.outbox_id, to_user=ALICE
        )
    )

    # Presence, both ways, between those who have let each other.
    mercutio.set_presence(to=ALICE_JID, type="subscribe")
    await mercutio.wait_for(lambda s: s.type == "subscribe" and s.bare_sender == ALICE_JID)
    mercutio.set_presence(to=ALICE_JID, type="subscribed")
    mercutio.set_presence(show="dnd", status="busy")
    await told(ChatPresence(sender="mercutio@a.test", availability="dnd", status_text="busy"))
    since = mercutio.position
    await adapter.show(ShowPresence(sender=ALICE, availability="away", status_text="tea"))
    away = await mercutio.wait_for(is_shown("show", ALICE_JID), since=since)
    assert away.element.findtext("{jabber:client}show") == "away"

    # In a room: to everybody in it, from the occupant.
    romeo = await xmpp_person(world.prosody, "romeo")
    juliet = await xmpp_person(world.prosody, "juliet")
    garden.members[ALICE] = "Alice"
    await romeo.enter(ROOM, "Romeo")
    await juliet.enter(ROOM, "Juliet")
    await adapter.show(ShowTyping(sender=ALICE, typing=True, room_id=ROOM_ID))
    for person in (romeo, juliet):
        typing = await person.wait_for(is_shown("composing", ROOM))
        assert (typing.nickname, typing.type) == ("Alice", "groupchat")
    juliet.send_raw(
        f"<message to='{ROOM}' type='groupchat'><composing xmlns='{states}'/></message>"
    )
    await told(ChatTyping(sender="juliet@a.test", typing=True, to_room=ROOM_ID))

    # Whoever goes is gone.
    await mercutio.logout()
    await told(ChatPresence(sender="mercutio@a.test", availability="unavailable", status_text=None))


async def test_an_invite_is_mediated_and_a_decline_refuses_it(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await world.deliver(
        RoomInvite(
            to="romeo@a.test",
            room_id=ROOM_ID,
            alias=None,
            name="Garden",
            inviter=ALICE,
            reason="roses",
        )
    )
    room = f"!abc%m.example@{DOMAIN}"
    invited = await romeo.wait_for(lambda s: s.kind == "message" and s.sender == room)
    muc_user = "{http://jabber.org/protocol/muc#user}"
    invite = invited.element.find(f"{muc_user}x/{muc_user}invite")
    assert invite is not None
    assert (invite.get("from"), invite.findtext(f"{muc_user}reason")) == (ALICE_JID, "roses")
    message = ET.Element("{jabber:client}message", {"to": room})
    decline = ET.SubElement(ET.SubElement(message, f"{muc_user}x"), f"{muc_user}decline")
    decline.set("to", ALICE_JID)
    ET.SubElement(decline, f"{muc_user}reason").text = "hay fever"
    romeo.send(message)
    async with asyncio.timeout(WAIT_S):
        assert await world.listener.left.get() == ("romeo@a.test", ROOM_ID, "hay fever")


async def test_leave_is_a_command_on_the_room(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await romeo.enter(ROOM, "Romeo")
    node = {"node": "http://jabber.org/protocol/commands"}
    listed = await romeo.ask(
        ROOM, ET.Element("{http://jabber.org/protocol/disco#items}query", node)
    )
    assert [i.get("node") for i in listed.element.iter() if i.tag.endswith("}item")] == ["leave"]
    done = await romeo.run_command(ROOM, "leave")
    assert "You have left the room." in ET.tostring(done.element, "unicode")
    caller, line = world.commands.called[0]
    assert (caller.user_id, caller.room_id, line) == (ghost("romeo"), ROOM_ID, "leave")
    await world.deliver(garden.went(ghost("romeo")))
    seen = await romeo.see_go(ROOM, "Romeo")
    assert 307 not in seen.statuses
    assert 110 in seen.statuses


async def test_the_subject_goes_both_ways(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await romeo.enter(ROOM, "Romeo")
    romeo.set_subject(ROOM, "Thorns")
    async with asyncio.timeout(WAIT_S):
        assert await world.listener.topics.get() == "Thorns"
    await world.deliver(garden.subject(ALICE, "Tulips"))
    seen = await romeo.wait_for(lambda s: s.subject == "Tulips")
    assert seen.sender == f"{ROOM}/Alice"


async def test_private_messages_in_a_room_get_a_clear_error(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(world.prosody, "romeo")
    await romeo.enter(ROOM, "Romeo")
    error = await romeo.error(romeo.say(f"{ROOM}/Alice", "psst"))
    assert error.condition == "feature-not-implemented"


async def test_three_hundred_members_and_messages_come_in_order(
    world: World, garden: ScriptedRoom, xmpp_person: MakeXmppPerson
) -> None:
    for number in range(300):
        garden.members[UserId(f"@m{number}:m.example")] = f"Member {number}"
    romeo = await xmpp_person(world.prosody, "romeo")
    entry = await romeo.enter(ROOM, "Romeo")
    assert len(entry.occupants) == 303
    for number in range(100):
        await world.deliver(garden.said(ALICE, f"n{number}"))
    await romeo.hear("n99")
    bodies = [s.body for s in romeo.transcript if s.type == "groupchat" and s.body]
    assert bodies == [f"n{number}" for number in range(100)]
    with pytest.raises(NotSeen):
        await romeo.hear("n100", timeout_s=0.05)


async def test_people_of_a_server_that_was_killed_leave_with_the_first_message(
    certificates: CertificateAuthority,
    sqlite_database: Database,
    xmpp_person: MakeXmppPerson,
) -> None:
    async with prosody_pair_running("cert", certificates) as (near, far):
        listener = ScriptedListener(
            {"romeo@a.test": ghost("romeo"), "benvolio@b.test": UserId("@benvolio=40b.test:gw")}
        )
        garden = listener.room(ScriptedRoom(room_id=ROOM_ID, alias=ALIAS, members={ALICE: None}))
        adapter = make_adapter(near, sqlite_database, listener, LeaveOnly())
        world = World(
            prosody=near,
            database=sqlite_database,
            listener=listener,
            commands=LeaveOnly(),
            adapter=adapter,
            task=asyncio.get_running_loop().create_task(asyncio.sleep(0)),
        )
        await world.start()
        romeo = await xmpp_person(near, "romeo")
        benvolio = await xmpp_person(far, "benvolio")
        await romeo.enter(ROOM, "Romeo")
        await benvolio.enter(ROOM, "Benvolio")
        await romeo.see_arrive(ROOM, "Benvolio")
        await world.deliver(garden.said(ALICE, "for both"))
        await benvolio.hear("for both")
        await far.kill()
        await world.deliver(garden.said(ALICE, "for one"))
        await romeo.see_go(ROOM, "Benvolio", timeout_s=30)
        await far.start()
        await benvolio.login()
        await benvolio.enter(ROOM, "Benvolio")
        await world.stop()
