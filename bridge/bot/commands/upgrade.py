"""`upgrade`: replace a Matrix room by one of another version."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.ids import RoomVersionId, parse_user_id
from bridge.ports.command import Argument, CommandInfo, Level

ANYWAY = frozenset({"anyway", "--anyway"})
CREATORS = "--creators"


async def run(context: Context) -> str:
    upgrades = present(context.upgrades)
    typed, version, *more = context.arguments
    target = context.rooms.room_from_typed(typed)
    creators = [parse_user_id(word) for word in more if word not in ANYWAY and word != CREATORS]
    return await upgrades.upgrade(
        caller=context.caller.user_id,
        is_admin=context.level >= Level.ADMIN,
        room_id=await context.rooms.find_room(target),
        version=RoomVersionId(version),
        creators=creators,
        anyway=any(word in ANYWAY for word in more),
    )


COMMAND = Command(
    info=CommandInfo(
        name="upgrade",
        usage="upgrade ROOM VERSION [CREATORS]",
        summary="replace a Matrix room by one of another version; needs the power to do so there",
        in_room=False,
        level=Level.USER,
        arguments=(
            Argument(name="ROOM", summary="its alias, its ID or its address", required=True),
            Argument(
                name="VERSION", summary="the version of the new room, such as 12", required=True
            ),
            Argument(
                name="CREATORS",
                summary="Matrix users who are creators beside me, from version 12; `anyway` among "
                "them leaves servers behind that do not know the version",
                rest=True,
            ),
        ),
    ),
    run=run,
)
