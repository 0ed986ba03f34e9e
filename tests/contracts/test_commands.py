"""Every command: described, shown to whom it is for, and an answer to whatever is typed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.bot.commands import COMMANDS
from bridge.bot.context import Command
from bridge.bot.dispatch import Dispatch
from bridge.ids import RoomId
from bridge.ports.command import Caller, Level, Outcome
from tests.support.bot import ADMIN, ALICE, JULIET, NOBODY, NoRooms, bench

CALLERS = [
    Caller(user_id=NOBODY),
    Caller(user_id=JULIET),
    Caller(user_id=ALICE, room_id=RoomId("!a:b")),
    Caller(user_id=ADMIN),
    Caller(user_id=NOBODY, is_operator=True),
]
LEVELS = {
    "help": Level.NOBODY,
    "leave": Level.NOBODY,
    "why": Level.NOBODY,
    "whois": Level.NOBODY,
    "status": Level.USER,
    "list": Level.USER,
    "resolve": Level.USER,
    "plumb": Level.USER,
    "unplumb": Level.USER,
    "upgrade": Level.USER,
    "rooms": Level.USER,
    "publish": Level.USER,
    "unpublish": Level.USER,
    "queues": Level.ADMIN,
    "retry": Level.ADMIN,
    "drop": Level.ADMIN,
    "deny": Level.ADMIN,
    "allow": Level.ADMIN,
    "policy": Level.ADMIN,
    "peer": Level.ADMIN,
    "keys": Level.ADMIN,
}
commands = pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.info.name)


def test_names_are_words_and_unique() -> None:
    names = [command.info.name for command in COMMANDS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z-]*", name) for name in names)


def test_the_levels_are_these() -> None:
    assert {command.info.name: command.info.level for command in COMMANDS} == LEVELS


@commands
def test_a_command_says_what_it_is(command: Command) -> None:
    info = command.info
    assert info.usage.split()[0] == info.name
    assert info.summary
    texts = [info.summary, info.usage, *(one.summary for one in info.arguments)]
    assert all(text and "\n" not in text for text in texts)


@commands
def test_usage_names_the_arguments_in_their_order(command: Command) -> None:
    info = command.info
    words = info.usage.split()[1:]
    assert len(words) == len(info.arguments)
    for word, argument in zip(words, info.arguments, strict=True):
        assert argument.name in re.split(r"[\[\]|]", word)
        assert word.startswith("[") is not argument.required
    required = [argument.required for argument in info.arguments]
    assert required == sorted(required, reverse=True)
    assert not any(argument.rest for argument in info.arguments[:-1])


@commands
async def test_help_shows_it_to_whom_it_is_for(command: Command) -> None:
    info = command.info
    line = f"{info.usage}: {info.summary}"
    for caller, level in (
        (CALLERS[0], Level.NOBODY),
        (CALLERS[1], Level.USER),
        (CALLERS[3], Level.ADMIN),
        (CALLERS[4], Level.ADMIN),
    ):
        assert (line in await bench().run(caller, "help")) is (info.level <= level)
    more = await bench().run(CALLERS[4], f"help {info.name}")
    assert info.usage in more
    assert all(argument.summary in more for argument in info.arguments)


@commands
async def test_whoever_lacks_the_level_is_told_which_one(command: Command) -> None:
    for caller, level in ((CALLERS[0], Level.NOBODY), (CALLERS[1], Level.USER)):
        answer = await bench().answer(caller, f"{command.info.name} x")
        denied = "Ask the operator of this gateway" in answer.text and "is for" in answer.text
        assert denied is (command.info.level > level)
        if denied:
            assert answer.outcome is Outcome.MISUSED
            assert f"`{command.info.level.name.lower()}`" in answer.text


@commands
async def test_a_wrong_number_of_words_is_answered_with_the_usage(command: Command) -> None:
    info, operator = command.info, CALLERS[4]
    required = [argument for argument in info.arguments if argument.required]
    for line in (info.name, f"{info.name} a b c d"):
        many = len(line.split()) - 1
        takes_all = bool(info.arguments) and info.arguments[-1].rest
        if many < len(required) or (many > len(info.arguments) and not takes_all):
            answer = await bench().answer(operator, line)
            assert answer.outcome is Outcome.MISUSED
            assert info.usage in answer.text


@commands
async def test_it_says_when_the_gateway_runs_without_its_part(command: Command) -> None:
    dispatch = Dispatch(rooms=NoRooms(), commands=[command])
    answer = await dispatch.run(CALLERS[4], f"{command.info.name} a@b")
    assert "fault of mine" not in answer


@commands
@given(arguments=st.text(max_size=100))
async def test_it_answers_whatever_follows_its_name(command: Command, arguments: str) -> None:
    for caller in CALLERS:
        answer = await bench(commands=[command]).run(caller, f"{command.info.name} {arguments}")
        assert answer.strip()
        assert "fault of mine" not in answer
