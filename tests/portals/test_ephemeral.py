"""Typing, receipts and presence between the two sides: who is shown what, when, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
import pytest_asyncio

from bridge.adapters.loopback import LoopbackChat
from bridge.errors import Unavailable
from bridge.ids import EventId, RoomAlias, RoomId, UserId
from bridge.policy.rules import Action, RuleTable, read_rule
from bridge.portals.ephemeral import WAITING
from bridge.ports.chat import ChatPost, DirectMessage, RoomMessage
from bridge.ports.ephemeral import (
    ChatPresence,
    ChatRead,
    ChatTyping,
    Passing,
    ShowPresence,
    ShowRead,
    ShowTyping,
)
from bridge.ports.matrix import Ephemeral, MatrixBackend, PresenceChange, ReadUpTo, Typing
from tests.support.world import ALICE, BOB, GATEWAY, JULIET, ROMEO, World

TEA = "tea@muc.example"
TEA_ALIAS = RoomAlias(f"#tea=40muc.example:{GATEWAY}")
GARDEN = RoomAlias("#garden:matrix.example")


class Heard:
    """A back end that writes down what passes; all the rest is the real one's."""

    def __init__(self, backend: MatrixBackend) -> None:
        self._backend = backend
        self.said: list[tuple[Any, ...]] = []
        self.fails = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def _write(self, *what: Any) -> None:
        if self.fails:
            raise Unavailable("not now")
        self.said.append(what)

    async def set_typing(
        self, *, room_id: RoomId, user_id: UserId, typing: bool, timeout_ms: int = 30_000
    ) -> None:
        self._write("typing", room_id, user_id, typing)

    async def read_up_to(
        self, *, room_id: RoomId, user_id: UserId, event_id: EventId, thread_id: str | None = None
    ) -> None:
        self._write("read", room_id, user_id, event_id)

    async def set_presence(
        self, *, user_id: UserId, presence: str, status_text: str | None = None
    ) -> None:
        self._write("presence", user_id, presence, status_text)


class Stage:
    def __init__(self, world: World) -> None:
        self.world = world
        self.portal = world.portals.ephemeral
        self.matrix = Heard(world.gateway.backend)
        self.portal._backend = cast(MatrixBackend, self.matrix)
        self.juliet = world.ghost(JULIET)

    async def direct(self) -> RoomId:
        room_id = await self.world.direct_room()
        await self.world.settle()
        return room_id

    async def garden(self, *people: str) -> RoomId:
        await self.world.home.backend.create_room(
            creator=ALICE, txn="garden", alias=GARDEN, public=True
        )
        for person in people:
            room_id = (await self.world.chat.enter(person, GARDEN)).info.room_id
        await self.world.settle()
        return room_id

    async def on(self, *changes: Ephemeral, after_s: float = 0.0) -> list[Passing]:
        """What is shown then."""
        self.world.clock.shift(after_s)
        for change in changes:
            await self.world.from_matrix.on_ephemeral(change)
        return await self.shown()

    async def shown(self, after_s: float = 0.0) -> list[Passing]:
        self.world.clock.shift(after_s)
        await self.portal.step()
        shown, self.world.chat.shown = self.world.chat.shown, []
        return shown

    async def tell(self, change: Any, *, after_s: float = 0.0) -> list[tuple[Any, ...]]:
        """What Matrix hears then."""
        self.world.clock.shift(after_s)
        self.world.chat.tell(change)
        return await self.heard()

    async def heard(self, after_s: float = 0.0) -> list[tuple[Any, ...]]:
        self.world.clock.shift(after_s)
        await self.portal.step()
        said, self.matrix.said = self.matrix.said, []
        return said


@pytest_asyncio.fixture
async def stage(world: World) -> AsyncIterator[Stage]:
    yield Stage(world)


def typing(room_id: RoomId, is_typing: bool = True, user: UserId = ALICE) -> Typing:
    return Typing(room_id=room_id, user_id=user, typing=is_typing)


def read(room_id: RoomId, event_id: EventId, user: UserId = ALICE) -> ReadUpTo:
    return ReadUpTo(room_id=room_id, user_id=user, event_id=event_id, thread_id=None, at_ms=1)


def presence(state: Any, *, ago_s: int | None = None, **more: Any) -> PresenceChange:
    return PresenceChange(
        user_id=ALICE,
        presence=state,
        status_text=more.get("status"),
        last_active_ms=None if ago_s is None else more["now_ms"] - ago_s * 1000,
        currently_active=more.get("active", False),
    )


# --- typing, from Matrix ------------------------------------------------------------------------


async def test_typing_in_a_direct_chat_is_shown_once_and_its_end_a_moment_later(
    stage: Stage,
) -> None:
    room_id = await stage.direct()
    assert await stage.on(typing(room_id)) == [ShowTyping(sender=ALICE, typing=True, to=JULIET)]
    assert await stage.on(typing(room_id), after_s=25) == []
    assert await stage.on(typing(room_id, False), after_s=3) == []
    assert await stage.shown(1.0) == [ShowTyping(sender=ALICE, typing=False, to=JULIET)]
    assert await stage.shown(100) == []


async def test_a_message_says_by_itself_that_its_author_has_stopped(stage: Stage) -> None:
    room_id = await stage.direct()
    await stage.on(typing(room_id))
    await stage.on(typing(room_id, False))
    await stage.world.say(room_id, "there")
    await stage.world.settle()
    assert await stage.shown(100) == []


async def test_who_types_and_disappears_has_stopped_after_a_minute(stage: Stage) -> None:
    room_id = await stage.direct()
    await stage.on(typing(room_id))
    assert await stage.shown(59) == []
    assert await stage.shown(1) == [ShowTyping(sender=ALICE, typing=False, to=JULIET)]
    assert await stage.shown(100) == []


async def test_a_stop_without_a_beginning_is_nothing(stage: Stage) -> None:
    room_id = await stage.direct()
    assert await stage.on(typing(room_id, False)) == []
    assert await stage.shown(2) == []


async def test_in_a_room_everybody_is_shown_typing_at_most_every_five_seconds(
    stage: Stage,
) -> None:
    room_id = await stage.garden(JULIET)
    assert await stage.on(typing(room_id)) == [
        ShowTyping(sender=ALICE, typing=True, room_id=room_id)
    ]
    assert await stage.on(typing(room_id, False)) == []
    assert await stage.shown(2) == []
    assert await stage.shown(3) == [ShowTyping(sender=ALICE, typing=False, room_id=room_id)]


async def test_what_our_own_people_do_does_not_come_back(stage: Stage) -> None:
    room_id = await stage.garden(JULIET, ROMEO)
    event_id = await stage.world.say(room_id, "hello")
    await stage.world.settle()
    assert (
        await stage.on(
            typing(room_id, user=stage.juliet),
            read(room_id, event_id, user=stage.juliet),
        )
        == []
    )


async def test_a_third_person_in_a_direct_room_is_not_shown(stage: Stage) -> None:
    room_id = await stage.direct()
    assert await stage.on(typing(room_id, user=BOB)) == []


async def test_rooms_without_anybody_of_the_chat_side_are_no_matter(stage: Stage) -> None:
    assert await stage.on(typing(RoomId("!elsewhere:matrix.example"))) == []


# --- receipts, from Matrix ----------------------------------------------------------------------


async def said_by_juliet(stage: Stage, text: str, stanza_id: str, **more: Any) -> EventId:
    await stage.world.chat.say(JULIET, text, to=ALICE, stanza_id=stanza_id, **more)
    await stage.world.settle()
    (room_id,) = await stage.world.gateway.backend.joined_rooms(stage.juliet)
    timeline = await stage.world.home.timeline(room_id)
    return EventId(next(o.pdu.event_id for o in timeline if o.pdu.content.get("body") == text))


async def test_the_author_of_a_direct_message_is_shown_that_it_was_read(stage: Stage) -> None:
    room_id = await stage.direct()
    event_id = await said_by_juliet(stage, "one", "s1", wants_marker=True)
    seen = ShowRead(sender=ALICE, message_id="s1", to=JULIET)
    assert await stage.on(read(room_id, event_id)) == [seen]
    assert await stage.on(read(room_id, event_id)) == []


async def test_a_later_event_means_the_newest_message_before_it_and_never_an_older(
    stage: Stage,
) -> None:
    room_id = await stage.direct()
    first = await said_by_juliet(stage, "one", "s1", wants_marker=True)
    await said_by_juliet(stage, "two", "s2", wants_marker=True)
    answer = await stage.world.say(room_id, "three")
    await stage.world.settle()
    assert await stage.on(read(room_id, answer)) == [
        ShowRead(sender=ALICE, message_id="s2", to=JULIET)
    ]
    assert await stage.on(read(room_id, first)) == []


async def test_who_did_not_ask_is_told_nothing_of_reading(stage: Stage) -> None:
    room_id = await stage.direct()
    event_id = await said_by_juliet(stage, "one", "s1")
    assert await stage.on(read(room_id, event_id)) == []


async def test_reading_in_a_room_is_shown_to_all_by_the_id_that_the_message_has_there(
    stage: Stage,
) -> None:
    room_id = await stage.garden(JULIET)
    await stage.world.chat.say(JULIET, "hello", to=room_id, stanza_id="g1")
    await stage.world.settle()
    (message,) = stage.world.delivered(RoomMessage)
    event_id = message.event_id
    assert await stage.on(read(room_id, event_id)) == [
        ShowRead(sender=ALICE, message_id=event_id, room_id=room_id)
    ]


async def test_a_receipt_that_comes_before_its_event_waits_for_it(stage: Stage) -> None:
    room_id = await stage.garden(JULIET)
    await stage.world.join(room_id, BOB)
    await stage.world.settle()
    event_id = await stage.world.say(room_id, "hello", user="bob")
    assert await stage.on(read(room_id, event_id)) == []
    await stage.world.settle()
    assert await stage.shown(2) == [ShowRead(sender=ALICE, message_id=event_id, room_id=room_id)]


# --- presence, from Matrix ----------------------------------------------------------------------


async def test_presence_is_shown_by_how_long_somebody_was_idle(stage: Stage) -> None:
    now_ms = stage.world.clock.now_ms()
    cases = [
        (presence("online", active=True), "available"),
        (presence("online", ago_s=60, now_ms=now_ms), "available"),
        (presence("online", ago_s=600, now_ms=now_ms), "away"),
        (presence("unavailable", ago_s=600, now_ms=now_ms), "away"),
        (presence("unavailable", ago_s=7200, now_ms=now_ms), "xa"),
        (presence("offline", ago_s=7200, now_ms=now_ms), "unavailable"),
    ]
    for change, availability in cases:
        (shown,) = await stage.on(change, after_s=5)
        assert isinstance(shown, ShowPresence)
        assert shown.availability == availability
        is_idle = availability in ("away", "xa")
        assert shown.idle_since_ms == (change.last_active_ms if is_idle else None)


async def test_of_many_changes_the_newest_is_shown(stage: Stage) -> None:
    (shown,) = await stage.on(
        presence("online", active=True), presence("offline"), presence("unavailable", status="tea")
    )
    assert shown == ShowPresence(sender=ALICE, availability="away", status_text="tea")


async def test_presence_changes_at_most_every_five_seconds(stage: Stage) -> None:
    assert len(await stage.on(presence("online", active=True))) == 1
    assert await stage.on(presence("offline"), after_s=1) == []
    (shown,) = await stage.shown(4)
    assert isinstance(shown, ShowPresence)
    assert shown.availability == "unavailable"


async def test_where_too_many_look_nothing_is_shown(stage: Stage) -> None:
    room_id = await stage.garden(JULIET)
    await stage.world.chat.say(JULIET, "hello", to=room_id)
    await stage.world.settle()
    (message,) = stage.world.delivered(RoomMessage)
    stage.world.chat.is_watching = False
    assert await stage.on(typing(room_id), read(room_id, message.event_id)) == []


async def test_what_was_read_in_a_thread_says_nothing_of_the_rest(stage: Stage) -> None:
    room_id = await stage.direct()
    event_id = await said_by_juliet(stage, "one", "s1", wants_marker=True)
    for thread_id, count in (("$thread", 0), ("main", 1)):
        change = replace(read(room_id, event_id), thread_id=thread_id)
        assert len(await stage.on(change)) == count


async def test_who_is_denied_here_is_neither_shown_nor_told_of(stage: Stage) -> None:
    room_id = await stage.direct()
    words = ["user", ALICE, "edus"]
    rule = read_rule(words, action=Action.DENY, rule_id=1)
    stage.world.gateway.house.replace(RuleTable.of([rule]))
    assert await stage.on(typing(room_id), presence("online")) == []
    assert await stage.tell(ChatTyping(sender=JULIET, typing=True, to_user=ALICE)) == []


async def test_more_than_can_wait_makes_the_oldest_give_way(stage: Stage) -> None:
    room_id = await stage.direct()
    flood = [typing(room_id, user=UserId(f"@u{n}:matrix.example")) for n in range(WAITING)]
    assert await stage.on(typing(room_id), *flood) == []


# --- from the chat side -------------------------------------------------------------------------


async def test_typing_of_the_chat_side_is_told_until_it_ends(stage: Stage) -> None:
    room_id = await stage.direct()
    types = ChatTyping(sender=JULIET, typing=True, to_user=ALICE)
    begins = ("typing", room_id, stage.juliet, True)
    assert await stage.tell(types) == [begins]
    assert await stage.heard(100) == []
    assert await stage.tell(types, after_s=5) == [begins]
    assert await stage.heard(100) == []
    stops = ChatTyping(sender=JULIET, typing=False, to_user=ALICE)
    assert await stage.tell(stops) == [("typing", room_id, stage.juliet, False)]
    assert await stage.heard(100) == []


async def test_a_client_that_says_no_more_is_believed_for_two_minutes(stage: Stage) -> None:
    room_id = await stage.direct()
    await stage.tell(ChatTyping(sender=JULIET, typing=True, to_user=ALICE))
    assert await stage.heard(119) == []
    assert await stage.heard(1) == [("typing", room_id, stage.juliet, False)]
    assert await stage.heard(200) == []


async def test_who_goes_away_has_stopped_typing(stage: Stage) -> None:
    room_id = await stage.direct()
    await stage.tell(ChatTyping(sender=JULIET, typing=True, to_user=ALICE))
    gone = ChatPresence(sender=JULIET, availability="unavailable", status_text=None)
    assert await stage.tell(gone) == [
        ("presence", stage.juliet, "offline", None),
        ("typing", room_id, stage.juliet, False),
    ]


async def test_typing_in_a_room_is_seen_on_both_sides(stage: Stage) -> None:
    room_id = await stage.garden(JULIET, ROMEO)
    types = ChatTyping(sender=JULIET, typing=True, to_room=room_id)
    assert await stage.tell(types) == [("typing", room_id, stage.juliet, True)]
    assert await stage.shown() == [ShowTyping(sender=stage.juliet, typing=True, room_id=room_id)]


async def test_typing_to_somebody_who_was_never_written_to_opens_no_room(stage: Stage) -> None:
    assert await stage.tell(ChatTyping(sender=JULIET, typing=True, to_user=BOB)) == []
    assert await stage.world.invited(BOB) == []


async def test_what_was_read_is_found_by_its_delivery(stage: Stage) -> None:
    room_id = await stage.direct()
    event_id = await stage.world.say(room_id, "hello")
    await stage.world.settle()
    (delivered,) = [
        one for one in stage.world.chat.delivered if isinstance(one.delivery, DirectMessage)
    ]
    outbox_id = delivered.outbox_id

    def reads(person: str) -> ChatRead:
        return ChatRead(sender=person, message_id="x", outbox_id=outbox_id, to_user=ALICE)

    assert await stage.tell(reads(JULIET)) == [("read", room_id, stage.juliet, event_id)]
    assert await stage.tell(reads(ROMEO)) == []


async def test_in_a_room_the_id_is_the_events_and_nobody_reads_what_they_wrote(
    stage: Stage,
) -> None:
    room_id = await stage.garden(JULIET, ROMEO)
    await stage.world.chat.say(ROMEO, "hello", to=room_id)
    await stage.world.settle()
    (message,) = stage.world.delivered(RoomMessage)
    marker = f"{message.event_id}/2"
    romeo, juliet = (
        ChatRead(sender=who, message_id=marker, to_room=room_id) for who in (ROMEO, JULIET)
    )
    assert await stage.tell(romeo) == []
    assert await stage.tell(juliet) == [("read", room_id, stage.juliet, message.event_id)]
    assert await stage.tell(ChatRead(sender=JULIET, message_id="x1", to_room=room_id)) == []


# --- foreign chats ------------------------------------------------------------------------------


async def tea(stage: Stage) -> RoomId:
    """A foreign chat with Juliet in it, and its room with Alice."""
    stage.world.chat.open_chat(LoopbackChat(address=TEA))
    room_id, _ = await stage.world.home.backend.resolve_alias(TEA_ALIAS)
    await stage.world.join(room_id)
    await stage.world.settle()
    await stage.world.chat.come(TEA, JULIET)
    await stage.world.settle()
    return room_id


async def test_typing_and_reading_cross_a_foreign_chat_by_its_own_ids(stage: Stage) -> None:
    room_id = await tea(stage)
    await stage.world.chat.say_in_chat(TEA, JULIET, "hello", archive_id="a7")
    await stage.world.settle()
    posted = await stage.world.say(room_id, "good morning")
    await stage.world.settle()
    assert await stage.on(typing(room_id), read(room_id, posted)) == [
        ShowTyping(sender=ALICE, typing=True, chat=TEA),
        ShowRead(sender=ALICE, message_id="a7", chat=TEA),
    ]
    (post,) = [d for d in stage.world.chat.delivered if isinstance(d.delivery, ChatPost)]
    reads = ChatRead(sender=JULIET, message_id=f"archive-{post.outbox_id}", to_chat=TEA)
    assert await stage.tell(reads) == [("read", room_id, stage.juliet, posted)]
    unknown = ChatRead(sender=JULIET, message_id="nothing", to_chat=TEA)
    assert await stage.tell(unknown) == []
    types = ChatTyping(sender=JULIET, typing=True, to_chat=TEA)
    assert await stage.tell(types) == [("typing", room_id, stage.juliet, True)]


async def test_a_matrix_side_that_cannot_now_delays_nothing(stage: Stage) -> None:
    await stage.direct()
    stage.matrix.fails = True
    change = ChatPresence(sender=JULIET, availability="away", status_text=None)
    assert await stage.tell(change) == []
    stage.matrix.fails = False
    change = ChatPresence(sender=JULIET, availability="dnd", status_text="busy")
    assert await stage.tell(change) == [("presence", stage.juliet, "online", "busy")]


async def test_a_mistake_with_one_thing_does_not_end_the_rest(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.direct()

    async def fail(**_: Any) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(stage.matrix, "set_typing", fail)
    stage.world.chat.tell(ChatTyping(sender=JULIET, typing=True, to_user=ALICE))
    change = ChatPresence(sender=JULIET, availability="away", status_text=None)
    assert await stage.tell(change) == [("presence", stage.juliet, "unavailable", None)]


async def test_a_new_start_replays_nothing(stage: Stage) -> None:
    room_id = await stage.direct()
    await stage.on(typing(room_id))
    await stage.world.crash()
    again = Stage(stage.world)
    await stage.world.settle()
    assert await again.shown(100) == []
    assert again.matrix.said == []
