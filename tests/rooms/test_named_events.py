"""Rooms of versions 1 and 2, whose servers name their events: what could be done with names."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.engine.build import countersign
from bridge.engine.pdu import Pdu
from bridge.errors import BadInput
from bridge.ids import EventId, RoomVersionId
from bridge.rooms.accept import in_auth_order
from bridge.rooms.load import KnownEvent, RoomStates
from tests.support.network import Network, Server, wire
from tests.support.talk import forge, heard, make_room, room_at, say, two_in_a_room

old_versions = pytest.mark.parametrize("version", ["1", "2"])
TAKEN = "another event has this ID"


async def stored(server: Server, event_id: EventId) -> KnownEvent | None:
    return (await RoomStates(database=server.database).events([event_id])).get(event_id)


@old_versions
async def test_no_room_of_these_versions_is_made(network: Network, version: str) -> None:
    here = await network.add("here.example")
    with pytest.raises(BadInput) as caught:
        await here.backend.create_room(
            creator=here.user("maker"), txn="t", version=RoomVersionId(version)
        )
    assert caught.value.errcode == "M_UNSUPPORTED_ROOM_VERSION"


@old_versions
async def test_events_are_kept_and_sent_with_their_name_and_links_with_hashes(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    event_id = await say(there, room_id, "guest", "hello")
    await network.deliver()
    assert event_id.endswith(":there.example")
    for server in (here, there):
        known = await stored(server, event_id)
        assert known is not None
        assert known.pdu.json["event_id"] == event_id
        assert known.verdict == "accepted"
        ((prev, hashes),) = known.pdu.json["prev_events"]
        assert [prev] == list(known.pdu.prev_events)
        assert hashes.keys() == {"sha256"}
    answers = here.rooms.answers
    jsons = [
        await answers.event(there.name, event_id),
        *(await answers.backfill(there.name, room_id, [event_id], 5)),
        *(await answers.state(there.name, room_id, event_id))["pdus"],
        *(await answers.event_auth(there.name, room_id, event_id))["auth_chain"],
    ]
    assert len(jsons) > 10
    assert all(one["event_id"].startswith("$") for one in jsons)


@old_versions
async def test_saying_it_again_under_one_transaction_says_it_once(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    first = await say(here, room_id, "maker", "hello", txn="one")
    again = await say(here, room_id, "maker", "hello", txn="one")
    other = await say(here, room_id, "maker", "hello", txn="two")
    assert first == again != other
    await network.deliver()
    assert await heard(there, room_id) == ["hello", "hello"]


@old_versions
async def test_the_first_event_of_a_name_stays_and_others_are_dropped(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    guest = there.user("guest")
    first = await forge(network, there, room_id, guest)
    assert await network.hand_over(there.name, here.name, [first.wire()]) == {first.event_id: {}}
    content = {"msgtype": "m.text", "body": "something else"}
    second = await forge(network, there, room_id, guest, content=content, event_id=first.event_id)
    answer = await network.hand_over(there.name, here.name, [second.wire()])
    assert answer == {first.event_id: {"error": TAKEN}}
    assert await heard(here, room_id) == ["forged"]
    # The same event, redacted or not, is no other one.
    for same in (first, first.redacted()):
        answer = await network.hand_over(there.name, here.name, [same.wire()])
        assert answer == {first.event_id: {}}


@old_versions
async def test_an_event_cannot_take_the_name_of_another_room_s(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    other_id = await make_room(here, version, creator="other")
    guest = there.user("guest")
    await there.backend.join(user_id=guest, room_id=other_id, via=[here.name])
    await network.deliver()
    taken = await say(there, room_id, "guest", "hello")
    await network.deliver()
    pdu = await forge(network, there, other_id, guest, event_id=taken)
    answer = await network.hand_over(there.name, here.name, [pdu.wire()])
    assert answer == {taken: {"error": TAKEN}}
    known = await stored(here, taken)
    assert known is not None
    assert known.pdu.room_id == room_id
    assert await heard(here, other_id) == []


@old_versions
async def test_a_state_that_a_peer_gives_cannot_bring_in_another_room_s_event(
    network: Network, version: str
) -> None:
    here, eve = await network.add("here.example"), await network.add("eve.example")
    own_id = await make_room(here, version)
    await eve.backend.join(user_id=eve.user("eve"), room_id=own_id, via=[here.name])
    await network.deliver()
    taken = await say(eve, own_id, "eve", "hello")
    await network.deliver()
    room_id = await make_room(eve, version, creator="eve")
    topic = await forge(
        network,
        eve,
        room_id,
        eve.user("eve"),
        type="m.room.topic",
        content={"topic": "thorns"},
        state_key="",
        event_id=taken,
    )

    def smuggle(endpoint: str, answer: Any) -> Any:
        if endpoint != "send_join":
            return answer
        kept = [one for one in answer["state"] if one["type"] != "m.room.topic"]
        return {**answer, "state": [*kept, topic.wire()]}

    network.tamper = smuggle
    await here.backend.join(user_id=here.user("guest"), room_id=room_id, via=[eve.name])
    room = await room_at(here, room_id)
    assert taken not in room.state.values()
    assert ("m.room.topic", "") not in room.state
    known = await stored(here, taken)
    assert known is not None
    assert known.pdu.room_id == own_id


@old_versions
async def test_of_one_answer_s_two_events_of_a_name_one_is_taken(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    guest = there.user("guest")
    first = await forge(network, there, room_id, guest)
    second = await forge(
        network, there, room_id, guest, content={"body": "other"}, event_id=first.event_id
    )
    verifier = here.rooms.handshake._verifier
    room = await room_at(here, room_id)
    good = await verifier.check_all(
        [first.wire(), second.wire(), first.wire()], room.version, room_id
    )
    assert good == [first, first]


@old_versions
async def test_a_name_of_another_server_needs_that_server_s_signature(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    lent = EventId(f"$lent:{here.name}")
    pdu = await forge(network, there, room_id, there.user("guest"), event_id=lent)
    answer = await network.hand_over(there.name, here.name, [pdu.wire()])
    assert answer == {lent: {"error": f"no valid signature of {here.name}"}}
    assert await stored(here, lent) is None
    signed = countersign(pdu, key=here.key, server=here.name)
    assert await network.hand_over(there.name, here.name, [signed.wire()]) == {lent: {}}
    assert await heard(here, room_id) == ["forged"]


@old_versions
async def test_whoever_owns_a_name_is_not_kept_waiting_by_who_does_not(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    eve = await network.add("eve.example")
    await eve.backend.join(user_id=eve.user("eve"), room_id=room_id, via=[here.name])
    await network.deliver()
    true = await forge(network, there, room_id, there.user("guest"))
    false = await forge(network, eve, room_id, eve.user("eve"), event_id=true.event_id)
    take = here.rooms.receiver.take
    await take(eve.name, "t", [wire(false.wire())], wait_s=0)
    await take(eve.name, "u", [wire(false.wire())], wait_s=0)
    await take(there.name, "t", [wire(true.wire())], wait_s=0)
    await take(eve.name, "v", [wire(false.wire())], wait_s=0)
    await here.rooms.receiver.work_off_due()
    known = await stored(here, true.event_id)
    assert known is not None
    assert known.pdu.sender == there.user("guest")


@old_versions
async def test_what_is_named_or_linked_wrongly_does_not_come_in(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    pdu = await forge(network, there, room_id, there.user("guest"))
    good = pdu.wire()
    name, (link, *_) = good["event_id"], good["prev_events"]
    for changes in (
        {"event_id": None},
        {"event_id": "$hash"},
        {"event_id": "$" + "x" * 255 + ":there.example"},
        {"event_id": "$x:there example"},
        {"prev_events": [link[0]]},
        {"prev_events": [[link[0]]]},
        {"prev_events": [[link[0], "hash"]]},
        {"auth_events": [[link[0], 5]]},
        {"prev_events": [[name, {"sha256": "x"}]]},
        {"prev_events": [link] * 21},
    ):
        assert await network.hand_over(there.name, here.name, [{**good, **changes}]) == {}, changes
    assert await heard(here, room_id) == []
    assert await network.hand_over(there.name, here.name, [good]) == {name: {}}


@old_versions
async def test_a_wrong_hash_in_a_link_is_no_matter(network: Network, version: str) -> None:
    # Nobody checks it: whoever did would drop what all others keep.
    here, there, room_id = await two_in_a_room(network, version)
    pdu = await forge(network, there, room_id, there.user("guest"))
    ((prev, _),) = pdu.json["prev_events"]
    changed = await forge(
        network,
        there,
        room_id,
        there.user("guest"),
        extra={"prev_events": [[prev, {"sha256": "x"}]]},
    )
    await network.hand_over(there.name, here.name, [changed.wire()])
    assert await heard(here, room_id) == ["forged"]


@old_versions
async def test_a_redaction_without_the_right_to_it_is_rejected_and_stays_without_effect(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    said = await say(here, room_id, "maker", "kept")
    own = await say(there, room_id, "guest", "gone")
    await network.deliver()
    guest = there.user("guest")
    for target, verdict in ((said, "rejected"), (own, "accepted")):
        redaction = await forge(
            network, there, room_id, guest, type="m.room.redaction", content={}, redacts=target
        )
        await network.hand_over(there.name, here.name, [redaction.wire()])
        known = await stored(here, redaction.event_id)
        assert known is not None
        assert known.verdict == verdict
    assert await heard(here, room_id) == ["kept", "(redacted)"]


@old_versions
async def test_an_invite_by_the_endpoint_without_version_leads_into_the_room(
    network: Network, version: str
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version, public=False)
    guest = there.user("guest")
    pdu = await forge(
        network,
        here,
        room_id,
        here.user("maker"),
        type="m.room.member",
        state_key=guest,
        content={"membership": "invite"},
    )
    json = await there.rooms.answers.invite(
        here.name, room_id, pdu.event_id, wire(pdu.wire()), None, []
    )
    assert json["signatures"].keys() == {here.name, there.name}
    await network.hand_over(here.name, here.name, [json])
    await here.rooms.receiver.take(here.name, "own", [json], wait_s=0)
    await here.rooms.receiver.work_off_due()
    await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    assert (await room_at(there, room_id)).version.id == version
    again = await there.rooms.answers.invite(
        here.name, room_id, pdu.event_id, wire(pdu.wire()), None, []
    )
    assert again["event_id"] == pdu.event_id


@old_versions
async def test_a_return_after_a_leave_finds_what_was_said_meanwhile(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    await there.backend.leave(user_id=there.user("guest"), room_id=room_id)
    await network.deliver()
    await say(here, room_id, "maker", "meanwhile")
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    await say(here, room_id, "maker", "again")
    await network.deliver()
    assert await heard(there, room_id) == ["meanwhile", "again"]


@old_versions
async def test_auth_events_in_a_circle_end_the_walk(network: Network, version: str) -> None:
    _, there, room_id = await two_in_a_room(network, version)
    names = [EventId(f"$circle{number}:{there.name}") for number in range(3)]
    pdus: dict[EventId, Pdu] = {}
    for name, behind in zip(names, [*names[1:], names[0]], strict=True):
        links = [[behind, {"sha256": "x"}]]
        pdus[name] = await forge(
            network,
            there,
            room_id,
            there.user("guest"),
            event_id=name,
            extra={"auth_events": links},
        )
    assert {pdu.event_id for pdu in in_auth_order(pdus)} == set(names)
    room = await room_at(there, room_id)
    create = await RoomStates(database=there.database).create_event(room.state)
    judged = await there.rooms.handshake._acceptor.judge_outliers(pdus.values(), create=create)
    assert judged == []


@old_versions
async def test_previous_events_in_a_circle_end_the_search(network: Network, version: str) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    one, two = (EventId(f"$circle{number}:{there.name}") for number in (1, 2))
    pdus = [
        await forge(
            network,
            there,
            room_id,
            there.user("guest"),
            event_id=name,
            extra={"prev_events": [[behind, {"sha256": "x"}]]},
        )
        for name, behind in ((one, two), (two, one))
    ]
    await network.hand_over(there.name, here.name, [pdu.wire() for pdu in pdus])
    await say(here, room_id, "maker", "still here")
    assert "still here" in await heard(here, room_id)
