"""Checks on receipt, gaps, forks and soft failure, between servers with real storage."""

from __future__ import annotations

import pytest

from bridge.engine.build import complete
from bridge.engine.versions import VERSIONS, get_version
from bridge.errors import BadInput, NotFound, Refused
from bridge.ids import EventId
from bridge.rooms.load import RoomStates
from bridge.rooms.network import Json
from tests.support.network import Network, Server, trace
from tests.support.talk import VERSION_IDS, forge, heard, make_room, room_at, say, two_in_a_room


async def known(server: Server, event_id: EventId) -> str | None:
    """The stored verdict."""
    found = await RoomStates(database=server.database).events([event_id])
    return found[event_id].verdict if event_id in found else None


async def test_a_wrong_signature_is_dropped(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    pdu = await forge(network, there, room_id, there.user("guest"))
    json = pdu.wire()
    json["signatures"] = {there.name: {there.key.key_id: here.key.sign(b"something else entirely")}}
    answer = await network.hand_over(there.name, here.name, [json])
    assert "signature" in answer[pdu.event_id]["error"]
    assert await known(here, pdu.event_id) is None


async def test_a_wrong_hash_leaves_a_redacted_event(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    pdu = await forge(network, there, room_id, there.user("guest"))
    json = pdu.wire() | {"content": {"msgtype": "m.text", "body": "changed on the way"}}
    answer = await network.hand_over(there.name, here.name, [json])
    assert answer == {pdu.event_id: {}}
    assert await heard(here, room_id) == ["(redacted)"]


async def test_what_is_no_event_is_not_stored(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    good = (await forge(network, there, room_id, there.user("guest"))).wire()
    large = good | {"content": {"body": "x" * 70_000}}
    deep: Json = {}
    for _ in range(200):
        deep = {"a": deep}
    for bad in (
        large,
        good | {"content": {"body": 1.5}},
        good | {"depth": 2**60},
        good | {"content": deep},
        good | {"prev_events": ["$x"] * 21},
        {"room_id": room_id},
        {"room_id": "!other:there.example", "type": "m.room.message"},
        "no event",
        None,
    ):
        assert await network.hand_over(there.name, here.name, [bad]) == {}  # type: ignore[list-item]
    assert await heard(here, room_id) == []


@pytest.mark.parametrize("version", ["3", "6"])
async def test_events_need_not_be_canonical_before_version_6(
    network: Network, version: str
) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    spoken = await forge(network, there, room_id, there.user("guest"))
    content = {"msgtype": "m.text", "body": "forged", "half": 0.5, "large": 1e16, "n": 2**60}
    template = {**spoken.wire(), "content": content, "depth": 2**60}
    old = complete(template, version=get_version("3"), key=there.key, server=there.name)
    answer = await network.hand_over(there.name, here.name, [old.wire()])
    assert answer == ({old.event_id: {}} if version == "3" else {})
    assert await known(here, old.event_id) == ("accepted" if version == "3" else None)
    if version == "6":
        return
    stored = await RoomStates(database=here.database).events([old.event_id])
    assert stored[old.event_id].pdu.json == old.json
    # The next event stands one deeper, and is taken at the other side as well.
    await say(here, room_id, "maker", "hello")
    assert list((await room_at(here, room_id)).extremities.values()) == [2**60 + 1]


async def test_too_many_pdus_are_refused_as_a_whole(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    pdu = (await forge(network, there, room_id, there.user("guest"))).wire()
    with pytest.raises(BadInput):
        await here.rooms.receiver.take(there.name, "t", [pdu] * 51)


async def test_a_replayed_transaction_gets_the_same_answer(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    pdu = await forge(network, there, room_id, there.user("guest"))
    first = await here.rooms.receiver.take(there.name, "t1", [pdu.wire()], wait_s=0)
    await here.rooms.receiver.work_off_due()
    again = await here.rooms.receiver.take(there.name, "t1", [pdu.wire()], wait_s=0)
    other = await here.rooms.receiver.take(there.name, "t2", [pdu.wire()], wait_s=0)
    assert first == again == other == {pdu.event_id: {}}
    assert await heard(here, room_id) == ["forged"]


async def test_stored_pdus_survive_a_restart(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    pdu = await forge(network, there, room_id, there.user("guest"))
    await here.rooms.receiver.take(there.name, "t1", [pdu.wire()], wait_s=0)
    here = await network.restart(here)
    assert await heard(here, room_id) == []
    await here.rooms.receiver.work_off_due()
    assert await heard(here, room_id) == ["forged"]


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_a_fork_is_resolved_alike_on_both_sides(network: Network, version: str) -> None:
    here, there, room_id = await two_in_a_room(network, version)
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.power_levels",
        state_key="",
        content={
            "users": {there.user("guest"): 60}
            | ({} if version == "12" else {here.user("maker"): 100}),
            "state_default": 50,
        },
        txn="power",
        trace=trace(),
    )
    await network.deliver()
    here.down = there.down = True
    for server, user, topic in ((here, "maker", "lilies"), (there, "guest", "tulips")):
        await say(server, room_id, user, f"{user} alone")
        await server.backend.send(
            room_id=room_id,
            sender=server.user(user),
            type="m.room.topic",
            state_key="",
            content={"topic": topic},
            txn=f"topic-{user}",
            trace=trace(),
        )
    here.down = there.down = False
    await network.deliver()
    at_here, at_there = await room_at(here, room_id), await room_at(there, room_id)
    assert dict(at_here.state.items()) == dict(at_there.state.items())
    assert at_here.extremities.keys() == at_there.extremities.keys()
    assert len(at_here.extremities) == 2
    await say(here, room_id, "maker", "merged")
    await network.deliver()
    at_here, at_there = await room_at(here, room_id), await room_at(there, room_id)
    assert dict(at_here.state.items()) == dict(at_there.state.items())
    assert len(at_here.extremities) == len(at_there.extremities) == 1
    assert sorted(await heard(here, room_id)) == sorted(await heard(there, room_id))
    topics = [(await server.backend.room(room_id)).topic for server in (here, there)]
    assert topics[0] == topics[1]


async def test_lost_events_are_fetched(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    network.lose_pdu = lambda peer, pdu: True
    for number in range(70):
        await say(here, room_id, "maker", f"{number}")
    await network.deliver()
    network.lose_pdu = lambda peer, pdu: False
    await say(here, room_id, "maker", "last")
    await network.deliver()
    assert await heard(there, room_id) == [*(f"{number}" for number in range(70)), "last"]


async def test_a_gap_waits_for_the_peer(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    network.lose_pdu = lambda peer, pdu: pdu["content"].get("body") == "lost"
    await say(here, room_id, "maker", "lost")
    network.lose_answer = lambda endpoint, peer: True
    await say(here, room_id, "maker", "last")
    await network.deliver()
    assert await heard(there, room_id) == []
    network.lose_answer = lambda endpoint, peer: False
    network.clock.shift(10)
    await there.rooms.receiver.work_off_due()
    assert await heard(there, room_id) == ["lost", "last"]


async def test_a_gap_that_nobody_fills_is_closed_by_the_state(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    network.lose_pdu = lambda peer, pdu: True
    await say(here, room_id, "maker", "lost")
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.topic",
        state_key="",
        content={"topic": "lilies"},
        txn="topic",
        trace=trace(),
    )
    await say(here, room_id, "maker", "before")
    await network.deliver()
    network.lose_pdu = lambda peer, pdu: False
    network.tamper = lambda endpoint, answer: [] if endpoint == "get_missing_events" else answer
    await say(here, room_id, "maker", "last")
    await network.deliver()
    assert await heard(there, room_id) == ["before", "last"]
    assert (await there.backend.room(room_id)).topic == "lilies"
    assert "state_ids" in [endpoint for endpoint, _, _ in network.requests]


async def test_what_comes_after_its_gap_was_closed_by_the_state_is_heard_late(
    network: Network,
) -> None:
    here, there, room_id = await two_in_a_room(network)
    network.lose_pdu = lambda peer, pdu: True
    late = [await say(here, room_id, "maker", text) for text in ("one", "two", "three")]
    await network.deliver()
    network.lose_pdu = lambda peer, pdu: False
    network.tamper = lambda endpoint, answer: [] if endpoint == "get_missing_events" else answer
    await say(here, room_id, "maker", "last")
    await network.deliver()
    assert await heard(there, room_id) == ["three", "last"]
    pdus = [await here.rooms.answers.event(there.name, event_id) for event_id in late]
    await network.hand_over(here.name, there.name, pdus)
    assert await heard(there, room_id) == ["three", "last", "one", "two"]
    told = (await there.backend.timeline(room_id, limit=10))[-1]
    assert told.content["body"] == "two"


async def test_a_gap_is_filled_by_another_server(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    third = await network.add("third.example")
    await third.backend.join(user_id=third.user("two"), room_id=room_id, via=[here.name])
    await network.deliver()
    network.lose_pdu = lambda peer, pdu: peer == third.name
    await say(here, room_id, "maker", "lost")
    await network.deliver()
    last = await say(here, room_id, "maker", "last")
    await network.deliver()
    network.lose_pdu = lambda peer, pdu: False
    pdu = await here.rooms.answers.event(there.name, last)
    here.down = True
    await network.hand_over(here.name, third.name, [pdu])
    assert await heard(third, room_id) == ["lost", "last"]


async def test_a_gap_is_filled_by_a_server_that_does_not_know_the_event_either(
    network: Network,
) -> None:
    """What came before it is not lost for that: it is no reason to take the state instead."""
    here, there, room_id = await two_in_a_room(network)
    third = await network.add("third.example")
    await third.backend.join(user_id=third.user("two"), room_id=room_id, via=[here.name])
    await network.deliver()
    network.lose_pdu = lambda peer, pdu: peer == third.name
    for number in range(3):
        await say(here, room_id, "maker", f"lost {number}")
    await network.deliver()
    last = await say(there, room_id, "guest", "last")
    pdu = await there.rooms.answers.event(here.name, last)
    network.lose_pdu = lambda peer, pdu: peer == here.name
    there.down = True
    await network.hand_over(there.name, third.name, [pdu])
    assert await heard(third, room_id) == ["lost 0", "lost 1", "lost 2", "last"]
    assert "state_ids" not in [endpoint for endpoint, _, _ in network.requests]


async def test_what_comes_while_we_join_waits_for_the_join(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)

    async def early(endpoint: str) -> None:
        if endpoint == "send_join":
            said = await say(here, room_id, "maker", "early")
            pdu = await here.rooms.answers.event(there.name, said)
            assert await network.hand_over(here.name, there.name, [pdu]) == {said: {}}

    network.after_answer = early
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    network.clock.shift(3)
    await there.rooms.receiver.work_off_due()
    assert await heard(there, room_id) == ["early"]


async def test_a_banned_user_who_goes_back_in_history_is_soft_failed(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    third = await network.add("third.example")
    await third.backend.join(user_id=third.user("two"), room_id=room_id, via=[here.name])
    await network.deliver()
    late = await forge(network, there, room_id, there.user("guest"))
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.member",
        state_key=there.user("guest"),
        content={"membership": "ban"},
        txn="ban",
        trace=trace(),
    )
    await network.deliver()
    answer = await network.hand_over(there.name, third.name, [late.wire()])
    assert answer == {late.event_id: {}}
    assert await known(third, late.event_id) == "soft_failed"
    assert await heard(third, room_id) == []
    assert late.event_id not in (await room_at(third, room_id)).extremities


async def test_an_event_against_the_rules_is_rejected_and_kept(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    pdu = await forge(
        network,
        there,
        room_id,
        there.user("guest"),
        type="m.room.topic",
        state_key="",
        content={"topic": "mine"},
    )
    answer = await network.hand_over(there.name, here.name, [pdu.wire()])
    assert answer[pdu.event_id]["error"]
    assert await known(here, pdu.event_id) == "rejected"
    assert (await here.backend.room(room_id)).topic == "roses"
    # What stands on a rejected event is fine if it is fine by itself.
    after = await forge(
        network, there, room_id, there.user("guest"), on=[(pdu.event_id, pdu.depth)]
    )
    assert await network.hand_over(there.name, here.name, [after.wire()]) == {after.event_id: {}}
    assert await heard(here, room_id) == ["forged"]


async def test_a_server_that_the_acl_forbids_is_not_heard(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.server_acl",
        state_key="",
        content={"allow": ["*"], "deny": ["there.*"]},
        txn="acl",
        trace=trace(),
    )
    pdu = await forge(network, there, room_id, there.user("guest"))
    answer = await network.hand_over(there.name, here.name, [pdu.wire()])
    assert "not allowed" in answer[pdu.event_id]["error"]
    with pytest.raises(Refused):
        await here.rooms.answers.make_join(there.name, room_id, there.user("other"), list(VERSIONS))


async def test_only_servers_in_the_room_may_read(network: Network) -> None:
    here, _, room_id = await two_in_a_room(network)
    stranger = await network.add("stranger.example")
    said = await say(here, room_id, "maker", "secret")
    answers = here.rooms.answers
    for request in (
        lambda: answers.event(stranger.name, said),
        lambda: answers.state(stranger.name, room_id, said),
        lambda: answers.state_ids(stranger.name, room_id, said),
        lambda: answers.event_auth(stranger.name, room_id, said),
        lambda: answers.backfill(stranger.name, room_id, [said], 10),
        lambda: answers.get_missing_events(stranger.name, room_id, [], [said], 10, 0),
    ):
        with pytest.raises(Refused):
            await request()
    with pytest.raises(NotFound):
        await answers.event(stranger.name, EventId("$unknown"))


async def test_history_from_before_a_join_is_redacted_where_it_is_not_visible(
    network: Network,
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.history_visibility",
        state_key="",
        content={"history_visibility": "joined"},
        txn="history",
        trace=trace(),
    )
    said = await say(here, room_id, "maker", "before")
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    assert (await here.rooms.answers.event(there.name, said))["content"] == {}
    later = await say(here, room_id, "maker", "after")
    shown = await here.rooms.answers.event(there.name, later)
    assert shown["content"]["body"] == "after"


async def test_backfill_gives_newest_first_and_missing_events_oldest_first(
    network: Network,
) -> None:
    here, there, room_id = await two_in_a_room(network)
    ids = [await say(here, room_id, "maker", f"{number}") for number in range(5)]
    back = await here.rooms.answers.backfill(there.name, room_id, [ids[-1]], 3)
    assert [one["content"]["body"] for one in back] == ["4", "3", "2"]
    missing = await here.rooms.answers.get_missing_events(
        there.name, room_id, [ids[0]], [ids[-1]], 10, 0
    )
    assert [one["content"]["body"] for one in missing] == ["1", "2", "3"]


async def test_a_server_whose_last_user_was_removed_is_given_what_led_to_that(
    network: Network,
) -> None:
    here, there, room_id = await two_in_a_room(network)
    first = await say(here, room_id, "maker", "while they are in")
    await say(here, room_id, "maker", "this, too")
    await here.backend.kick(
        room_id=room_id, sender=here.user("maker"), target=there.user("guest"), reason=None
    )
    later = await say(here, room_id, "maker", "behind their back")
    last = await say(here, room_id, "maker", "and more")
    ask = here.rooms.answers.get_missing_events
    missing = await ask(there.name, room_id, [first], [last], 10, 0)
    shown = [one["content"].get("body", one["type"]) for one in missing]
    assert shown == ["this, too", "m.room.member"]
    with pytest.raises(Refused):
        await here.rooms.answers.event(there.name, later)


async def test_a_template_for_something_else_is_not_signed(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)

    def tamper(endpoint: str, answer: Json) -> Json:
        if endpoint == "make_join":
            answer["event"]["type"] = "m.room.power_levels"
        return answer

    network.tamper = tamper
    with pytest.raises(BadInput):
        await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    assert [endpoint for endpoint, _, _ in network.requests] == ["make_join"]


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_a_resident_server_that_lies_about_the_state_is_not_believed(
    network: Network, version: str
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version)

    def tamper(endpoint: str, answer: Json) -> Json:
        if endpoint == "send_join":
            answer["state"] = [one for one in answer["state"] if one["type"] != "m.room.create"]
        return answer

    network.tamper = tamper
    with pytest.raises(Refused):
        await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    with pytest.raises(NotFound):
        await there.backend.room(room_id)


async def test_a_resident_server_that_gives_two_events_of_one_key_is_not_believed(
    network: Network,
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    other = await forge(
        network,
        here,
        room_id,
        here.user("maker"),
        type="m.room.topic",
        state_key="",
        content={"topic": "another"},
    )

    def tamper(endpoint: str, answer: Json) -> Json:
        if endpoint == "send_join":
            answer["state"].append(other.wire())
        return answer

    network.tamper = tamper
    with pytest.raises(Refused) as refused:
        await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    assert refused.value.rule == "state.double"
    with pytest.raises(NotFound):
        await there.backend.room(room_id)


async def test_a_restricted_room_lets_in_members_of_the_allowed_room(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    lobby = await make_room(here, "11")
    club = await make_room(here, "10", public=False)
    await here.backend.send(
        room_id=club,
        sender=here.user("maker"),
        type="m.room.join_rules",
        state_key="",
        content={
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": lobby}],
        },
        txn="rules",
        trace=trace(),
    )
    guest = there.user("guest")
    with pytest.raises(Refused):
        await there.backend.join(user_id=guest, room_id=club, via=[here.name])
    await there.backend.join(user_id=guest, room_id=lobby, via=[here.name])
    await there.backend.join(user_id=guest, room_id=club, via=[here.name])
    await network.deliver()
    await say(there, club, "guest", "in")
    await network.deliver()
    assert await heard(here, club) == ["in"]
    local = here.user("local")
    await here.backend.join(user_id=local, room_id=lobby, via=[])
    await here.backend.join(user_id=local, room_id=club, via=[])
    assert len(await here.backend.members(club)) == 3


async def test_a_hundred_joins_cross_the_bound_of_snapshot_hops(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    for number in range(100):
        await here.backend.join(user_id=here.user(f"u{number}"), room_id=room_id, via=[])
    stored = await room_at(here, room_id)
    assert len(stored.state) == 108
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    assert len(await there.backend.members(room_id)) == 102


@pytest.mark.parametrize("version", ["2", "5"])
async def test_what_stands_on_nothing_resets_nothing(network: Network, version: str) -> None:
    """Whoever is not even in the room names no previous events, so that nothing is settled before:
    resolved against that, whoever joined while the room was public would be out."""
    here, there, room_id = await two_in_a_room(network, version)
    eve = await network.add("eve.example")
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.join_rules",
        state_key="",
        content={"join_rule": "invite"},
        txn="rules",
        trace=trace(),
    )
    await network.deliver()
    before = await room_at(here, room_id)
    stray = await forge(
        network,
        eve,
        room_id,
        eve.user("eve"),
        type="m.room.aliases",
        state_key=eve.name,
        content={"aliases": []},
        on=[],
        auth=[before.state["m.room.create", ""]],
        seen_by=here,
    )
    answer = await network.hand_over(eve.name, here.name, [stray.wire()])
    assert answer == {stray.event_id: {"error": "rejected by the rule create.missing"}}
    after = await room_at(here, room_id)
    assert (after.state, after.extremities) == (before.state, before.extremities)
    assert there.user("guest") in {key for _, key in after.state}
