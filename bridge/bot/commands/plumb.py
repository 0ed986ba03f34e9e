"""`plumb`: make an existing Matrix room and a foreign chat one."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.errors import BadInput
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    chat, here = context.rooms.chat_from_typed(context.arguments[0]), context.caller.room_id
    if len(context.arguments) > 1:
        target = context.rooms.room_from_typed(context.arguments[1])
        room_id = await context.rooms.find_room(target)
    elif here is not None and not await context.rooms.is_direct(here):
        room_id = here
    else:
        raise BadInput("into which room? Write its alias or ID behind the chat")
    return await present(context.portals).plumb(
        caller=context.caller.user_id,
        is_admin=context.level >= Level.ADMIN,
        chat=chat,
        room_id=room_id,
    )


COMMAND = Command(
    info=CommandInfo(
        name="plumb",
        usage="plumb CHAT [ROOM]",
        summary="join a chat of XMPP and a Matrix room that is there already; needs power in both",
        in_room=False,
        level=Level.USER,
        arguments=(
            Argument(name="CHAT", summary="the chat, such as tea@muc.example.org", required=True),
            Argument(name="ROOM", summary="the room's alias or ID; without it, this room"),
        ),
    ),
    run=run,
)
