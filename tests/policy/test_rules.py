"""The rules of the house: what is denied, what an exception saves, and globs that want to hurt."""

from __future__ import annotations

import re
import time
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadInput, Refused
from bridge.ids import RoomId, ServerName, UserId
from bridge.policy.globs import MAX_GLOB, MAX_TEXT, Glob
from bridge.policy.house import House, Refusal
from bridge.policy.rules import MAX_RULES, Action, Rule, RuleTable, Scope, read_rule

OWN = ServerName("gw.example")
EVIL = ServerName("evil.example")


def rule(line: str, *, number: int = 1, source: str = "bot") -> Rule:
    action, *words = line.split()
    return read_rule(words, action=Action(action), rule_id=number, source=source)


def table(*lines: str) -> RuleTable:
    return RuleTable.of(rule(line, number=number) for number, line in enumerate(lines, 1))


def spelt(glob: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(one, re.escape(one)) for one in glob), re.DOTALL)


@given(
    glob=st.text(alphabet="ab.*?", min_size=1, max_size=12),
    text=st.text(alphabet="ab.", max_size=12),
)
def test_a_glob_matches_what_it_spells(glob: str, text: str) -> None:
    assert Glob.parse(glob).matches(text) is (spelt(glob).fullmatch(text) is not None)


@given(st.text(max_size=300))
def test_any_text_is_a_glob_or_bad_input(text: str) -> None:
    try:
        glob = Glob.parse(text)
    except BadInput:
        return
    if glob.is_exact:
        assert glob.matches(text)


@pytest.mark.parametrize("glob", ["*a" * 127, "a*" * 127, "*?" * 127, "*" * 254 + "b", "?" * 254])
def test_a_hostile_glob_takes_no_longer_than_any_other(glob: str) -> None:
    parsed, text = Glob.parse(glob), "a" * MAX_TEXT
    before = time.process_time()
    for _ in range(20):
        parsed.matches(text)
    # A matcher that goes back would not be done in a lifetime.
    assert time.process_time() - before < 2


@pytest.mark.parametrize("glob", ["", "a" * (MAX_GLOB + 1), "a b", "a\nb", "a\0", "\u202ea"])
def test_what_is_no_glob_is_refused(glob: str) -> None:
    with pytest.raises(BadInput):
        Glob.parse(glob)


def test_too_long_a_name_matches_nothing() -> None:
    assert not Glob.parse("*").matches("a" * (MAX_TEXT + 1))


def test_what_nobody_names_is_allowed() -> None:
    assert table().server(EVIL, Scope.ALL).is_allowed
    assert table("deny server other.example").server(EVIL, Scope.ALL).is_allowed


def test_a_denial_holds_in_its_scopes_only() -> None:
    rules = table("deny server evil.example invites knocks")
    allowed = {scope for scope in Scope if rules.server(EVIL, scope).is_allowed}
    assert allowed == {Scope.JOINS, Scope.MEDIA, Scope.EDUS, Scope.ALL}


@pytest.mark.parametrize("scope", list(Scope))
def test_a_denial_without_scopes_holds_in_all(scope: Scope) -> None:
    assert not table("deny server evil.example").server(EVIL, scope).is_allowed


@pytest.mark.parametrize(
    "server", ["evil.example", "EVIL.example", "evil.example:8448", "Evil.Example:1"]
)
def test_a_host_is_denied_on_all_its_ports_and_in_any_case(server: str) -> None:
    assert not table("deny server Evil.example").server(ServerName(server), Scope.ALL).is_allowed


def test_a_port_can_be_denied_alone() -> None:
    rules = table("deny server evil.example:1")
    assert not rules.server(ServerName("evil.example:1"), Scope.ALL).is_allowed
    assert rules.server(ServerName("evil.example:2"), Scope.ALL).is_allowed


@pytest.mark.parametrize(
    "lines",
    list(permutations(["deny server *", "allow server *.example", "deny server evil.example"])),
)
def test_the_most_exact_rule_counts_in_any_order(lines: tuple[str, ...]) -> None:
    rules = table(*lines)
    assert not rules.server(EVIL, Scope.ALL).is_allowed
    assert rules.server(ServerName("good.example"), Scope.ALL).is_allowed
    assert not rules.server(ServerName("good.test"), Scope.ALL).is_allowed


@pytest.mark.parametrize(
    "lines", list(permutations(["allow server evil.example", "deny server evil.example"]))
)
def test_of_two_that_are_as_exact_the_denial_counts(lines: tuple[str, ...]) -> None:
    assert not table(*lines).server(EVIL, Scope.JOINS).is_allowed


def test_our_own_word_goes_before_a_policy_rooms() -> None:
    rules = [
        rule("deny server evil.example", source="!list:x"),
        rule("allow server evil.example"),
    ]
    assert RuleTable.of(rules).server(EVIL, Scope.ALL).is_allowed


def test_a_user_is_denied_with_their_server_unless_they_are_named() -> None:
    rules = table("deny server evil.example", "allow user @good:evil.example")
    bad, good = UserId("@bad:evil.example"), UserId("@good:evil.example")
    assert not rules.user(bad, Scope.ALL, own=OWN).is_allowed
    assert rules.user(good, Scope.ALL, own=OWN).is_allowed


def test_a_person_of_the_chat_side_is_named_by_their_address() -> None:
    rules = table("deny user *@capulet.lit")
    ghost = UserId("@juliet=40capulet.lit:gw.example")
    assert not rules.user(ghost, Scope.ALL, address="juliet@capulet.lit", own=OWN).is_allowed
    assert rules.user(ghost, Scope.ALL, address="juliet@other.lit", own=OWN).is_allowed


def test_nobody_of_our_own_is_denied_by_a_rule_for_servers() -> None:
    assert table("deny server *").user(UserId("@bot:gw.example"), Scope.ALL, own=OWN).is_allowed


def test_rooms_are_case_sensitive() -> None:
    rules = table("deny room !Bad*")
    assert not rules.room(RoomId("!BadRoom:x"), Scope.JOINS).is_allowed
    assert rules.room(RoomId("!badroom:x"), Scope.JOINS).is_allowed


def test_more_rules_than_the_bound_do_not_count() -> None:
    many = (rule(f"deny server s{number}.example", number=number) for number in range(20_000))
    assert len(RuleTable.of(many).rules) == MAX_RULES


@pytest.mark.parametrize(
    "line",
    [
        "deny server",
        "deny planet mars",
        "deny server @a:b",
        "deny user alice",
        "deny room garden",
        "deny server evil.example everything",
        "deny server evil.example reason",
    ],
)
def test_what_is_no_rule_is_refused(line: str) -> None:
    with pytest.raises(BadInput):
        rule(line)


def test_a_rule_reads_as_it_is_written() -> None:
    line = 'deny server evil.example invites joins "sends too much"'
    assert str(rule(line)) == line
    assert rule(line).reason == "sends too much"


@given(st.lists(st.text(max_size=20), max_size=8))
def test_any_words_are_a_rule_or_bad_input(words: list[str]) -> None:
    try:
        found = read_rule(words, action=Action.DENY)
    except BadInput:
        return
    RuleTable.of([found])


globs = st.sampled_from(["*", "*.example", "evil.*", "evil.example", "e?il.example", "good.test"])


@given(
    rules=st.lists(st.tuples(st.sampled_from(list(Action)), globs, st.sampled_from(list(Scope)))),
    server=st.sampled_from([EVIL, ServerName("good.test"), ServerName("x.example")]),
    scope=st.sampled_from(list(Scope)),
    data=st.data(),
)
def test_the_order_of_rules_decides_nothing(
    rules: list[tuple[Action, str, Scope]], server: ServerName, scope: Scope, data: st.DataObject
) -> None:
    made = [rule(f"{action} server {glob} {where}") for action, glob, where in rules]
    first = RuleTable.of(made).server(server, scope)
    second = RuleTable.of(data.draw(st.permutations(made))).server(server, scope)
    assert first.is_allowed is second.is_allowed
    named = [one for one in made if one.action is Action.DENY]
    assert first.is_allowed or named


def test_the_house_refuses_with_the_rule_and_tells_the_book() -> None:
    told: list[Refusal] = []
    house = House(own_name=OWN, on_refusal=told.append)
    house.replace(table('deny server evil.example "spam"'))
    with pytest.raises(Refused, match="bot rule 1: spam") as caught:
        house.check_server(EVIL, Scope.JOINS, door="request")
    assert (caught.value.errcode, caught.value.rule) == ("M_FORBIDDEN", "policy.1")
    assert [(one.door, one.what) for one in told] == [("request", "evil.example")]


def test_our_own_server_is_always_welcome() -> None:
    house = House(own_name=OWN)
    house.replace(table("deny server *"))
    house.check_server(OWN, Scope.ALL, door="request")
