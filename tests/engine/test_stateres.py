"""State resolution 2.0 and 2.1: cases with known answers, and properties over random rooms."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.engine.auth import check_auth
from bridge.engine.pdu import Pdu
from bridge.engine.state import StateKey, state_after
from bridge.engine.stateres import auth_chain, resolve, run
from bridge.engine.versions import get_version
from bridge.errors import Refused
from bridge.ids import EventId, UserId
from tests.engine.rooms import ALICE, BOB, CAROL, DAVE, VERSION_IDS, RoomBuilder, public_room

all_versions = pytest.mark.parametrize(
    "version_id", [one for one in VERSION_IDS if get_version(one).stateres.algorithm == "v2"]
)
POWER = ("m.room.power_levels", "")
TOPIC = ("m.room.topic", "")
RULES = ("m.room.join_rules", "")
EVE = UserId("@eve:e.example")


def member(user: UserId) -> StateKey:
    return ("m.room.member", user)


def merged(room: RoomBuilder, *tips: Pdu) -> dict[StateKey, EventId]:
    """The resolved state after the tips, which must not depend on their order."""
    maps = [room.state_after[tip.event_id] for tip in tips]
    results = [room.resolve(list(order)) for order in itertools.permutations(maps)]
    assert all(result == results[0] for result in results)
    return results[0]


def topic(room: RoomBuilder, user: UserId, text: str, **kwargs: Any) -> Pdu:
    return room.send("m.room.topic", user, {"topic": text}, "", **kwargs)


# What needs no work


@all_versions
def test_equal_state_maps_ask_for_no_event(version_id: str) -> None:
    room = public_room(version_id, BOB)
    state = room.state_after[room.last]
    for maps in ([], [state], [state, dict(state)], [state] * 3):
        generator = resolve(maps, room.version)
        with pytest.raises(StopIteration) as done:
            next(generator)
        assert done.value.value == (state if maps else {})


@all_versions
def test_changes_of_different_things_are_both_kept(version_id: str) -> None:
    room = public_room(version_id, BOB, CAROL)
    fork = [room.last]
    one = topic(room, ALICE, "tea", after=fork)
    two = room.send("m.room.name", ALICE, {"name": "garden"}, "", after=fork)
    result = merged(room, one, two)
    assert result[TOPIC] == one.event_id
    assert result["m.room.name", ""] == two.event_id


# Known answers


@all_versions
def test_a_ban_wins_over_what_the_banned_did_meanwhile(version_id: str) -> None:
    room = public_room(version_id, BOB, users={BOB: 50})
    fork = [room.last]
    ban = room.member(ALICE, BOB, "ban", after=fork)
    change = topic(room, BOB, "evil", after=fork, ts=ban.origin_server_ts - 500)
    result = merged(room, ban, change)
    assert result[member(BOB)] == ban.event_id
    assert TOPIC not in result


@all_versions
def test_of_two_ordinary_changes_the_later_wins(version_id: str) -> None:
    room = public_room(version_id, BOB)
    fork = [room.last]
    early = topic(room, ALICE, "early", after=fork)
    late = topic(room, ALICE, "late", after=fork)
    assert late.origin_server_ts > early.origin_server_ts
    assert merged(room, early, late)[TOPIC] == late.event_id


@all_versions
def test_at_the_same_time_the_greater_event_id_wins(version_id: str) -> None:
    room = public_room(version_id)
    fork = [room.last]
    both = [topic(room, ALICE, text, after=fork, ts=5) for text in ("a", "b", "c")]
    assert merged(room, *both)[TOPIC] == max(pdu.event_id for pdu in both)


@all_versions
def test_a_power_change_by_the_stronger_goes_first_and_the_weaker_is_judged_by_it(
    version_id: str,
) -> None:
    room = public_room(version_id, BOB, users={BOB: 50}, events={"m.room.power_levels": 50})
    events = {"m.room.power_levels": 50}
    fork = [room.last]
    # Bob raises Carol at the same time as Alice takes his rights away. The clocks say Bob first.
    taken = room.power(ALICE, room.levels({BOB: 0}, events=events), after=fork)
    raised = room.power(BOB, room.levels({BOB: 50, CAROL: 50}, events=events), after=fork, ts=1)
    assert merged(room, taken, raised)[POWER] == taken.event_id


@all_versions
def test_equal_power_goes_by_time(version_id: str) -> None:
    levels = {"users": {BOB: 100, CAROL: 100}}
    room = public_room(version_id, BOB, CAROL, **levels)
    fork = [room.last]
    own = room.levels({BOB: 100, CAROL: 100}, ban=20)
    first = room.power(BOB, own, after=fork)
    second = room.power(CAROL, {**own, "ban": 30}, after=fork)
    assert merged(room, first, second)[POWER] == second.event_id


@all_versions
def test_a_join_loses_to_join_rules_that_no_longer_let_it_in(version_id: str) -> None:
    room = public_room(version_id)
    fork = [room.last]
    closed = room.join_rule(ALICE, "invite", after=fork)
    join = room.join(BOB, after=fork, ts=closed.origin_server_ts - 500)
    result = merged(room, closed, join)
    assert result[RULES] == closed.event_id
    assert member(BOB) not in result


@all_versions
def test_mainline_order_prefers_what_rests_on_newer_power_levels(version_id: str) -> None:
    room = public_room(version_id, BOB, users={BOB: 50})
    fork = [room.last]
    old_side = topic(room, BOB, "old levels, later clock", after=fork, ts=2**52)
    room.power(ALICE, room.levels({BOB: 50}, ban=60), after=fork)
    new_side = topic(room, ALICE, "new levels, earlier clock", ts=1)
    assert merged(room, old_side, new_side)[TOPIC] == new_side.event_id


@all_versions
def test_a_demoted_user_s_older_change_is_undone_but_not_others(version_id: str) -> None:
    room = public_room(version_id, BOB, CAROL, users={BOB: 50})
    fork = [room.last]
    demoted = room.power(ALICE, room.levels(), after=fork)
    name = room.send("m.room.name", BOB, {"name": "mine"}, "", after=fork)
    left = room.member(CAROL, CAROL, "leave")
    result = merged(room, demoted, left)
    assert ("m.room.name", "") not in result
    assert result[POWER] == demoted.event_id
    assert result[member(CAROL)] == left.event_id
    assert name.event_id not in result.values()


@all_versions
def test_an_unconflicted_change_survives_even_if_it_would_now_be_refused(version_id: str) -> None:
    room = public_room(version_id, BOB, users={BOB: 50})
    name = room.send("m.room.name", BOB, {"name": "kept"}, "")
    fork = [name.event_id]
    ban = room.member(ALICE, BOB, "ban", after=fork)
    other = topic(room, ALICE, "x", after=fork)
    result = merged(room, ban, other)
    assert result["m.room.name", ""] == name.event_id
    assert result[member(BOB)] == ban.event_id


@all_versions
def test_two_forks_of_kicks_and_rejoins_end_in_one_state(version_id: str) -> None:
    room = public_room(version_id, BOB, CAROL)
    fork = [room.last]
    kick = room.member(ALICE, BOB, "leave", after=fork)
    back = room.join(BOB)
    message_side = room.send(
        "m.room.member", BOB, {"membership": "join", "displayname": "B"}, BOB, after=fork
    )
    result = merged(room, back, message_side)
    assert result[member(BOB)] in {back.event_id, message_side.event_id}
    assert kick.event_id not in result.values()


@all_versions
def test_2_1_keeps_a_member_whom_2_0_loses_to_newer_join_rules(version_id: str) -> None:
    # One state map forgot Bob. He joined while the room was open; it is closed now, which no
    # state map doubts. Carol's join rests on the open rules too, so they are in no difference.
    room = public_room(version_id, BOB, CAROL)
    closed = room.join_rule(ALICE, "invite")
    whole = room.state_after[closed.event_id]
    forgot = {key: value for key, value in whole.items() if key != member(BOB)}
    for maps in ([whole, forgot], [forgot, whole]):
        result = room.resolve(maps)
        assert (member(BOB) in result) is (version_id == "12")
        assert result[RULES] == closed.event_id


@all_versions
def test_2_1_replays_what_lies_between_conflicted_events_and_2_0_is_reset(version_id: str) -> None:
    # The newest levels are Bob's, who may set them by the levels in between. Those are in every
    # auth chain (Carol joined under them), so only the conflicted subgraph brings them in.
    room = public_room(version_id, BOB)
    oldest = room.state_after[room.last][POWER]
    between = room.power(ALICE, room.levels({BOB: 50}, events={POWER[0]: 50}))
    room.join(CAROL)
    newest = room.power(BOB, room.levels({BOB: 50}, events={POWER[0]: 50}, ban=40))
    good = room.state_after[newest.event_id]
    stale = {**good, POWER: oldest}
    assert between.event_id not in (oldest, newest.event_id)
    for maps in ([good, stale], [stale, good]):
        expected = newest.event_id if version_id == "12" else oldest
        assert room.resolve(maps)[POWER] == expected


@all_versions
def test_a_state_map_that_lacks_a_key_conflicts_about_it(version_id: str) -> None:
    room = public_room(version_id, BOB)
    whole = room.state_after[room.last]
    holes = {key: value for key, value in whole.items() if key != member(BOB)}
    assert room.resolve([whole, holes]) == room.resolve([holes, whole]) == whole


@all_versions
def test_rejected_auth_events_do_not_authorise(version_id: str) -> None:
    room = public_room(version_id, users={ALICE: 100} if version_id != "12" else {})
    fork = [room.last]
    false_join = room.join(EVE, after=fork)
    stored = room.events[false_join.event_id]
    room.events[false_join.event_id] = Pdu.trusted(
        stored.json, stored.version, stored.event_id, rejected=True
    )
    before = room.state_after[room.last]
    own = room.draft("x", EVE, {}, EVE, after=[false_join.event_id])
    room.events[own.event_id] = own
    base = {key: value for key, value in before.items() if key != member(EVE)}
    result = room.resolve([base, {**base, ("x", EVE): own.event_id}])
    assert ("x", EVE) not in result


@all_versions
def test_events_that_are_not_found_are_left_out(version_id: str) -> None:
    room = public_room(version_id, BOB)
    state = room.state_after[room.last]
    unknown = EventId("$" + "U" * 43)
    result = room.resolve([state, {**state, TOPIC: unknown}])
    assert result == state


# The cases published with the algorithm (MSC1442): each fork, and what must come out


def case_room(version_id: str) -> RoomBuilder:
    return public_room(version_id, BOB, CAROL, EVE)


@all_versions
def test_published_ban_against_power_levels(version_id: str) -> None:
    room = case_room(version_id)
    levels = room.levels({BOB: 50}, events={POWER[0]: 50})
    agreed = room.power(ALICE, levels)
    rejoin = room.join(ALICE)
    ban = room.member(ALICE, BOB, "ban")
    room.power(BOB, levels, after=[agreed.event_id])
    result = merged(room, ban, room.events[room.last])
    assert result[POWER] == agreed.event_id
    assert result[member(BOB)] == ban.event_id
    assert result[member(ALICE)] == rejoin.event_id


@all_versions
def test_published_join_rule_evasion(version_id: str) -> None:
    room = public_room(version_id)
    fork = [room.last]
    closed = room.join_rule(ALICE, "private", after=fork)
    join = room.join(EVE, after=fork)
    result = merged(room, closed, join)
    assert result[RULES] == closed.event_id
    assert member(EVE) not in result


@all_versions
def test_published_chain_of_power_levels(version_id: str) -> None:
    room = case_room(version_id)
    events = {POWER[0]: 50}
    one = room.power(ALICE, room.levels({BOB: 50}, events=events))
    room.power(BOB, room.levels({BOB: 50, CAROL: 50}, events=events))
    three = room.power(CAROL, room.levels({BOB: 50, CAROL: 0}, events=events))
    assert merged(room, three, one)[POWER] == three.event_id


def forked_topics(version_id: str) -> tuple[RoomBuilder, dict[str, Pdu]]:
    """Two sides: Alice demotes Bob; Bob, not knowing, sets power levels and a topic."""
    room = case_room(version_id)
    events = {POWER[0]: 50}
    sent = {"T1": topic(room, ALICE, "T1")}
    sent["PA1"] = room.power(ALICE, room.levels({BOB: 50}, events=events))
    sent["T2"] = topic(room, ALICE, "T2")
    sent["PA2"] = room.power(ALICE, room.levels({BOB: 0}, events=events))
    after = [sent["PA1"].event_id]
    sent["PB"] = room.power(BOB, room.levels({BOB: 50}, events=events), after=after)
    sent["T3"] = topic(room, BOB, "T3")
    return room, sent


@all_versions
def test_published_topics_under_two_power_levels(version_id: str) -> None:
    room, sent = forked_topics(version_id)
    result = merged(room, sent["PA2"], sent["T3"])
    assert result[POWER] == sent["PA2"].event_id
    assert result[TOPIC] == sent["T2"].event_id


@all_versions
def test_published_topic_after_a_merge(version_id: str) -> None:
    room, sent = forked_topics(version_id)
    joint = room.send("m.room.message", EVE, {}, after=[sent["PA2"].event_id, sent["T3"].event_id])
    last = topic(room, ALICE, "T4", after=[joint.event_id])
    result = merged(room, last, sent["T3"])
    assert result[POWER] == sent["PA2"].event_id
    assert result[TOPIC] == last.event_id


@all_versions
def test_published_topic_reset_by_a_ban(version_id: str) -> None:
    room = case_room(version_id)
    first = topic(room, ALICE, "T1")
    levels = room.power(ALICE, room.levels({BOB: 50}))
    topic(room, BOB, "T2")
    ban = room.member(ALICE, BOB, "ban")
    result = merged(room, ban, first)
    assert result[POWER] == levels.event_id
    assert result[member(BOB)] == ban.event_id
    assert result[TOPIC] == first.event_id


# Driving the generators


@all_versions
def test_no_event_is_asked_for_twice_and_more_may_be_answered(version_id: str) -> None:
    room = public_room(version_id, BOB, users={BOB: 50})
    fork = [room.last]
    one = room.member(ALICE, BOB, "ban", after=fork)
    two = topic(room, BOB, "x", after=fork)
    maps = [room.state_after[one.event_id], room.state_after[two.event_id]]
    asked: list[EventId] = []

    def exact(wanted: frozenset[EventId]) -> Mapping[EventId, Pdu]:
        asked.extend(wanted)
        return room.lookup(wanted)

    rounds = 0

    def generous(wanted: frozenset[EventId]) -> Mapping[EventId, Pdu]:
        nonlocal rounds
        rounds += 1
        return room.events

    assert run(resolve(maps, room.version), exact) == run(resolve(maps, room.version), generous)
    assert len(asked) == len(set(asked))
    assert rounds == 1


@all_versions
def test_the_auth_chain_goes_back_to_the_start(version_id: str) -> None:
    room = public_room(version_id, BOB)
    message = room.send("m.room.message", BOB, {})
    chain = run(auth_chain([message.event_id]), room.lookup)
    assert message.event_id not in chain
    expected = {e.event_id for e in room.events.values() if e.is_state}
    if version_id == "12":
        expected -= {room.create.event_id}
    assert chain.keys() == expected


def test_state_after_a_message_is_the_state_before_it() -> None:
    room = public_room("12")
    before = room.state_after[room.last]
    message = room.draft("m.room.message", ALICE, {})
    change = room.draft("m.room.topic", ALICE, {"topic": "x"}, "")
    assert state_after(before, message) is before
    assert state_after(before, change) == {**before, TOPIC: change.event_id}
    assert TOPIC not in before


# Properties over random rooms

USERS = (ALICE, BOB, CAROL, DAVE)


def random_room(version_id: str, seed: int, steps: int) -> RoomBuilder:
    """A DAG of allowed events with forks and merges, made by one random generator."""
    rng = random.Random(seed)
    room = public_room(version_id, BOB, CAROL, users={BOB: 50, CAROL: 50})
    tips = [room.last]
    for _ in range(steps):
        after = rng.sample(tips, k=min(len(tips), rng.choice([1, 1, 2, 3])))
        pdu = _random_event(room, rng, after)
        try:
            check_auth(pdu, room.auth_state(pdu))
        except Refused:
            continue
        state = dict(room.state_before(after))
        if pdu.key is not None:
            state[pdu.key] = pdu.event_id
        room.events[pdu.event_id] = pdu
        room.state_after[pdu.event_id] = state
        if rng.random() < 0.6 or len(tips) > 5:
            tips = [tip for tip in tips if tip not in after]
        tips.append(pdu.event_id)
    return room


def _random_event(room: RoomBuilder, rng: random.Random, after: list[Any]) -> Pdu:
    sender, target = rng.choice(USERS), rng.choice(USERS)
    ts = rng.randrange(5)
    match rng.randrange(6):
        case 0:
            levels = {user: rng.choice([0, 50, 100]) for user in (BOB, CAROL)}
            content = room.levels(levels, ban=rng.choice([0, 50]))
            return room.draft(POWER[0], sender, content, "", after=after, ts=ts)
        case 1:
            content = {"join_rule": rng.choice(["public", "invite", "knock"])}
            return room.draft(RULES[0], sender, content, "", after=after, ts=ts)
        case 2:
            content = {"topic": str(rng.random())}
            return room.draft(TOPIC[0], sender, content, "", after=after, ts=ts)
        case 3:
            content = {"membership": rng.choice(["ban", "leave", "invite"])}
            return room.draft("m.room.member", sender, content, target, after=after, ts=ts)
        case _:
            content = {"membership": rng.choice(["join", "join", "leave", "knock"])}
            return room.draft("m.room.member", sender, content, sender, after=after, ts=ts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    version_id=st.sampled_from(VERSION_IDS),
    seed=st.integers(min_value=0, max_value=2**32),
    data=st.data(),
)
def test_resolution_of_random_rooms(version_id: str, seed: int, data: Any) -> None:
    room = random_room(version_id, seed, steps=25)
    states = list(room.state_after.values())
    maps = data.draw(st.lists(st.sampled_from(states), min_size=2, max_size=4))
    result = room.resolve(maps)
    # The order of the inputs, their repetition and the way of driving do not matter.
    assert room.resolve(maps[::-1]) == result
    assert room.resolve([*maps, maps[0]]) == result
    assert run(resolve(maps, room.version), lambda _wanted: room.events) == result
    # Only what was there comes out, and what all agree on stays.
    known = set().union(*(state.items() for state in maps))
    agreed = set(maps[0].items()).intersection(*(state.items() for state in maps[1:]))
    assert agreed <= result.items()
    assert result.keys() >= {key for key, _ in agreed}
    assert all(room.events[event_id].key == key for key, event_id in result.items())
    # An auth difference may bring back older events, but every one of them from this room.
    assert all(item in known or item[1] in room.events for item in result.items())


def test_resolution_ends_when_nothing_at_all_is_found() -> None:
    version = get_version("12")
    one = {TOPIC: EventId("$" + "1" * 43)}
    two = {TOPIC: EventId("$" + "2" * 43)}
    assert run(resolve([one, two], version), lambda _wanted: {}) == {}
