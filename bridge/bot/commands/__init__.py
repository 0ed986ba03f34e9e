"""The commands: one file each, one line in `COMMANDS`."""

from __future__ import annotations

from bridge.bot.commands import (
    drop,
    help,
    keys,
    leave,
    list,
    plumb,
    queues,
    resolve,
    retry,
    status,
    unplumb,
    upgrade,
    whois,
    why,
)
from bridge.bot.context import Command

COMMANDS: tuple[Command, ...] = (
    help.COMMAND,
    status.COMMAND,
    list.COMMAND,
    plumb.COMMAND,
    unplumb.COMMAND,
    upgrade.COMMAND,
    whois.COMMAND,
    resolve.COMMAND,
    leave.COMMAND,
    why.COMMAND,
    queues.COMMAND,
    retry.COMMAND,
    drop.COMMAND,
    keys.COMMAND,
)
