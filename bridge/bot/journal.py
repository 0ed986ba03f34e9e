"""From what somebody knows of a message to what became of it, for `why`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from bridge.errors import BadInput
from bridge.ids import EventId, TraceId, parse_event_id
from bridge.storage import traces
from bridge.storage.database import Database, Transaction
from bridge.storage.queues import INBOX, OUTBOX, QueueTable
from bridge.storage.traces import Story

MAX_TYPED = 3_000
_ROW = re.compile(r"(inbox|outbox)[ /#]?([0-9]{1,18})", re.IGNORECASE)
_OWN = re.compile(r"([A-Za-z0-9_-]+)\.(in|out)\.([0-9]{1,18})(?:\.[0-9]{1,6})?")
_MATRIX_TO = re.compile(r"(?:https?://)?(?:www\.)?matrix\.to/#/", re.IGNORECASE)
_QUEUES = {"inbox": INBOX, "outbox": OUTBOX, "in": INBOX, "out": OUTBOX}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowName:
    """A row of one of the two queues."""

    queue: QueueTable
    id: int


def read_row(typed: str) -> RowName | None:
    """`outbox 12`, `inbox 12`."""
    match = _ROW.fullmatch(typed.strip())
    return None if match is None else RowName(queue=_QUEUES[match[1].lower()], id=int(match[2]))


def read_event(typed: str) -> EventId | None:
    """An event ID, or a link to an event. Raises BadInput for a link to something else.

    Spec: appendices, matrix.to navigation and Matrix URIs (MSC2312).
    """
    text = typed.strip()
    if text.startswith("$"):
        return parse_event_id(text)
    found = _MATRIX_TO.match(text)
    if found is not None:
        parts = unquote(text[found.end() :].partition("?")[0]).split("/", 1)
        event = parts[1] if len(parts) == 2 else ""
    elif text[:7].lower() == "matrix:":
        path = text[7:].partition("#")[0].partition("?")[0].split("/")
        event = "$" + unquote(path[3]) if len(path) == 4 and path[2] in ("e", "event") else ""
    else:
        return None
    if not event.startswith("$"):
        raise BadInput("this link leads to no message: copy the link of the message itself")
    return parse_event_id(event)


class MessageJournal:
    """Fills `bot.context.Journal`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def find(self, typed: str) -> Sequence[Story]:
        text = typed.strip()[:MAX_TYPED]
        event_id, row = read_event(text), read_row(text)
        own = _OWN.fullmatch(text)
        if own is not None and own[1] == self._database.epoch:
            row = RowName(queue=_QUEUES[own[2]], id=int(own[3]))

        def unit(tx: Transaction) -> list[Story]:
            if event_id is not None:
                found: Sequence[TraceId] = [TraceId(event_id)]
            elif row is not None:
                found = traces.of_row(tx, row.queue, row.id)
            else:
                found = [TraceId(text), *traces.of_stanza(tx, text)]
            stories = [traces.read(tx, trace) for trace in dict.fromkeys(found)]
            return [story for story in stories if not story.is_empty]

        return await self._database.read(unit)
