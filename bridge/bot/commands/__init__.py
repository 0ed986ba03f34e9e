"""The commands: one file each, one line in `COMMANDS`."""

from __future__ import annotations

from bridge.bot.commands import (
    allow,
    deny,
    drop,
    help,
    keys,
    leave,
    list,
    peer,
    plumb,
    policy,
    publish,
    queues,
    resolve,
    retry,
    rooms,
    status,
    unplumb,
    unpublish,
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
    rooms.COMMAND,
    publish.COMMAND,
    unpublish.COMMAND,
    whois.COMMAND,
    resolve.COMMAND,
    leave.COMMAND,
    why.COMMAND,
    queues.COMMAND,
    retry.COMMAND,
    drop.COMMAND,
    deny.COMMAND,
    allow.COMMAND,
    policy.COMMAND,
    peer.COMMAND,
    keys.COMMAND,
)
