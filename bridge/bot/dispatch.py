"""From a line to a command to an answer. One of the three borders where anything is caught.

The level is looked up before anything else is: who lacks it learns which one is needed and who
grants it, and nothing about what the command would have found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from bridge.bot.commands import COMMANDS
from bridge.bot.context import (
    Command,
    Context,
    Journal,
    Keys,
    Listings,
    Lists,
    Peers,
    Portals,
    Queues,
    Resolves,
    RoomActions,
    Rules,
    Status,
    Upgrades,
)
from bridge.bot.words import LEVEL_NAMES, describe
from bridge.errors import BadInput, IsthmusError, NotFound
from bridge.ids import UserId
from bridge.policy.rights import Rights
from bridge.ports.command import Answer, Caller, CommandInfo, Level, Outcome
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
MAX_LINE = 2000
MAX_WORD = 50

AddressOf = Callable[[UserId], str | None]


class Dispatch:
    """Fills `ports.command.CommandTable`. Without `rights` nobody has any."""

    def __init__(
        self,
        *,
        rooms: RoomActions,
        rights: Rights | None = None,
        address_of: AddressOf = lambda user_id: None,
        portals: Portals | None = None,
        upgrades: Upgrades | None = None,
        listings: Listings | None = None,
        resolver: Resolves | None = None,
        queues: Queues | None = None,
        keys: Keys | None = None,
        journal: Journal | None = None,
        status: Status | None = None,
        rules: Rules | None = None,
        lists: Lists | None = None,
        peers: Peers | None = None,
        commands: Sequence[Command] = COMMANDS,
    ) -> None:
        """`address_of`: of a ghost, whose it is; None for everybody else."""
        self._rooms = rooms
        self._rights = rights
        self._address_of = address_of
        self._portals = portals
        self._upgrades = upgrades
        self._listings = listings
        self._resolver = resolver
        self._queues = queues
        self._keys = keys
        self._journal = journal
        self._status = status
        self._rules = rules
        self._lists = lists
        self._peers = peers
        self._commands = {command.info.name: command for command in commands}

    def commands(self) -> Sequence[CommandInfo]:
        return [command.info for command in self._commands.values()]

    def commands_of(self, caller: Caller) -> Sequence[CommandInfo]:
        level = self._level(caller)
        return [info for info in self.commands() if info.level <= level]

    async def run(self, caller: Caller, line: str) -> str:
        return (await self.answer(caller, line)).text

    async def greet(self, caller: Caller) -> str:
        names = ", ".join(f"`{info.name}`" for info in self.commands_of(caller))
        return (
            "Hello! I am the gateway between XMPP and Matrix: people and rooms of one side can be "
            f"reached from the other. You may use {names}. Write `help` to see what each one does."
        )

    async def answer(self, caller: Caller, line: str) -> Answer:
        """As `run`, and how it went."""
        words = line[:MAX_LINE].split() or ["help"]
        name = words[0].lower().lstrip("!/")
        command = self._commands.get(name)
        if command is None:
            return _misused(self._unknown(caller, words[0], name))
        level, info = self._level(caller), command.info
        denial = None if self._rules is None else self._rules.denial_of(caller.user_id)
        if denial is not None and level < Level.ADMIN:
            return _misused(f"{denial}. Ask the operator of this gateway if that is a mistake.")
        if info.level > level:
            return _misused(
                f"`{info.name}` is for {LEVEL_NAMES[info.level]} of this gateway. "
                "Ask the operator of this gateway if you need it."
            )
        arguments = tuple(words[1:])
        wrong = _wrong_use(info, arguments)
        if wrong is not None:
            return _misused(f"{wrong}\n{describe(info)}")
        context = Context(
            caller=caller,
            level=level,
            address=self._address(caller.user_id),
            arguments=arguments,
            commands=self.commands_of(caller),
            rights=self._rights,
            address_of=self._address,
            rooms=self._rooms,
            portals=self._portals,
            upgrades=self._upgrades,
            listings=self._listings,
            resolver=self._resolver,
            queues=self._queues,
            keys=self._keys,
            journal=self._journal,
            status=self._status,
            rules=self._rules,
            lists=self._lists,
            peers=self._peers,
        )
        return await _run(command, context)

    def _unknown(self, caller: Caller, typed: str, name: str) -> str:
        known = [info.name for info in self.commands_of(caller)]
        near = get_close_matches(name[:MAX_WORD], known, n=1)
        meant = f" Did you mean `{near[0]}`?" if near else ""
        return f"I do not know {typed[:MAX_WORD]!r}.{meant} Write `help` to see what I can do."

    def _level(self, caller: Caller) -> Level:
        if caller.is_operator:
            return Level.ADMIN
        if self._rights is None:
            return Level.NOBODY
        try:
            address, is_unknown = self._address_of(caller.user_id), False
        except BadInput:
            address, is_unknown = None, False
        except NotFound:  # the name of the ghost is hashed
            address, is_unknown = None, True
        return self._rights.level_of(caller.user_id, address, is_unknown=is_unknown)

    def _address(self, user_id: UserId) -> str | None:
        try:
            return self._address_of(user_id)
        except (BadInput, NotFound):
            return None  # the name is hashed, or none of ours


async def _run(command: Command, context: Context) -> Answer:
    try:
        text = await command.run(context)
    except BadInput as exc:
        return _misused(f"That did not work: {exc.reason}\n{describe(command.info)}")
    except IsthmusError as exc:
        return Answer(outcome=Outcome.FAILED, text=f"That did not work: {exc.reason}")
    except Exception:
        log.exception("a command failed", command=command.info.name)
        return Answer(
            outcome=Outcome.FAILED,
            text="That did not work, because of a fault of mine. It is in the log.",
        )
    return Answer(outcome=Outcome.DONE, text=text)


def _wrong_use(info: CommandInfo, arguments: Sequence[str]) -> str | None:
    """What is wrong with the number of words behind the name."""
    required = [argument for argument in info.arguments if argument.required]
    if len(arguments) < len(required):
        return f"{required[len(arguments)].name} is missing."
    takes_all = bool(info.arguments) and info.arguments[-1].rest
    if len(arguments) > len(info.arguments) and not takes_all:
        return f"{arguments[len(info.arguments)][:MAX_WORD]!r} is one word too many."
    return None


def _misused(text: str) -> Answer:
    return Answer(outcome=Outcome.MISUSED, text=text)
