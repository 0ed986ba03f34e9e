"""`help`: what the bot can do for whoever asks."""

from __future__ import annotations

from bridge.bot.context import Command, Context
from bridge.bot.words import LEVEL_NAMES, describe
from bridge.errors import NotFound
from bridge.ports.command import Argument, CommandInfo


async def run(context: Context) -> str:
    if context.arguments:
        name = context.arguments[0].lower().lstrip("!/")
        for info in context.commands:
            if info.name == name:
                return (
                    f"{info.name}: {info.summary}\n{describe(info)}\nFor {LEVEL_NAMES[info.level]}."
                )
        raise NotFound(f"you have no command {name[:50]!r}; write `help` to see which you have")
    lines = [f"{info.usage}: {info.summary}" for info in context.commands]
    return "I join XMPP and Matrix. You can write to me:\n" + "\n".join(lines)


COMMAND = Command(
    info=CommandInfo(
        name="help",
        usage="help [COMMAND]",
        summary="show what you can write to me",
        in_room=False,
        arguments=(Argument(name="COMMAND", summary="one of the commands, to see more of it"),),
    ),
    run=run,
)
