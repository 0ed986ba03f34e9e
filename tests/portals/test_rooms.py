"""Rooms that the chat side enters: invitations, messages, leaving, and who may know what."""

from __future__ import annotations

import pytest

from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import RoomAlias, RoomId
from bridge.ports.chat import Failure, RoomInvite, RoomMember, RoomMessage, RoomPower, RoomSubject
from tests.support.world import ALICE, JULIET, ROMEO, World

GARDEN = RoomAlias("#garden:matrix.example")


async def garden(world: World, *, public: bool = True) -> RoomId:
    return await world.home.backend.create_room(
        creator=ALICE,
        txn="garden",
        name="Garden",
        alias=GARDEN,
        public=public,
    )


def said(world: World, room_id: RoomId) -> list[tuple[str, str | None]]:
    return [
        (one.message.text, one.stanza_id)
        for one in world.delivered(RoomMessage)
        if one.room_id == room_id
    ]


async def test_a_room_is_entered_by_its_alias_and_everything_is_heard_once(world: World) -> None:
    room_id = await garden(world)
    await world.say(room_id, "before")
    view = await world.chat.enter(JULIET, GARDEN)
    await world.settle()
    assert (view.info.room_id, view.info.name) == (room_id, "Garden")
    await world.say(room_id, "after")
    await world.chat.say(JULIET, "hello", to=room_id, stanza_id="x1")
    await world.state(room_id, "m.room.topic", {"topic": "roses"})
    await world.settle()
    assert said(world, room_id) == [("after", None), ("hello", "x1")]
    assert [one.text for one in world.delivered(RoomSubject)] == ["roses"]
    assert await world.bodies(room_id) == ["before", "after", "hello"]
    assert world.heard() == []
    before = list(world.chat.delivered)
    await world.crash()
    await world.settle()
    assert world.chat.delivered == before


async def test_what_happened_before_entering_comes_with_the_view(world: World) -> None:
    room_id = await garden(world)
    await world.chat.enter(ROMEO, GARDEN)
    await world.say(room_id, "past")
    await world.settle()
    view = await world.chat.enter(JULIET, room_id)
    assert [one.message.text for one in view.history] == ["past"]
    assert {member.user_id for member in view.members} == {
        ALICE,
        world.ghost(JULIET),
        world.ghost(ROMEO),
    }


async def test_whoever_enters_first_finds_the_past_and_gets_nothing_of_it_as_new(
    world: World,
) -> None:
    room_id = await garden(world)
    said_before = []
    for text in ("one", "two", "three"):
        world.clock.shift(60)
        said_before.append((await world.say(room_id, text), world.clock.now_ms()))
    # What happened to a member of the chat side long ago is no news either.
    ghost = world.ghost(ROMEO)
    await world.chat.enter(ROMEO, GARDEN)
    await world.settle()
    await world.chat.leave(ROMEO, room_id)
    await world.settle()
    await world.home.backend.invite(
        room_id=room_id, sender=ALICE, target=ghost, txn="again", is_direct=False
    )
    await world.settle()
    invites = world.delivered(RoomInvite)
    members = world.delivered(RoomMember)
    view = await world.chat.enter(JULIET, GARDEN)
    await world.settle()
    assert [(one.event_id, one.at_ms) for one in view.history] == said_before
    assert [one.message.text for one in view.history] == ["one", "two", "three"]
    assert said(world, room_id) == []
    assert world.delivered(RoomInvite) == invites
    news = world.delivered(RoomMember)[len(members) :]
    assert {one.user_id for one in news} <= {world.ghost(JULIET)}


async def test_as_many_messages_are_shown_as_were_asked_for_whatever_else_happened(
    world: World,
) -> None:
    room_id = await garden(world)
    for number in range(6):
        await world.say(room_id, f"{number}")
        await world.state(room_id, "m.room.topic", {"topic": f"topic {number}"})
    view = await world.chat.enter(JULIET, GARDEN, history_limit=3)
    assert [one.message.text for one in view.history] == ["3", "4", "5"]


async def test_who_may_not_see_what_was_said_before_is_not_shown_it(world: World) -> None:
    room_id = await garden(world)
    await world.chat.enter(ROMEO, GARDEN)
    await world.settle()
    visibility = {"history_visibility": "joined"}
    await world.state(room_id, "m.room.history_visibility", visibility)
    await world.say(room_id, "among us")
    await world.settle()
    late = await world.chat.enter(JULIET, GARDEN)
    assert [one.message.text for one in late.history] == []
    early = await world.chat.enter(ROMEO, GARDEN)
    assert [one.message.text for one in early.history] == ["among us"]


async def test_only_the_first_of_several_events_carries_the_ids_of_the_message(
    world: World,
) -> None:
    room_id = await garden(world)
    await world.chat.enter(JULIET, GARDEN)
    await world.chat.say(JULIET, "word " * 20_000, to=room_id, stanza_id="long")
    await world.settle()
    ids = [stanza_id for _, stanza_id in said(world, room_id)]
    assert ids[0] == "long"
    assert len(ids) > 1
    assert set(ids[1:]) == {None}


async def test_an_invitation_is_passed_on_accepted_by_entering_or_declined(world: World) -> None:
    room_id = await garden(world, public=False)
    for address in (JULIET, ROMEO):
        await world.invite(room_id, world.ghost(address))
    await world.settle()
    assert await world.membership(room_id, world.ghost(JULIET)) == "invite"
    invites = world.delivered(RoomInvite)
    assert [(one.to, one.name, one.inviter) for one in invites] == [
        (JULIET, "Garden", ALICE),
        (ROMEO, "Garden", ALICE),
    ]
    await world.chat.enter(JULIET, room_id)
    await world.chat.leave(ROMEO, room_id, reason="no time")
    await world.settle()
    assert await world.membership(room_id, world.ghost(JULIET)) == "join"
    assert await world.membership(room_id, world.ghost(ROMEO)) == "leave"
    await world.tell_again()
    assert len(world.delivered(RoomInvite)) == 2


async def test_an_invitation_that_cannot_be_delivered_is_refused_in_the_room(
    world: World,
) -> None:
    room_id = await garden(world, public=False)
    world.chat.refuse_next(Refused("no such person"))
    await world.invite(room_id, world.ghost(JULIET))
    await world.settle()
    member = await world.home.rooms.queries.member(room_id, world.ghost(JULIET))
    assert member is not None
    assert (member.membership, member.content["reason"]) == ("leave", "no such person")


async def test_a_bounced_invitation_is_refused_but_not_by_anybody(world: World) -> None:
    room_id = await garden(world, public=False)
    await world.invite(room_id, world.ghost(JULIET))
    await world.settle()
    (delivered,) = [one for one in world.chat.delivered if isinstance(one.delivery, RoomInvite)]
    await world.chat.bounce(ROMEO, delivered.outbox_id)
    await world.settle()
    assert await world.membership(room_id, world.ghost(JULIET)) == "invite"
    await world.chat.bounce(JULIET, delivered.outbox_id)
    await world.settle()
    assert await world.membership(room_id, world.ghost(JULIET)) == "leave"


async def test_an_invite_whose_join_is_refused_is_tried_again_and_then_declined(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    async def refused(**_: object) -> None:
        tries.append(1)
        raise Refused("not yet")

    with monkeypatch.context() as patch:
        patch.setattr(world.gateway.backend, "join", refused)
        room_id = await world.direct_room()
        for _ in range(6):
            await world.settle()
    assert len(tries) > 5
    assert await world.membership(room_id, world.ghost(JULIET)) == "leave"


async def test_who_left_cannot_write_there_and_is_told(world: World) -> None:
    room_id = await garden(world, public=False)
    await world.invite(room_id, world.ghost(JULIET))
    await world.settle()
    await world.chat.enter(JULIET, room_id)
    await world.chat.leave(JULIET, room_id)
    await world.chat.say(JULIET, "am I still here?", to=room_id)
    await world.settle()
    (failure,) = world.delivered(Failure)
    assert (failure.stanza_id, failure.in_room) == ("s1", True)


async def test_a_stranger_cannot_make_a_ghost_speak_or_change_the_topic(world: World) -> None:
    room_id = await garden(world, public=False)
    await world.invite(room_id, world.ghost(JULIET))
    await world.settle()
    await world.chat.enter(JULIET, room_id)
    await world.chat.say(ROMEO, "let me in", to=room_id)
    await world.settle()
    assert [one.to for one in world.delivered(Failure)] == [f"{ROMEO}/here"]
    with pytest.raises(Refused):
        await world.from_chat.set_topic(address=ROMEO, room_id=room_id, topic="mine", txn="1")
    with pytest.raises(Refused):
        await world.chat.enter(ROMEO, room_id)
    assert await world.bodies(room_id) == []


async def test_closed_rooms_are_described_to_members_and_invited_only(world: World) -> None:
    room_id = await garden(world, public=False)
    for address in (JULIET, ROMEO):
        await world.invite(room_id, world.ghost(address))
    await world.settle()
    await world.chat.enter(JULIET, room_id)
    describe = world.from_chat.describe_room
    for address in (JULIET, ROMEO):
        found = await describe(room_id, address=address)
        assert found is not None
        assert found.name == "Garden"
    assert await describe(room_id, address="mercutio@verona.lit") is None
    assert await describe(room_id) is None


async def test_a_direct_chat_is_not_entered_as_a_room_by_its_own_person(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    with pytest.raises(Refused, match="write to them"):
        await world.chat.enter(JULIET, room_id)


async def test_a_kick_reaches_the_room_with_actor_and_reason(world: World) -> None:
    room_id = await garden(world)
    await world.chat.enter(JULIET, GARDEN)
    await world.settle()
    await world.home.backend.kick(
        room_id=room_id, sender=ALICE, target=world.ghost(JULIET), reason="thorns"
    )
    await world.settle()
    last = world.delivered(RoomMember)[-1]
    assert (last.user_id, last.membership, last.actor, last.reason) == (
        world.ghost(JULIET),
        "leave",
        ALICE,
        "thorns",
    )


async def test_an_encrypted_message_in_a_room_is_a_line_not_silence(world: World) -> None:
    room_id = await garden(world)
    await world.chat.enter(JULIET, GARDEN)
    await world.settle()
    await world.say(room_id, "", type="m.room.encrypted")
    await world.settle()
    assert "encrypted" in said(world, room_id)[-1][0]


async def test_rooms_of_a_person_leave_direct_chats_out(world: World) -> None:
    room_id = await garden(world)
    await world.direct_room()
    await world.settle()
    await world.chat.enter(JULIET, GARDEN)
    assert [info.room_id for info in await world.from_chat.rooms_of(JULIET)] == [room_id]


async def test_unknown_rooms_and_servers_that_are_down_are_told_apart(world: World) -> None:
    with pytest.raises(NotFound):
        await world.chat.enter(JULIET, RoomAlias("#nothing:matrix.example"))
    world.home.down = True
    with pytest.raises(Unavailable):
        await world.chat.enter(JULIET, GARDEN)


async def test_a_direct_invite_into_a_served_room_does_not_flood_anybody(world: World) -> None:
    room_id = await garden(world)
    await world.chat.enter(ROMEO, GARDEN)
    await world.settle()
    await world.invite(room_id, world.ghost(JULIET), is_direct=True)
    await world.settle()
    await world.say(room_id, "for the room")
    await world.settle()
    assert world.heard(JULIET) == []
    assert [text for text, _ in said(world, room_id)] == ["for the room"]


async def test_new_rights_are_told_and_can_be_read(world: World) -> None:
    room_id = await garden(world)
    view = await world.chat.enter(JULIET, GARDEN)
    await world.settle()
    ghost = world.ghost(JULIET)
    assert not view.power.may(ghost, "kick")
    await world.state(room_id, "m.room.power_levels", {"users": {ghost: 50}})
    await world.settle()
    (told,) = world.delivered(RoomPower)
    assert told.room_id == room_id
    assert told.position > view.info.position
    now = await world.from_chat.view_room(room_id)
    assert now.power.may(ghost, "kick")
    assert list(now.history) == []
