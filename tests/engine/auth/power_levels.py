"""Tables of the rule about `m.room.power_levels` (10 until 5, 9 from 6 to 11, 10 from 12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.engine.auth.cases import Expect, Row, Table, power, row, some
from tests.engine.rooms import ALICE, BOB, CAROL

PL = "m.room.power_levels"
GONE = "gone"
"""Instead of a level: the entry is taken away."""
NAMED = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")


def first(name: str, content: Mapping[str, Any], expect: Expect = "") -> Row:
    """Alice sets the first power levels of the room."""
    more = dict(content)
    users = more.get("users", {})
    event = power(ALICE, **more)
    if not isinstance(users, dict):
        event = power(ALICE)
        event = type(event)(type=PL, sender=ALICE, content=more, state_key="")
    return row(name, event, expect, levels=None)


def changes(
    name: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    expect: Expect = "",
    own: Any = 50,
) -> Row:
    """Bob at level `own`, who may send power levels, makes `after` of `before`."""
    named = {"events": {PL: -100, **before.get("events", {})}}
    users = {BOB: own, **before.get("users", {})}
    old = {**before, **named}
    old.pop("users", None)
    new = {**after, "events": {PL: -100, **after.get("events", {})}}
    new["users"] = {**users, **after.get("users", {})}
    for group in ("users", "events", "notifications"):
        if group in new:
            new[group] = {key: value for key, value in new[group].items() if value != GONE}
    return row(name, power(BOB, **new), expect, members={BOB: "join"}, users=users, levels=old)


SINCE_10: dict[int, str] = {1: "", 10: "power_levels.integer"}

TYPES = (
    Table(
        rule="power_levels.integer",
        spec="v10 9.1, v12 10.1: the named levels",
        first=10,
        rows=(
            first("nothing is named", {}),
            first("integers", {"ban": 0, "invite": -1, "kick": 2**53 - 1}),
            first("other keys are no matter", {"other": "x", "notification": []}),
            *(
                first(f"{name} is {odd!r}", {name: odd}, SINCE_10)
                for name in NAMED
                for odd in some("50", True, None, [], {}, "x")
            ),
        ),
    ),
    Table(
        rule="power_levels.integer",
        spec="v10 9.2, v12 10.2: levels in events and notifications",
        first=10,
        rows=tuple(
            first(f"{group}: {level!r}", {group: {"room": level}}, expect)
            for group in ("events", "notifications")
            for expect, levels in (
                ({1: ""}, some(5, -5)),
                (SINCE_10, some("50", True, None, [], {}, "x")),
            )
            for level in levels
        ),
    ),
    Table(
        rule="power_levels.object",
        spec="v10 9.2, v12 10.2: events and notifications",
        first=10,
        rows=(
            first("empty objects", {"events": {}, "notifications": {}}),
            *(
                first(f"{group} is {odd!r}", {group: odd}, {1: "", 10: "power_levels.object"})
                for group in ("events", "notifications")
                for odd in some([], 5, None, "x", True)
            ),
        ),
    ),
    Table(
        rule="power_levels.object",
        spec="v1 10.1, v6 9.1, v10 9.3, v12 10.3: users",
        rows=(
            first("absent", {}),
            first("an object", {"users": {BOB: 50}}),
            *(
                first(f"{odd!r}", {"users": odd}, "power_levels.object")
                for odd in some([], None, 5, "x", True)
            ),
        ),
    ),
    Table(
        rule="power_levels.user_id",
        spec="v1 10.1, v6 9.1, v10 9.3, v12 10.3: the keys of users",
        rows=(
            first("an ID", {"users": {BOB: 50}}),
            first("a historical one", {"users": {"@Böb/ x:b.example": 50}}),
            *(
                first(f"{odd!r}", {"users": {odd: 50}}, "power_levels.user_id")
                for odd in ("bob", "@bob", "", "@bob:", "bob:b.example", "@b:" + "x" * 254)
            ),
        ),
    ),
    Table(
        rule="power_levels.integer",
        spec="v1 10.1, v6 9.1, v10 9.3, v12 10.3: the values of users; v1, deprecated schemas",
        rows=(
            *(first(f"{level}", {"users": {BOB: level}}) for level in (0, -5, 100, 2**53 - 1)),
            *(
                first(f"until 9: {level!r}", {"users": {BOB: level}}, SINCE_10)
                for level in (
                    "50",
                    "000100",
                    "+100",
                    "-100",
                    " 100 ",
                    " 00100 ",
                    " +100 ",
                    "\t-1\n",
                )
            ),
            *(
                first(f"never: {str(odd)[:9]!r}", {"users": {BOB: odd}}, "power_levels.integer")
                for odd in some(
                    *(None, True, False, [], {}, [50], "", " ", "x", "+", "-", "+-1", "- 1", "1 2"),
                    *("1_0", "50.0", "5e1", "0x5", "٥", "NaN", "Infinity", "9" * 401),
                )
            ),
        ),
    ),
    Table(
        rule="power_levels.creator",
        spec="v12 10.4",
        first=12,
        rows=(
            first("somebody else", {"users": {BOB: 100}}),
            *(
                row(
                    f"{user} among the users",
                    power(ALICE, users={user: 100}),
                    expect,
                    levels=None,
                    create={"additional_creators": [CAROL]},
                )
                for user, expect in (
                    (ALICE, {1: "", 12: "power_levels.creator"}),
                    (CAROL, {1: "", 12: "power_levels.creator"}),
                    (BOB, ""),
                )
            ),
        ),
    ),
    Table(
        rule="power_levels.ban",
        spec="v1 10.2, v6 9.2, v10 9.4, v12 10.5: the first are free",
        rows=(
            first("above the sender", {"users": {BOB: 2**53 - 1}, "ban": 2**53 - 1}),
            changes("later ones are not", {}, {"ban": 51}, "power_levels.ban"),
        ),
    ),
)


def named(name: str) -> Table:
    """Nobody sets or changes this level above their own."""
    rule = f"power_levels.{name}"
    old_strings: Expect = {1: rule, 10: "power_levels.integer"}
    return Table(
        rule=rule,
        spec="v1 10.3, v6 9.3, v10 9.5, v12 10.6",
        rows=(
            changes("added", {}, {name: 50}),
            changes("added too high", {}, {name: 51}, rule),
            changes("changed", {name: 50}, {name: 10}),
            changes("raised to the own level", {name: 49}, {name: 50}),
            changes("raised too high", {name: 50}, {name: 51}, rule),
            changes("lowered from above", {name: 51}, {name: 10}, rule),
            changes("removed", {name: 50}, {}),
            changes("removed from above", {name: 51}, {}, rule),
            changes("left above", {name: 51}, {name: 51}),
            changes("a creator of version 12", {name: 2**53 - 1}, {name: 0}, {1: rule}),
            changes("a string, until 9", {}, {name: "-51"}, SINCE_10),
            changes("a string too high, until 9", {}, {name: "51"}, old_strings),
            changes("the same as a string", {name: 51}, {name: " +051 "}, SINCE_10),
            changes("a string no more", {name: "51"}, {name: 51}, {1: "", 10: rule}),
            changes("lowered from a string above", {name: "51"}, {name: 50}, {1: rule, 10: ""}),
            changes("what is no level counts as absent", {name: "x"}, {name: 50}),
            changes("removed in this way", {name: 51}, {name: "x"}, old_strings),
        ),
    )


def grouped(group: str, spec: str, since: int = 1) -> Table:
    """Nobody sets or changes an entry of this group above their own level."""
    rule = f"power_levels.{group}"
    refused: dict[int, str] = {1: rule} if since == 1 else {1: "", since: rule}
    strings: dict[int, str] = {**refused, 10: "power_levels.integer"}
    return Table(
        rule=rule,
        spec=spec,
        first=since,
        rows=(
            changes("added", {}, {group: {"x": 50}}),
            changes("added too high", {}, {group: {"x": 51}}, refused),
            changes("changed", {group: {"x": 50}}, {group: {"x": 10}}),
            changes("raised too high", {group: {"x": 10}}, {group: {"x": 51}}, refused),
            changes("lowered from above", {group: {"x": 51}}, {group: {"x": 50}}, refused),
            changes("removed", {group: {"x": 50}}, {group: {}}),
            changes("removed from above", {group: {"x": 51}}, {group: {}}, refused),
            changes("the whole group from above", {group: {"x": 51}}, {}, refused),
            changes("left above", {group: {"x": 51}}, {group: {"x": 51}}),
            changes("a string, until 9", {}, {group: {"x": "50"}}, SINCE_10),
            changes("a string too high, until 9", {}, {group: {"x": "51"}}, strings),
            changes("the same as a string", {group: {"x": 51}}, {group: {"x": "051"}}, SINCE_10),
        ),
    )


USERS = Table(
    rule="power_levels.users",
    spec="v1 10.6 and 7, v6 9.6 and 7, v10 9.8 and 9, v12 10.9 and 10",
    rows=(
        changes("another added", {}, {"users": {CAROL: 50}}),
        changes("added too high", {}, {"users": {CAROL: 51}}, "power_levels.users"),
        changes("raised to the own", {"users": {CAROL: 49}}, {"users": {CAROL: 50}}),
        changes(
            "raised above", {"users": {CAROL: 49}}, {"users": {CAROL: 51}}, "power_levels.users"
        ),
        changes("lowered", {"users": {CAROL: 49}}, {"users": {CAROL: 0}}),
        changes("removed", {"users": {CAROL: 49}}, {"users": {CAROL: GONE}}),
        changes(
            "an equal lowered", {"users": {CAROL: 50}}, {"users": {CAROL: 0}}, "power_levels.users"
        ),
        changes(
            "an equal removed",
            {"users": {CAROL: 50}},
            {"users": {CAROL: GONE}},
            "power_levels.users",
        ),
        changes(
            "one above lowered",
            {"users": {CAROL: 60}},
            {"users": {CAROL: 50}},
            "power_levels.users",
        ),
        changes("one above left alone", {"users": {CAROL: 60}}, {"users": {CAROL: 60}}),
        changes("oneself lowered", {}, {"users": {BOB: 0}}),
        changes("oneself removed", {}, {"users": {BOB: GONE}}),
        changes("oneself raised", {}, {"users": {BOB: 51}}, "power_levels.users"),
        changes(
            "an equal by strings, until 9",
            {"users": {CAROL: "50"}},
            {"users": {CAROL: 0}},
            {1: "power_levels.users", 10: ""},
        ),
        changes(
            "the same by strings, until 9",
            {"users": {CAROL: 60}},
            {"users": {CAROL: " 60 "}},
            SINCE_10,
        ),
        changes(
            "the own level is a string, until 9",
            {},
            {"users": {BOB: 51}},
            {1: "power_levels.users", 10: "power_levels.users"},
            own=" +50 ",
        ),
        row(
            "a creator of version 12 takes the highest level away",
            power(ALICE, users={BOB: 0}),
            {1: "power_levels.users", 12: ""},
            users={BOB: 2**53 - 1},
        ),
        row(
            "an equal lowers an equal",
            power(ALICE, users={BOB: 0}),
            {1: "power_levels.users", 12: ""},
            users={BOB: 100},
        ),
    ),
)

TABLES = (
    *TYPES,
    *(named(name) for name in NAMED),
    grouped("events", "v1 10.4 and 5, v6 9.4 and 5, v10 9.6 and 7, v12 10.7 and 8"),
    grouped("notifications", "v6 9.4 and 5, v10 9.6 and 7, v12 10.7 and 8", since=6),
    USERS,
)
