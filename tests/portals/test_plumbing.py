"""Plumbing: who may, what is said, what is done, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import pytest

from bridge.adapters.loopback import LoopbackChat
from bridge.errors import NotFound, Refused
from bridge.ids import RoomAlias, RoomId, RoomVersionId, TraceId, UserId
from bridge.ports.chat import ChatAbandon, ChatPost, GuestEnter
from bridge.ports.matrix import Member
from bridge.storage import messages, occupants, queues
from bridge.storage.database import Transaction
from bridge.storage.queues import INBOX, OUTBOX
from tests.support.world import ALICE, BOB, GATEWAY, HOME, JULIET, ROMEO, World

TEA = "tea@muc.example"
BOT = UserId(f"@isthmus:{GATEWAY}")
CAROL = UserId(f"@carol:{HOME}")


async def room(
    world: World, *, levels: Mapping[str, object] | None = None, public: bool = True
) -> RoomId:
    """A room of Alice's with the bot, who may do what bridges do, and Bob, who may not."""
    room_id = await world.home.backend.create_room(
        creator=ALICE, txn="room", name="Kitchen", public=public
    )
    await world.invite(room_id, BOT)
    await world.settle()
    if public:
        await world.join(room_id, BOB)
    await world.state(
        room_id,
        "m.room.power_levels",
        {"users": {BOT: 50}} if levels is None else levels,
    )
    await world.settle()
    return room_id


def tea(world: World, **rulers: str) -> LoopbackChat:
    affiliations = {f"@{name}:{HOME}": standing for name, standing in rulers.items()}
    return world.chat.open_chat(
        LoopbackChat(address=TEA, name="Tea", affiliations=affiliations, people={JULIET: "Juliet"})
    )


async def plumb(
    world: World, room_id: RoomId, caller: UserId = ALICE, *, is_admin: bool = False
) -> str:
    answer = await world.portals.plumbing.plumb(
        caller=caller, is_admin=is_admin, chat=TEA, room_id=room_id
    )
    await world.settle()
    return answer


async def unplumb(world: World, caller: UserId = ALICE, *, is_admin: bool = False) -> str:
    answer = await world.portals.plumbing.unplumb(caller=caller, is_admin=is_admin, chat=TEA)
    await world.settle()
    return answer


async def ghosts_in(world: World, room_id: RoomId) -> list[UserId]:
    return [
        one.user_id for one in await world.home.backend.members(room_id) if "=40" in one.user_id
    ]


# --- done -------------------------------------------------------------------------------------


async def test_a_room_and_a_chat_are_plumbed_and_talk(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await world.say(room_id, "before")
    await world.settle()
    assert await plumb(world, room_id) == f"{TEA} and {room_id} are bridged now."
    assert {one.user_id for one in world.delivered(GuestEnter)} == {ALICE, BOB}
    await world.say(room_id, "after")
    await world.chat.say_in_chat(TEA, JULIET, "tea?")
    await world.settle()
    assert [one.message.text for one in world.delivered(ChatPost)] == ["after"]
    assert await world.bodies(room_id, world.ghost(JULIET)) == ["tea?"]
    (said,) = await world.home.backend.state(room_id, "m.bridge")
    assert (said.content["creator"], said.content["channel"]["id"]) == (ALICE, TEA)
    assert f"This room is bridged to {TEA} now, by {ALICE}." in await world.bodies(room_id, BOT)


async def test_two_chats_at_once_do_not_come_into_one_room(world: World) -> None:
    tea(world)
    world.chat.open_chat(LoopbackChat(address="milk@muc.example"))
    room_id = await room(world)
    done: list[str] = []

    async def one(chat: str) -> None:
        with suppress(Refused):
            await world.portals.plumbing.plumb(
                caller=ALICE, is_admin=True, chat=chat, room_id=room_id
            )
            done.append(chat)

    async with asyncio.TaskGroup() as tasks:
        for chat in (TEA, "milk@muc.example"):
            tasks.create_task(one(chat))
    assert len(done) == 1
    assert [view.chat for view in await world.portals.plumbing.list_portals()] == done


async def test_what_was_said_before_is_not_carried_even_when_it_is_told_again(
    world: World,
) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await world.say(room_id, "before")
    await world.settle()
    await plumb(world, room_id)
    entered = len(world.delivered(GuestEnter))
    await world.crash()
    await world.settle()
    assert world.delivered(ChatPost) == []
    assert len(world.delivered(GuestEnter)) == entered


async def test_what_is_plumbed_is_listed_and_found(world: World) -> None:
    tea(world, alice="admin")
    room_id = await room(world)
    await plumb(world, room_id)
    (view,) = await world.portals.plumbing.list_portals()
    assert (view.kind, view.chat, view.room_id, view.name) == ("plumbed", TEA, room_id, "Kitchen")
    assert view.occupants == 1
    assert await world.portals.plumbing.find(chat=TEA) == view
    assert await world.portals.plumbing.find(room_id=room_id) == view
    assert await world.portals.plumbing.find(chat="else@muc.example") is None


async def test_what_is_said_in_a_plumbed_room_of_two_is_no_command(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await world.leave(room_id, BOB)
    await world.chat.go(TEA, JULIET)
    await plumb(world, room_id)
    before = await world.bodies(room_id, BOT)
    await world.say(room_id, "help")
    await world.settle()
    assert [one.message.text for one in world.delivered(ChatPost)] == ["help"]
    assert await world.bodies(room_id, BOT) == before


async def test_what_is_said_to_the_bot_is_not_for_the_chat(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    for line in ("!isthmus help", "isthmus: help", f"{BOT} help", "isthmusly speaking"):
        await world.say(room_id, line)
    await world.settle()
    assert [one.message.text for one in world.delivered(ChatPost)] == ["isthmusly speaking"]
    answers = [body for body in await world.bodies(room_id, BOT) if "You can write to me" in body]
    assert len(answers) == 3


async def test_nothing_is_carried_once_the_chat_is_let_go(world: World) -> None:
    """An event that was looked at while the portal still stood."""
    tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    (portal,) = [one for one in await world.directory.of_room(room_id) if one.chat == TEA]
    await unplumb(world)
    event_id = await world.say(room_id, "too late")
    await world.carry()
    (event,) = [
        one
        for one in await world.gateway.backend.timeline(room_id, limit=50)
        if one.event_id == event_id
    ]
    await world.portals.to_chat.on_event(event, portal)
    await world.settle()
    assert not world.delivered(ChatPost)


async def test_an_admin_of_the_gateway_needs_neither_power_nor_standing(world: World) -> None:
    tea(world)
    room_id = await room(world)
    assert "are bridged now" in await plumb(world, room_id, CAROL, is_admin=True)


async def test_ghosts_come_into_a_room_by_invitation(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world, public=False)
    await plumb(world, room_id)
    assert await ghosts_in(world, room_id) == [world.ghost(JULIET)]
    assert world.delivered(ChatPost) == []


async def test_an_unused_portal_room_makes_way(world: World) -> None:
    tea(world, alice="owner")
    alias = RoomAlias(f"#tea=40muc.example:{GATEWAY}")
    unused, _ = await world.home.backend.resolve_alias(alias)
    room_id = await room(world)
    await plumb(world, room_id)
    assert unused not in await world.gateway.backend.joined_rooms(BOT)
    assert (await world.home.backend.resolve_alias(alias))[0] == room_id


# --- refused ----------------------------------------------------------------------------------


async def refused(world: World, room_id: RoomId, caller: UserId = ALICE, **how: bool) -> str:
    before = world.delivered(GuestEnter)
    with pytest.raises((Refused, NotFound)) as caught:
        await plumb(world, room_id, caller, **how)
    await world.settle()
    assert await world.portals.plumbing.find(room_id=room_id) is None
    assert await world.home.backend.state(room_id, "m.bridge") == []
    assert world.delivered(GuestEnter) == before
    return caught.value.reason


async def test_without_power_in_the_room_nothing_is_plumbed(world: World) -> None:
    tea(world, bob="owner", carol="owner")
    room_id = await room(world)
    assert await refused(world, room_id, BOB) == (
        f"you need power level 50 in {room_id} to bridge it, and to be in it"
    )
    assert "and to be in it" in await refused(world, room_id, CAROL)


async def test_without_standing_in_the_chat_nothing_is_plumbed(world: World) -> None:
    tea(world, alice="member")
    room_id = await room(world)
    assert await refused(world, room_id) == (
        f"only who owns or administers {TEA} may bridge it; you do not"
    )


@pytest.mark.parametrize(
    "levels",
    [
        {"users": {BOT: 50}, "users_default": 0, "state_default": 0},
        {"users": {BOT: 50}, "events": {"m.bridge": 0, "uk.half-shot.bridge": 0}},
        {"users": {BOT: 50}},
    ],
    ids=["no state default", "bridging is for all", "nothing said"],
)
async def test_a_level_that_is_missing_or_low_allows_nothing(
    world: World, levels: Mapping[str, object]
) -> None:
    tea(world, bob="owner")
    room_id = await room(world, levels=levels)
    assert "power level 50" in await refused(world, room_id, BOB)


async def test_a_room_without_power_levels_allows_nobody_but_its_creator(world: World) -> None:
    tea(world, bob="owner")
    room_id = await world.home.backend.create_room(
        creator=ALICE, txn="bare", public=True, version=RoomVersionId("10")
    )
    await world.state(room_id, "m.room.power_levels", {"users": {ALICE: 100}})
    await world.join(room_id, BOB)
    await world.settle()
    assert "power level 50" in await refused(world, room_id, BOB)


async def test_a_bot_that_may_not_say_what_the_room_is_bridged_to_does_not_bridge(
    world: World,
) -> None:
    tea(world, alice="owner")
    room_id = await room(world, levels={"users": {}})
    assert await refused(world, room_id, is_admin=True) == (
        f"I need power level 50 in {room_id} to say there what it is bridged to: please give it to "
        f"{BOT}"
    )


async def test_a_room_that_the_bot_cannot_enter_is_not_bridged(world: World) -> None:
    tea(world, alice="owner")
    room_id = await world.home.backend.create_room(creator=ALICE, txn="closed")
    with pytest.raises(Refused, match=r"invite @isthmus:gw\.example there first"):
        await plumb(world, room_id)


async def test_an_encrypted_room_is_not_bridged(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await world.state(room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    await world.settle()
    assert "is encrypted" in await refused(world, room_id)


async def test_a_chat_that_does_not_exist_is_not_bridged(world: World) -> None:
    assert await refused(world, await room(world)) == f"there is no chat {TEA}"


async def test_a_chat_or_a_room_that_is_bridged_already_is_not_bridged_again(
    world: World,
) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    with pytest.raises(Refused, match=f"is bridged to {TEA} already"):
        await plumb(world, room_id)
    world.clock.shift(1)
    other = await world.home.backend.create_room(creator=ALICE, txn="other", public=True)
    await world.state(other, "m.room.power_levels", {"users": {BOT: 50}})
    assert f"{TEA} is bridged to {room_id} already" == await refused(world, other)


async def test_a_portal_room_that_is_used_does_not_make_way(world: World) -> None:
    tea(world, alice="owner")
    used, _ = await world.home.backend.resolve_alias(RoomAlias(f"#tea=40muc.example:{GATEWAY}"))
    await world.join(used, BOB)
    await world.settle()
    room_id = await room(world)
    with pytest.raises(Refused, match=r"has the room #tea=40muc\.example:gw\.example already"):
        await plumb(world, room_id)


async def test_a_room_that_another_bridge_says_it_bridges_to_the_chat_is_not_bridged(
    world: World,
) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await world.state(
        room_id,
        "uk.half-shot.bridge",
        {
            "bridgebot": "@bot:third.example",
            "protocol": {"id": "loopback"},
            "channel": {"id": TEA},
        },
    )
    await world.settle()
    reason = await refused(world, room_id)
    assert reason.startswith(f"{room_id} is bridged to {TEA} by matrix.example, third.example")


async def test_a_room_of_ours_is_no_chat(world: World) -> None:
    room_id = await room(world)
    with pytest.raises(Refused, match="is a Matrix room already"):
        await world.portals.plumbing.plumb(
            caller=ALICE, is_admin=True, chat=f"#garden%m@{GATEWAY}", room_id=room_id
        )


# --- by a code --------------------------------------------------------------------------------


async def test_where_the_chat_does_not_tell_who_somebody_is_a_code_does(world: World) -> None:
    chat = tea(world)
    room_id = await room(world)
    answer = await plumb(world, room_id)
    assert "must write exactly this there within 10 minutes: " in answer
    assert await world.portals.plumbing.find(chat=TEA) is None
    code = answer.rpartition(": ")[2]
    assert code.startswith(f"bridge {room_id} ")
    chat.codes.append(("Juliet", f"what is {code}?"))
    assert await plumb(world, room_id) == answer
    chat.codes.append(("Juliet", code))
    await world.portals.plumbing.confirm_next()
    await world.settle()
    assert (await world.bodies(room_id, BOT))[-1] == (
        f"{TEA} and {room_id} are bridged now. Juliet has confirmed it there."
    )
    assert await world.portals.plumbing.find(chat=TEA) is not None


async def test_a_code_that_nobody_writes_bridges_nothing(world: World) -> None:
    tea(world)
    room_id = await room(world)
    await plumb(world, room_id)
    await world.portals.plumbing.confirm_next()
    await world.settle()
    assert (await world.bodies(room_id, BOT))[-1] == (
        f"{TEA} and {room_id} are not bridged: nobody has written the code there in time"
    )
    assert await world.portals.plumbing.find(chat=TEA) is None


async def test_a_code_gives_no_power_in_the_room(world: World) -> None:
    chat = tea(world)
    room_id = await room(world, levels={"users": {BOT: 50, BOB: 50}})
    code = (await plumb(world, room_id, BOB)).rpartition(": ")[2]
    chat.codes.append(("Juliet", code))
    await world.state(room_id, "m.room.power_levels", {"users": {BOT: 50}})
    await world.settle()
    await world.portals.plumbing.confirm_next()
    await world.settle()
    assert "you need power level 50" in (await world.bodies(room_id, BOT))[-1]
    assert await world.portals.plumbing.find(chat=TEA) is None


async def test_somebody_of_the_chat_side_plumbs_with_the_power_of_their_ghost(
    world: World,
) -> None:
    ghost = world.ghost(ROMEO)
    chat = tea(world)
    chat.affiliations[ghost] = "owner"
    room_id = await room(world, levels={"users": {BOT: 50, ghost: 50}})
    assert "and to be in it" in await refused(world, room_id, ghost)
    await world.chat.enter(ROMEO, room_id)
    assert "are bridged now" in await plumb(world, room_id, ghost)


# --- ended ------------------------------------------------------------------------------------


async def test_unplumbing_leaves_nothing_behind(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    event_id = await world.say(room_id, "hi")
    await world.chat.say_in_chat(TEA, JULIET, "tea?")
    await world.settle()
    assert await ghosts_in(world, room_id) == [world.ghost(JULIET)]
    await unplumb(world)
    assert await ghosts_in(world, room_id) == []
    assert await world.portals.plumbing.list_portals() == []
    (said,) = await world.home.backend.state(room_id, "m.bridge")
    assert said.content == {}
    assert [one.chat for one in world.delivered(ChatAbandon)] == [TEA]
    assert world.chat.chats[TEA].guests == {}
    assert await world.database.read(lambda tx: messages.of_event(tx, event_id)) == []
    assert not await world.database.read(
        lambda tx: occupants.of_chat(tx, adapter="loopback", chat=TEA)
    )
    posts = len(world.delivered(ChatPost))
    await world.say(room_id, "is anybody there?")
    await world.settle()
    assert len(world.delivered(ChatPost)) == posts
    assert "are bridged now" in await plumb(world, room_id)


async def test_either_side_may_end_it_and_nobody_else(world: World) -> None:
    tea(world, alice="owner", carol="admin")
    room_id = await room(world)
    await plumb(world, room_id)
    with pytest.raises(Refused, match="this takes power level 50"):
        await unplumb(world, BOB)
    assert await world.portals.plumbing.find(chat=TEA) is not None
    await unplumb(world, CAROL)
    world.chat.chats[TEA].affiliations.clear()
    await plumb(world, room_id, is_admin=True)
    await unplumb(world, ALICE)
    with pytest.raises(NotFound, match="not bridged to any room"):
        await unplumb(world, ALICE)


async def test_whoever_removes_the_bot_from_the_room_ends_it(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    await world.home.backend.kick(room_id=room_id, sender=ALICE, target=BOT, reason=None)
    await world.settle()
    assert await ghosts_in(world, room_id) == []
    assert await world.portals.plumbing.list_portals() == []
    assert world.chat.chats[TEA].guests == {}


async def test_who_leaves_while_it_is_plumbed_is_no_guest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = tea(world, alice="owner")
    room_id = await room(world)
    there = await world.portals.chats.people_in(room_id)
    looks = [there, [one for one in there if one.user_id != BOB]]

    async def people_in(_: RoomId) -> list[Member]:
        return list(looks.pop(0))

    monkeypatch.setattr(world.portals.chats, "people_in", people_in)
    await plumb(world, room_id)
    assert set(chat.guests) == {ALICE}


async def test_a_crash_while_it_ends_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)

    async def ends(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(world.portals.chats, "_finish", ends)
    with pytest.raises(RuntimeError):
        await unplumb(world)
    await world.crash()
    await world.settle()
    await world.tidy()
    assert await ghosts_in(world, room_id) == []
    (said,) = await world.home.backend.state(room_id, "m.bridge")
    assert said.content == {}


async def test_a_portal_room_is_given_up_by_an_admin_or_the_chats_owner(world: World) -> None:
    tea(world, carol="owner")
    room_id, _ = await world.home.backend.resolve_alias(RoomAlias(f"#tea=40muc.example:{GATEWAY}"))
    await world.join(room_id)
    await world.settle()
    with pytest.raises(Refused):
        await world.portals.plumbing.unplumb(caller=ALICE, is_admin=False, chat=TEA)
    await world.portals.plumbing.unplumb(caller=CAROL, is_admin=False, chat=TEA)
    await world.settle()
    assert await world.home.backend.members(room_id) == [
        one for one in await world.home.backend.members(room_id) if one.user_id == ALICE
    ]
    assert (await world.bodies(room_id, BOT))[-1] == (
        f"This room is not bridged to {TEA} any more, by {CAROL}."
    )


# --- people in plumbed rooms ------------------------------------------------------------------


async def test_who_is_not_let_into_the_chat_stays_in_a_plumbed_room(world: World) -> None:
    chat = tea(world, alice="owner")
    chat.bars[BOB] = "you are banned there"
    room_id = await room(world, levels={"users": {BOT: 100}})
    await plumb(world, room_id)
    assert await world.membership(room_id, BOB) == "join"
    assert (await world.bodies(room_id, BOT))[-1] == (
        f"{TEA} will not let {BOB} in: you are banned there"
    )


async def test_who_is_kicked_from_the_chat_is_named_where_the_bot_may_not_kick(
    world: World,
) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    await world.chat.remove_guest(TEA, ALICE, how="banned", actor="Juliet")
    await world.chat.remove_guest(TEA, BOB, how="banned")
    await world.settle()
    assert await world.membership(room_id, ALICE) == "join"
    assert await world.membership(room_id, BOB) == "leave"
    assert (await world.bodies(room_id, BOT))[-1].endswith(
        f"Banned from {TEA} by Juliet. They are not in {TEA} now."
    )


async def test_two_bridges_in_one_room_do_not_carry_each_others_ghosts(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    ours = UserId(f"@_xmpp_bob=25{HOME}=40{GATEWAY}:{HOME}")
    await world.join(room_id, ours)
    await world.settle()
    await plumb(world, room_id)
    assert ours not in world.chat.chats[TEA].guests
    await world.state(
        room_id,
        "m.bridge",
        {"protocol": {"id": "loopback"}, "channel": {"id": TEA}},
    )
    other = UserId(f"@_xmpp_romeo=40montague.lit:{HOME}")
    await world.join(room_id, other)
    await world.say(room_id, "echo", user="_xmpp_romeo=40montague.lit")
    await world.say(room_id, "voice")
    await world.settle()
    assert [one.message.text for one in world.delivered(ChatPost)] == ["voice"]
    assert other not in {one.user_id for one in world.delivered(GuestEnter)}


# --- what was set aside or waits when it ends ---------------------------------------------------


async def retry_all(world: World) -> None:
    def unit(tx: Transaction) -> None:
        for queue in (INBOX, OUTBOX):
            for item in queues.parked(tx, queue, 100):
                queues.requeue(tx, queue, item.id, now_ms=world.clock.now_ms())

    await world.database.write(unit)
    await world.settle()


async def test_a_post_that_was_set_aside_brings_nobody_back_into_the_chat(world: World) -> None:
    chat = tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    world.chat.refuse_next(Refused("no voice"))
    await world.say(room_id, "hi")
    await world.settle()
    await unplumb(world)
    await retry_all(world)
    assert world.delivered(ChatPost) == []
    assert chat.guests == {}


async def test_an_end_that_was_set_aside_does_not_end_the_next_plumbing(world: World) -> None:
    chat = tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    world.chat.refuse_next(Refused("no"))
    await unplumb(world)
    await world.leave(room_id, BOB)
    await world.settle()
    await plumb(world, room_id)
    await retry_all(world)
    assert set(chat.guests) == {ALICE}


async def test_what_was_said_for_one_room_is_not_shown_in_the_next(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    await world.chat.say_in_chat(TEA, JULIET, "for the kitchen")
    await world.portals.plumbing.unplumb(caller=ALICE, is_admin=False, chat=TEA)
    other = await world.home.backend.create_room(creator=ALICE, txn="other", public=True)
    await world.state(other, "m.room.power_levels", {"users": {BOT: 50}})
    await plumb(world, other)
    await retry_all(world)
    assert await world.bodies(other, world.ghost(JULIET)) == []


async def test_whom_the_room_has_banned_fills_no_queue(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    await world.home.backend.send(
        room_id=room_id,
        sender=ALICE,
        type="m.room.member",
        state_key=world.ghost(JULIET),
        content={"membership": "ban"},
        txn="ban",
        trace=TraceId("t"),
    )
    await world.settle()
    await world.chat.say_in_chat(TEA, JULIET, "let me in")
    await world.settle()
    assert await world.bodies(room_id, world.ghost(JULIET)) == []
    assert await world.database.read(lambda tx: queues.parked(tx, INBOX, 10)) == []


# --- nobody learns what is not theirs -----------------------------------------------------------


async def test_whoever_has_no_power_in_a_room_learns_nothing_about_it(world: World) -> None:
    tea(world, alice="owner", carol="owner")
    room_id = await room(world)
    await plumb(world, room_id)
    for who in (BOB, CAROL):
        with pytest.raises(Refused) as caught:
            await plumb(world, room_id, who)
        assert "you need power level" in caught.value.reason


async def test_a_closed_room_is_listed_for_its_members_and_the_operator_alone(
    world: World,
) -> None:
    tea(world, alice="owner")
    room_id = await room(world, public=False)
    await plumb(world, room_id)
    listed = world.portals.plumbing.list_portals
    assert await listed(CAROL) == []
    assert [view.room_id for view in await listed(ALICE)] == [room_id]
    assert [view.room_id for view in await listed()] == [room_id]


async def test_a_room_for_invited_people_is_not_found_by_the_chats_alias(world: World) -> None:
    tea(world, alice="owner")
    room_id = await room(world, public=False)
    await plumb(world, room_id)
    alias = RoomAlias(f"#tea=40muc.example:{GATEWAY}")
    with pytest.raises(NotFound):
        await world.home.backend.resolve_alias(alias)
    await world.state(room_id, "m.room.join_rules", {"join_rule": "public"})
    await world.settle()
    assert (await world.home.backend.resolve_alias(alias))[0] == room_id


async def test_nobody_waits_for_two_codes_at_once(world: World) -> None:
    tea(world)
    world.chat.open_chat(LoopbackChat(address="milk@muc.example"))
    room_id = await room(world)
    await plumb(world, room_id)
    with pytest.raises(Refused, match="one after the other"):
        await world.portals.plumbing.plumb(
            caller=ALICE, is_admin=False, chat="milk@muc.example", room_id=room_id
        )


async def test_a_fault_after_a_code_ends_no_other_part(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = tea(world)
    room_id = await room(world)
    code = (await plumb(world, room_id)).rpartition(": ")[2]
    chat.codes.append(("Juliet", code))

    async def breaks(*_: object, **__: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(world.portals.chats, "bind", breaks)
    await world.portals.plumbing.confirm_next()
    await world.settle()
    assert "because of a fault of mine" in (await world.bodies(room_id, BOT))[-1]
