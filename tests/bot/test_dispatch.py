"""From a line to an answer: never an exception, whatever was typed or broke."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from bridge.bot.context import Command, Context
from bridge.bot.dispatch import Dispatch
from bridge.errors import Refused, Unavailable
from bridge.ids import UserId
from bridge.ports.command import Argument, Caller, CommandInfo
from tests.support.bot import NoRooms

CALLER = Caller(user_id=UserId("@juliet=40capulet.lit:gw.example"))


def table(run: Callable[[Context], Awaitable[str]]) -> Dispatch:
    words = Argument(name="WORDS", summary="any", rest=True)
    info = CommandInfo(
        name="try", usage="try [WORDS]", summary="try it", in_room=False, arguments=(words,)
    )
    return Dispatch(rooms=NoRooms(), commands=[Command(info=info, run=run)])


async def test_a_command_is_found_by_its_name_however_it_is_called() -> None:
    async def run(context: Context) -> str:
        return " ".join(context.arguments)

    for line in ("try a b", "!try a b", "/TRY  a\tb", "Try a b"):
        assert await table(run).run(CALLER, line) == "a b"


async def test_what_a_command_raises_on_purpose_is_the_answer() -> None:
    async def refuse(context: Context) -> str:
        raise Refused("you may not")

    async def later(context: Context) -> str:
        raise Unavailable("the server is down")

    assert "you may not" in await table(refuse).run(CALLER, "try")
    assert "the server is down" in await table(later).run(CALLER, "try")


async def test_a_fault_is_said_without_its_details() -> None:
    async def fail(context: Context) -> str:
        raise KeyError("secret")

    answer = await table(fail).run(CALLER, "try")
    assert "fault" in answer
    assert "secret" not in answer


async def test_nothing_asks_for_help_and_unknown_words_are_cut() -> None:
    dispatch = Dispatch(rooms=NoRooms())
    assert "leave" in await dispatch.run(CALLER, "  ")
    answer = await dispatch.run(CALLER, "x" * 100_000)
    assert "help" in answer
    assert len(answer) < 200


@given(st.text(max_size=200))
async def test_no_line_raises(line: str) -> None:
    assert await Dispatch(rooms=NoRooms()).run(CALLER, line)
