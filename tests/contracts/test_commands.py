"""Every command: described, listed by `help`, and an answer to whatever is typed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.bot.commands import COMMANDS
from bridge.bot.context import Command
from bridge.bot.dispatch import Dispatch
from bridge.ids import RoomId, UserId
from bridge.ports.command import Caller
from tests.support.bot import NoRooms

CALLERS = [
    Caller(user_id=UserId("@juliet=40capulet.lit:gw.example")),
    Caller(user_id=UserId("@alice:matrix.example"), room_id=RoomId("!a:b")),
]
commands = pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.info.name)


def test_names_are_words_and_unique() -> None:
    names = [command.info.name for command in COMMANDS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z-]*", name) for name in names)


@commands
def test_a_command_says_what_it_is(command: Command) -> None:
    assert command.info.usage.split()[0] == command.info.name
    assert command.info.summary
    assert "\n" not in command.info.summary + command.info.usage


@commands
async def test_help_names_it(command: Command) -> None:
    answer = await Dispatch(rooms=NoRooms()).run(CALLERS[0], "help")
    assert f"{command.info.usage}: {command.info.summary}" in answer


@commands
@given(arguments=st.text(max_size=100))
async def test_it_answers_whatever_follows_its_name(command: Command, arguments: str) -> None:
    dispatch = Dispatch(rooms=NoRooms(), commands=[command])
    for caller in CALLERS:
        answer = await dispatch.run(caller, f"{command.info.name} {arguments}")
        assert answer.strip()
        assert "fault" not in answer
