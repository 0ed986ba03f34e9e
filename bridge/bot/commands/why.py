"""`why`: where a message went, what each step decided, and what happens next.

Whose message it is may ask: its author, or who it is for. For everybody else it is as if there
were none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.bot.context import Command, Context, present
from bridge.bot.words import count_of, first_of, to_time
from bridge.errors import NotFound
from bridge.ports.command import Argument, CommandInfo, Level
from bridge.storage.events import ACCEPTED
from bridge.storage.queues import OPEN, QueueItem
from bridge.storage.traces import Given, Story

MAX_STORIES = 3
MAX_NAMES = 10
UNKNOWN = "I know of no such message of yours"


async def run(context: Context) -> str:
    found = await present(context.journal).find(" ".join(context.arguments))
    stories = [story for story in found if context.level >= Level.ADMIN or _is_own(story, context)]
    if not stories:
        raise NotFound(UNKNOWN)
    shown = [tell(story, is_admin=context.level >= Level.ADMIN) for story in stories[:MAX_STORIES]]
    if len(stories) > MAX_STORIES:
        shown.append(f"and {len(stories) - MAX_STORIES} more with this ID")
    return "\n\n".join(shown)


def _is_own(story: Story, context: Context) -> bool:
    user_id, address = context.caller.user_id, context.address
    if any(event.sender == user_id for event in story.events):
        return True
    if any(event.sender == user_id for event in story.arriving):
        return True
    return address is not None and (
        any(item.payload.get("sender") == address for item in story.inbox)
        or any(_is_to(item.payload, address) for item in story.outbox)
    )


def _is_to(payload: Mapping[str, Any], address: str) -> bool:
    """Whether the row is for somebody, or one of their clients."""
    to = payload.get("to")
    return isinstance(to, str) and (to == address or to.startswith(f"{address}/"))


def tell(story: Story, *, is_admin: bool) -> str:
    """The story in lines: what was, in the order of time; what is; what comes."""
    # Within one millisecond: taken in, then an event, then what was decided about it.
    past = [
        (
            entry.at_ms,
            0 if entry.step == "accept" else 2,
            f"{entry.step}: {entry.decision}" + (entry.detail and f" ({entry.detail})"),
        )
        for entry in story.entries
    ]
    for event in story.events:
        said = f"event {event.event_id} in {event.room_id}"
        if event.verdict != ACCEPTED:
            said += f" was not let in: {event.verdict} ({event.rule or 'no rule known'})"
        past.append((event.received_ms, 1, said))
    past.sort(key=lambda one: one[:2])
    lines = [f"Message {story.traces[0]}:", *(f"{to_time(at)} {said}" for at, _, said in past)]
    lines.extend(_standing(story, is_admin=is_admin))
    if not _is_open(story):
        lines.append("Nothing more happens to it.")
    return "\n".join(lines)


def _is_open(story: Story) -> bool:
    return (
        any(one.outcome is None for one in story.arriving)
        or any(item.status in OPEN for item in (*story.inbox, *story.outbox))
        or any(given.owed for given in story.given)
    )


def _standing(story: Story, *, is_admin: bool) -> list[str]:
    lines: list[str] = []
    for arriving in story.arriving:
        if arriving.outcome is not None:
            lines.append(f"From {arriving.origin}: refused, {arriving.outcome}")
        else:
            lines.append(
                f"From {arriving.origin}: waits to be put into its room "
                f"({count_of(arriving.attempts, 'try', 'tries')}, next "
                f"{to_time(arriving.next_attempt_ms)})"
            )
    for name, items in (("inbox", story.inbox), ("outbox", story.outbox)):
        lines.extend(_row(f"{name} {item.id}", item, is_admin=is_admin) for item in items)
    for given in story.given:
        lines.extend(_peers(given))
    return lines


def _row(name: str, item: QueueItem, *, is_admin: bool) -> str:
    """None for what is done: the journal has said so."""
    reason = item.reason or "not tried yet"
    match item.status:
        case "waiting":
            tries = count_of(item.attempts, "try", "tries")
            return f"{name} waits: {reason} ({tries}, next {to_time(item.next_attempt_ms)})"
        case "parked":
            hint = f"; `retry {name}` or `drop {name}` decides" if is_admin else ""
            return f"{name} is set aside until the operator decides: {reason}{hint}"
        case "dropped":
            return f"{name} was given up: {reason}"
    return f"{name} is {item.status}"


def _peers(given: Given) -> list[str]:
    lines: list[str] = []
    if given.taken:
        lines.append(f"Taken by {first_of(given.taken, MAX_NAMES)}")
    lines.extend(f"Refused by {server}: {error}" for server, error in given.refused[:MAX_NAMES])
    for owed in given.owed[:MAX_NAMES]:
        why = f": {owed.error}" if owed.error else ""
        when = f" (next try {to_time(owed.next_attempt_ms)})" if owed.next_attempt_ms else ""
        lines.append(f"Not yet taken by {owed.server}{why}{when}")
    if len(given.owed) > MAX_NAMES:
        lines.append(f"and {len(given.owed) - MAX_NAMES} more servers have not taken it yet")
    return lines


COMMAND = Command(
    info=CommandInfo(
        name="why",
        usage="why MESSAGE",
        summary="where a message of yours went, what was decided, and what happens next",
        in_room=False,
        arguments=(
            Argument(
                name="MESSAGE",
                summary="its event ID, a link to it, its stanza id, or a row such as outbox 12",
                required=True,
                rest=True,
            ),
        ),
    ),
    run=run,
)
