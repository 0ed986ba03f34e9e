"""What is simple goes straight in: one commit for the transaction and its events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bridge.engine.pdu import Pdu
from bridge.errors import Unavailable
from bridge.ids import RoomId
from bridge.policy.limits import Buckets, Limits, Rate
from bridge.storage import inbound
from bridge.storage.database import Transaction
from tests.support.crash import Crash, crash_at
from tests.support.line import Line
from tests.support.network import Network, Server
from tests.support.talk import forge, heard, room_at, two_in_a_room

Answer = dict[str, dict[str, str]]


async def talking(network: Network) -> tuple[Server, Server, RoomId, Line]:
    """Both have heard of each other already."""
    here, there, room_id = await two_in_a_room(network)
    line = Line(network, there, room_id)
    await take(here, there, "t0", await line.say("guest", "first"))
    await here.rooms.receiver.work_off_due()
    return here, there, room_id, line


async def take(here: Server, there: Server, name: str, *pdus: Pdu) -> Answer:
    taken = await here.rooms.receiver.take(there.name, name, [pdu.wire() for pdu in pdus], wait_s=0)
    return {key: dict(value) for key, value in taken.items()}


async def waiting(here: Server, room_id: RoomId) -> int:
    return await here.database.read(lambda tx: inbound.count_waiting(tx, room_id=room_id))


def count_writes(monkeypatch: pytest.MonkeyPatch, server: Server) -> list[int]:
    write, calls = server.database.write, [0]

    async def counted(unit: Callable[[Transaction], Any]) -> Any:
        calls[0] += 1
        return await write(unit)

    monkeypatch.setattr(server.database, "write", counted)
    return calls


@pytest.mark.parametrize("count", [1, 5, 50])
async def test_a_transaction_is_one_write(
    network: Network, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    here, there, room_id, line = await talking(network)
    pdus = [await line.say("guest", f"{number}") for number in range(count)]
    writes = count_writes(monkeypatch, here)
    assert await take(here, there, "t1", *pdus) == {pdu.event_id: {} for pdu in pdus}
    assert writes == [1]
    assert await heard(here, room_id) == ["first", *(f"{number}" for number in range(count))]


async def test_a_replay_is_answered_as_before_and_changes_nothing(network: Network) -> None:
    here, there, room_id, line = await talking(network)
    good = await line.say("guest", "good")
    bad = await forge(
        network,
        there,
        room_id,
        there.user("stranger"),
        type="m.room.message",
        content={"body": "I am not in"},
    )
    answer = await take(here, there, "t1", good, bad)
    assert answer[good.event_id] == {}
    assert "error" in answer[bad.event_id]
    position = (await room_at(here, room_id)).position
    assert await take(here, there, "t1", good, bad) == answer
    here = await network.restart(here)
    assert await take(here, there, "t1", good, bad) == answer
    assert (await room_at(here, room_id)).position == position
    assert await take(here, there, "t2", good) == {good.event_id: {}}
    await here.rooms.receiver.work_off_due()
    assert (await heard(here, room_id)).count("good") == 1


async def test_what_waits_goes_first(network: Network) -> None:
    here, there, room_id, line = await talking(network)
    lost = await line.say("guest", "lost for now")
    behind = await line.say("guest", "behind a gap")
    later = await line.say("guest", "later")
    network.keys_away.add(there.name)
    await take(here, there, "t1", lost)
    network.keys_away.clear()
    assert await waiting(here, room_id) == 1
    await take(here, there, "t2", behind)
    await take(here, there, "t3", later)
    assert await waiting(here, room_id) == 3
    assert await heard(here, room_id) == ["first"]
    network.clock.shift(10)
    await here.rooms.receiver.work_off_due()
    assert await heard(here, room_id) == ["first", "lost for now", "behind a gap", "later"]


async def test_behind_a_gap_it_waits_in_the_queue(network: Network) -> None:
    here, there, room_id, line = await talking(network)
    await line.say("guest", "never sent")
    behind = await line.say("guest", "behind a gap")
    await take(here, there, "t1", behind)
    assert await waiting(here, room_id) == 1


async def test_from_a_server_never_heard_it_goes_by_the_queue(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    here = await network.restart(here)
    pdu = await Line(network, there, room_id).say("guest", "hello")
    await take(here, there, "t1", pdu)
    assert await waiting(here, room_id) == 1


@pytest.mark.parametrize("when", ["before", "within", "after"])
async def test_a_crash_at_its_write_loses_and_doubles_nothing(
    network: Network, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    here, there, room_id, line = await talking(network)
    pdus = [await line.say("guest", f"{number}") for number in range(3)]
    crash_at(monkeypatch, here, 0, when)
    with pytest.raises(Crash):
        await take(here, there, "t1", *pdus)
    here = await network.restart(here)
    answer = await take(here, there, "t1", *pdus)
    await here.rooms.receiver.work_off_due()
    assert answer == {pdu.event_id: {} for pdu in pdus}
    assert await heard(here, room_id) == ["first", "0", "1", "2"]


async def test_too_much_is_refused_and_not_stored(network: Network) -> None:
    network.limits = replace(Limits(), room_events=Buckets(Rate(per_s=1, burst=4)))
    here, there, room_id, line = await talking(network)
    pdus = [await line.say("guest", f"{number}") for number in range(4)]
    with pytest.raises(Unavailable) as caught:
        await take(here, there, "t1", *pdus)
    assert caught.value.errcode == "M_LIMIT_EXCEEDED"
    assert await waiting(here, room_id) == 0
    assert await heard(here, room_id) == ["first"]
    network.clock.shift(60)
    assert await take(here, there, "t1", *pdus) == {pdu.event_id: {} for pdu in pdus}
    assert await heard(here, room_id) == ["first", "0", "1", "2", "3"]
