"""The durable queues in an operator's hands: looked at, tried again, given up.

Each change is journalled in its own commit, so that `why` can tell who did what. The author of a
parked message was told when it was parked; the author of one that still waits is told when it is
dropped, by the callable that parking uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bridge.bot.context import Waiting
from bridge.bot.journal import read_row
from bridge.clock import Clock
from bridge.delivery.queue import OnParked
from bridge.errors import BadInput, NotFound, Refused
from bridge.ids import UserId
from bridge.storage import journal, queues
from bridge.storage.database import Database, Transaction, Unit
from bridge.storage.queues import INBOX, OUTBOX, QueueItem, QueueTable

SHOWN = 10
MAX_RETRIED = 1_000
STEP = "operator"
DROPPED = "the operator of the gateway has given it up"
ALL = "all"
_BOTH = (INBOX, OUTBOX)


class QueueDesk:
    """Fills `bot.context.Queues`."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        tell_inbox: OnParked,
        tell_outbox: OnParked,
    ) -> None:
        self._database = database
        self._clock = clock
        self._tell = {INBOX.topic: tell_inbox, OUTBOX.topic: tell_outbox}

    async def look(self) -> Sequence[Waiting]:
        def unit(tx: Transaction) -> list[Waiting]:
            return [
                Waiting(
                    name=queue.topic,
                    backlog=queues.backlog(tx, queue),
                    parked=queues.parked(tx, queue, SHOWN),
                    oldest=queues.oldest(tx, queue, SHOWN),
                )
                for queue in _BOTH
            ]

        return await self._database.read(unit)

    async def retry(self, typed: str, *, by: UserId) -> str:
        now_ms = self._clock.now_ms()
        if typed.strip().lower() == ALL:
            count = await self._database.write(partial(_retry_all, by=by, now_ms=now_ms))
            return f"{count} parked {'row is' if count == 1 else 'rows are'} tried again now."
        queue, item = await self._find(typed)
        await self._database.write(
            partial(_retry, queue=queue, item_id=item.id, by=by, now_ms=now_ms)
        )
        return f"{queue.topic} {item.id} is tried again now."

    async def drop(self, typed: str, *, by: UserId) -> str:
        queue, item = await self._find(typed)
        now_ms = self._clock.now_ms()
        also: Unit[None] | None = None
        if item.status == "waiting":
            also = await self._tell[queue.topic](item, DROPPED, "M_FORBIDDEN")
        await self._database.write(
            partial(_drop, queue=queue, item=item, also=also, by=by, now_ms=now_ms)
        )
        return f"{queue.topic} {item.id} is given up; the author of a message is told so."

    async def _find(self, typed: str) -> tuple[QueueTable, QueueItem]:
        """The row that is meant, if it waits or is parked; by its bare number where only one of
        the queues has such a row."""
        row = read_row(typed)
        if row is not None:
            wanted = [(row.queue, row.id)]
        elif typed.strip().isdecimal() and len(typed.strip()) <= 18:
            wanted = [(queue, int(typed)) for queue in _BOTH]
        else:
            raise BadInput("which row? Write its name as `queues` shows it, such as `outbox 12`")

        def unit(tx: Transaction) -> list[tuple[QueueTable, QueueItem]]:
            found = []
            for queue, number in wanted:
                try:
                    found.append((queue, queues.get(tx, queue, number)))
                except NotFound:
                    continue
            return found

        found = await self._database.read(unit)
        open_ones = [(queue, item) for queue, item in found if item.status in queues.OPEN]
        if len(open_ones) == 1:
            return open_ones[0]
        if open_ones:
            number = open_ones[0][1].id
            raise BadInput(f"which one, `inbox {number}` or `outbox {number}`?")
        if found:
            queue, item = found[0]
            raise Refused(f"{queue.topic} {item.id} is {item.status}: there is nothing to decide")
        raise NotFound(f"there is no row {typed.strip()[:40]}")


def _retry(tx: Transaction, *, queue: QueueTable, item_id: int, by: UserId, now_ms: int) -> None:
    item = _still_open(tx, queue, item_id)
    if item.status == "parked":
        queues.requeue(tx, queue, item.id, now_ms=now_ms)
    else:
        # What waits before it in its lane goes first.
        queues.hasten(tx, queue, item.lane, now_ms=now_ms)
    _record(tx, queue, item, "tried again", by, now_ms)


def _retry_all(tx: Transaction, *, by: UserId, now_ms: int) -> int:
    count = 0
    for queue in _BOTH:
        for item in queues.parked(tx, queue, MAX_RETRIED):
            queues.requeue(tx, queue, item.id, now_ms=now_ms)
            _record(tx, queue, item, "tried again", by, now_ms)
            count += 1
    return count


def _drop(
    tx: Transaction,
    *,
    queue: QueueTable,
    item: QueueItem,
    also: Unit[None] | None,
    by: UserId,
    now_ms: int,
) -> None:
    _still_open(tx, queue, item.id)
    if also is not None:
        also(tx)
    queues.drop(tx, queue, item.id, reason=DROPPED)
    tx.wake(queue.topic)  # what waited behind it is due
    _record(tx, queue, item, "dropped", by, now_ms)


def _still_open(tx: Transaction, queue: QueueTable, item_id: int) -> QueueItem:
    item = queues.get(tx, queue, item_id)
    if item.status not in queues.OPEN:
        raise Refused(f"{queue.topic} {item.id} is {item.status} meanwhile")
    return item


def _record(
    tx: Transaction, queue: QueueTable, item: QueueItem, decision: str, by: UserId, now_ms: int
) -> None:
    journal.record(
        tx,
        trace_id=item.trace_id,
        step=STEP,
        decision=decision,
        detail=f"{queue.topic} {item.id}, by {by}",
        now_ms=now_ms,
    )
