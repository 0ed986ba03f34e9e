"""`unplumb`: a room and a foreign chat part again."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    return await present(context.portals).unplumb(
        caller=context.caller.user_id,
        is_admin=context.level >= Level.ADMIN,
        chat=context.rooms.chat_from_typed(context.arguments[0]),
    )


COMMAND = Command(
    info=CommandInfo(
        name="unplumb",
        usage="unplumb CHAT",
        summary="part a chat of XMPP and its Matrix room; needs power in one of them",
        in_room=False,
        level=Level.USER,
        arguments=(
            Argument(name="CHAT", summary="the chat, such as tea@muc.example.org", required=True),
        ),
    ),
    run=run,
)
