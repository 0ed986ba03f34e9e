"""`help`: what the bot can do."""

from __future__ import annotations

from bridge.bot.context import Command, Context
from bridge.ports.command import CommandInfo


async def run(context: Context) -> str:
    lines = [f"{info.usage}: {info.summary}" for info in context.commands]
    return "I join XMPP and Matrix. You can write to me:\n" + "\n".join(lines)


COMMAND = Command(
    info=CommandInfo(name="help", usage="help", summary="show this list", in_room=False), run=run
)
