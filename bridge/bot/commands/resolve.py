"""`resolve`: somebody, or a room, under the names of both sides."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.identity.resolver import Resolved
from bridge.ports.command import Argument, CommandInfo, Level


async def run(context: Context) -> str:
    found = await present(context.resolver).resolve(" ".join(context.arguments))
    return "\n".join(lines_of(found))


def lines_of(found: Resolved) -> list[str]:
    lines: list[str] = []
    if found.user_id is not None:
        lines.append(f"On Matrix: {found.user_id}")
    if found.room is not None:
        lines.append(f"Room on Matrix: {found.room}")
    if found.address is not None:
        lines.append(f"On XMPP: {found.address}")
    elif found.chat is not None:
        lines.append(f"Chat on XMPP: {found.chat}")
    if found.note:
        lines.append(found.note)
    return lines or ["There is such an address, and I know nothing else of it."]


COMMAND = Command(
    info=CommandInfo(
        name="resolve",
        usage="resolve WHO",
        summary="find a person or a room by phone number, address or link, for both networks",
        in_room=False,
        level=Level.USER,
        arguments=(
            Argument(
                name="WHO",
                summary="+1 555 123 4567, @alice:example.org, romeo@example.org, or a link",
                required=True,
                rest=True,
            ),
        ),
    ),
    run=run,
)
