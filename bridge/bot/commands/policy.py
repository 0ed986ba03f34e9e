"""`policy`: the rules of the house, and which of them go."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.errors import BadInput
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    rules = present(context.rules)
    action, *rest = context.arguments or ("list",)
    action = action.lower()
    if action == "list" and not rest:
        return await rules.listing()
    if action == "remove" and rest:
        return await rules.remove(rest[0], by=context.caller.user_id)
    raise BadInput(f"{action[:20]!r} is not what I can do with the rules")


COMMAND = Command(
    info=CommandInfo(
        name="policy",
        usage="policy [ACTION] [ID]",
        summary="the rules of the house, what they have refused, and their removal",
        in_room=False,
        level=Level.ADMIN,
        arguments=(
            Argument(name="ACTION", summary="list, or remove"),
            Argument(name="ID", summary="the number of a rule, as the list shows it"),
        ),
    ),
    run=run,
)
