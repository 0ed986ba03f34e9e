"""`unpublish`: take a room out of our list of rooms."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    listings = present(context.listings)
    target = context.rooms.room_from_typed(context.arguments[0])
    return await listings.unpublish(
        caller=context.caller.user_id,
        is_admin=context.level >= Level.ADMIN,
        room_id=await context.rooms.find_room(target),
    )


COMMAND = Command(
    info=CommandInfo(
        name="unpublish",
        usage="unpublish ROOM",
        summary="take a room out of the list of rooms",
        in_room=False,
        level=Level.USER,
        arguments=(
            Argument(name="ROOM", summary="its alias, its ID or its address", required=True),
        ),
    ),
    run=run,
)
