"""`publish`: put a room into our list of rooms."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    listings = present(context.listings)
    target = context.rooms.room_from_typed(context.arguments[0])
    return await listings.publish(
        caller=context.caller.user_id,
        is_admin=context.level >= Level.ADMIN,
        room_id=await context.rooms.find_room(target),
    )


COMMAND = Command(
    info=CommandInfo(
        name="publish",
        usage="publish ROOM",
        summary="list a room for everybody; needs the power to set its canonical alias",
        in_room=False,
        level=Level.USER,
        arguments=(
            Argument(name="ROOM", summary="its alias, its ID or its address", required=True),
        ),
    ),
    run=run,
)
