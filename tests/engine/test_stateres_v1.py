"""State resolution version 1: tables of cases by its passes, and properties over any state maps.

Events here have the IDs and depths that a case needs; nothing of this version hashes them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine.pdu import Pdu
from bridge.engine.state import CREATE, JOIN_RULES, POWER_LEVELS, StateKey
from bridge.engine.stateres import resolve, run
from bridge.engine.versions import get_version
from bridge.ids import EventId
from tests.engine.rooms import ALICE, BOB, CAROL

BASE = get_version("10")
VERSION = replace(BASE, stateres=replace(BASE.stateres, algorithm="v1"))
TOPIC = ("m.room.topic", "")


def member(user: str) -> StateKey:
    return ("m.room.member", user)


def sha1(name: str) -> str:
    return hashlib.sha1(f"${name}:a.example".encode()).hexdigest()


class Room:
    """Events by name, and state maps of them. The room is Alice's and open to all."""

    def __init__(self) -> None:
        self.events: dict[EventId, Pdu] = {}
        self.base = self.map(
            self.event("create", CREATE, ALICE, {"creator": ALICE}, depth=1),
            self.event("alice", member(ALICE), ALICE, {"membership": "join"}, depth=2),
            self.event("levels", POWER_LEVELS, ALICE, {"users": {ALICE: 100, BOB: 50}}, depth=3),
            self.event("open", JOIN_RULES, ALICE, {"join_rule": "public"}, depth=4),
            self.event("bob", member(BOB), BOB, {"membership": "join"}, depth=5),
        )

    def event(
        self, name: str, key: StateKey, sender: str, content: Mapping[str, Any], *, depth: int
    ) -> Pdu:
        json = {
            "type": key[0],
            "state_key": key[1],
            "sender": sender,
            "room_id": "!r:a.example",
            "content": content,
            "depth": depth,
            "origin_server_ts": 0,
            "prev_events": [] if key == CREATE else ["$x:a.example"],
            "auth_events": [],
            "hashes": {"sha256": ""},
            "signatures": {},
        }
        pdu = Pdu.trusted(json, VERSION, EventId(f"${name}:a.example"))
        self.events[pdu.event_id] = pdu
        return pdu

    def topic(self, name: str, *, sender: str = ALICE, depth: int = 10) -> Pdu:
        return self.event(name, TOPIC, sender, {"topic": name}, depth=depth)

    def levels(self, name: str, sender: str, users: Mapping[str, int], *, depth: int) -> Pdu:
        content = {"users": users, "events": {"m.room.power_levels": 50}}
        return self.event(name, POWER_LEVELS, sender, content, depth=depth)

    def rules(self, name: str, sender: str, rule: str, *, depth: int) -> Pdu:
        return self.event(name, JOIN_RULES, sender, {"join_rule": rule}, depth=depth)

    def move(self, name: str, sender: str, target: str, membership: str, *, depth: int) -> Pdu:
        return self.event(name, member(target), sender, {"membership": membership}, depth=depth)

    def map(self, *events: Pdu) -> dict[StateKey, EventId]:
        return {event.key: event.event_id for event in events if event.key is not None}

    def find(self, wanted: Iterable[EventId]) -> dict[EventId, Pdu]:
        return {event_id: self.events[event_id] for event_id in wanted if event_id in self.events}

    def resolve(self, maps: Sequence[Mapping[StateKey, EventId]]) -> dict[StateKey, EventId]:
        return run(resolve(maps, VERSION), self.find)

    def merge(self, *sides: Sequence[Pdu], without: Sequence[StateKey] = ()) -> dict[StateKey, str]:
        """The names of what is resolved from the base with each side's events over it."""
        base = {key: one for key, one in self.base.items() if key not in without}
        maps = [{**base, **self.map(*side)} for side in sides]
        results = [self.resolve(order) for order in itertools.permutations(maps)]
        assert all(result == results[0] for result in results)
        return {key: one[1:].partition(":")[0] for key, one in results[0].items()}


@pytest.fixture
def room() -> Room:
    return Room()


# What needs no work


def test_equal_state_maps_ask_for_no_event(room: Room) -> None:
    for maps in ([], [room.base], [room.base, dict(room.base)]):
        with pytest.raises(StopIteration) as done:
            next(resolve(maps, VERSION))
        assert done.value.value == (room.base if maps else {})


def test_what_only_one_state_map_has_is_in_no_conflict(room: Room) -> None:
    # Even what the rules forbid: Carol is not in the room.
    forbidden = room.topic("t", sender=CAROL)
    assert room.merge([forbidden], [])[TOPIC] == "t"


def test_events_are_asked_for_in_two_rounds(room: Room) -> None:
    one, two = room.topic("one"), room.topic("two")
    asked: list[frozenset[EventId]] = []

    def find(wanted: frozenset[EventId]) -> dict[EventId, Pdu]:
        asked.append(wanted)
        return room.find(wanted)

    maps = [{**room.base, **room.map(event)} for event in (one, two)]
    run(resolve(maps, VERSION), find)
    needed = {room.base[key] for key in (CREATE, POWER_LEVELS, member(ALICE))}
    assert asked == [{one.event_id, two.event_id}, needed]


def test_events_that_are_not_found_are_left_out(room: Room) -> None:
    known, unknown = room.topic("known"), room.topic("unknown")
    del room.events[unknown.event_id]
    assert room.merge([known], [unknown])[TOPIC] == "known"
    del room.events[known.event_id]
    assert TOPIC not in room.merge([known], [unknown])


# Power levels


def test_the_first_power_levels_need_no_leave_and_later_ones_do(room: Room) -> None:
    # Carol has no right to set levels and is not even there. Her event is the least deep.
    first = room.levels("carols", CAROL, {CAROL: 100}, depth=6)
    second = room.levels("alices", ALICE, {ALICE: 100}, depth=7)
    assert room.merge([first], [second])[POWER_LEVELS] == "carols"


def test_power_levels_replace_each_other_until_one_is_refused(room: Room) -> None:
    first = room.levels("first", ALICE, {ALICE: 100, BOB: 50}, depth=6)
    second = room.levels("second", ALICE, {ALICE: 100, BOB: 0}, depth=7)
    refused = room.levels("refused", BOB, {ALICE: 100, BOB: 0, CAROL: 5}, depth=8)
    behind = room.levels("behind", ALICE, {ALICE: 100, BOB: 20}, depth=9)
    assert room.merge([first], [second])[POWER_LEVELS] == "second"
    # What comes after the refused one is not looked at, though it would be allowed.
    assert room.merge([first], [second], [refused], [behind])[POWER_LEVELS] == "second"
    assert room.merge([first], [second], [behind])[POWER_LEVELS] == "behind"


def test_at_one_depth_the_smaller_hash_comes_last(room: Room) -> None:
    names = sorted(("a", "b", "c"), key=sha1)
    events = [room.levels(name, ALICE, {ALICE: 100}, depth=6) for name in names]
    assert room.merge(*([event] for event in events))[POWER_LEVELS] == names[0]


def test_power_levels_under_a_state_key_are_ordinary_state(room: Room) -> None:
    key = ("m.room.power_levels", "x")
    low = room.event("low", key, ALICE, {}, depth=6)
    high = room.event("high", key, BOB, {}, depth=7)
    # Bob may not send power levels by those of the room, whatever these say.
    assert room.merge([low], [high])[key] == "low"


# Join rules and members


def test_join_rules_are_judged_by_the_resolved_power_levels(room: Room) -> None:
    kept = room.levels("kept", ALICE, {ALICE: 100, BOB: 50}, depth=6)
    demoted = room.levels("demoted", ALICE, {ALICE: 100}, depth=7)
    alices = room.rules("alices", ALICE, "public", depth=8)
    bobs = room.rules("bobs", BOB, "invite", depth=9)
    assert room.merge([kept, alices], [kept, bobs])[JOIN_RULES] == "bobs"
    assert room.merge([kept, bobs], [demoted, alices])[JOIN_RULES] == "alices"


@pytest.mark.parametrize(("rule", "expected"), [("public", "joined"), ("invite", "left")])
def test_members_are_judged_by_the_resolved_join_rules(
    room: Room, rule: str, expected: str
) -> None:
    early = room.rules("early", ALICE, "knock", depth=6)
    late = room.rules("late", ALICE, rule, depth=7)
    left = room.move("left", CAROL, CAROL, "leave", depth=8)
    joined = room.move("joined", CAROL, CAROL, "join", depth=9)
    assert room.merge([early, joined], [late, left])[member(CAROL)] == expected


@pytest.mark.parametrize(("ban_depth", "join_depth"), [(6, 7), (7, 6)])
def test_a_ban_wins_at_any_depth(room: Room, ban_depth: int, join_depth: int) -> None:
    ban = room.move("ban", ALICE, BOB, "ban", depth=ban_depth)
    join = room.move("join", BOB, BOB, "join", depth=join_depth)
    assert room.merge([ban], [join])[member(BOB)] == "ban"


def test_a_ban_at_the_same_depth_wins_whatever_its_id(room: Room) -> None:
    for name in "abcdef":
        ban = room.move(name, ALICE, BOB, "ban", depth=6)
        join = room.move("join", BOB, BOB, "join", depth=6)
        assert room.merge([ban], [join])[member(BOB)] == name


def test_a_member_in_doubt_moves_nobody_else_whose_place_is_in_doubt(room: Room) -> None:
    # Bob may kick, but his own place is decided in the same pass.
    bob_again = room.move("again", BOB, BOB, "join", depth=6)
    carol = room.move("carol", CAROL, CAROL, "join", depth=6)
    kick = room.move("kick", BOB, CAROL, "leave", depth=7)
    assert room.merge([carol], [kick])[member(CAROL)] == "kick"
    both = room.merge([carol], [kick, bob_again])
    assert (both[member(CAROL)], both[member(BOB)]) == ("carol", "again")


# The rest


def test_of_other_state_the_deepest_that_is_allowed_is_picked(room: Room) -> None:
    low, high = room.topic("low", depth=6), room.topic("high", sender=BOB, depth=7)
    carols = room.topic("carols", sender=CAROL, depth=8)
    assert room.merge([low], [high])[TOPIC] == "high"
    assert room.merge([low], [high], [carols])[TOPIC] == "high"


def test_of_other_state_at_one_depth_the_smallest_hash_is_picked(room: Room) -> None:
    names = sorted(("a", "b", "c"), key=sha1)
    assert room.merge(*([room.topic(name)] for name in names))[TOPIC] == names[0]


def test_other_state_is_judged_by_resolved_members(room: Room) -> None:
    ban = room.move("ban", ALICE, BOB, "ban", depth=6)
    old, new = room.topic("old", depth=6), room.topic("new", sender=BOB, depth=7)
    assert room.merge([ban, old], [new])[TOPIC] == "old"


def test_where_nothing_is_allowed_the_least_deep_stays(room: Room) -> None:
    deep = room.topic("deep", sender=CAROL, depth=7)
    flat = room.topic("flat", sender=CAROL, depth=6)
    assert room.merge([deep], [flat])[TOPIC] == "flat"
    without = [CREATE]
    assert room.merge([room.topic("a")], [flat], without=without)[TOPIC] == "flat"


# Properties

NAMES = st.sampled_from(["users", "events", ALICE, BOB, "signed", "token"])
ODD: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 100) | st.sampled_from(["", "join", "ban", ALICE]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)
USERS = st.sampled_from([ALICE, BOB, CAROL])
CONTENT_KEYS = st.sampled_from(
    ["membership", "join_rule", "users", "events", "ban", "creator", "third_party_invite"]
)
CONTENTS = st.one_of(
    st.builds(dict, membership=st.sampled_from(["join", "leave", "ban", "invite", "knock"])),
    st.builds(dict, join_rule=st.sampled_from(["public", "invite"])),
    st.builds(dict, users=st.dictionaries(USERS, st.sampled_from([0, 50, 100]))),
    st.dictionaries(CONTENT_KEYS, ODD, max_size=3),
)
KEYS = st.sampled_from(
    [
        *(CREATE, POWER_LEVELS, JOIN_RULES, TOPIC, member(ALICE), member(BOB), member(CAROL)),
        *(member("nobody"), ("m.room.power_levels", "x"), ("m.room.join_rules", "x")),
        *(("m.room.third_party_invite", "token"), ("m.room.aliases", "a.example")),
    ]
)


@st.composite
def rooms_and_maps(draw: st.DrawFn) -> tuple[Room, list[dict[StateKey, EventId]]]:
    room = Room()
    drawn = draw(
        st.lists(st.tuples(KEYS, USERS, CONTENTS, st.integers(1, 4)), min_size=1, max_size=14)
    )
    for number, (key, sender, content, depth) in enumerate(drawn):
        room.event(str(number), key, sender, content, depth=depth)
    pool = st.sampled_from(list(room.events.values()))
    maps = draw(st.lists(st.lists(pool, max_size=8), min_size=1, max_size=4))
    with_base = draw(st.booleans())
    base = room.base if with_base else {}
    return room, [{**base, **room.map(*chosen)} for chosen in maps]


@given(case=rooms_and_maps(), data=st.data())
def test_only_the_entries_count_not_how_they_are_grouped(
    case: tuple[Room, list[dict[StateKey, EventId]]], data: st.DataObject
) -> None:
    room, maps = case
    result = room.resolve(maps)
    assert room.resolve(data.draw(st.permutations(maps))) == result
    assert room.resolve([*maps, data.draw(st.sampled_from(maps))]) == result
    entries = sorted({entry for state in maps for entry in state.items()})
    assert room.resolve([dict([entry]) for entry in data.draw(st.permutations(entries))]) == result
    assert run(resolve(maps, VERSION), lambda _wanted: room.events) == result


@given(case=rooms_and_maps())
def test_each_key_keeps_one_of_its_events(
    case: tuple[Room, list[dict[StateKey, EventId]]],
) -> None:
    room, maps = case
    result = room.resolve(maps)
    entries = {entry for state in maps for entry in state.items()}
    assert result.items() <= entries
    assert result.keys() == {key for key, _ in entries}
    assert room.resolve([result]) == room.resolve([result, result]) == result
