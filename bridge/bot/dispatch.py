"""From a line to a command to an answer. One of the three borders where anything is caught."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.bot.commands import COMMANDS
from bridge.bot.context import Command, Context, RoomActions
from bridge.errors import IsthmusError
from bridge.ports.command import Caller, CommandInfo
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
MAX_LINE = 2000
MAX_WORD = 50


class Dispatch:
    """Fills `ports.command.CommandTable`."""

    def __init__(self, *, rooms: RoomActions, commands: Sequence[Command] = COMMANDS) -> None:
        self._rooms = rooms
        self._commands = {command.info.name: command for command in commands}

    def commands(self) -> Sequence[CommandInfo]:
        return [command.info for command in self._commands.values()]

    async def run(self, caller: Caller, line: str) -> str:
        words = line[:MAX_LINE].split()
        if not words:
            words = ["help"]
        command = self._commands.get(words[0].lower().lstrip("!/"))
        if command is None:
            return f"I do not know {words[0][:MAX_WORD]!r}. Write `help` to see what I can do."
        context = Context(
            caller=caller,
            arguments=tuple(words[1:]),
            rooms=self._rooms,
            commands=self.commands(),
        )
        try:
            return await command.run(context)
        except IsthmusError as exc:
            return f"That did not work: {exc.reason}"
        except Exception:
            log.exception("a command failed", command=command.info.name)
            return "That did not work, because of a fault of mine. It is in the log."
