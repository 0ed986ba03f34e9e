"""`rooms`: what a Matrix server lists for everybody."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    listings = present(context.listings)
    return await listings.browse(caller=context.caller.user_id, words=context.arguments)


COMMAND = Command(
    info=CommandInfo(
        name="rooms",
        usage="rooms SERVER [WORDS]",
        summary="the public rooms of a Matrix server, or those about something",
        in_room=False,
        level=Level.USER,
        arguments=(
            Argument(
                name="SERVER",
                summary="its name, such as example.org; `more` goes on where the last answer ended",
                required=True,
            ),
            Argument(name="WORDS", summary="what to search for", rest=True),
        ),
    ),
    run=run,
)
