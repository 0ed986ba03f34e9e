"""Every command on every face: what is allowed is done, what is not is refused in words, and wrong
use is answered with the usage and the nearest command."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from bridge.bot.commands import COMMANDS
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from bridge.errors import Refused
from bridge.ports.command import CommandInfo, Level
from tests.support.chats import ask_in_room, ask_on_xmpp, open_bot_chat
from tests.support.gateway import Gateway
from tests.support.operator import admin
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

INFOS = [command.info for command in COMMANDS]
CALLS: dict[str, tuple[dict[str, str], str]] = {
    "help": ({}, "You can write to me"),
    "status": ({}, "Queues"),
    "list": ({}, "XMPP"),
    "plumb": ({"CHAT": "nobody@muc.a.test", "ROOM": "#nowhere:a.test"}, "That did not work"),
    "unplumb": ({"CHAT": "nobody@muc.a.test"}, "not bridged to any room"),
    "upgrade": ({"ROOM": "!nowhere:a.test", "VERSION": "12"}, "I am not in"),
    "whois": ({"WHO": "me"}, "Here:"),
    "resolve": ({"WHO": "romeo@a.test"}, "On XMPP: romeo@a.test"),
    "leave": ({}, "room"),
    "why": ({"MESSAGE": "no-such-message"}, "no such message"),
    "queues": ({}, "parked"),
    "retry": ({"ID": "all"}, "tried again now"),
    "drop": ({"ID": "outbox 999999"}, "there is no row"),
    "keys": ({}, "signs."),
    "deny": ({"KIND": "server", "NAME": "evil.test", "SCOPES": "media"}, "deny server evil.test"),
    "allow": ({"KIND": "server", "NAME": "fine.test", "SCOPES": "media"}, "fine.test"),
    "policy": ({"ACTION": "list"}, "rule"),
    "publish": ({"ROOM": "!nowhere:a.test"}, "!nowhere:a.test"),
    "unpublish": ({"ROOM": "!nowhere:a.test"}, "!nowhere:a.test"),
    "rooms": ({"SERVER": "more"}, "rooms SERVER"),
    "peer": ({"SERVER": "elsewhere.test"}, "0 rooms shared"),
}
"""Arguments that each command takes, and what its answer contains."""

XMPP_FACES = ("bot", "domain", "forms")
"""Each has people of its own: the bot answers one person thirty lines a minute."""

LINES_OF_ONE = 25

Ask = Callable[[str, str], Awaitable[str]]
"""Line and what to expect -> answer."""


def test_every_command_is_called_here() -> None:
    assert set(CALLS) == {info.name for info in INFOS}


def line_of(info: CommandInfo) -> str:
    return " ".join([info.name, *CALLS[info.name][0].values()])


def misuse_of(info: CommandInfo) -> str | None:
    """A line with a word too few or too many; None where every line is right."""
    if any(argument.required for argument in info.arguments):
        return info.name
    if info.arguments and info.arguments[-1].rest:
        return None
    return " ".join([info.name, *(["surplus"] * (len(info.arguments) + 1))])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    prosody: Prosody, synapse: Synapse, certificates: CertificateAuthority
) -> AsyncIterator[Gateway]:
    permissions = {
        synapse.user_id("boss"): "admin",
        synapse.user_id("user"): "user",
        **{f"boss-{face}@a.test": "admin" for face in XMPP_FACES},
        **{f"boss-{face}-2@a.test": "admin" for face in XMPP_FACES},
        **{f"user-{face}@a.test": "user" for face in XMPP_FACES},
        **{f"user-{face}-2@a.test": "user" for face in XMPP_FACES},
    }
    async with Gateway(prosody, certificates, settings={"permissions": permissions}) as server:
        yield server


async def try_everything(ask: Ask, level: Level) -> None:
    """As somebody of this level, in chat."""
    offered = await ask("help", "You can write to me")
    for info in INFOS:
        is_allowed = info.level <= level
        assert (f"\n{info.usage}:" in offered) is is_allowed
        if not is_allowed:
            await ask(line_of(info), "is for")
            continue
        await ask(line_of(info), CALLS[info.name][1])
        misuse = misuse_of(info)
        if misuse is not None:
            await ask(misuse, f"Usage: {info.usage}")
    await ask("hlep", "Did you mean `help`?")
    answer = await ask("stauts", "I do not know 'stauts'")
    assert ("Did you mean `status`?" in answer) is (level >= Level.USER)


@pytest.mark.parametrize(
    ("name", "level"), [("boss", Level.ADMIN), ("user", Level.USER), ("somebody", Level.NOBODY)]
)
async def test_the_face_on_matrix(
    name: str, level: Level, gateway: Gateway, synapse: Synapse, matrix_person: MakeMatrixPerson
) -> None:
    person = await matrix_person(synapse, name)
    chat = await open_bot_chat(person, gateway)

    async def ask(line: str, expect: str) -> str:
        return await ask_in_room(person, gateway, chat, line, expect=expect)

    await try_everything(ask, level)


@pytest.mark.parametrize(
    ("name", "level"), [("boss", Level.ADMIN), ("user", Level.USER), ("somebody", Level.NOBODY)]
)
@pytest.mark.parametrize("face", ["bot", "domain"])
async def test_the_face_on_xmpp(
    name: str,
    level: Level,
    face: str,
    gateway: Gateway,
    prosody: Prosody,
    xmpp_person: MakeXmppPerson,
) -> None:
    first = await xmpp_person(prosody, f"{name}-{face}")
    second = await xmpp_person(prosody, f"{name}-{face}-2")
    lines = itertools.count()
    bot = gateway.component if face == "domain" else gateway.bot_address

    async def ask(line: str, expect: str) -> str:
        person = first if next(lines) < LINES_OF_ONE else second
        return await ask_on_xmpp(person, bot, line, expect=expect)

    await try_everything(ask, level)


async def test_whoever_opens_a_chat_is_greeted_with_what_they_may_do(
    gateway: Gateway,
    prosody: Prosody,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    newcomer = await matrix_person(synapse, "newcomer")
    chat = await open_bot_chat(newcomer, gateway)
    (greeting,) = [
        seen.body or ""
        for seen in newcomer.transcript
        if seen.room_id == chat and seen.sender == gateway.bot_id and seen.body
    ]
    assert "`help`" in greeting
    assert "`status`" not in greeting
    newbie = await xmpp_person(prosody, "newbie")
    newbie.set_presence(to=gateway.bot_address, type="subscribe")
    heard = await newbie.wait_for(
        lambda stanza: "Hello! I am the gateway" in (stanza.body or ""), what="the greeting"
    )
    assert "`status`" not in (heard.body or "")


@pytest.mark.parametrize("name", ["boss", "user", "somebody"])
async def test_the_face_as_forms(
    name: str, gateway: Gateway, prosody: Prosody, xmpp_person: MakeXmppPerson
) -> None:
    level = {"boss": Level.ADMIN, "user": Level.USER}.get(name, Level.NOBODY)
    person = await xmpp_person(prosody, f"{name}-forms")
    for info in INFOS:
        values, expected = CALLS[info.name]
        if info.level > level:
            with pytest.raises(Refused) as refusal:
                await person.run_command(gateway.bot_address, info.name)
            assert refusal.value.rule == "forbidden"
            continue
        answer = await person.run_command(
            gateway.bot_address, info.name, values=values if info.arguments else None
        )
        assert expected in (answer.note or ""), info.name
        if any(argument.required for argument in info.arguments):
            answer = await person.run_command(gateway.bot_address, info.name, values={})
            assert "is needed" in (answer.note or ""), info.name
    with pytest.raises(Refused) as refusal:
        await person.run_command(gateway.component, "stauts")
    assert refusal.value.rule == "item-not-found"


async def test_the_face_on_the_server(gateway: Gateway) -> None:
    for info in INFOS:
        code, printed = await admin(gateway, line_of(info))
        assert code in (0, 1, 2)
        assert CALLS[info.name][1] in printed, info.name
        misuse = misuse_of(info)
        if misuse is not None:
            code, printed = await admin(gateway, misuse)
            assert code == 2
            assert f"Usage: {info.usage}" in printed
    code, printed = await admin(gateway, "stauts")
    assert code == 2
    assert "Did you mean `status`?" in printed
    code, printed = await admin(gateway, "")
    assert code == 0
    assert "You can write to me" in printed


async def test_the_server_says_when_no_gateway_runs(
    prosody: Prosody, certificates: CertificateAuthority
) -> None:
    stopped = Gateway(prosody, certificates)
    try:
        code, printed = await admin(stopped, "status")
        assert code != 0
        assert "not running" in printed
        assert "Traceback" not in printed
    finally:
        await stopped.close()
