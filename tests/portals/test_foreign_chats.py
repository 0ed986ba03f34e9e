"""Foreign chats as rooms: found by alias, joined, talked in, renamed, left, over crashes."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from bridge.adapters.loopback import LoopbackAddresses, LoopbackChat
from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, RoomVersionId, UserId
from bridge.portals.chats import MADE_PER_MINUTE, MAX_ASKING
from bridge.ports.chat import (
    ChatAbandon,
    ChatInfo,
    ChatPost,
    ChatRenamed,
    ChatSubject,
    GuestEnter,
    GuestLeave,
    GuestRename,
)
from bridge.ports.matrix import Profile
from bridge.rooms.public_rooms import ListQuery
from bridge.storage import chats as chat_rows
from bridge.storage import guests, messages, schema
from bridge.storage.guests import StoredGuest
from tests.support.world import ALICE, BOB, GATEWAY, HOME, JULIET, ROMEO, World

TEA = "tea@muc.example"
ALIAS = RoomAlias(f"#tea=40muc.example:{GATEWAY}")
BOT = UserId(f"@isthmus:{GATEWAY}")


async def joined(world: World, **chat: object) -> RoomId:
    """The chat's room, with Alice in it."""
    if TEA not in world.chat.chats:
        world.chat.open_chat(LoopbackChat(address=TEA, name="Tea", **chat))  # type: ignore[arg-type]  # fields by name
    room_id, _ = await world.home.backend.resolve_alias(ALIAS)
    await world.join(room_id)
    await world.settle()
    return room_id


def posts(world: World) -> list[tuple[str, str]]:
    return [(one.sender_name, one.message.text) for one in world.delivered(ChatPost)]


async def said_by_bot(world: World, room_id: RoomId) -> list[str]:
    return await world.bodies(room_id, BOT)


async def journalled(world: World) -> set[tuple[str, str]]:
    """Every step and decision, of whatever message."""
    rows = await world.database.read(
        lambda tx: tx.execute(select(schema.journal.c.step, schema.journal.c.decision)).all()
    )
    return {(row.step, row.decision) for row in rows}


async def events(world: World, room_id: RoomId) -> int:
    return len(await world.gateway.timeline(room_id))


# --- found by alias ---------------------------------------------------------------------------


async def test_looking_up_the_alias_of_a_chat_makes_its_room(world: World) -> None:
    room_id = await joined(world)
    info = await world.gateway.backend.room(room_id)
    assert (info.name, info.canonical_alias, info.join_rule) == ("Tea", ALIAS, "public")
    assert info.version == RoomVersionId("12")
    power = await world.gateway.backend.power(room_id)
    assert power.level(ALICE) == 0
    assert power.level(BOT) >= 100
    for kind in ("m.bridge", "uk.half-shot.bridge"):
        (said,) = await world.gateway.backend.state(room_id, kind)
        assert said.state_key == "isthmus://loopback/muc.example/tea@muc.example"
        assert said.content == {
            "bridgebot": BOT,
            "protocol": {"id": "loopback", "displayname": "LOOPBACK"},
            "network": {"id": "muc.example"},
            "channel": {
                "id": TEA,
                "displayname": "Tea",
                "external_url": "loopback:tea@muc.example",
            },
        }


async def test_the_same_chat_has_one_room_however_often_it_is_looked_up_at_once(
    world: World,
) -> None:
    world.chat.open_chat(LoopbackChat(address=TEA))
    async with asyncio.TaskGroup() as tasks:
        looked = [tasks.create_task(world.home.backend.resolve_alias(ALIAS)) for _ in range(5)]
    assert len({task.result()[0] for task in looked}) == 1
    assert world.chat.described == 1


async def test_a_crash_while_the_room_is_made_leaves_one_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.chat.open_chat(LoopbackChat(address=TEA))

    async def ends(*_: object, **__: object) -> None:
        raise Unavailable("the end")

    monkeypatch.setattr(world.portals.chats, "bind", ends)
    with pytest.raises(Unavailable):
        await world.home.backend.resolve_alias(ALIAS)
    await world.crash()
    room_id, _ = await world.home.backend.resolve_alias(ALIAS)
    assert await world.gateway.backend.joined_rooms(BOT) == [room_id]
    assert len(await world.gateway.backend.state(room_id, "m.bridge")) == 1


@pytest.mark.parametrize(
    "chat",
    [None, LoopbackChat(address=TEA, is_open=False)],
    ids=["none", "members-only"],
)
async def test_what_is_no_open_chat_gets_no_room(world: World, chat: LoopbackChat | None) -> None:
    if chat is not None:
        world.chat.open_chat(chat)
    with pytest.raises(NotFound):
        await world.home.backend.resolve_alias(ALIAS)
    assert await world.gateway.backend.joined_rooms(BOT) == []


async def test_an_address_of_our_own_is_no_foreign_chat(world: World) -> None:
    own = f"#garden%m@{GATEWAY}"
    world.chat.open_chat(LoopbackChat(address=own))
    with pytest.raises(NotFound):
        await world.home.backend.resolve_alias(RoomAlias(f"#=23garden=25m=40{GATEWAY}:{GATEWAY}"))
    assert world.chat.described == 0


async def test_another_spelling_of_the_alias_makes_and_names_no_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters read more spellings than they write."""
    world.chat.open_chat(LoopbackChat(address=TEA))
    monkeypatch.setattr(LoopbackAddresses, "chat_of", lambda self, alias: TEA)
    with pytest.raises(NotFound):
        await world.home.backend.resolve_alias(RoomAlias(f"#tea=40muc.example/free:{GATEWAY}"))
    assert await world.gateway.backend.joined_rooms(BOT) == []
    assert world.chat.described == 0


async def test_only_so_many_chats_are_asked_at_one_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = asyncio.Event()

    async def describe(chat: str) -> ChatInfo:
        await answer.wait()
        raise NotFound("none")

    monkeypatch.setattr(world.chat, "describe", describe)
    find = world.portals.chats.find_room
    async with asyncio.TaskGroup() as tasks:
        asked = [
            tasks.create_task(find(RoomAlias(f"#c{number}=40muc.example:{GATEWAY}")))
            for number in range(MAX_ASKING)
        ]
        while world.portals.chats._asking < MAX_ASKING:
            await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await find(ALIAS)
        answer.set()
    assert [task.result() for task in asked] == [None] * MAX_ASKING
    assert await find(ALIAS) is None


async def test_not_too_many_rooms_are_made_in_a_minute(world: World) -> None:
    def alias(number: int) -> RoomAlias:
        world.chat.open_chat(LoopbackChat(address=f"c{number}@muc.example"))
        return RoomAlias(f"#c{number}=40muc.example:{GATEWAY}")

    for number in range(MADE_PER_MINUTE):
        world.clock.shift(0.5)
        await world.home.backend.resolve_alias(alias(number))
    with pytest.raises(Unavailable):
        await world.home.backend.resolve_alias(alias(99))
    world.clock.shift(61)
    await world.home.backend.resolve_alias(alias(99))


async def test_a_room_that_nobody_joins_is_given_up_and_made_anew_when_looked_for(
    world: World,
) -> None:
    world.chat.open_chat(LoopbackChat(address=TEA))
    room_id, _ = await world.home.backend.resolve_alias(ALIAS)
    await world.tidy()
    world.clock.shift(800)
    await world.tidy()
    assert await world.portals.plumbing.find(chat=TEA) is not None
    world.clock.shift(200)
    await world.tidy()
    assert await world.portals.plumbing.find(chat=TEA) is None
    assert await world.gateway.backend.joined_rooms(BOT) == []
    assert [one.chat for one in world.delivered(ChatAbandon)] == [TEA]
    again, _ = await world.home.backend.resolve_alias(ALIAS)
    assert again != room_id


async def test_a_room_that_somebody_has_joined_stays(world: World) -> None:
    room_id = await joined(world)
    await world.leave(room_id)
    await world.settle()
    await world.tidy()
    world.clock.shift(5_000)
    await world.tidy()
    assert await world.portals.chats.find(TEA) is not None
    assert (await world.home.backend.resolve_alias(ALIAS))[0] == room_id


# --- guests ---------------------------------------------------------------------------------


async def test_who_joins_the_room_enters_the_chat_and_who_leaves_it_leaves(world: World) -> None:
    await world.home.backend.set_profile(ALICE, Profile(displayname="Alice"))
    room_id = await joined(world)
    await world.home.backend.set_profile(ALICE, Profile(displayname="Alice L"))
    await world.settle()
    await world.leave(room_id)
    await world.settle()
    (entered,) = world.delivered(GuestEnter)
    assert entered == GuestEnter(chat=TEA, user_id=ALICE, displayname="Alice")
    assert [one.displayname for one in world.delivered(GuestRename)] == ["Alice L"]
    assert [one.user_id for one in world.delivered(GuestLeave)] == [ALICE]
    before = list(world.chat.delivered)
    await world.crash()
    await world.settle()
    assert world.chat.delivered == before


async def test_ghosts_and_the_bot_are_never_guests(world: World) -> None:
    room_id = await joined(world)
    await world.chat.enter(ROMEO, room_id)
    await world.chat.come(TEA, JULIET)
    await world.settle()
    assert await world.membership(room_id, world.ghost(JULIET)) == "join"
    assert [one.user_id for one in world.delivered(GuestEnter)] == [ALICE]


async def test_who_is_not_let_into_the_chat_leaves_its_room_with_the_reason(world: World) -> None:
    world.chat.open_chat(LoopbackChat(address=TEA, bars={ALICE: "you are banned there"}))
    room_id = await joined(world)
    assert await world.membership(room_id, ALICE) == "leave"
    member = await world.gateway.rooms.queries.member(room_id, ALICE)
    assert member is not None
    assert member.content["reason"] == (f"{TEA} will not let {ALICE} in: you are banned there")
    await world.tell_again()
    assert await world.membership(room_id, ALICE) == "leave"


async def test_another_nickname_is_told_once(world: World) -> None:
    world.chat.open_chat(LoopbackChat(address=TEA, people={JULIET: "alice"}))
    room_id = await joined(world)
    assert await said_by_bot(world, room_id) == [
        f"alice is called alice (2) in {TEA}, because the name is taken there."
    ]
    await world.chat._let_in(
        world.chat.chats[TEA], GuestEnter(chat=TEA, user_id=ALICE, displayname=None)
    )
    await world.settle()
    assert len(await said_by_bot(world, room_id)) == 1


async def test_who_is_kicked_from_the_chat_is_kicked_from_its_room(world: World) -> None:
    room_id = await joined(world)
    await world.chat.remove_guest(TEA, ALICE, actor="Juliet", reason="manners")
    await world.settle()
    member = await world.gateway.rooms.queries.member(room_id, ALICE)
    assert member is not None
    assert member.membership == "leave"
    assert member.content["reason"] == f"Kicked from {TEA} by Juliet: manners"


# --- what is said -----------------------------------------------------------------------------


async def test_messages_go_both_ways_once_over_a_crash(world: World) -> None:
    room_id = await joined(world)
    await world.chat.come(TEA, JULIET, "Juliet")
    await world.chat.say_in_chat(TEA, JULIET, "hello", archive_id="a1")
    await world.settle()
    await world.say(room_id, "hi")
    await world.settle()
    assert await world.bodies(room_id, world.ghost(JULIET)) == ["hello"]
    assert posts(world) == [("alice", "hi")]
    count = await events(world, room_id)
    await world.crash()
    await world.settle()
    assert not await world.chat.say_in_chat(TEA, JULIET, "hello", archive_id="a1")
    await world.settle()
    assert posts(world) == [("alice", "hi")]
    assert await events(world, room_id) == count


async def test_the_message_map_knows_both_ways(world: World) -> None:
    room_id = await joined(world)
    await world.chat.come(TEA, JULIET)
    await world.chat.say_in_chat(TEA, JULIET, "hello", archive_id="a1")
    event_id = await world.say(room_id, "hi")
    await world.settle()
    (sent,) = await world.database.read(lambda tx: messages.of_event(tx, event_id))
    assert (sent.chat, sent.origin, sent.sender) == (TEA, "matrix", ALICE)
    assert sent.stanza_id.startswith("archive-")
    (got,) = await world.database.read(
        lambda tx: messages.of_stanza(
            tx, adapter="loopback", chat=TEA, sender=JULIET, stanza_id="a1"
        )
    )
    assert (got.room_id, got.pending) == (room_id, False)
    assert ("to chat", "delivered") in await journalled(world)


async def test_a_message_of_the_past_keeps_its_time_and_moves_the_position(world: World) -> None:
    room_id = await joined(world)
    await world.chat.come(TEA, JULIET)
    at_ms = world.clock.now_ms() - 3_600_000
    await world.chat.say_in_chat(TEA, JULIET, "earlier", archive_id="a7", at_ms=at_ms)
    await world.settle()
    (event,) = [
        one.pdu for one in await world.home.timeline(room_id) if one.pdu.type == "m.room.message"
    ]
    assert event.origin_server_ts == at_ms
    found = await world.database.read(lambda tx: chat_rows.find(tx, adapter="loopback", chat=TEA))
    assert (found.archive_id, found.archive_ms) == ("a7", at_ms)
    await world.chat.say_in_chat(TEA, JULIET, "later", archive_id="a8", at_ms=at_ms + 1)
    # One that comes again, out of its order, takes nothing back.
    await world.chat.say_in_chat(TEA, JULIET, "earlier", archive_id="a7", at_ms=at_ms)
    found = await world.database.read(lambda tx: chat_rows.find(tx, adapter="loopback", chat=TEA))
    assert (found.archive_id, found.archive_ms) == ("a8", at_ms + 1)


async def test_a_chat_without_a_room_is_not_listened_to(world: World) -> None:
    world.chat.open_chat(LoopbackChat(address=TEA, people={JULIET: "Juliet"}))
    assert not await world.from_chat.is_visited(TEA)
    assert not await world.chat.say_in_chat(TEA, JULIET, "hello?")
    await world.chat.come(TEA, JULIET)
    await world.settle()
    await joined(world)
    assert await world.from_chat.is_visited(TEA)


async def test_what_the_chat_does_not_take_is_told_in_the_room(world: World) -> None:
    room_id = await joined(world)
    world.chat.refuse_next(Refused("no voice"))
    await world.say(room_id, "hi")
    await world.settle()
    assert await said_by_bot(world, room_id) == [
        f"This message could not be delivered to {TEA}: no voice"
    ]
    assert posts(world) == []


async def test_that_messages_wait_is_told_once_for_all_of_them(world: World) -> None:
    room_id = await joined(world)
    world.chat.refuse_next(*[Unavailable("away")] * 20)
    await world.say(room_id, "one")
    await world.say(room_id, "two")
    await world.settle()
    world.clock.shift(61)
    await world.remind()
    await world.carry()
    (text,) = await said_by_bot(world, room_id)
    assert text.startswith(f"What is written here is still waiting to be delivered to {TEA}: away")
    for _ in range(20):
        await world.later(400)
    assert [text for _, text in posts(world)] == ["one", "two"]


async def test_who_speaks_in_the_room_by_another_way_is_carried_for(world: World) -> None:
    room_id = await joined(world)
    await world.chat.enter(ROMEO, room_id)
    await world.chat.say(ROMEO, "from outside", to=room_id)
    await world.settle()
    assert posts(world) == [("romeo", "from outside")]


async def test_an_encrypted_message_is_not_sent_and_the_room_is_told_once(world: World) -> None:
    room_id = await joined(world)
    for _ in range(2):
        await world.say(room_id, "x", type="m.room.encrypted", algorithm="m.megolm.v1.aes-sha2")
    await world.settle()
    assert posts(world) == []
    (text,) = await said_by_bot(world, room_id)
    assert text.startswith("This room is encrypted")


# --- names and ends ---------------------------------------------------------------------------


async def test_the_subject_becomes_the_topic_once_and_does_not_go_back(world: World) -> None:
    room_id = await joined(world)
    await world.chat.come(TEA, JULIET)
    await world.chat.set_subject(TEA, "Green tea", by=JULIET)
    await world.settle()
    assert (await world.gateway.backend.room(room_id)).topic == "Green tea"
    count = await events(world, room_id)
    await world.chat.set_subject(TEA, "Green tea")
    await world.settle()
    assert await events(world, room_id) == count
    assert world.delivered(ChatSubject) == []


async def test_a_new_name_of_the_chat_is_the_rooms(world: World) -> None:
    room_id = await joined(world)
    await world.from_chat.accept_change(ChatRenamed(chat=TEA, name="Coffee"))
    await world.settle()
    assert (await world.home.backend.room(room_id)).name == "Coffee"
    await world.from_chat.accept_change(ChatRenamed(chat=TEA, name=None))
    await world.settle()
    assert (await world.home.backend.room(room_id)).name == TEA


async def test_a_destroyed_chat_says_where_it_went_and_has_no_room_any_more(world: World) -> None:
    room_id = await joined(world)
    await world.chat.come(TEA, JULIET)
    await world.settle()
    await world.chat.destroy(TEA, alternative="coffee@muc.example", reason="moved")
    await world.settle()
    assert await said_by_bot(world, room_id) == [
        f"{TEA} exists no more: moved. It goes on at coffee@muc.example."
    ]
    assert await world.membership(room_id, world.ghost(JULIET)) == "leave"
    assert await world.portals.chats.find(TEA) is None
    with pytest.raises(NotFound):
        await world.home.backend.resolve_alias(ALIAS)


async def test_no_guest_is_remembered_of_a_chat_that_was_left(world: World) -> None:
    await joined(world)
    guest = StoredGuest(adapter="loopback", chat=TEA, user_id=BOB, nickname="bob", entered_ms=1)
    await world.database.write(lambda tx: guests.put(tx, guest))
    await world.portals.plumbing.unplumb(caller=BOB, is_admin=True, chat=TEA)
    await world.settle()
    assert await world.database.read(lambda tx: guests.list_all(tx, adapter="loopback")) == []
    assert world.chat.chats[TEA].guests == {}


# --- other bridges ----------------------------------------------------------------------------


async def test_a_ghost_that_another_bridge_made_of_one_of_ours_is_not_carried_again(
    world: World,
) -> None:
    room_id = await joined(world)
    ghost = UserId(f"@_bifrost_alice=25{HOME}=40{GATEWAY}:{HOME}")
    await world.home.backend.join(user_id=ghost, room_id=room_id, via=[])
    await world.say(room_id, "echo", user=ghost[1:].partition(":")[0])
    await world.say(room_id, "voice")
    await world.settle()
    assert posts(world) == [("alice", "voice")]
    assert [one.user_id for one in world.delivered(GuestEnter)] == [ALICE]
    assert ("to chat", "rebridged-own-address") in await journalled(world)


# --- listed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("listed", "hidden"), [(False, False), (True, False), (True, True)])
async def test_rooms_of_chats_are_listed_where_the_operator_says_so_and_the_chat_too(
    world: World, monkeypatch: pytest.MonkeyPatch, listed: bool, hidden: bool
) -> None:
    monkeypatch.setattr(world.portals.chats, "_listed", listed)
    room_id = await joined(world, is_hidden=hidden)
    own = world.gateway.rooms.public_rooms
    assert await own.is_published(room_id) is (listed and not hidden)
    assert (await own.page(ListQuery())).rooms == []
    page = await own.page(ListQuery(network="loopback"))
    assert [one.room_id for one in page.rooms] == ([room_id] if listed and not hidden else [])
