"""Upgraded rooms: who follows whom, what is carried where, and who is not to be led away."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from bridge.adapters.loopback import LoopbackChat
from bridge.backends.native.values import to_room_event
from bridge.errors import Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, RoomVersionId, UserId
from bridge.portals.moves import follow_lane
from bridge.ports.chat import (
    ChatPost,
    GuestEnter,
    GuestLeave,
    Replaced,
    RoomInvite,
    RoomMessage,
    RoomMoved,
    RoomNotice,
)
from bridge.ports.command import Caller
from bridge.storage import moves, queues, schema
from bridge.storage.moves import Move
from bridge.storage.queues import INBOX
from tests.support.upgrades import entomb, make_successor, upgrade
from tests.support.world import ALICE, BOB, GATEWAY, GIVE_UP_S, JULIET, ROMEO, World

GARDEN = RoomAlias("#garden:matrix.example")
TEA = "tea@muc.example"
BOT = UserId(f"@isthmus:{GATEWAY}")


async def garden(world: World, *, public: bool = True) -> RoomId:
    """A room of Alice's that Juliet and Romeo have entered."""
    room_id = await world.home.backend.create_room(
        creator=ALICE, txn="garden", name="Garden", alias=GARDEN, public=public
    )
    for address in (JULIET, ROMEO):
        if not public:
            await world.invite(room_id, world.ghost(address))
            await world.settle()
        await world.chat.enter(address, GARDEN)
    await world.settle()
    return room_id


async def move_of(world: World, room_id: RoomId) -> Move | None:
    return await world.database.read(
        lambda tx: moves.of_room(tx, adapter="loopback", room_id=room_id)
    )


async def decisions(world: World) -> list[str]:
    """What was decided about tombstones, in order."""
    table = schema.journal
    rows = await world.database.read(
        lambda tx: tx.execute(
            select(table.c.decision).where(table.c.step == "follow").order_by(table.c.journal_id)
        ).all()
    )
    return [row.decision for row in rows]


def shown(world: World) -> list[str]:
    """What was delivered to rooms that we serve, in the order of delivery."""
    return [
        one.delivery.message.text if isinstance(one.delivery, RoomMessage) else "(moved)"
        for one in world.chat.delivered
        if isinstance(one.delivery, RoomMessage | RoomMoved)
    ]


async def waiting_long(world: World, *, seconds: float = 600.0, step: float = 60.0) -> None:
    for _ in range(round(seconds / step)):
        await world.later(step)


# --- rooms that we serve ----------------------------------------------------------------------


async def test_everybody_comes_along_and_nothing_is_lost_or_doubled(world: World) -> None:
    room_id = await garden(world)
    await world.say(room_id, "before")
    successor = await make_successor(world, room_id)
    await world.say(successor, "first")
    await world.say(room_id, "the last word")
    await entomb(world, room_id, successor)
    await world.settle()
    await world.say(successor, "after")
    await world.later(2)
    for address in (JULIET, ROMEO):
        assert await world.membership(successor, world.ghost(address)) == "join"
    assert shown(world) == ["before", "the last word", "(moved)", "first", "after"]
    (moved,) = world.delivered(RoomMoved)
    assert (moved.room_id, moved.replaces) == (successor, room_id)
    assert await decisions(world) == ["stored", "moved"]

    await world.chat.say(JULIET, "hello", to=successor, stanza_id="x1")
    await world.settle()
    assert await world.bodies(successor, world.ghost(JULIET)) == ["hello"]
    before = list(world.chat.delivered)
    await world.crash()
    await world.later(2)
    assert world.chat.delivered == before


async def test_what_is_said_for_the_old_room_meanwhile_reaches_the_successor_once(
    world: World,
) -> None:
    room_id = await garden(world)
    await world.chat.say(JULIET, "earlier", to=room_id, stanza_id="x0")
    await world.settle()
    successor = await make_successor(world, room_id)
    await entomb(world, room_id, successor)
    await world.state(room_id, "m.room.power_levels", {"users": {}, "events_default": 50})
    await world.carry()
    await world.chat.say(JULIET, "meanwhile", to=room_id, stanza_id="x1")
    await world.settle()
    await world.later(2)
    await world.later(2)
    ghost = world.ghost(JULIET)
    assert await world.bodies(room_id, ghost) == ["earlier"]
    assert await world.bodies(successor, ghost) == ["meanwhile"]
    # A client that has not heard of either sends both again, to where it is now.
    for stanza_id, text in (("x0", "earlier"), ("x1", "meanwhile")):
        assert not await world.chat.say(JULIET, text, to=successor, stanza_id=stanza_id)
    await world.settle()
    assert await world.bodies(successor, ghost) == ["meanwhile"]


async def test_what_has_crossed_the_upgrade_is_said_again_where_people_are(world: World) -> None:
    room_id = await garden(world)
    await world.chat.say(JULIET, "earlier", to=room_id)
    await world.settle()
    successor = await upgrade(world, room_id)
    await world.state(room_id, "m.room.power_levels", {"users": {}, "events_default": 50})
    # We have not heard of it when she speaks, and what she says comes too late.
    await world.chat.say(JULIET, "crossing", to=room_id, stanza_id="x1")
    await world.work_off()
    for _ in range(4):
        await world.later(2)
    ghost = world.ghost(JULIET)
    assert await world.bodies(room_id, ghost) == ["earlier"]
    assert await world.bodies(successor, ghost) == ["crossing"]
    assert shown(world).count("crossing") == 1
    await world.chat.say(JULIET, "after", to=successor)
    await world.tell_again()
    assert await world.bodies(successor, ghost) == ["crossing", "after"]


async def test_what_is_said_in_the_old_room_afterwards_is_not_carried(world: World) -> None:
    room_id = await garden(world)
    await upgrade(world, room_id)
    await world.settle()
    await world.say(room_id, "is anybody here?")
    await world.later(2)
    assert "is anybody here?" not in shown(world)
    assert "left-behind" in await decisions(world)


async def test_what_a_successor_had_long_ago_is_not_delivered_again(world: World) -> None:
    room_id = await garden(world)
    successor = await make_successor(world, room_id)
    await world.chat.enter(JULIET, successor)
    await world.settle()
    await world.say(successor, "long ago")
    await world.settle()
    # By then nothing in the queue tells any more that it was delivered.
    world.clock.shift(100 * 24 * 3600)
    before_ms = world.clock.now_ms()
    await world.database.write(
        lambda tx: queues.prune(tx, queues.OUTBOX, before_ms=before_ms, limit=1_000)
    )
    await entomb(world, room_id, successor)
    await world.settle()
    await world.later(2)
    await world.say(successor, "now")
    await world.later(2)
    assert shown(world) == ["long ago", "(moved)", "now"]


async def test_the_past_of_both_rooms_is_one(world: World) -> None:
    room_id = await garden(world)
    await world.say(room_id, "one")
    await world.say(room_id, "two")
    successor = await upgrade(world, room_id)
    await world.settle()
    await world.say(successor, "three")
    await world.later(2)
    view = await world.chat.enter(JULIET, successor)
    assert [one.message.text for one in view.history] == ["one", "two", "three"]
    view = await world.chat.enter(JULIET, successor, history_limit=2)
    assert [one.message.text for one in view.history] == ["two", "three"]


async def test_whoever_comes_by_the_old_address_is_told_the_new_one(world: World) -> None:
    room_id = await garden(world)
    successor = await upgrade(world, room_id)
    await world.settle()
    for target in (room_id, GARDEN):  # the alias was not moved
        with pytest.raises(Replaced) as refusal:
            await world.chat.enter(JULIET, target)
        assert refusal.value.successor == successor
        with pytest.raises(Replaced):
            await world.from_chat.describe_room(target)


async def test_a_tombstone_from_before_we_came_is_followed(world: World) -> None:
    room_id = await world.home.backend.create_room(
        creator=ALICE, txn="old", public=True, alias=GARDEN
    )
    successor = await upgrade(world, room_id)
    await world.chat.enter(JULIET, GARDEN)
    for _ in range(3):
        await world.later(2)
    assert await world.membership(successor, world.ghost(JULIET)) == "join"
    assert [one.replaces for one in world.delivered(RoomMoved)] == [room_id]


async def test_upgrades_in_a_row_are_followed_to_the_last(world: World) -> None:
    room_id = await garden(world)
    second = await upgrade(world, room_id)
    third = await upgrade(world, second)
    for _ in range(4):
        await world.later(2)
    assert await world.membership(third, world.ghost(JULIET)) == "join"
    assert [one.room_id for one in world.delivered(RoomMoved)] == [second, third]
    with pytest.raises(Replaced) as refusal:
        await world.chat.enter(ROMEO, room_id)
    assert refusal.value.successor == third


# --- nobody is led away -----------------------------------------------------------------------


async def test_a_room_that_does_not_name_its_predecessor_is_left_again(world: World) -> None:
    room_id = await garden(world)
    for predecessor in (None, RoomId("!other:matrix.example")):
        trap = await make_successor(world, predecessor)
        await entomb(world, room_id, trap)
        await world.settle()
        await world.later(2)
        for address in (JULIET, ROMEO):
            assert await world.membership(trap, world.ghost(address)) in (None, "leave")
            assert await world.membership(room_id, world.ghost(address)) == "join"
    assert (await decisions(world)).count("predecessor") == 2
    assert world.delivered(RoomMoved) == []
    assert len(world.delivered(RoomNotice)) == 2
    await world.say(room_id, "still here?")
    await world.chat.say(JULIET, "still here", to=room_id)
    await world.settle()
    assert "still here?" in shown(world)
    assert await world.bodies(room_id, world.ghost(JULIET)) == ["still here"]
    # A true one that comes later is followed.
    successor = await upgrade(world, room_id)
    await world.settle()
    assert await world.membership(successor, world.ghost(JULIET)) == "join"


async def test_a_tombstone_leads_nobody_out_of_a_room_that_they_were_in(world: World) -> None:
    room_id = await garden(world)
    other = await world.home.backend.create_room(creator=BOB, txn="other", public=True)
    juliet = world.ghost(JULIET)
    await world.gateway.backend.join(user_id=juliet, room_id=other, via=[world.home.name])
    await world.settle()
    await entomb(world, room_id, other)
    await world.settle()
    await world.later(2)
    assert await decisions(world) == ["stored", "predecessor"]
    assert await world.membership(other, juliet) == "join"


@pytest.mark.parametrize("successor", [None, 7, "somewhere", "#garden:matrix.example", "itself"])
async def test_what_names_no_other_room_leads_nowhere(world: World, successor: object) -> None:
    room_id = await garden(world)
    await entomb(world, room_id, room_id if successor == "itself" else successor)
    await world.settle()
    assert await decisions(world) == ["no-successor"]
    await world.say(room_id, "still here")
    await world.settle()
    assert shown(world) == ["still here"]


async def test_rooms_that_replace_each_other_end_somewhere(world: World) -> None:
    room_id = await garden(world)
    successor = await upgrade(world, room_id)
    await world.settle()
    await entomb(world, successor, room_id)
    await world.settle()
    assert "circle" in await decisions(world)
    await world.say(successor, "still here")
    await world.later(2)
    assert shown(world)[-1] == "still here"


async def test_a_room_that_others_name_is_not_held_up_by_that(world: World) -> None:
    victim = await plumbed(world)
    await world.state(victim, "m.room.join_rules", {"join_rule": "invite"})
    await world.settle()
    room_id = await garden(world)
    await entomb(world, room_id, victim)
    await world.settle()
    await world.say(victim, "business as usual")
    await world.settle()
    assert posts(world) == ["business as usual"]
    assert await world.membership(victim, world.ghost(ROMEO)) is None
    assert (await decisions(world))[-1] == "predecessor"


async def test_an_invite_that_comes_before_the_tombstone_is_one_to_come_along(
    world: World,
) -> None:
    room_id = await garden(world)
    successor = await make_successor(world, room_id, public=False)
    await entomb(world, room_id, successor)
    told = world.told_to
    await world.network.deliver()
    await world.invite(successor, world.ghost(JULIET))
    # The lane of the old room is slower than that of the new one.
    found = await world.gateway.rooms.queries.member(successor, world.ghost(JULIET))
    assert found is not None
    assert world.told_to == told
    (one,) = (await world.gateway.rooms.queries.streamed([found.event_id])).values()
    with pytest.raises(Unavailable):
        await world.from_matrix.on_event(to_room_event(one, world.gateway.name))
    assert world.delivered(RoomInvite) == []
    for _ in range(3):
        await world.later(2)
    assert await world.membership(successor, world.ghost(JULIET)) == "join"
    assert [one.room_id for one in world.delivered(RoomMoved)] == [successor]


# --- when it cannot be entered ----------------------------------------------------------------


async def test_whoever_needs_an_invite_waits_for_it_and_takes_it(world: World) -> None:
    room_id = await garden(world)
    successor = await upgrade(world, room_id, public=False)
    await world.settle()
    await world.say(room_id, "in the old one")
    await waiting_long(world)
    assert "in the old one" in shown(world), "nobody is kept waiting for ever"
    assert await world.remind() == 0
    await world.settle()
    (notice,) = world.delivered(RoomNotice)
    assert successor in notice.text
    await world.invite(successor, world.ghost(JULIET))
    await world.settle()
    await world.later(2)
    assert await world.membership(successor, world.ghost(JULIET)) == "join"
    assert [one.room_id for one in world.delivered(RoomMoved)] == [successor]
    await world.invite(successor, world.ghost(ROMEO))
    await world.settle()
    assert await world.membership(successor, world.ghost(ROMEO)) == "join"


async def test_whoever_cannot_follow_is_told_and_stays(world: World) -> None:
    room_id = await garden(world)
    successor = await upgrade(world, room_id, public=False)
    await world.settle()
    await waiting_long(world, seconds=GIVE_UP_S + 600, step=3600)
    assert (await decisions(world))[-1] == "given up"
    assert successor in world.delivered(RoomNotice)[-1].text
    await world.say(room_id, "still here")
    await world.settle()
    assert shown(world)[-1] == "still here"
    move = await move_of(world, room_id)
    assert move is not None
    assert move.status == "refused"


# --- foreign chats ----------------------------------------------------------------------------


async def plumbed(world: World) -> RoomId:
    """Alice, Bob and the bot in a room; Juliet in the chat."""
    world.chat.open_chat(
        LoopbackChat(
            address=TEA, name="Tea", affiliations={ALICE: "owner"}, people={JULIET: "Juliet"}
        )
    )
    room_id = await world.home.backend.create_room(creator=ALICE, txn="room", public=True)
    await world.invite(room_id, BOT)
    await world.settle()
    await world.join(room_id, BOB)
    await world.state(room_id, "m.room.power_levels", {"users": {BOT: 50}})
    await world.settle()
    await world.portals.plumbing.plumb(caller=ALICE, is_admin=False, chat=TEA, room_id=room_id)
    await world.chat.say_in_chat(TEA, JULIET, "tea?")
    await world.settle()
    return room_id


def posts(world: World) -> list[str]:
    return [one.message.text for one in world.delivered(ChatPost)]


async def test_a_plumbed_room_stays_plumbed_and_its_guests_stay_in(world: World) -> None:
    room_id = await plumbed(world)
    successor = await make_successor(world, room_id)
    await world.state(successor, "m.room.power_levels", {"users": {BOT: 50}})
    await world.say(successor, "first")
    await world.say(room_id, "last")
    await world.settle()
    await entomb(world, room_id, successor)
    await world.state(room_id, "m.room.power_levels", {"users": {}, "events_default": 50})
    await world.carry()
    await world.chat.say_in_chat(TEA, JULIET, "meanwhile")
    await world.settle()
    for _ in range(3):
        await world.later(2)
    await world.say(successor, "after")
    await world.chat.say_in_chat(TEA, JULIET, "and after")
    await world.later(2)
    assert posts(world) == ["last", "first", "after"]
    ghost = world.ghost(JULIET)
    assert await world.bodies(room_id, ghost) == ["tea?"]
    assert await world.bodies(successor, ghost) == ["meanwhile", "and after"]
    assert set(world.chat.chats[TEA].guests) == {ALICE, BOB}
    assert world.delivered(GuestLeave) == []
    (said,) = await world.home.backend.state(successor, "uk.half-shot.bridge")
    assert said.content["channel"]["id"] == TEA

    before = list(world.chat.delivered)
    await world.crash()
    await world.later(2)
    assert [one for one in world.chat.delivered if one not in before] == []


async def test_a_guest_who_leaves_the_old_room_without_having_come_along_leaves_the_chat(
    world: World,
) -> None:
    room_id = await plumbed(world)
    await upgrade(world, room_id)
    await world.settle()
    await world.later(2)
    await world.leave(room_id, ALICE)
    await world.leave(room_id, BOB)
    await world.later(2)
    assert {one.user_id for one in world.delivered(GuestLeave)} == {BOB}


async def test_who_writes_in_the_old_room_afterwards_learns_where_it_goes_on(
    world: World,
) -> None:
    room_id = await plumbed(world)
    successor = await upgrade(world, room_id)
    await world.settle()
    await world.say(room_id, "hello?")
    await world.later(2)
    assert "hello?" not in posts(world)
    told = (await world.bodies(successor, BOT))[-1]
    assert ALICE in told
    assert TEA in told
    # Where somebody has not come along, they are told where they are.
    await world.say(room_id, "and me?", "bob")
    await world.later(2)
    told = (await world.bodies(room_id, BOT))[-1]
    assert successor in told


async def test_an_end_in_the_middle_of_it_is_made_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await plumbed(world)
    successor = await make_successor(world, room_id)
    await world.say(successor, "first")
    await entomb(world, room_id, successor)
    following = world.from_chat._following

    async def ends(*_: object, **__: object) -> None:
        raise Refused("the end")

    # After the portals have moved, before what was said there is carried.
    monkeypatch.setattr(following, "_carry", ends)
    await world.carry()
    await world.tell()
    (item_id,) = await world.database.read(
        lambda tx: queues.waiting_in_lane(tx, INBOX, follow_lane("loopback", room_id), limit=9)
    )
    item = await world.database.read(lambda tx: queues.get(tx, INBOX, item_id))
    with pytest.raises(Refused):
        await following.deliver(item)
    await world.crash()
    for _ in range(3):
        await world.later(2)
    await world.say(successor, "after")
    await world.later(2)
    assert posts(world) == ["first", "after"]
    move = await move_of(world, room_id)
    assert move is not None
    assert move.status == "moved"


async def test_the_room_of_a_chat_that_we_upgrade_ourselves_is_followed_and_kept(
    world: World,
) -> None:
    world.chat.open_chat(LoopbackChat(address=TEA, name="Tea", people={JULIET: "Juliet"}))
    alias = RoomAlias(f"#tea=40muc.example:{GATEWAY}")
    room_id, _ = await world.home.backend.resolve_alias(alias)
    await world.join(room_id)
    await world.chat.say_in_chat(TEA, JULIET, "tea?")
    await world.settle()
    successor = await world.gateway.backend.upgrade(
        room_id=room_id, sender=BOT, version=RoomVersionId("11"), txn="upgrade"
    )
    for _ in range(3):
        await world.later(2)
    assert (await world.home.backend.resolve_alias(alias))[0] == successor
    # Nobody from Matrix is there yet; Alice is still in the room before.
    for _ in range(3):
        await world.later(3600)
        await world.tidy()
    await world.chat.say_in_chat(TEA, JULIET, "coffee?")
    await world.join(successor)
    await world.say(successor, "cake!")
    await world.later(2)
    assert posts(world) == ["cake!"]
    said = [one.pdu.content.get("body") for one in await world.gateway.timeline(successor)]
    assert "coffee?" in said
    assert world.delivered(GuestLeave) == []


# --- chats of two, and the bot ----------------------------------------------------------------


async def test_a_direct_chat_goes_on_in_the_successor(world: World) -> None:
    room_id = await world.direct_room()
    await world.say(room_id, "hello")
    await world.settle()
    successor = await make_successor(world, room_id, public=False)
    await entomb(world, room_id, successor)
    await world.settle()
    await world.invite(successor, world.ghost(JULIET))
    await world.say(successor, "here now")
    await world.settle()
    for _ in range(3):
        await world.later(2)
    await world.say(successor, "and on")
    await world.chat.say(JULIET, "and on and on", to=ALICE)
    await world.later(2)
    assert world.heard() == [(ALICE, "hello"), (ALICE, "here now"), (ALICE, "and on")]
    assert await world.bodies(successor, world.ghost(JULIET)) == ["and on and on"]
    assert [one.room_id for one in await world.directory.of_room(successor)] == [successor]
    assert await world.directory.of_room(room_id) == []
    assert world.delivered(GuestEnter) == []


async def test_whoever_talks_to_the_bot_goes_on_talking(world: World) -> None:
    room_id = await world.home.backend.create_room(creator=ALICE, txn="bot")
    await world.invite(room_id, BOT, is_direct=True)
    await world.settle()
    successor = await make_successor(world, room_id, public=False)
    await entomb(world, room_id, successor)
    await world.settle()
    await world.invite(successor, BOT)
    for _ in range(3):
        await world.later(2)
    await world.say(successor, "help")
    await world.later(2)
    assert len(await world.bodies(successor, BOT)) == 1


async def test_what_the_bot_was_told_before_is_not_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await world.home.backend.create_room(creator=ALICE, txn="bot")
    successor = await make_successor(world, room_id, public=False)
    for one in (room_id, successor):
        await world.invite(one, BOT, is_direct=True)
    await world.settle()
    lines: list[str] = []

    async def run(caller: Caller, line: str) -> str:
        lines.append(line)
        return "done"

    monkeypatch.setattr(world.from_matrix, "_on_command", run)
    await world.say(successor, "leave #garden:matrix.example")
    await world.settle()
    await entomb(world, room_id, successor)
    await world.say(successor, "help")
    await world.settle()
    for _ in range(3):
        await world.later(2)
    assert (await decisions(world))[-1] == "moved"
    assert lines == ["leave #garden:matrix.example", "help"]
