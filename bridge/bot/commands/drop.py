"""`drop`: a row of the queues is given up, and its author told."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    typed = " ".join(context.arguments)
    return await present(context.queues).drop(typed, by=context.caller.user_id)


COMMAND = Command(
    info=CommandInfo(
        name="drop",
        usage="drop ID",
        summary="give up a row of the queues for good",
        in_room=False,
        level=Level.ADMIN,
        arguments=(
            Argument(
                name="ID",
                summary="a row as `queues` shows it, such as outbox 12",
                required=True,
                rest=True,
            ),
        ),
    ),
    run=run,
)
