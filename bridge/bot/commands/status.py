"""`status`: how the gateway is doing."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.ports.command import CommandInfo, Level


async def run(context: Context) -> str:
    lines: list[str] = []
    for section in await present(context.status).sections():
        lines.append(f"{section.title}:")
        lines.extend(f"  {line}" for line in section.lines)
    return "\n".join(lines)


COMMAND = Command(
    info=CommandInfo(
        name="status",
        usage="status",
        summary="how the gateway is doing: connections, what waits, who cannot be reached",
        in_room=False,
        level=Level.USER,
    ),
    run=run,
)
