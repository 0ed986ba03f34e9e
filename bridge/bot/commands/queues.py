"""`queues`: what waits, and what was set aside."""

from __future__ import annotations

from bridge.bot.context import Command, Context, Waiting, present
from bridge.bot.status import spell_backlog
from bridge.bot.words import count_of, to_time
from bridge.ports.command import CommandInfo, Level
from bridge.storage.queues import QueueItem

HINT = "`retry` tries a row again, `drop` gives it up; both take its name, such as `outbox 12`."


async def run(context: Context) -> str:
    lines: list[str] = []
    for queue in await present(context.queues).look():
        lines.extend(_lines(queue))
    if any(line.startswith("  ") for line in lines):
        lines.append(HINT)
    return "\n".join(lines)


def _lines(queue: Waiting) -> list[str]:
    lines = [spell_backlog(queue.name, queue.backlog)]
    lines.extend(f"  {queue.name} {item.id} is parked: {_row(item)}" for item in queue.parked)
    lines.extend(
        f"  {queue.name} {item.id} waits: {_row(item)}, next try {to_time(item.next_attempt_ms)}"
        for item in queue.oldest
    )
    return lines


def _row(item: QueueItem) -> str:
    reason = item.reason or "not tried yet"
    return f"{reason} ({item.lane}, {count_of(item.attempts, 'try', 'tries')})"


COMMAND = Command(
    info=CommandInfo(
        name="queues",
        usage="queues",
        summary="what waits to be delivered, and what was set aside and why",
        in_room=False,
        level=Level.ADMIN,
    ),
    run=run,
)
