"""`list`: the foreign chats that have a room."""

from __future__ import annotations

from bridge.bot.context import Command, Context, present
from bridge.bot.words import count_of
from bridge.portals.plumbing import PortalView
from bridge.ports.command import CommandInfo, Level

MAX_LISTED = 100


async def run(context: Context) -> str:
    viewer = None if context.level >= Level.ADMIN else context.caller.user_id
    found = await present(context.portals).list_portals(viewer)
    if not found:
        return "No chat of XMPP has a room yet."
    lines = [_line(portal) for portal in found[:MAX_LISTED]]
    if len(found) > MAX_LISTED:
        lines.append(f"and {len(found) - MAX_LISTED} more")
    return "\n".join(lines)


def _line(portal: PortalView) -> str:
    name = "" if portal.name is None else f" ({portal.name})"
    how = "plumbed into" if portal.kind == "plumbed" else "has the room"
    room = portal.room_id if portal.alias is None else f"{portal.alias}, {portal.room_id}"
    return (
        f"{portal.chat}{name} {how} {room}: {count_of(portal.occupants, 'person', 'people')} of "
        f"the chat, {portal.guests} of Matrix in it"
    )


COMMAND = Command(
    info=CommandInfo(
        name="list",
        usage="list",
        summary="the chats of XMPP that have a room, and which",
        in_room=False,
        level=Level.USER,
    ),
    run=run,
)
