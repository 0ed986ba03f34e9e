"""`deny`: keep a server, user or room out."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.policy.rules import Action
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    rules = present(context.rules)
    return await rules.add(Action.DENY, context.arguments, by=context.caller.user_id)


COMMAND = Command(
    info=CommandInfo(
        name="deny",
        usage="deny KIND NAME [SCOPES]",
        summary="keep a server, user or room out",
        in_room=False,
        level=Level.ADMIN,
        arguments=(
            Argument(name="KIND", summary="server, user or room", required=True),
            Argument(
                name="NAME",
                summary="whose it is, such as evil.example; * and ? stand for any characters",
                required=True,
            ),
            Argument(
                name="SCOPES",
                summary="in what: invites, joins, knocks, media, edus; nothing: in everything; "
                "then, in quotation marks, why",
                rest=True,
            ),
        ),
    ),
    run=run,
)
