"""`keys`: the keys with which this gateway signs, and how they are replaced."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.bot.words import to_time
from bridge.errors import BadInput
from bridge.ports.command import Argument, CommandInfo, Level

ROTATE = "rotate"


async def run(context: Context) -> str:
    keys = present(context.keys)
    if not context.arguments:
        *others, signing = keys.in_use()
        lines = [f"{signing} signs."]
        lines.extend(f"{key_id} is in use as well." for key_id in others)
        lines.extend(
            f"{key_id} is retired: it counts for events until {to_time(expired_ms)}."
            for key_id, expired_ms in keys.retired()
        )
        return "\n".join(lines)
    if context.arguments[0].lower() != ROTATE:
        raise BadInput(f"I can only {ROTATE} them")
    before = " and ".join(keys.in_use())
    new = await keys.rotate()
    return (
        f"{new} signs from now on. {before} stays published, for the events that it signed. "
        "Back the key file up again: without the new key nobody believes this server any more."
    )


COMMAND = Command(
    info=CommandInfo(
        name="keys",
        usage=f"keys [{ROTATE}]",
        summary="the keys with which this gateway signs; rotate puts a new one in their place",
        in_room=False,
        level=Level.ADMIN,
        arguments=(Argument(name=ROTATE, summary=f"{ROTATE}: make a new key that signs"),),
    ),
    run=run,
)
