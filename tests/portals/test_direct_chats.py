"""One-to-one chats, both ways: opened, accepted, refused, left, opened anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.errors import Unavailable
from bridge.ids import EventId, RoomId, TraceId, UserId
from bridge.ports.chat import Failure, Receipt, RoomInvite
from bridge.storage.queues import QueueItem
from tests.support.world import ALICE, BOB, GIVE_UP_S, JULIET, ROMEO, World


async def chat_of_two(world: World) -> RoomId:
    room_id = await world.direct_room()
    await world.settle()
    return room_id


# --- from Matrix --------------------------------------------------------------------------------


async def test_an_invite_to_a_direct_chat_is_taken_at_once_and_both_talk(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    assert await world.membership(room_id, world.ghost(JULIET)) == "join"
    await world.say(room_id, "hello")
    await world.settle()
    assert world.heard() == [(ALICE, "hello")]
    await world.chat.say(JULIET, "hi alice", to=ALICE)
    await world.settle()
    assert await world.bodies(room_id) == ["hello", "hi alice"]
    assert world.heard() == [(ALICE, "hello")]


async def test_who_writes_while_an_invitation_is_being_accepted_opens_no_other_room(
    world: World,
) -> None:
    room_id = await world.direct_room()
    backend = world.gateway.backend
    joined = backend.join

    async def join(**more: Any) -> None:
        await joined(**more)
        # Alice's server shows the ghost in the room by now, and Juliet writes.
        await world.chat.say(JULIET, "hi alice", to=ALICE)
        await world.work_off()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "join", join)
        await world.settle()
    await world.settle()
    assert await world.invited() == []
    assert await world.bodies(room_id) == ["hi alice"]


async def test_between_two_gateways_the_room_has_extensible_events(world: World) -> None:
    world.home.software = "Isthmus"
    await world.chat.say(JULIET, "hello", to=ALICE, wants_receipt=True)
    await world.settle()
    (room_id,) = await world.invited()
    await world.join(room_id)
    content: dict[str, Any] = {"m.text": [{"body": "hi"}]}
    await world.say(room_id, "hi", type="m.message", **content)
    await world.settle()
    info = await world.home.backend.room(room_id)
    assert info.extensible
    events = [one.pdu for one in await world.home.timeline(room_id)]
    assert [one.sender for one in events if one.type == "m.message"] == [
        ALICE,
        world.ghost(JULIET),
    ]
    assert world.heard() == [(ALICE, "hi")]
    assert len(world.delivered(Receipt)) == 1


async def test_telling_everything_again_changes_nothing(world: World) -> None:
    room_id = await world.direct_room()
    await world.settle()
    await world.say(room_id, "hello")
    await world.chat.say(JULIET, "hi", to=ALICE)
    await world.settle()
    before = list(world.chat.delivered)
    await world.tell_again()
    await world.crash()
    await world.settle()
    assert world.chat.delivered == before
    assert await world.bodies(room_id) == ["hello", "hi"]
    assert await world.invited() == []


async def test_what_was_redacted_before_it_was_told_is_not_told(world: World) -> None:
    room_id = await chat_of_two(world)
    event_id = await world.say(room_id, "oops")
    await world.home.backend.redact(
        room_id=room_id, sender=ALICE, target=event_id, txn="r", reason=None
    )
    await world.settle()
    assert world.heard() == []


async def test_words_written_before_the_portal_was_bound_are_delivered(world: World) -> None:
    """As after a crash between the opening of a room and its portal's row."""
    ghost = await world.ghosts.ensure(JULIET)
    room_id = await world.gateway.backend.open_direct(
        creator=ghost, target=ALICE, txn="lost", trace=TraceId("t")
    )
    await world.join(room_id)
    await world.say(room_id, "are you there?")
    await world.settle()
    assert world.heard() == [(ALICE, "are you there?")]
    await world.chat.say(JULIET, "yes", to=ALICE)
    await world.settle()
    assert await world.bodies(room_id) == ["are you there?", "yes"]


async def test_a_second_direct_room_does_not_silence_the_first(world: World) -> None:
    first = await world.direct_room()
    await world.settle()
    second = await world.direct_room()
    await world.settle()
    await world.say(first, "in the first")
    await world.settle()
    await world.chat.say(JULIET, "answer in the first", to=ALICE)
    await world.settle()
    await world.say(second, "in the second")
    await world.settle()
    await world.chat.say(JULIET, "answer in the second", to=ALICE)
    await world.settle()
    assert [text for _, text in world.heard()] == ["in the first", "in the second"]
    assert await world.bodies(first, world.ghost(JULIET)) == ["answer in the first"]
    assert await world.bodies(second, world.ghost(JULIET)) == ["answer in the second"]
    # One of the two goes: the other is used again, nothing new is opened.
    await world.leave(second)
    await world.settle()
    await world.chat.say(JULIET, "still here", to=ALICE)
    await world.settle()
    assert await world.bodies(first, world.ghost(JULIET)) == ["answer in the first", "still here"]
    assert await world.invited() == []


async def test_an_invite_for_nobody_is_declined(world: World) -> None:
    """By a server that did not ask whether they exist."""
    room_id = await chat_of_two(world)
    nobody = UserId(f"@nobody:{world.gateway.name}")
    await world.home.backend.send(
        room_id=room_id,
        sender=ALICE,
        type="m.room.member",
        state_key=nobody,
        content={"membership": "invite"},
        txn="i",
        trace=TraceId("i"),
    )
    await world.settle()
    assert await world.membership(room_id, nobody) == "leave"


@pytest.mark.parametrize(
    "localpart",
    ["isthmus2", "alice=25matrix.example=40gw.example=40x", "=40=40unknown", "=40", "juliet=4"],
)
async def test_users_without_an_address_do_not_exist(world: World, localpart: str) -> None:
    user_id = UserId(f"@{localpart}:{world.gateway.name}")
    assert not await world.from_matrix.on_user_query(user_id)
    assert await world.from_matrix.on_profile_query(user_id) is None


async def test_a_ghost_exists_for_any_address_and_has_a_name(world: World) -> None:
    assert await world.from_matrix.on_user_query(world.ghost("new@x.example"))
    profile = await world.from_matrix.on_profile_query(world.ghost("new@x.example"))
    assert profile is not None
    assert profile.displayname == "new"


# --- from the chat side -------------------------------------------------------------------------


async def test_who_writes_first_waits_until_the_other_has_come(world: World) -> None:
    await world.chat.say(JULIET, "hello alice", to=ALICE, wants_receipt=True)
    await world.settle()
    (room_id,) = await world.invited()
    assert world.delivered(Receipt) == []
    await world.later(61)
    await world.remind()
    await world.settle()
    (notice,) = world.notices_to()
    assert "waiting" in notice
    assert "has not accepted" in notice
    await world.join(room_id)
    await world.settle()
    assert await world.bodies(room_id) == ["hello alice"]
    assert [one.stanza_id for one in world.delivered(Receipt, f"{JULIET}/here")] == ["s1"]


async def test_many_waiting_messages_make_one_notice(world: World) -> None:
    for number in range(5):
        await world.chat.say(JULIET, f"{number}", to=ALICE)
    await world.settle()
    await world.later(120)
    await world.remind()
    await world.remind()
    await world.settle()
    assert len(world.notices_to()) == 1
    (room_id,) = await world.invited()
    await world.join(room_id)
    await world.settle()
    assert await world.bodies(room_id) == ["0", "1", "2", "3", "4"]


async def test_the_same_message_twice_is_one(world: World) -> None:
    room_id = await chat_of_two(world)
    assert await world.chat.say(JULIET, "once", to=ALICE, stanza_id="a")
    assert not await world.chat.say(JULIET, "once", to=ALICE, stanza_id="a")
    assert await world.chat.say(JULIET, "counted anew", to=ALICE, stanza_id="a")
    await world.settle()
    assert await world.bodies(room_id) == ["once", "counted anew"]


async def test_who_refuses_the_invitation_is_not_asked_again_for_the_same_words(
    world: World,
) -> None:
    await world.chat.say(JULIET, "one", to=ALICE)
    await world.chat.say(JULIET, "two", to=ALICE)
    await world.settle()
    (room_id,) = await world.invited()
    await world.leave(room_id)
    await world.settle()
    failures = world.delivered(Failure)
    assert [one.stanza_id for one in failures] == ["s1", "s2"]
    assert all("refused" in one.text for one in failures)
    assert await world.invited() == []
    assert await world.membership(room_id, world.ghost(JULIET)) == "leave"
    await world.tell_again()
    assert await world.invited() == []
    # What is written later is a new question.
    await world.later(60)
    await world.chat.say(JULIET, "three", to=ALICE)
    await world.settle()
    (second,) = await world.invited()
    assert second != room_id


async def test_a_refusal_that_came_before_the_portal_is_noticed(world: World) -> None:
    ghost = await world.ghosts.ensure(JULIET)
    await world.chat.say(JULIET, "hello", to=ALICE)
    await world.work_off()
    (room_id,) = await world.invited()
    await world.leave(room_id)
    await world.carry()
    # Told to nobody: as if it had been read before the portal's row was there.
    world.told_to = 1 << 40
    await world.later(5)
    assert [one.stanza_id for one in world.delivered(Failure)] == ["s1"]
    assert await world.invited() == []
    assert await world.membership(room_id, ghost) == "leave"


async def test_a_server_that_refuses_is_told_to_the_author(world: World) -> None:
    world.home.listener.users = lambda user_id: user_id != ALICE
    await world.chat.say(JULIET, "hello", to=ALICE)
    await world.settle()
    (failure,) = world.delivered(Failure)
    assert failure.stanza_id == "s1"
    assert not failure.in_room
    assert ("bridge", "refused") in await world.journal_of("loopback-1")


async def test_a_user_of_our_own_server_is_nobody(world: World) -> None:
    await world.chat.say(JULIET, "hello", to=UserId(f"@isthmus:{world.gateway.name}"))
    await world.chat.say(JULIET, "hello", to=world.ghost(ROMEO))
    await world.settle()
    assert [one.stanza_id for one in world.delivered(Failure)] == ["s1", "s2"]


async def test_an_invitation_that_nobody_answers_is_given_up_with_its_message(
    world: World,
) -> None:
    await world.chat.say(JULIET, "hello", to=ALICE)
    await world.settle()
    assert len(await world.invited()) == 1
    await world.later(GIVE_UP_S + 1000)
    await world.settle()
    (failure,) = world.delivered(Failure)
    assert failure.stanza_id == "s1"
    assert await world.invited() == []


async def test_while_the_server_is_down_messages_wait_and_arrive_in_order(world: World) -> None:
    room_id = await chat_of_two(world)
    world.home.down = True
    for number in range(3):
        await world.chat.say(JULIET, f"{number}", to=ALICE, wants_receipt=True)
    await world.settle()
    assert world.delivered(Receipt) == []
    await world.later(30)
    assert await world.remind() == 0
    await world.later(40)
    assert await world.remind() == 1
    await world.chat.say(JULIET, "3", to=ALICE)
    await world.later(120)
    assert await world.remind() == 0
    await world.later(86_400)
    assert await world.remind() == 1
    await world.settle()
    assert len(world.notices_to()) == 2
    world.home.down = False
    await world.settle()
    assert await world.bodies(room_id) == ["0", "1", "2", "3"]
    assert [one.stanza_id for one in world.delivered(Receipt)] == ["s1", "s2", "s3"]
    await world.later(86_400)
    assert await world.remind() == 0


async def test_a_first_message_waits_for_a_server_that_is_down(world: World) -> None:
    world.home.down = True
    await world.chat.say(JULIET, "hello", to=ALICE)
    await world.settle()
    world.home.down = False
    await world.later(600)
    (room_id,) = await world.invited()
    await world.join(room_id)
    await world.settle()
    assert await world.bodies(room_id) == ["hello"]


async def test_what_their_server_does_not_take_is_told_on_the_message(world: World) -> None:
    room_id = await chat_of_two(world)
    world.refused_by_peer = {"bad words": "M_FORBIDDEN: spam"}
    await world.chat.say(JULIET, "bad words", to=ALICE, wants_receipt=True)
    await world.chat.say(JULIET, "good words", to=ALICE, wants_receipt=True)
    await world.settle()
    (failure,) = world.delivered(Failure)
    assert (failure.stanza_id, "spam" in failure.text) == ("s1", True)
    assert [one.stanza_id for one in world.delivered(Receipt)] == ["s2"]
    await world.tell_again()
    assert len(world.delivered(Failure)) == 1
    await world.later(120)
    assert await world.remind() == 0
    assert room_id


@pytest.mark.parametrize("error", [None, "M_FORBIDDEN: spam"])
async def test_an_answer_before_the_map_row_counts(
    world: World, error: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await chat_of_two(world)
    send = world.gateway.backend.send

    async def send_and_accept(**more: Any) -> EventId:
        event_id = await send(**more)
        await world.accept(event_id, room_id, world.home.name, error)
        await world.tell_acceptances()
        return event_id

    with monkeypatch.context() as patch:
        patch.setattr(world.gateway.backend, "send", send_and_accept)
        await world.chat.say(JULIET, "quick", to=ALICE, wants_receipt=True)
        await world.work_off()
    await world.settle()
    assert len(world.delivered(Receipt)) == (1 if error is None else 0)
    assert len(world.delivered(Failure)) == (0 if error is None else 1)
    await world.later(120)
    assert await world.remind() == 0


async def test_a_crash_between_event_and_map_row_doubles_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await chat_of_two(world)
    await world.chat.say(JULIET, "once", to=ALICE, wants_receipt=True)
    deliver = world.from_chat.deliver

    async def killed(item: QueueItem) -> None:
        await deliver(item)
        raise asyncio.CancelledError

    monkeypatch.setattr(world.inbox, "_deliver", killed)
    with pytest.raises(asyncio.CancelledError):
        await world.work_off()
    await world.crash()
    await world.settle()
    assert await world.bodies(room_id) == ["once"]
    assert len(world.delivered(Receipt)) == 1


async def test_a_long_text_comes_in_parts_and_has_one_receipt(world: World) -> None:
    room_id = await chat_of_two(world)
    text = "\n".join(f"line {number} " + "x" * 90 for number in range(1500))
    await world.chat.say(JULIET, text, to=ALICE, wants_receipt=True)
    await world.settle()
    parts = await world.bodies(room_id)
    assert len(parts) > 1
    assert "".join(parts) == text
    assert len(world.delivered(Receipt)) == 1


async def test_what_is_too_much_is_turned_away_not_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.portals.from_chat.MAX_WAITING", 3)
    for number in range(3):
        await world.chat.say(JULIET, f"{number}", to=ALICE)
    with pytest.raises(Unavailable):
        await world.chat.say(JULIET, "3", to=ALICE)
    await world.chat.say(ROMEO, "another chat", to=ALICE)
    await world.settle()
    (first, second) = await world.invited()
    for room_id in (first, second):
        await world.join(room_id)
    await world.settle()
    assert sorted([await world.bodies(first), await world.bodies(second)]) == [
        ["0", "1", "2"],
        ["another chat"],
    ]


async def test_what_says_nothing_is_refused_not_swallowed(world: World) -> None:
    await chat_of_two(world)
    await world.chat.say(JULIET, " " * 70_000, to=ALICE)
    await world.settle()
    assert len(world.delivered(Failure)) == 1


# --- going and coming back ----------------------------------------------------------------------


async def test_who_left_and_is_written_to_gets_another_invitation(world: World) -> None:
    first = await chat_of_two(world)
    await world.leave(first)
    await world.settle()
    assert await world.membership(first, world.ghost(JULIET)) == "leave"
    await world.chat.say(JULIET, "are you there?", to=ALICE)
    await world.settle()
    (second,) = await world.invited()
    await world.join(second)
    await world.settle()
    assert await world.bodies(second) == ["are you there?"]
    await world.say(second, "yes")
    await world.settle()
    assert world.heard() == [(ALICE, "yes")]


async def test_a_leave_whose_following_failed_is_followed_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await chat_of_two(world)
    await world.leave(room_id)

    async def not_now(**_: Any) -> None:
        raise Unavailable("not now")

    with monkeypatch.context() as patch:
        patch.setattr(world.gateway.backend, "leave", not_now)
        await world.settle()
        assert await world.membership(room_id, world.ghost(JULIET)) == "join"
    await world.settle()
    assert await world.membership(room_id, world.ghost(JULIET)) == "leave"


async def test_an_old_leave_told_again_does_not_end_what_began_since(world: World) -> None:
    room_id = await chat_of_two(world)
    await world.state(room_id, "m.room.join_rules", {"join_rule": "public"})
    await world.join(room_id, BOB)
    await world.leave(room_id)
    await world.settle()
    await world.join(room_id)
    await world.invite(room_id, world.ghost(JULIET), is_direct=True)
    await world.leave(room_id, BOB)
    await world.settle()
    assert await world.membership(room_id, world.ghost(JULIET)) == "join"
    await world.say(room_id, "hello")
    await world.settle()
    before = len(world.chat.delivered)
    await world.tell_again()
    assert await world.membership(room_id, world.ghost(JULIET)) == "join"
    assert len(world.chat.delivered) == before
    await world.say(room_id, "hello again")
    await world.settle()
    assert world.heard()[-1] == (ALICE, "hello again")


@pytest.mark.parametrize("membership", ["leave", "ban"])
async def test_a_ghost_that_is_put_out_tells_its_person_and_may_ask_again(
    world: World, membership: str
) -> None:
    room_id = await chat_of_two(world)
    await world.home.backend.send(
        room_id=room_id,
        sender=ALICE,
        type="m.room.member",
        state_key=world.ghost(JULIET),
        content={"membership": membership, "reason": "no more"},
        txn="kick",
        trace=TraceId("t"),
    )
    await world.settle()
    (notice,) = world.notices_to()
    assert "no more" in notice
    await world.later(5)
    await world.chat.say(JULIET, "sorry", to=ALICE)
    await world.settle()
    (second,) = await world.invited()
    assert second != room_id


async def test_a_ghost_put_out_and_invited_again_talks_in_the_old_room(world: World) -> None:
    room_id = await chat_of_two(world)
    await world.home.backend.kick(
        room_id=room_id, sender=ALICE, target=world.ghost(JULIET), reason=None
    )
    await world.settle()
    await world.invite(room_id, world.ghost(JULIET), is_direct=True)
    await world.settle()
    await world.say(room_id, "again")
    await world.chat.say(JULIET, "thanks", to=ALICE)
    await world.settle()
    assert world.heard() == [(ALICE, "again")]
    assert (await world.bodies(room_id))[-1] == "thanks"


async def test_rooms_given_up_long_ago_are_not_opened_again(world: World) -> None:
    """The transaction that opened a second room is remembered: it must not lead there again."""
    first = await chat_of_two(world)
    await world.leave(first)
    await world.settle()
    await world.chat.say(JULIET, "one", to=ALICE)
    await world.settle()
    (second,) = await world.invited()
    await world.join(second)
    await world.settle()
    await world.leave(second)
    await world.settle()
    await world.directory.bind_direct(address=JULIET, user_id=ALICE, room_id=first)
    await world.chat.say(JULIET, "two", to=ALICE)
    await world.settle()
    (third,) = await world.invited()
    assert third not in (first, second)


# --- more than two ------------------------------------------------------------------------------


async def test_a_third_person_is_announced_and_heard(world: World) -> None:
    room_id = await chat_of_two(world)
    await world.invite(room_id, BOB)
    await world.join(room_id, BOB)
    await world.settle()
    (notice,) = world.notices_to()
    assert BOB in notice
    await world.say(room_id, "I am here, too", user="bob")
    await world.settle()
    assert world.heard() == [(BOB, "I am here, too")]
    await world.tell_again()
    assert len(world.notices_to()) == 1


async def test_a_room_of_many_is_no_direct_chat_whatever_the_invite_says(world: World) -> None:
    room_id = await world.home.backend.create_room(creator=ALICE, txn="many", name="Many")
    await world.invite(room_id, BOB)
    await world.join(room_id, BOB)
    await world.invite(room_id, world.ghost(JULIET), is_direct=True)
    await world.settle()
    await world.say(room_id, "not for her alone", user="bob")
    await world.settle()
    assert world.heard() == []
    assert [one.name for one in world.delivered(RoomInvite)] == ["Many"]
    await world.chat.enter(JULIET, room_id)
    await world.say(room_id, "now she listens", user="bob")
    await world.settle()
    assert world.heard() == []


async def test_two_ghosts_in_one_direct_room_hear_each_other_through_the_bot(
    world: World,
) -> None:
    room_id = await chat_of_two(world)
    await world.invite(room_id, world.ghost(ROMEO))
    await world.settle()
    await world.chat.enter(ROMEO, room_id)
    await world.settle()
    await world.chat.say(ROMEO, "it is me", to=room_id)
    await world.settle()
    assert [n for n in world.notices_to() if "it is me" in n] == [
        f"{ROMEO}, in your chat with {ALICE}: it is me"
    ]
    await world.chat.say(JULIET, "I know", to=ALICE)
    await world.settle()
    assert await world.bodies(room_id) == ["it is me", "I know"]
