"""`leave`: end one's membership in a Matrix room. Going offline does not."""

from __future__ import annotations

from bridge.bot.context import Command, Context
from bridge.ports.command import Argument, CommandInfo
from bridge.ports.matrix import RoomInfo


async def run(context: Context) -> str:
    if context.arguments:
        target = context.rooms.room_from_typed(context.arguments[0])
        room_id = await context.rooms.find_room(target)
    elif context.caller.room_id is not None:
        room_id = context.caller.room_id
    else:
        rooms = await context.rooms.rooms_of(context.caller.user_id)
        if not rooms:
            return "You are in no room."
        names = "\n".join(_name(room) for room in rooms)
        return f"Which room? Write `leave` and one of these:\n{names}"
    await context.rooms.leave(user_id=context.caller.user_id, room_id=room_id)
    return "You have left the room."


def _name(room: RoomInfo) -> str:
    return room.canonical_alias or room.room_id


COMMAND = Command(
    info=CommandInfo(
        name="leave",
        usage="leave [ROOM]",
        summary="leave a Matrix room for good (going offline only ends your session)",
        in_room=True,
        arguments=(Argument(name="ROOM", summary="its alias, its ID or its address on XMPP"),),
    ),
    run=run,
)
