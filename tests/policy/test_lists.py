"""What a policy room says: bans become rules, everything else is counted, and nobody is locked out
by what somebody else has written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Refused
from bridge.ids import RoomId, ServerName, UserId
from bridge.policy.house import House
from bridge.policy.lists import (
    MAX_LIST_GLOBS,
    MAX_LIST_RULES,
    MAX_REASONS,
    TYPES,
    ListEntry,
    Reading,
    read_list,
)
from bridge.policy.rights import Rights
from bridge.policy.rules import Action, Rule, RuleTable, Scope, read_rule

OWN = ServerName("gw.example")
BOT = UserId(f"@isthmus:{OWN}")
LIST = RoomId("!list:lists.example")
AUTHOR = UserId("@author:lists.example")
ADMIN = UserId("@admin:home.example")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


def entry(kind: str, entity: object, recommendation: object = "m.ban", **more: Any) -> ListEntry:
    type = kind if "." in kind else f"m.policy.rule.{kind}"
    content = {"entity": entity, "recommendation": recommendation, **more}
    return ListEntry(type=type, state_key=f"rule:{entity}", sender=AUTHOR, content=content)


def read(*entries: ListEntry) -> Reading:
    return read_list(entries, source=LIST, own=OWN, bot=BOT)


def house(reading: Reading, *own_lines: str) -> House:
    rights = Rights({ADMIN: "admin", "*": "admin"}, own_server=OWN)
    opened = House(own_name=OWN, bot=BOT)
    opened.attach(
        on_refusal=lambda _: None,
        address_of=lambda _: None,
        is_admin=rights.is_admin,
        admin_servers=rights.admin_servers(),
    )
    own: list[Rule] = []
    for number, line in enumerate(own_lines, 1):
        action, *words = line.split()
        own.append(read_rule(words, action=Action(action), rule_id=number))
    opened.replace(RuleTable.of([*own, *(one.rule for one in reading.rules)]))
    return opened


def test_a_ban_denies_everything_and_names_the_list() -> None:
    reading = read(entry("server", "evil.example", reason="spam\nspam"))
    assert reading.ignored == {}
    with pytest.raises(Refused, match=r"denied here by !list:lists\.example rule 0: spam spam"):
        house(reading).check_server(ServerName("evil.example"), Scope.INVITES, door="request")


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("ban", ["m.ban", "org.matrix.mjolnir.ban"])
def test_older_names_say_the_same(type: str, ban: str) -> None:
    entities = {"user": "@evil:x.example", "server": "x.example", "room": "!evil:x.example"}
    subject = type.rpartition(".")[2]
    assert [one.rule.subject for one in read(entry(type, entities[subject], ban)).rules] == [
        subject
    ]


def test_what_was_taken_back_is_nothing() -> None:
    empty = ListEntry(type="m.policy.rule.user", state_key="x", sender=AUTHOR, content={})
    assert read(empty) == Reading(ignored={})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (entry("user", "@a:b.example", "m.takedown"), "they recommend 'm.takedown'"),
        (entry("user", "@a:b.example", 7), "they recommend 'nothing'"),
        (entry("user", 7), "they name nothing"),
        (entry("user", "a b"), "they name nothing of their kind"),
        (entry("user", "!a:b"), "they name nothing of their kind"),
        (entry("server", str(OWN)), "they would deny this server"),
        (entry("server", "*.example"), "they would deny this server"),
        (entry("user", BOT), "they would deny this server"),
        (entry("user", "@*"), "they would deny this server"),
        (entry("user", f"@*=40*:{OWN}"), "they would deny this server"),
        (entry("server", "lists.*"), "they would deny the server of whoever made them"),
        (entry("user", "@author:*"), "they would deny whoever made them"),
        (entry("room", "!*"), "they would deny all rooms of a server that matters"),
        (entry("room", "!*:lists.example"), "they would deny all rooms of a server that matters"),
        (entry("room", LIST), "they would deny the list itself"),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)
def test_what_is_no_rule_is_counted(given: ListEntry, why: str) -> None:
    assert read(given) == Reading(ignored={why: 1})


def test_one_of_our_people_can_be_named_and_those_of_one_domain() -> None:
    reading = read(entry("user", f"@*=40spam.example:{OWN}"), entry("user", f"@j=40c.lit:{OWN}"))
    checked = house(reading)
    for name in ("x=40spam.example", "j=40c.lit"):
        with pytest.raises(Refused):
            checked.check_user(UserId(f"@{name}:{OWN}"), Scope.ALL, door="from chat")
    checked.check_user(UserId(f"@r=40c.lit:{OWN}"), Scope.ALL, door="from chat")


def test_the_same_name_counts_once() -> None:
    both = read(entry("server", "e.example"), entry("org.matrix.mjolnir.rule.server", "e.example"))
    assert len(both.rules) == 1


def test_rules_and_globs_are_bounded() -> None:
    many = read(*(entry("server", f"s{number}.x") for number in range(MAX_LIST_RULES + 3)))
    assert (len(many.rules), many.ignored) == (MAX_LIST_RULES, {"there are too many": 3})
    globs = read(*(entry("server", f"*{number}.x") for number in range(MAX_LIST_GLOBS + 2)))
    assert (len(globs.rules), globs.ignored) == (MAX_LIST_GLOBS, {"there are too many": 2})
    words = read(*(entry("server", "e.x", f"word{number}") for number in range(100)))
    assert len(words.ignored) == MAX_REASONS + 1
    assert sum(words.ignored.values()) == 100


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*TYPES, "m.room.name"]),
            st.dictionaries(st.sampled_from(["entity", "recommendation", "reason"]), JSON),
        ),
        max_size=5,
    )
)
def test_any_content_is_read(contents: list[tuple[str, dict[str, Any]]]) -> None:
    entries = [
        ListEntry(type=type, state_key=str(number), sender=AUTHOR, content=content)
        for number, (type, content) in enumerate(contents)
    ]
    reading = read(*entries)
    assert len(reading.rules) + sum(reading.ignored.values()) <= len(entries)


# --- nobody is locked out ------------------------------------------------------------------------


def test_an_admin_and_their_server_and_rooms_are_let_in_whatever_a_list_says() -> None:
    checked = house(
        read(
            entry("server", "home.example"),
            entry("user", ADMIN),
            entry("room", "!secret:home.example"),
            entry("room", "!other"),
        )
    )
    room = RoomId("!secret:home.example")
    checked.check_server(ServerName("home.example"), Scope.ALL, door="request")
    checked.check_member(ADMIN, room, Scope.ALL, door="from matrix")
    checked.check_room(room, Scope.ALL, door="pdu")
    assert checked.allows_server(ServerName("home.example"), Scope.EDUS)
    assert checked.allows_room(room, Scope.JOINS)
    assert not checked.allows_room(RoomId("!other"), Scope.JOINS)
    checked.check_member(ADMIN, RoomId("!other"), Scope.JOINS, door="join")
    with pytest.raises(Refused):
        checked.check_user(UserId("@bob:home.example"), Scope.ALL, door="from matrix")
    with pytest.raises(Refused):
        checked.check_room(RoomId("!other"), Scope.ALL, door="pdu")


def test_a_rule_of_this_house_holds_for_an_admin_too() -> None:
    checked = house(read(), f"deny user {ADMIN}")
    with pytest.raises(Refused, match="bot rule 1"):
        checked.check_user(ADMIN, Scope.ALL, door="from matrix")


def test_a_rule_of_this_house_wins_over_a_list() -> None:
    reading = read(entry("server", "evil.example"), entry("user", "@spam:evil.example"))
    checked = house(reading, "allow server *.example")
    checked.check_server(ServerName("evil.example"), Scope.ALL, door="request")
    checked.check_user(UserId("@bob:evil.example"), Scope.ALL, door="invite")
    with pytest.raises(Refused, match="!list"):
        # Whom a list names one by one is not let in by a rule about their server.
        checked.check_user(UserId("@spam:evil.example"), Scope.ALL, door="invite")


def test_one_list_does_not_take_another_away() -> None:
    other = RoomId("!other:x.example")
    checked = house(read(entry("room", other)))
    with pytest.raises(Refused):
        checked.check_room(other, Scope.ALL, door="pdu")
    checked.protect([other])
    checked.check_room(other, Scope.ALL, door="pdu")


def test_what_is_remembered_of_decisions_goes_with_the_rules() -> None:
    checked, evil = house(read(entry("server", "evil.example"))), ServerName("evil.example")
    for _ in range(2):
        with pytest.raises(Refused):
            checked.check_server(evil, Scope.ALL, door="request")
    checked.replace(RuleTable())
    checked.check_server(evil, Scope.ALL, door="request")
