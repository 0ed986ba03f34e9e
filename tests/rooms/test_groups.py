"""Events of one transaction share a commit, and end as if each had come alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bridge.engine.pdu import Pdu
from bridge.errors import Unavailable
from bridge.ids import EventId, RoomId, TraceId
from bridge.rooms.accept import Acceptor
from bridge.rooms.append import Appender, Plan
from bridge.rooms.load import RoomStates
from bridge.storage import events as event_rows
from bridge.storage import rooms as room_rows
from tests.support.line import Line, ending, three_in_a_room
from tests.support.network import Network
from tests.support.talk import heard, make_room, room_at, say, two_in_a_room


@pytest.fixture(autouse=True)
def by_the_queue(network: Network) -> None:
    network.straight = False


async def test_a_transaction_is_one_append(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    line = Line(network, there, room_id)
    for number in range(30):
        await line.say("guest", f"{number}")
    before = await room_at(here, room_id)
    answer = await network.hand_over(there.name, here.name, [pdu.wire() for pdu in line.pdus])
    assert answer == {pdu.event_id: {} for pdu in line.pdus}
    after = await room_at(here, room_id)
    assert after.position == before.position + 1
    assert after.extremities == {line.pdus[-1].event_id: line.pdus[-1].depth}
    assert await heard(here, room_id) == [f"{number}" for number in range(30)]
    await say(here, room_id, "maker", "and on")
    assert (await heard(here, room_id))[-1] == "and on"


@pytest.mark.parametrize("straight", [True, False])
async def test_whatever_comes_together_ends_as_if_it_had_come_alone(
    network: Network, straight: bool
) -> None:
    here, there, third, room_id = await three_in_a_room(network)
    network.straight = straight
    guest, other = there.user("guest"), there.user("other")
    line = Line(network, there, room_id)
    state = (await room_at(there, room_id)).state
    create_free = [state["m.room.power_levels", ""], state["m.room.member", guest]]
    first = await line.say("guest", "first")
    await line.say("other", "still in")
    await line.add("guest", {"topic": "thorns"}, "m.room.topic", state_key="")
    ban = await line.add(
        "guest",
        {"membership": "ban"},
        "m.room.member",
        state_key=other,
        auth=[*create_free, state["m.room.member", other]],
    )
    # Banned by what comes with it; not banned where it claims to be, but now; and forged.
    await line.say("other", "I am banned", auth=[create_free[0], ban.event_id])
    await line.say("other", "from a fork", on=[(first.event_id, first.depth)])
    await line.say("guest", "after the ban", on=[(ban.event_id, ban.depth)])
    wrong = await line.say("guest", "not signed")
    # Rests on the one that is dropped, so it waits.
    await line.say("guest", "rests on nothing")
    await line.say("guest", "a second end", on=[(ban.event_id, ban.depth)])
    jsons = [pdu.wire() for pdu in line.pdus]
    jsons[line.pdus.index(wrong)]["signatures"] = {
        there.name: {there.key.key_id: here.key.sign(b"something else entirely")}
    }
    there.down = True
    together = await network.hand_over(there.name, here.name, jsons)
    alone: dict[EventId, Any] = {}
    for json in jsons:
        alone |= await network.hand_over(there.name, third.name, [json])
    ids = [pdu.event_id for pdu in line.pdus]
    assert await ending(here, room_id, ids) == await ending(third, room_id, ids)
    assert together == alone
    verdicts, *_ = await ending(here, room_id, ids)
    assert {verdict for verdict, _ in verdicts.values()} == {"accepted", "rejected", "soft_failed"}


async def test_our_own_end_in_the_room_ends_the_group(network: Network) -> None:
    there, here = await network.add("there.example"), await network.add("here.example")
    room_id = await make_room(there, creator="guest")
    await here.backend.join(user_id=here.user("maker"), room_id=room_id, via=[there.name])
    await network.deliver()
    state = (await room_at(there, room_id)).state
    line = Line(network, there, room_id)
    await line.say("guest", "before")
    await line.say("guest", "and before")
    target = here.user("maker")
    kick = await line.add(
        "guest",
        {"membership": "leave"},
        "m.room.member",
        state_key=target,
        auth=[
            state["m.room.power_levels", ""],
            state["m.room.member", there.user("guest")],
            state["m.room.member", target],
        ],
    )
    after = await line.say("guest", "after")
    await network.hand_over(there.name, here.name, [pdu.wire() for pdu in line.pdus])
    room = await RoomStates(database=here.database).find_room(room_id)
    assert room is not None
    assert not room.joined
    assert room.extremities == {kick.event_id: kick.depth}
    assert await here.database.read(lambda tx: event_rows.find(tx, [after.event_id])) == {}


@pytest.mark.parametrize("problem", [Unavailable("the disk is full"), RuntimeError("a mistake")])
async def test_a_group_that_fails_is_taken_one_by_one(
    network: Network, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    here, there, room_id = await two_in_a_room(network)

    async def fail(
        self: Acceptor, room_id: RoomId, queued: Sequence[tuple[Pdu, TraceId]], **more: Any
    ) -> int:
        raise problem

    monkeypatch.setattr(Acceptor, "accept_group", fail)
    line = Line(network, there, room_id)
    for number in range(5):
        await line.say("guest", f"{number}")
    before = await room_at(here, room_id)
    answer = await network.hand_over(there.name, here.name, [pdu.wire() for pdu in line.pdus])
    assert answer == {pdu.event_id: {} for pdu in line.pdus}
    assert (await room_at(here, room_id)).position == before.position + 5
    assert await heard(here, room_id) == [f"{number}" for number in range(5)]


async def test_a_group_is_planned_anew_when_another_process_moves_the_room(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, room_id = await two_in_a_room(network)
    line = Line(network, there, room_id)
    for number in range(5):
        await line.say("guest", f"{number}")
    position = (await room_at(here, room_id)).position
    commit = Appender.commit
    moved: list[Plan] = []

    async def overtaken(self: Appender, plan: Plan, **more: Any) -> None:
        if not moved:
            moved.append(plan)
            await here.database.write(lambda tx: room_rows.advance(tx, room_id, expected=position))
        await commit(self, plan, **more)

    monkeypatch.setattr(Appender, "commit", overtaken)
    answer = await network.hand_over(there.name, here.name, [pdu.wire() for pdu in line.pdus])
    assert answer == {pdu.event_id: {} for pdu in line.pdus}
    assert (await room_at(here, room_id)).position == position + 2
    assert await heard(here, room_id) == [f"{number}" for number in range(5)]
    await say(here, room_id, "maker", "and on")
    assert (await heard(here, room_id))[-1] == "and on"


async def test_a_crash_before_the_commit_loses_and_doubles_nothing(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    line = Line(network, there, room_id)
    for number in range(8):
        await line.say("guest", f"{number}")
    jsons = [pdu.wire() for pdu in line.pdus]
    await here.rooms.receiver.take(there.name, "t1", jsons[:5], wait_s=0)
    here = await network.restart(here)
    await here.rooms.receiver.take(there.name, "t1", jsons[:5], wait_s=0)
    await here.rooms.receiver.take(there.name, "t2", jsons, wait_s=0)
    await here.rooms.receiver.work_off_due()
    here = await network.restart(here)
    await here.rooms.receiver.take(there.name, "t3", jsons, wait_s=0)
    await here.rooms.receiver.work_off_due()
    assert await heard(here, room_id) == [f"{number}" for number in range(8)]
