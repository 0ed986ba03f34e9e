"""`policy`: the rules of the house, which of them go, and the policy rooms that add to them."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.errors import BadInput
from bridge.ids import parse_server_name
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    rules = present(context.rules)
    action, *rest = context.arguments or ("list",)
    action = action.lower()
    by = context.caller.user_id
    if action == "list" and not rest:
        rooms = await present(context.lists).listing()
        return "\n".join(filter(None, (await rules.listing(), rooms)))
    if action == "remove" and len(rest) == 1:
        return await rules.remove(rest[0], by=by)
    if action == "subscribe" and rest:
        room, *servers = rest
        via = [parse_server_name(server) for server in servers]
        lists = present(context.lists)
        return await lists.subscribe(context.rooms.room_from_typed(room), via, by=by)
    if action == "unsubscribe" and len(rest) == 1:
        return await present(context.lists).unsubscribe(
            context.rooms.room_from_typed(rest[0]), by=by
        )
    raise BadInput(f"{action[:20]!r} with that is not what I can do with the rules")


COMMAND = Command(
    info=CommandInfo(
        name="policy",
        usage="policy [ACTION] [ID]",
        summary="the rules of the house, what they have refused, their removal, and policy rooms",
        in_room=False,
        level=Level.ADMIN,
        arguments=(
            Argument(name="ACTION", summary="list, remove, subscribe or unsubscribe"),
            Argument(
                name="ID",
                summary="the number of a rule, as the list shows it; or a policy room (#alias or "
                "!id), and behind an !id, a server that is in it",
                rest=True,
            ),
        ),
    ),
    run=run,
)
