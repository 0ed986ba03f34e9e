"""`retry`: what was set aside, or waits for its next try, is tried now."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    typed = " ".join(context.arguments)
    return await present(context.queues).retry(typed, by=context.caller.user_id)


COMMAND = Command(
    info=CommandInfo(
        name="retry",
        usage="retry ID|all",
        summary="try a row of the queues again now, or all that are parked",
        in_room=False,
        level=Level.ADMIN,
        arguments=(
            Argument(
                name="ID",
                summary="a row as `queues` shows it (outbox 12), or all",
                required=True,
                rest=True,
            ),
        ),
    ),
    run=run,
)
