"""The commands: one file each, one line in `COMMANDS`."""

from __future__ import annotations

from bridge.bot.commands import help, leave
from bridge.bot.context import Command

COMMANDS: tuple[Command, ...] = (help.COMMAND, leave.COMMAND)
