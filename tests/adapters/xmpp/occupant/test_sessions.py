"""Matrix users in a foreign chat, over a scripted chat service: what they do, and what is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from xml.etree import ElementTree as ET

import pytest

from bridge.adapters.xmpp.addresses import AddressBook
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.namespaces import MAM
from bridge.adapters.xmpp.occupant.sessions import GuestDelivery, Occupants
from bridge.content.model import Message
from bridge.errors import Refused, Unavailable
from bridge.ids import EventId, RoomId, ServerName, TraceId, UserId
from bridge.ports.chat import (
    ChatAbandon,
    ChatPost,
    ChatSubject,
    GuestEnter,
    GuestLeave,
    GuestRemoved,
    GuestRename,
    OccupantGone,
    OccupantRoll,
)
from bridge.ports.ephemeral import ChatRead, ChatTyping, ShowRead, ShowTyping
from bridge.storage import chats, guests
from bridge.storage.database import Database
from tests.support.clock import FakeClock, settle
from tests.support.foreign import Bridge
from tests.support.muc import ROOM, Muc

GW = ServerName("gw.test")
ALICE = UserId("@alice:m.test")
BOB = UserId("@bob:m.test")
BOT = UserId("@isthmus:gw.test")
ALICE_JID = "alice%m.test@gw.test"
BOB_JID = "bob%m.test@gw.test"
BOT_JID = "isthmus@gw.test"
ROMEO = "romeo@a.test/x"
ROMEO_ADDRESS = f"{ROOM}/iid-romeo@a.test"


class World:
    """`muc` survives a restart of ours; `occupants` is this process."""

    def __init__(self, database: Database, clock: FakeClock, **limits: int) -> None:
        self.database = database
        self.clock = clock
        self.limits = XmppLimits.model_validate(
            {"guest_timeout_s": 0.2, "describe_timeout_s": 0.2, **limits}
        )
        self.muc = Muc(clock.now_ms)
        self.bridge = Bridge(database=database, clock=clock, chat=ROOM)
        self.not_taken: list[ET.Element] = []
        self.occupants = self._new()

    def _new(self) -> Occupants:
        numbers = iter(range(10_000))
        occupants = Occupants(
            adapter="xmpp",
            wire=self.muc,
            database=self.database,
            listener=self.bridge,
            book=AddressBook(component="gw.test", server=GW),
            clock=self.clock,
            random=random.Random(1),
            limits=self.limits,
            new_trace=lambda: TraceId(f"t{next(numbers)}"),
        )
        self.muc.deliver = self._deliver
        return occupants

    def _deliver(self, xml: ET.Element) -> None:
        start = (xml.get("from", ""), xml.get("to", ""), xml.get("type", ""))
        is_dropped = self.occupants.drops(xml.tag.rpartition("}")[2], *start)
        if not is_dropped and not self.occupants.take(xml):
            self.not_taken.append(xml)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.occupants.load()
        task = asyncio.get_running_loop().create_task(self.occupants.run())
        await settle()
        self.occupants.on_connected()
        await self.quiet()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def quiet(self) -> None:
        """Until nothing is on its way; a database answers from another thread."""
        for _ in range(6):
            await settle()
            await asyncio.sleep(0.005)
        await self.occupants.wait_idle()

    async def reconnect(self) -> None:
        self.occupants.on_connected()
        await self.quiet()

    async def deliver(self, delivery: GuestDelivery, number: int = 1) -> str | None:
        epoch = self.database.epoch
        done = await self.occupants.deliver(
            delivery, key=str(number), own_id=f"{epoch}.out.{number}"
        )
        await self.quiet()
        return done

    async def enter(self, user_id: UserId = ALICE, name: str | None = "Alice") -> None:
        await self.deliver(GuestEnter(chat=ROOM, user_id=user_id, displayname=name))

    async def post(self, text: str, number: int = 1, sender: UserId = ALICE) -> str | None:
        return await self.deliver(
            ChatPost(
                chat=ROOM,
                sender=sender,
                sender_name=sender[1:].partition(":")[0].title(),
                event_id=EventId("$e"),
                room_id=RoomId("!r:gw.test"),
                at_ms=self.clock.now_ms(),
                message=Message(text=text),
            ),
            number,
        )

    async def rows(self) -> list[tuple[str, str]]:
        found = await self.database.read(lambda tx: guests.list_all(tx, adapter="xmpp"))
        return [(row.user_id, row.nickname) for row in found]

    def groupchats(self) -> list[str]:
        """Bodies of what we sent since the last look."""
        return [xml.findtext("{*}body") or "" for xml in self.muc.take("message")]


@pytest.fixture
async def world(sqlite_database: Database, clock: FakeClock) -> AsyncIterator[World]:
    world = World(sqlite_database, clock)
    async with world.running():
        yield world


# --- entering -------------------------------------------------------------------------------------


async def test_a_guest_enters_without_the_past_and_sees_who_is_there(world: World) -> None:
    world.muc.join("romeo", ROMEO)
    await world.enter()
    (presence,) = world.muc.take("presence")
    assert presence.get("to") == f"{ROOM}/Alice"
    history = presence.find("{*}x/{*}history")
    assert history is not None
    assert history.attrib == {"maxstanzas": "0"}
    assert presence.findtext("{*}nick") == "Alice"
    told = world.bridge.take()
    assert "in as Alice, wanted Alice" in told
    assert [line for line in told if not line.startswith("in as")] == [
        "roll romeo",
        "subject Roses",
    ]
    assert await world.rows() == [(ALICE, "Alice")]


async def test_who_is_in_is_not_entered_again(world: World) -> None:
    await world.enter()
    world.muc.take()
    await world.enter()
    assert world.muc.take() == []


async def test_a_taken_nickname_gets_a_suffix_and_that_is_said(world: World) -> None:
    world.muc.join("Alice", ROMEO)
    await world.enter()
    assert await world.rows() == [(ALICE, "Alice (m.test)")]
    assert "in as Alice (m.test), wanted Alice" in world.bridge.take()
    assert world.muc.people["Alice"].jid == ROMEO


@pytest.mark.parametrize(
    ("condition", "type", "words"),
    [
        ("registration-required", "auth", "members only"),
        ("forbidden", "auth", "banned"),
        ("not-authorized", "auth", "password"),
        ("not-allowed", "cancel", "may not be created"),
        ("service-unavailable", "wait", "full"),
        ("gone", "modify", "exists no more"),
    ],
)
async def test_a_room_that_refuses_says_why(
    world: World, condition: str, type: str, words: str
) -> None:
    world.muc.refuses["enter"] = (condition, "cancel" if type == "wait" else type)
    with pytest.raises(Refused, match=words):
        await world.enter()
    assert await world.rows() == []


async def test_a_server_that_cannot_be_reached_is_tried_later(world: World) -> None:
    world.muc.refuses["enter"] = ("remote-server-not-found", "cancel")
    with pytest.raises(Unavailable):
        await world.enter()
    world.muc.refuses.clear()
    world.muc.is_deaf = True
    with pytest.raises(Unavailable):
        await world.enter()
    world.muc.is_deaf = False
    await world.enter()
    assert await world.rows() == [(ALICE, "Alice")]


async def test_a_room_that_does_not_exist_is_not_made(world: World) -> None:
    world.muc.exists = False
    with pytest.raises(Refused, match="no chat room"):
        await world.enter()
    assert not world.muc.people


# --- leaving and renaming -------------------------------------------------------------------------


async def test_leaving_is_said_with_its_reason_and_done_once(world: World) -> None:
    await world.enter()
    world.muc.take()
    leave = GuestLeave(chat=ROOM, user_id=ALICE, reason="bye")
    await world.deliver(leave)
    (presence,) = world.muc.take("presence")
    assert (presence.get("type"), presence.findtext("{*}status")) == ("unavailable", "bye")
    assert await world.rows() == []
    await world.deliver(leave)
    assert world.muc.take("presence") == []


async def test_a_new_display_name_becomes_a_new_nickname(world: World) -> None:
    await world.enter()
    world.bridge.take()
    await world.deliver(GuestRename(chat=ROOM, user_id=ALICE, displayname="Alicia"))
    assert await world.rows() == [(ALICE, "Alicia")]
    assert list(world.muc.people) == ["Alicia"]
    assert world.bridge.take() == []
    assert await world.post("still me") == "a1"


async def test_a_new_nickname_that_is_taken_gets_a_suffix(world: World) -> None:
    await world.enter()
    world.muc.join("Alicia", ROMEO)
    await world.deliver(GuestRename(chat=ROOM, user_id=ALICE, displayname="Alicia"))
    assert await world.rows() == [(ALICE, "Alicia (m.test)")]
    assert "in as Alicia (m.test), wanted Alicia" in world.bridge.take()


async def test_an_abandoned_chat_is_left_by_all(world: World) -> None:
    await world.enter()
    await world.enter(BOB, "Bob")
    await world.deliver(ChatAbandon(chat=ROOM, reason=None))
    assert not world.muc.people
    assert await world.rows() == []
    stored = await world.database.read(lambda tx: chats.find(tx, adapter="xmpp", chat=ROOM))
    assert stored == chats.StoredChat()


# --- posting --------------------------------------------------------------------------------------


async def test_a_post_is_done_when_the_room_shows_it(world: World) -> None:
    await world.enter()
    world.bridge.take()
    assert await world.post("hello") == "a1"
    assert world.bridge.take() == []


async def test_an_author_who_is_not_in_enters_first(world: World) -> None:
    assert await world.post("hello", sender=BOB) == "a1"
    assert await world.rows() == [(BOB, "Bob")]


async def test_a_post_that_was_shown_already_is_not_sent_again(world: World) -> None:
    await world.enter()
    await world.post("hello", 7)
    world.muc.take()
    assert await world.post("hello", 7) == "a1"
    assert world.groupchats() == []


async def test_a_post_that_was_not_seen_is_looked_for_before_it_is_sent_again(
    world: World,
) -> None:
    await world.enter()
    world.muc.shows_nothing = True
    with pytest.raises(Unavailable):
        await world.post("hello", 7)
    world.muc.shows_nothing = False
    world.muc.take()
    assert await world.post("hello", 7) == "a1"
    assert world.groupchats() == []


async def test_whom_the_room_has_put_out_enters_again_and_posts(world: World) -> None:
    await world.enter()
    world.muc.forget_us()
    assert await world.post("hello") == "a1"
    assert list(world.muc.people) == ["Alice"]
    assert not [line for line in world.bridge.take() if "@alice" in line]


async def test_without_voice_a_post_is_refused(world: World) -> None:
    await world.enter()
    world.muc.refuses["message"] = ("forbidden", "auth")
    with pytest.raises(Refused, match="voice"):
        await world.post("hello")


async def test_a_ghost_of_ours_is_spoken_for_by_the_relay(world: World) -> None:
    assert await world.post("hello", sender=UserId("@juliet=40a.test:gw.test")) == "a1"
    assert world.groupchats() == ["Juliet=40A.Test: hello"]
    assert [p.jid for p in world.muc.people.values()] == [BOT_JID]


async def test_one_too_many_is_spoken_for_by_the_relay(
    sqlite_database: Database, clock: FakeClock
) -> None:
    world = World(sqlite_database, clock, guests=1)
    async with world.running():
        await world.enter()
        await world.enter(BOB, "Bob")
        await world.post("hello", 1, sender=BOB)
        assert world.groupchats() == ["Bob: hello"]
        assert {p.jid for p in world.muc.people.values()} == {ALICE_JID, BOT_JID}
        assert not [line for line in world.bridge.take() if "Matrix" in line]


async def test_a_subject_is_done_when_it_is_shown_and_comes_back_to_nobody(world: World) -> None:
    await world.enter()
    world.bridge.take()
    await world.deliver(
        ChatSubject(chat=ROOM, sender=ALICE, text="Lilies", room_id=RoomId("!r:gw.test"))
    )
    assert world.bridge.take() == []
    world.muc.refuses["message"] = ("forbidden", "auth")
    with pytest.raises(Refused):
        await world.deliver(
            ChatSubject(chat=ROOM, sender=ALICE, text="Tulips", room_id=RoomId("!r:gw.test"))
        )


# --- hearing --------------------------------------------------------------------------------------


async def test_what_the_others_do_is_told_in_order_and_once(world: World) -> None:
    await world.enter()
    await world.enter(BOB, "Bob")
    world.bridge.take()
    world.muc.join("romeo", ROMEO)
    world.muc.say("romeo", "hi")
    world.muc.rename("romeo", "montague")
    world.muc.say("montague", "me again")
    world.muc.part("montague")
    await world.quiet()
    assert world.bridge.take() == [
        "+romeo",
        "romeo: hi",
        "+montague",
        "montague: me again",
        "-montague left",
    ]
    message = world.bridge.messages[0]
    assert (message.sender, message.archive_id, message.to_chat) == (ROMEO_ADDRESS, "a1", ROOM)
    assert world.bridge.messages[1].sender == ROMEO_ADDRESS


async def test_kicks_and_bans_of_others_are_told_and_lost_connections_are_not(
    world: World,
) -> None:
    await world.enter()
    for name in ("a", "b", "c"):
        world.muc.join(name, f"{name}@a.test/x")
    world.bridge.take()
    world.muc.part("a", 307, reason="spam", actor="romeo")
    world.muc.part("b", 301)
    world.muc.part("c", 307, 333)
    await world.quiet()
    gone = [c for c in world.bridge.changes if isinstance(c, OccupantGone)]
    assert [(c.occupant.nickname, c.how) for c in gone] == [
        ("a", "kicked"),
        ("b", "banned"),
        ("c", "left"),
    ]
    assert (gone[0].actor, gone[0].reason) == ("romeo", "spam")


async def test_another_listener_takes_over_and_nothing_is_missing_or_double(world: World) -> None:
    await world.enter()
    await world.enter(BOB, "Bob")
    world.muc.join("romeo", ROMEO)
    world.muc.say("romeo", "one")
    await world.deliver(GuestLeave(chat=ROOM, user_id=ALICE, reason=None))
    world.muc.say("romeo", "two")
    await world.quiet()
    assert [m.message.text for m in world.bridge.messages] == ["one", "two"]


async def test_a_kicked_guest_is_told_with_actor_and_reason(world: World) -> None:
    await world.enter()
    world.bridge.take()
    world.muc.part("Alice", 307, reason="too loud", actor="romeo")
    await world.quiet()
    assert world.bridge.take() == [f"{ALICE} kicked by romeo: too loud"]
    assert await world.rows() == []


@pytest.mark.parametrize("statuses", [(), (332,), (307, 333)])
async def test_a_guest_that_was_lost_comes_back_and_nobody_hears_of_it(
    world: World, statuses: tuple[int, ...]
) -> None:
    await world.enter()
    world.bridge.take()
    world.muc.part("Alice", *statuses)
    await world.quiet()
    assert list(world.muc.people) == ["Alice"]
    assert [line for line in world.bridge.take() if not line.startswith(("roll", "name"))] == []
    assert await world.rows() == [(ALICE, "Alice")]


async def test_a_destroyed_room_is_told_with_its_successor(world: World) -> None:
    await world.enter()
    await world.enter(BOB, "Bob")
    world.bridge.take()
    world.muc.destroy("park@muc.test", "moved")
    await world.quiet()
    assert world.bridge.take() == ["destroyed, now park@muc.test: moved"]
    assert await world.rows() == []


async def test_a_new_name_is_told(world: World) -> None:
    await world.enter()
    world.bridge.take()
    world.muc.name = "The park"
    world.muc.configure(104)
    await world.quiet()
    assert world.bridge.take() == ["name The park"]


async def test_a_chat_that_we_do_not_visit_is_not_ours(world: World) -> None:
    await world.enter()
    other = ET.fromstring(
        f"<message xmlns='jabber:component:accept' from='x@muc.test/y' to='{ALICE_JID}'/>"
    )
    assert not world.occupants.take(other)


async def test_a_private_message_in_the_room_is_answered_and_bridged_to_nobody(
    world: World,
) -> None:
    await world.enter()
    world.muc.take()
    private = ET.fromstring(
        f"<message xmlns='jabber:component:accept' type='chat' id='p' from='{ROOM}/romeo'"
        f" to='{ALICE_JID}'><body>psst</body></message>"
    )
    assert world.occupants.take(private)
    await world.quiet()
    (answer,) = world.muc.take("message")
    assert answer.get("type") == "error"
    assert answer.find("{*}error/{*}feature-not-implemented") is not None
    assert world.bridge.messages == []


# --- identity -------------------------------------------------------------------------------------


async def test_no_real_address_leaves_a_semi_anonymous_room_even_to_an_admin(
    world: World,
) -> None:
    world.muc.affiliations[ALICE_JID] = "admin"
    await world.enter()
    world.muc.join("romeo", ROMEO)
    world.muc.say("romeo", "hi")
    world.muc.part("romeo")
    await world.quiet()
    assert "+romeo" in world.bridge.take()
    spoken = repr((world.bridge.changes, world.bridge.messages))
    assert "romeo@a.test/x" not in spoken
    assert "'romeo@a.test'" not in spoken
    assert await world.occupants.affiliation(ROOM, UserId("@romeo=40a.test:gw.test")) is None


async def test_where_addresses_are_shown_they_are_the_identity_until_they_are_hidden(
    world: World,
) -> None:
    world.muc.features = {"muc_nonanonymous", "urn:xmpp:occupant-id:0", MAM}
    world.muc.join("romeo", ROMEO)
    await world.enter()
    roll = next(c for c in world.bridge.changes if isinstance(c, OccupantRoll))
    assert [person.address for person in roll.occupants] == ["romeo@a.test"]
    world.muc.features = {"muc_semianonymous", "urn:xmpp:occupant-id:0", MAM}
    world.muc.configure(104, 173)
    await world.quiet()
    world.muc.say("romeo", "hidden")
    await world.quiet()
    assert world.bridge.messages[-1].sender == ROMEO_ADDRESS
    stored = await world.database.read(lambda tx: chats.find(tx, adapter="xmpp", chat=ROOM))
    assert stored.identity == "occupant-id"


async def test_addresses_that_were_hidden_while_we_were_away_are_no_identity_any_more(
    world: World,
) -> None:
    world.muc.features = {"muc_nonanonymous", "urn:xmpp:occupant-id:0", MAM}
    world.muc.join("romeo", ROMEO)
    await world.enter()
    world.muc.say("romeo", "shown")
    await world.quiet()
    world.muc.features = {"muc_semianonymous", "urn:xmpp:occupant-id:0", MAM}
    world.muc.forget_us()
    await world.reconnect()
    world.muc.say("romeo", "hidden")
    await world.quiet()
    assert [m.sender for m in world.bridge.messages] == ["romeo@a.test", ROMEO_ADDRESS]
    world.muc.features = {"muc_nonanonymous", "urn:xmpp:occupant-id:0", MAM}
    await world.reconnect()
    world.muc.say("romeo", "shown again")
    await world.quiet()
    assert world.bridge.messages[-1].sender == ROMEO_ADDRESS, "never the other way"


async def test_occupant_ids_are_not_believed_where_the_room_does_not_announce_them(
    world: World,
) -> None:
    world.muc.features = {MAM}
    world.muc.join("romeo", ROMEO)
    await world.enter()
    forged = "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='id-juliet@a.test'/>"
    world.muc.say("romeo", "hi", extra=forged)
    world.muc.rename("romeo", "montague")
    await world.quiet()
    assert world.bridge.messages[-1].sender == f"{ROOM}/nromeo"
    assert world.bridge.take()[-2:] == ["-romeo left", "+montague"]


# --- after an absence -----------------------------------------------------------------------------


async def test_what_was_missed_comes_once_in_order_and_nobody_seems_to_leave(
    world: World,
) -> None:
    await world.enter()
    await world.enter(BOB, "Bob")
    world.muc.join("romeo", ROMEO)
    world.muc.say("romeo", "before")
    await world.quiet()
    world.bridge.take()
    world.muc.forget_us()
    world.clock.shift(60)
    for number in range(120):
        world.muc.say("romeo", f"missed {number}")
    await world.reconnect()
    world.muc.say("romeo", "after")
    await world.clock.advance(2)
    await world.quiet()
    told = world.bridge.take()
    said = [line for line in told if line.startswith("romeo:")]
    assert said == [*(f"romeo: missed {n}" for n in range(120)), "romeo: after"]
    assert [line for line in told if not line.startswith(("romeo:", "roll", "name"))] == []
    assert set(world.muc.people) == {"Alice", "Bob", "romeo"}


async def test_our_own_people_who_are_still_in_are_nobodys_occupants(world: World) -> None:
    await world.enter()
    await world.enter(BOB, "Bob")
    world.muc.join("romeo", ROMEO)
    await world.quiet()
    world.bridge.take()
    world.muc.take()
    await world.reconnect()
    await world.clock.advance(2)
    await world.quiet()
    assert world.bridge.take() == ["roll romeo"]
    joins = [xml.get("from") for xml in world.muc.take("presence")]
    assert joins == [ALICE_JID], "who is still in is asked only"


async def test_who_took_a_nickname_while_we_were_away_keeps_it(world: World) -> None:
    await world.enter()
    await world.enter(BOB, "Bob")
    world.bridge.take()
    world.muc.forget_us()
    world.muc.join("Bob", ROMEO)
    await world.reconnect()
    await world.clock.advance(2)
    world.muc.say("Bob", "I am Romeo")
    await world.quiet()
    told = world.bridge.take()
    assert "+Bob" in told
    assert "Bob: I am Romeo" in told
    assert "in as Bob (m.test), wanted Bob" in told
    assert set(await world.rows()) == {(ALICE, "Alice"), (BOB, "Bob (m.test)")}


async def test_a_guest_keeps_their_nickname_while_the_room_is_not_reachable(world: World) -> None:
    world.muc.join("Alice", ROMEO)
    await world.enter()
    world.muc.part("Alice")
    world.muc.forget_us()
    world.muc.refuses["enter"] = ("remote-server-timeout", "wait")
    await world.reconnect()
    world.muc.refuses.clear()
    await world.clock.advance(10)
    await world.quiet()
    assert list(world.muc.people) == ["Alice (m.test)"]


@pytest.mark.parametrize(
    "stanza",
    [
        "<message type='chat' from='{room}/{long}' to='{alice}'><body>x</body></message>",
        "<presence from='{room}/{long}' to='{alice}'/>",
        "<message type='groupchat' from='{room}/{long}' to='{alice}'><body>x</body></message>",
        (
            "<message type='groupchat' from='{room}' to='{alice}'><x xmlns='http://jabber.org/protocol"
            "/muc#user'><status code='{long}'/><status/></x></message>"
        ),
        "<presence type='error' from='{room}' to='{alice}'/>",
        "<message type='error' from='{room}' to='{alice}'/>",
        (
            "<presence from='{room}/x' to='{alice}'><x xmlns='http://jabber.org/protocol/muc#user'>"
            "<item jid='@@' nick=''/></x></presence>"
        ),
    ],
)
async def test_nonsense_from_a_room_stops_nothing(world: World, stanza: str) -> None:
    await world.enter()
    text = stanza.format(room=ROOM, alice=ALICE_JID, long="9" * 5000)
    head, _, rest = text.partition(" ")
    assert world.occupants.take(ET.fromstring(f"{head} xmlns='jabber:component:accept' {rest}"))
    await world.quiet()
    assert await world.post("still here") == "a1"


async def test_a_room_that_puts_us_out_at_once_is_not_entered_without_end(world: World) -> None:
    await world.enter()
    for _ in range(5):
        world.muc.part("Alice") if "Alice" in world.muc.people else None
        await world.quiet()
    assert len(world.muc.take("presence")) < 4


async def test_a_room_where_only_we_write_is_not_read_from_its_beginning(world: World) -> None:
    await world.enter()
    for number in range(100):
        await world.occupants.deliver(
            ChatPost(
                chat=ROOM,
                sender=ALICE,
                sender_name="Alice",
                event_id=EventId("$e"),
                room_id=RoomId("!r:gw.test"),
                at_ms=0,
                message=Message(text="x"),
            ),
            key="1",
            own_id=f"{world.database.epoch}.out.{number}",
        )
    await world.quiet()
    stored = await world.database.read(lambda tx: chats.find(tx, adapter="xmpp", chat=ROOM))
    assert stored.archive_id == "a100"


async def test_after_a_restart_the_same_and_a_post_that_was_shown_is_not_sent_again(
    sqlite_database: Database, clock: FakeClock
) -> None:
    first = World(sqlite_database, clock)
    async with first.running():
        await first.enter()
        first.muc.join("romeo", ROMEO)
        first.muc.shows_nothing = True
        with pytest.raises(Unavailable):
            await first.post("in doubt", 7)
        first.muc.shows_nothing = False
        first.muc.say("romeo", "before")
        await first.quiet()
    second = World(sqlite_database, clock)
    second.muc, second.bridge = first.muc, first.bridge
    second.occupants = second._new()
    second.muc.forget_us()
    clock.shift(600)
    second.muc.say("romeo", "missed")
    second.bridge.take()
    second.muc.take()
    async with second.running():
        told = second.bridge.take()
        assert [line for line in told if line.startswith("romeo")] == ["romeo: missed"]
        assert await second.post("in doubt", 7) == "a1"
        assert second.groupchats() == []


async def test_without_an_archive_the_history_since_then_is_asked_for(world: World) -> None:
    world.muc.features = {"urn:xmpp:occupant-id:0"}
    await world.enter()
    world.muc.join("romeo", ROMEO)
    world.muc.say("romeo", "before")
    await world.quiet()
    world.muc.forget_us()
    world.clock.shift(60)
    world.muc.say("romeo", "missed")
    world.bridge.take()
    await world.reconnect()
    assert [line for line in world.bridge.take() if line.startswith("romeo")] == ["romeo: missed"]


async def test_live_messages_wait_for_the_archive_and_come_behind_it(world: World) -> None:
    await world.enter()
    world.muc.join("romeo", ROMEO)
    await world.quiet()
    world.muc.forget_us()
    world.muc.say("romeo", "missed")
    world.muc.refuses["archive"] = ("remote-server-timeout", "wait")
    world.occupants.on_connected()
    for _ in range(6):
        await settle()
        await asyncio.sleep(0.005)
    world.muc.say("romeo", "live")
    world.bridge.take()
    world.muc.refuses.clear()
    await world.clock.advance(5)
    await world.quiet()
    said = [line for line in world.bridge.take() if line.startswith("romeo")]
    assert said == ["romeo: missed", "romeo: live"]


async def test_when_too_much_waits_it_is_read_again_from_the_archive(
    sqlite_database: Database, clock: FakeClock
) -> None:
    world = World(sqlite_database, clock, lane_stanzas=5)
    async with world.running():
        await world.enter()
        world.muc.join("romeo", ROMEO)
        await world.quiet()
        world.bridge.take()
        for number in range(40):
            world.muc.say("romeo", f"line {number}")
        await world.quiet()
        said = [line for line in world.bridge.take() if line.startswith("romeo")]
        assert said == [f"romeo: line {number}" for number in range(40)]


async def test_who_is_not_taken_back_is_removed(world: World) -> None:
    await world.enter()
    await world.enter(BOB, "Bob")
    world.bridge.take()
    world.muc.forget_us()
    world.muc.affiliations[ALICE_JID] = "outcast"
    await world.reconnect()
    removed = [c for c in world.bridge.changes if isinstance(c, GuestRemoved)]
    assert [(c.user_id, c.how) for c in removed] == [(ALICE, "banned")]
    assert await world.rows() == [(BOB, "Bob")]
    assert list(world.muc.people) == ["Bob"]


async def test_a_silent_listener_asks_whether_it_is_in(world: World) -> None:
    await world.enter()
    world.muc.forget_us()
    await world.clock.advance(400)
    await world.quiet()
    assert list(world.muc.people) == ["Alice"]


# --- what the chat says of somebody ---------------------------------------------------------------


async def test_a_guests_own_affiliation_is_known(world: World) -> None:
    world.muc.affiliations[ALICE_JID] = "owner"
    await world.enter()
    assert await world.occupants.affiliation(ROOM, ALICE) == "owner"


async def test_where_addresses_are_shown_an_affiliation_is_read_from_them(world: World) -> None:
    world.muc.features = {"muc_nonanonymous"}
    world.muc.join("romeo", ROMEO, "admin")
    romeo = UserId("@romeo=40a.test:gw.test")
    assert await world.occupants.affiliation(ROOM, romeo) == "admin"
    assert list(world.muc.people) == ["romeo"], "the bot was there for a moment"
    assert world.bridge.take() == []


async def test_who_is_not_there_is_looked_for_in_the_lists(world: World) -> None:
    world.muc.shows_lists = True
    world.muc.affiliations["romeo@a.test"] = "owner"
    assert await world.occupants.affiliation(ROOM, UserId("@romeo=40a.test:gw.test")) == "owner"
    assert await world.occupants.affiliation(ROOM, UserId("@paris=40a.test:gw.test")) == "none"


async def test_only_an_owner_or_admin_confirms(world: World) -> None:
    world.muc.join("romeo", ROMEO, "owner")
    world.muc.join("paris", "paris@a.test/x", "member")
    waiting = asyncio.get_running_loop().create_task(
        world.occupants.await_confirmation(ROOM, "code-42", timeout_s=5)
    )
    await world.quiet()
    world.muc.say("paris", "code-42")
    await world.quiet()
    assert not waiting.done()
    world.muc.say("romeo", "what is code-42?")
    world.muc.say("romeo", " code-42 ")
    assert await waiting == "romeo"
    assert set(world.muc.people) == {"romeo", "paris"}
    assert world.bridge.take() == []


async def test_nobody_confirms_in_time(world: World) -> None:
    assert await world.occupants.await_confirmation(ROOM, "code", timeout_s=0.05) is None


# --- what passes --------------------------------------------------------------------------------

COMPOSING = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"


def displayed(name: str) -> str:
    return f"<displayed xmlns='urn:xmpp:chat-markers:0' id='{name}'/>"


async def test_who_types_and_reads_in_a_chat_is_told_of_and_ours_are_not(
    sqlite_database: Database, clock: FakeClock
) -> None:
    world = World(sqlite_database, clock)
    world.muc.join("romeo", ROMEO)
    async with world.running():
        await world.deliver(GuestEnter(chat=ROOM, user_id=ALICE, displayname="Alice"))
        world.muc.say("romeo", "", extra=COMPOSING)
        world.muc.say("romeo", "", extra=displayed("a1"))
        await world.occupants.show(ShowTyping(sender=ALICE, typing=True, chat=ROOM))
        await world.quiet()
        assert world.bridge.passing == [
            ChatTyping(sender=ROMEO_ADDRESS, typing=True, to_chat=ROOM),
            ChatRead(sender=ROMEO_ADDRESS, message_id="a1", to_chat=ROOM),
        ]


async def test_states_of_ours_are_shown_by_their_occupant_while_the_chat_is_small(
    sqlite_database: Database, clock: FakeClock
) -> None:
    world = World(sqlite_database, clock, states_sessions=2)
    world.muc.join("romeo", ROMEO)
    async with world.running():
        await world.deliver(GuestEnter(chat=ROOM, user_id=ALICE, displayname="Alice"))
        shown = (
            ShowTyping(sender=ALICE, typing=True, chat=ROOM),
            ShowRead(sender=ALICE, message_id="a1", chat=ROOM),
            ShowTyping(sender=BOB, typing=True, chat=ROOM),
        )

        async def sent() -> list[tuple[str | None, str]]:
            before = len(world.muc.sent)
            for one in shown:
                await world.occupants.show(one)
            return [
                (xml.get("from"), xml[0].tag.rpartition("}")[2]) for xml in world.muc.sent[before:]
            ]

        assert await sent() == [(ALICE_JID, "composing"), (ALICE_JID, "displayed")]
        world.muc.join("juliet", "juliet@a.test/x")
        world.muc.say("romeo", "", extra=COMPOSING)
        await world.quiet()
        assert await sent() == []
        assert world.bridge.passing == []
