"""From a line to an answer: never an exception, whatever was typed or broke."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from bridge.adapters.xmpp.adapter import XmppAddresses
from bridge.bot.context import Command, Context
from bridge.bot.dispatch import Dispatch
from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import UserId
from bridge.policy.rights import Rights
from bridge.ports.command import Argument, Caller, CommandInfo, Outcome
from tests.support.bot import ADMIN, GATEWAY, JULIET, NOBODY, NoRooms, bench

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


async def test_a_slip_of_the_finger_is_answered_with_the_nearest_command() -> None:
    caller = Caller(user_id=ADMIN)
    for typed, meant in (("hlep", "help"), ("quues", "queues"), ("!plum", "plumb")):
        answer = await bench().answer(caller, typed)
        assert f"`{meant}`" in answer.text
        assert answer.outcome is Outcome.MISUSED
    assert "Did you mean" not in await bench().run(caller, "xyzzy")


async def test_nobody_hears_of_commands_that_are_not_for_them() -> None:
    assert "queues" not in await bench().run(Caller(user_id=NOBODY), "quues")
    assert "queues" not in await bench().run(Caller(user_id=NOBODY), "help")


async def test_without_rights_only_the_operator_has_any() -> None:
    dispatch = bench(rights=None)
    assert "Ask the operator" in await dispatch.run(Caller(user_id=ADMIN), "status")
    assert "XMPP" in await dispatch.run(Caller(user_id=NOBODY, is_operator=True), "status")


async def test_the_greeting_says_what_one_may_do() -> None:
    for user_id, may, may_not in (
        (NOBODY, "`why`", "`status`"),
        (JULIET, "`plumb`", "`queues`"),
        (ADMIN, "`queues`", "nothing"),
    ):
        greeting = await bench().greet(Caller(user_id=user_id))
        assert may in greeting
        assert may_not not in greeting


async def test_an_address_that_cannot_be_read_is_none() -> None:
    def lost(user_id: UserId) -> str | None:
        raise NotFound("hashed")

    answer = await bench(address_of=lost).run(Caller(user_id=JULIET), "status")
    assert "Ask the operator" in answer


@given(st.text(max_size=200))
async def test_no_line_raises(line: str) -> None:
    assert await bench().run(CALLER, line)


async def test_an_address_too_long_for_a_name_escapes_no_rule_for_its_domain() -> None:
    addresses = XmppAddresses(domain="x.gw.example", server_name=GATEWAY)
    rights = Rights({"*": "user", "evil.example": "none"}, own_server=GATEWAY)
    dispatch = bench(rights=rights, address_of=addresses.address_of)
    for local in ("mallory", "m" * 400):
        caller = Caller(user_id=addresses.user_of(f"{local}@evil.example"))
        assert (await dispatch.answer(caller, "list")).outcome is Outcome.MISUSED
    caller = Caller(user_id=addresses.user_of("juliet@capulet.lit"))
    assert (await dispatch.answer(caller, "list")).outcome is Outcome.DONE
