"""`rooms`: what a Matrix server lists for everybody, or what is in a space."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    listings = present(context.listings)
    caller, (typed, *words) = context.caller.user_id, context.arguments
    if typed[:1] in ("#", "!"):
        space = context.rooms.room_from_typed(typed)
        return await listings.browse_space(caller=caller, space=space, words=words)
    return await listings.browse(caller=caller, words=context.arguments)


COMMAND = Command(
    info=CommandInfo(
        name="rooms",
        usage="rooms SERVER [WORDS]",
        summary="the public rooms of a Matrix server or a space, or those about something",
        in_room=False,
        level=Level.USER,
        arguments=(
            Argument(
                name="SERVER",
                summary="its name, such as example.org, or the alias of a space; `more` goes on "
                "where the last answer ended",
                required=True,
            ),
            Argument(name="WORDS", summary="what to search for", rest=True),
        ),
    ),
    run=run,
)
