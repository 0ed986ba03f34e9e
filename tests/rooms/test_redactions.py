"""Redactions held until they apply, in every order and from every side.

Spec: rooms/v3 and rooms/v11, handling redactions; redactions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from bridge.engine.pdu import Pdu
from bridge.errors import Refused
from bridge.ids import EventId, RoomId, UserId
from bridge.storage import events as event_rows
from bridge.storage import rooms as room_rows
from bridge.storage.database import Transaction, Unit
from bridge.storage.events import EventRow
from bridge.storage.schema import redactions
from tests.support.network import Network, Server, trace
from tests.support.talk import VERSION_IDS, forge, heard, make_room, room_at, say, two_in_a_room

BODY = {"msgtype": "m.text", "body": "oops"}


async def redact(
    network: Network,
    server: Server,
    room_id: RoomId,
    sender: UserId,
    target: str,
    **more: Any,
) -> Pdu:
    """Signed by its sender's server, sent by nobody yet."""
    return await forge(
        network,
        server,
        room_id,
        sender,
        type="m.room.redaction",
        content=more.pop("content", {}),
        redacts=EventId(target),
        **more,
    )


async def give(network: Network, origin: Server, to: Server, *pdus: Pdu) -> None:
    """Each in a transaction of its own; none is refused."""
    for pdu in pdus:
        answer = await network.hand_over(origin.name, to.name, [pdu.wire()])
        assert answer == {pdu.event_id: {}}


async def stored(server: Server, event_id: EventId) -> EventRow:
    return (await server.database.read(lambda tx: event_rows.find(tx, [event_id])))[event_id]


async def told(server: Server, room_id: RoomId) -> dict[EventId, bool]:
    """The redactions of the arrival order, and whether readers may act on each."""
    return {
        one.pdu.event_id: one.applies
        for one in await server.timeline(room_id)
        if one.pdu.type == "m.room.redaction"
    }


async def change_power(here: Server, room_id: RoomId, **levels: Any) -> None:
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.power_levels",
        state_key="",
        content={"users": {}, **levels},
        txn=f"power-{levels}",
        trace=trace(),
    )


@pytest.mark.parametrize("version", VERSION_IDS)
@pytest.mark.parametrize("who", ["maker", "author"])
async def test_a_redaction_waits_for_its_target(network: Network, version: str, who: str) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    at = list((await room_at(here, room_id)).extremities.items())
    guest = there.user("guest")
    spoken = "m.message" if version == "I.1" else "m.room.message"
    target = await forge(network, there, room_id, guest, type=spoken, content=BODY, on=at)
    if who == "maker":
        by = await redact(network, here, room_id, here.user("maker"), target.event_id, on=at)
        observer, origin = there, here
    else:
        by = await redact(network, there, room_id, guest, target.event_id, on=at)
        observer, origin = here, there
    await give(network, origin, observer, by)
    assert await told(observer, room_id) == {by.event_id: False}
    observer = await network.restart(observer)
    await give(network, there, observer, target)
    assert await heard(observer, room_id) == ["(redacted)"]
    assert await told(observer, room_id) == {by.event_id: True}
    row = await stored(observer, target.event_id)
    assert row.redacted_by == by.event_id
    assert "oops" not in row.json


async def test_somebody_of_the_same_server_may_redact_and_nobody_else(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    third = await network.add("third.example")
    await there.backend.join(user_id=there.user("friend"), room_id=room_id, via=[here.name])
    await third.backend.join(user_id=third.user("two"), room_id=room_id, via=[here.name])
    await network.deliver()
    target = await forge(network, there, room_id, there.user("guest"), content=BODY)
    foreign = await redact(network, third, room_id, third.user("two"), target.event_id)
    await give(network, there, here, target)
    await give(network, third, here, foreign)
    assert await heard(here, room_id) == ["oops"]
    assert await told(here, room_id) == {foreign.event_id: False}
    friend = await redact(network, there, room_id, there.user("friend"), target.event_id)
    await give(network, there, here, friend)
    assert await heard(here, room_id) == ["(redacted)"]
    assert await told(here, room_id) == {foreign.event_id: False, friend.event_id: True}


@pytest.mark.parametrize("version", ["2", "10", "12", "I.1"])
async def test_a_redaction_of_ours_that_would_have_no_effect_is_refused(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    target = await say(here, room_id, "maker", "not yours")
    await network.deliver()
    before = await told(there, room_id)
    for unseen in (target, EventId("$unknown:elsewhere.example")):
        with pytest.raises(Refused):
            await there.backend.redact(
                room_id=room_id,
                sender=there.user("guest"),
                target=unseen,
                txn=f"redact-{unseen}",
                reason=None,
            )
    assert await told(there, room_id) == before
    own = await say(there, room_id, "guest", "mine")
    await there.backend.redact(
        room_id=room_id, sender=there.user("guest"), target=own, txn="own", reason=None
    )
    assert (await stored(there, own)).redacted_by is not None


async def test_a_redaction_that_may_not_be_sent_is_rejected_and_does_nothing(
    network: Network,
) -> None:
    here, there, room_id = await two_in_a_room(network)
    await change_power(here, room_id, events={"m.room.redaction": 30})
    await network.deliver()
    target = await forge(network, there, room_id, there.user("guest"), content=BODY)
    by = await redact(network, there, room_id, there.user("guest"), target.event_id)
    answer = await network.hand_over(there.name, here.name, [by.wire()])
    assert answer[by.event_id]["error"]
    assert (await stored(here, by.event_id)).verdict == event_rows.REJECTED
    await give(network, there, here, target)
    assert await heard(here, room_id) == ["oops"]
    assert await told(here, room_id) == {}


async def test_a_rejected_event_is_not_redacted_and_a_soft_failed_one_is(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    guest, at = there.user("guest"), list((await room_at(here, room_id)).extremities.items())
    topic: dict[str, Any] = {"type": "m.room.topic", "state_key": "", "content": {"topic": "mine"}}
    rejected = await forge(network, there, room_id, guest, **topic)
    await network.hand_over(there.name, here.name, [rejected.wire()])
    late = await forge(network, there, room_id, guest, content=BODY, on=at)
    await here.backend.kick(room_id=room_id, sender=here.user("maker"), target=guest, reason=None)
    await give(network, there, here, late)
    assert (await stored(here, late.event_id)).verdict == event_rows.SOFT_FAILED
    for number, target in enumerate((rejected, late)):
        await here.backend.redact(
            room_id=room_id,
            sender=here.user("maker"),
            target=target.event_id,
            txn=f"r{number}",
            reason=None,
        )
    assert (await stored(here, rejected.event_id)).redacted_by is None
    # It is hidden here, but still given to servers that ask for it.
    assert "oops" not in (await stored(here, late.event_id)).json
    assert list((await told(here, room_id)).values()) == [False, True]


async def test_a_soft_failed_redaction_does_nothing(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    guest, at = there.user("guest"), list((await room_at(here, room_id)).extremities.items())
    target = await forge(network, there, room_id, guest, content=BODY, on=at)
    by = await redact(network, there, room_id, guest, target.event_id, on=at)
    await give(network, there, here, target)
    await here.backend.kick(room_id=room_id, sender=here.user("maker"), target=guest, reason=None)
    await give(network, there, here, by)
    assert (await stored(here, by.event_id)).verdict == event_rows.SOFT_FAILED
    assert await heard(here, room_id) == ["oops"]


async def test_power_counts_where_the_redaction_stands(network: Network) -> None:
    """Its sender has lost the power since; what it names comes even later."""
    here, there, room_id = await two_in_a_room(network)
    guest = there.user("guest")
    await change_power(here, room_id, users={guest: 50})
    await network.deliver()
    at = list((await room_at(here, room_id)).extremities.items())
    target = await forge(network, here, room_id, here.user("maker"), content=BODY, on=at)
    by = await redact(network, there, room_id, guest, target.event_id, on=at)
    third = await network.add("third.example")
    await third.backend.join(user_id=third.user("two"), room_id=room_id, via=[here.name])
    await give(network, there, third, by)
    await change_power(here, room_id, users={guest: 0})
    await network.deliver()
    await give(network, here, third, target)
    assert await heard(third, room_id) == ["(redacted)"]


async def test_whoever_lost_their_power_cannot_go_back_for_it(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    guest = there.user("guest")
    await change_power(here, room_id, users={guest: 50})
    await network.deliver()
    at = list((await room_at(there, room_id)).extremities.items())
    said = await say(here, room_id, "maker", "stays")
    by = await redact(network, there, room_id, guest, said, on=at)
    later = await redact(network, there, room_id, guest, "$later", on=at)
    await change_power(here, room_id, users={guest: 0})
    await give(network, there, here, by, later)
    assert await heard(here, room_id) == ["stays"]
    assert await told(here, room_id) == {by.event_id: False, later.event_id: False}
    rows = await here.database.read(lambda tx: tx.execute(select(redactions.c.by_power)).all())
    assert [row.by_power for row in rows] == [False, False]


async def test_a_redaction_that_is_redacted_stays_in_force(network: Network) -> None:
    for version in ("10", "12"):
        here, there = await network.add(f"h{version}.example"), await network.add(f"t{version}.x")
        room_id = await make_room(here, version)
        await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
        await network.deliver()
        at = list((await room_at(here, room_id)).extremities.items())
        target = await forge(network, there, room_id, there.user("guest"), content=BODY, on=at)
        more = {"reason": "secret"}
        by = await redact(
            network, here, room_id, here.user("maker"), target.event_id, on=at, content=more
        )
        again = await redact(network, here, room_id, here.user("maker"), by.event_id, on=at)
        await give(network, here, there, by, again)
        assert "secret" not in (await stored(there, by.event_id)).json
        await give(network, there, there, target)
        assert "oops" not in (await stored(there, target.event_id)).json


async def test_redacted_state_stays_and_loses_what_it_said(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    assert (await there.backend.room(room_id)).topic == "roses"
    state = (await room_at(here, room_id)).state
    for key in (("m.room.topic", ""), ("m.room.member", there.user("guest"))):
        await here.backend.redact(
            room_id=room_id, sender=here.user("maker"), target=state[key], txn=key[0], reason=None
        )
    await network.deliver()
    for server in (here, there):
        assert (await server.backend.room(room_id)).topic is None
        assert (await server.backend.room(room_id)).name == "Garden"
        member = await server.backend.member(room_id, there.user("guest"))
        assert member is not None
        assert member.membership == "join"
        assert dict((await room_at(server, room_id)).state) == dict(state)
    await say(there, room_id, "guest", "still here")
    await network.deliver()
    assert await heard(here, room_id) == ["still here"]


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_a_room_outlives_the_redaction_of_its_create_event(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    create = (await room_at(here, room_id)).state["m.room.create", ""]
    before = (await stored(here, create)).json
    await here.backend.redact(
        room_id=room_id, sender=here.user("maker"), target=create, txn="r", reason=None
    )
    await network.deliver()
    for server in (here, there):
        row = await stored(server, create)
        assert row.redacted_by is not None
        assert ('"room_version"' in row.json) is (version != "10")
        assert (row.json == before) is (version != "10")
    again = await network.restart(here)
    await say(again, room_id, "maker", "on we go")
    await network.deliver()
    assert await heard(there, room_id) == ["on we go"]


async def test_a_redacted_outlier_stays_redacted_in_the_graph(network: Network) -> None:
    """The state of a join; then the event itself comes, whole, and gets its place."""
    here, there, room_id = await two_in_a_room(network)
    topic = (await room_at(here, room_id)).state["m.room.topic", ""]
    whole = await here.rooms.answers.event(there.name, topic)
    third = await network.add("third.example")
    network.lose_answer = lambda endpoint, peer: endpoint == "backfill"
    await third.backend.join(user_id=third.user("two"), room_id=room_id, via=[here.name])
    await network.deliver()
    assert (await stored(third, topic)).outlier
    await here.backend.redact(
        room_id=room_id, sender=here.user("maker"), target=topic, txn="r", reason=None
    )
    await network.deliver()
    assert (await third.backend.room(room_id)).topic is None
    await network.hand_over(here.name, third.name, [whole])
    row = await stored(third, topic)
    assert not row.outlier
    assert row.redacted_by is not None
    assert "roses" not in row.json


async def test_state_that_comes_after_its_redaction_as_an_outlier_is_redacted(
    network: Network,
) -> None:
    here, there, room_id = await two_in_a_room(network)
    at = list((await room_at(here, room_id)).extremities.items())
    network.lose_pdu = lambda peer, pdu: True
    topic = await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.topic",
        state_key="",
        content={"topic": "lilies"},
        txn="topic",
        trace=trace(),
    )
    await say(here, room_id, "maker", "lost")
    await say(here, room_id, "maker", "lost, too")
    await network.deliver()
    network.lose_pdu = lambda peer, pdu: False
    by = await redact(network, here, room_id, here.user("maker"), topic, on=at)
    await give(network, here, there, by)
    network.tamper = lambda endpoint, answer: [] if endpoint == "get_missing_events" else answer
    await say(here, room_id, "maker", "last")
    await network.deliver()
    row = await stored(there, topic)
    assert row.outlier
    assert row.redacted_by == by.event_id
    assert "lilies" not in row.json
    assert (await there.backend.room(room_id)).topic is None


async def test_redactions_take_effect_across_a_gap(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    network.lose_pdu = lambda peer, pdu: True
    for text in ("one", "two"):
        said = await say(here, room_id, "maker", text)
    whole = await here.rooms.answers.event(there.name, said)
    await here.backend.redact(
        room_id=room_id, sender=here.user("maker"), target=said, txn="r", reason=None
    )
    await network.deliver()
    network.lose_pdu = lambda peer, pdu: False

    def as_before(endpoint: str, answer: Any) -> Any:
        """The peer gives it as it was."""
        if endpoint != "get_missing_events":
            return answer
        return [whole if one["hashes"] == whole["hashes"] else one for one in answer]

    network.tamper = as_before
    await say(here, room_id, "maker", "three")
    await network.deliver()
    assert await heard(there, room_id) == ["one", "(redacted)", "three"]


@pytest.mark.parametrize("version", ["10", "11"])
async def test_the_target_stands_where_the_version_keeps_it(network: Network, version: str) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    guest = there.user("guest")
    one, two = [
        await forge(network, there, room_id, guest, content={"msgtype": "m.text", "body": body})
        for body in ("one", "two")
    ]
    await give(network, there, here, one, two)
    by = await forge(
        network,
        there,
        room_id,
        guest,
        type="m.room.redaction",
        content={"redacts": two.event_id},
        extra={"redacts": one.event_id},
    )
    await give(network, there, here, by)
    assert ("one" in (await stored(here, one.event_id)).json) is (version == "11")
    assert ("two" in (await stored(here, two.event_id)).json) is (version == "10")


@pytest.mark.parametrize("target", ["$x\0y", "no event ID", "$" + "x" * 300])
async def test_what_names_no_event_redacts_nothing(network: Network, target: str) -> None:
    here, there, room_id = await two_in_a_room(network)
    by = await redact(network, there, room_id, there.user("guest"), target)
    await give(network, there, here, by)
    assert await told(here, room_id) == {by.event_id: False}


async def test_a_target_in_another_room_is_left_alone_in_both_orders(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    other = await make_room(here, creator="second")
    await there.backend.join(user_id=there.user("guest"), room_id=other, via=[here.name])
    await network.deliver()
    guest = there.user("guest")
    early = await forge(network, there, other, guest, content=BODY)
    late = await forge(network, there, other, guest, content=BODY | {"body": "late"})
    await give(network, there, here, early)
    for target in (early, late):
        await give(
            network, there, here, await redact(network, there, room_id, guest, target.event_id)
        )
    await give(network, there, here, late)
    assert await heard(here, other) == ["oops", "late"]
    assert set((await told(here, room_id)).values()) == {False}


async def test_no_heap_of_vain_redactions_hides_the_true_one(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    eve = await network.add("eve.example")
    await eve.backend.join(user_id=eve.user("eve"), room_id=room_id, via=[here.name])
    await network.deliver()
    at = list((await room_at(here, room_id)).extremities.items())
    target = await forge(network, there, room_id, there.user("guest"), content=BODY, on=at)
    true = await redact(network, there, room_id, there.user("guest"), target.event_id, on=at)
    high = [(at[0][0], 2**53 - 2)]
    for number in range(60):
        named = target.event_id if number % 2 else f"$junk{number}"
        vain = await redact(
            network, eve, room_id, eve.user("eve"), named, on=high, content={"n": number}
        )
        await give(network, eve, here, vain)
        if number == 30:
            await give(network, there, here, true)
    await give(network, there, here, target)
    assert "oops" not in (await stored(here, target.event_id)).json
    assert (await stored(here, target.event_id)).redacted_by == true.event_id


async def test_the_rows_go_with_their_room(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    by = await redact(network, there, room_id, there.user("guest"), "$nowhere")
    await give(network, there, here, by)

    def count(tx: Transaction) -> int:
        return len(tx.execute(select(redactions)).all())

    assert await here.database.read(count) == 1
    await here.database.write(partial(room_rows.purge, room_id=room_id))
    assert await here.database.read(count) == 0


async def test_what_is_redacted_while_it_is_read_is_not_kept_whole(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, room_id = await two_in_a_room(network)
    target = await say(here, room_id, "maker", "oops")
    here = await network.restart(here)
    read = here.database.read
    waiting = True

    async def slow(unit: Unit[Any]) -> Any:
        nonlocal waiting
        found = await read(unit)
        if waiting:
            waiting = False
            await here.rooms.sender.send(
                room_id=room_id,
                sender=here.user("maker"),
                type="m.room.redaction",
                content={},
                redacts=target,
                trace_id=trace(),
            )
        return found

    monkeypatch.setattr(here.database, "read", slow)
    await here.rooms.answers.event(there.name, target)
    assert (await stored(here, target)).redacted_by is not None
    assert (await here.rooms.answers.event(there.name, target))["content"] == {}
