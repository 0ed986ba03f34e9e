"""`peer`: how we stand with another Matrix server."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    return await present(context.peers).describe(context.arguments[0])


COMMAND = Command(
    info=CommandInfo(
        name="peer",
        usage="peer SERVER",
        summary="how we stand with a Matrix server: what waits for it, its last fault, the rules",
        in_room=False,
        level=Level.ADMIN,
        arguments=(
            Argument(name="SERVER", summary="its Matrix name, such as example.org", required=True),
        ),
    ),
    run=run,
)
