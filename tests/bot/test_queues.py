"""The queues in an operator's hands: what is done is journalled, whoever wrote it hears of it."""

from __future__ import annotations

from functools import partial

import pytest

from bridge.bot.queues import QueueDesk
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import TraceId
from bridge.storage import journal, queues
from bridge.storage.database import Database, Transaction, Unit
from bridge.storage.queues import INBOX, OUTBOX, QueueItem, QueueTable
from tests.support.bot import ADMIN
from tests.support.clock import FakeClock


class Desk:
    """A desk, and whom it told."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.database, self.clock = database, clock
        self.told: list[tuple[int, str]] = []
        self.deaf = False
        self.desk = QueueDesk(
            database=database, clock=clock, tell_inbox=self._tell, tell_outbox=self._tell
        )

    async def _tell(self, item: QueueItem, reason: str, errcode: str) -> Unit[None] | None:
        if self.deaf:
            raise Unavailable("nobody can be told")
        return lambda tx: self.told.append((item.id, reason))

    async def outbox(self, cause: str, *, lane: str = "tea", parked: bool = False) -> int:
        def unit(tx: Transaction) -> int:
            found = queues.put_outbox(
                tx, lane=lane, adapter="x", cause=cause, payload={}, trace_id=TraceId(cause),
                now_ms=self.clock.now_ms(),
            )  # fmt: skip
            assert found is not None
            if parked:
                queues.park(tx, OUTBOX, found, reason="they said no")
            return found

        return await self.database.write(unit)

    async def inbox(self, source_id: str) -> int:
        def unit(tx: Transaction) -> int:
            found = queues.put_inbox(
                tx, lane="tea", adapter="x", source="s", source_id=source_id, payload={},
                trace_id=TraceId(source_id), now_ms=self.clock.now_ms(),
            )  # fmt: skip
            assert found is not None
            return found

        return await self.database.write(unit)

    async def item(self, item_id: int, queue: QueueTable = OUTBOX) -> QueueItem:
        return await self.database.read(partial(queues.get, queue=queue, item_id=item_id))

    async def decisions(self, trace: str) -> list[str]:
        entries = await self.database.read(partial(journal.read, trace_id=TraceId(trace)))
        return [f"{one.step}: {one.decision} ({one.detail})" for one in entries]


@pytest.fixture
def at(sqlite_database: Database, clock: FakeClock) -> Desk:
    return Desk(sqlite_database, clock)


async def test_what_is_parked_and_what_waits_is_shown(at: Desk) -> None:
    parked, waiting = await at.outbox("c1", parked=True), await at.outbox("c2")
    inbox, outbox = await at.desk.look()
    assert (inbox.name, inbox.backlog.waiting, inbox.backlog.parked) == ("inbox", 0, 0)
    assert [item.id for item in outbox.parked] == [parked]
    assert [item.id for item in outbox.oldest] == [waiting]
    assert (outbox.backlog.waiting, outbox.backlog.parked) == (1, 1)


async def test_a_parked_row_is_tried_again_and_the_journal_says_by_whom(at: Desk) -> None:
    item_id = await at.outbox("c1", parked=True)
    waker = at.database.waker("outbox")
    assert f"outbox {item_id}" in await at.desk.retry(f"outbox {item_id}", by=ADMIN)
    assert (await at.item(item_id)).status == "waiting"
    assert await waker.wait(1.0)
    assert await at.decisions("c1") == [f"operator: tried again (outbox {item_id}, by {ADMIN})"]


async def test_a_waiting_row_is_due_at_once(at: Desk) -> None:
    item_id, now_ms = await at.outbox("c1"), at.clock.now_ms()
    await at.database.write(
        partial(
            queues.retry, queue=OUTBOX, item_id=item_id, next_attempt_ms=now_ms + 99_000, reason="x"
        )
    )
    await at.desk.retry(str(item_id), by=ADMIN)
    assert (await at.item(item_id)).next_attempt_ms == now_ms


async def test_all_that_is_parked_is_tried_again(at: Desk) -> None:
    ids = [await at.outbox(cause, parked=True) for cause in ("c1", "c2")]
    assert (await at.desk.retry("ALL", by=ADMIN)).startswith("2 ")
    assert {(await at.item(item_id)).status for item_id in ids} == {"waiting"}
    assert (await at.desk.retry("all", by=ADMIN)).startswith("0 ")


async def test_the_author_of_what_waits_is_told_of_its_end_and_of_what_is_parked_only_once(
    at: Desk,
) -> None:
    waiting, parked = await at.outbox("c1"), await at.outbox("c2", parked=True)
    for item_id in (waiting, parked):
        await at.desk.drop(f"outbox {item_id}", by=ADMIN)
        assert (await at.item(item_id)).status == "dropped"
    assert [item_id for item_id, _ in at.told] == [waiting]
    assert await at.decisions("c1") == [f"operator: dropped (outbox {waiting}, by {ADMIN})"]


async def test_what_waited_behind_a_dropped_row_goes_on(at: Desk) -> None:
    first, second = await at.outbox("c1"), await at.outbox("c2")
    now_ms = at.clock.now_ms()
    await at.database.write(
        partial(
            queues.retry, queue=OUTBOX, item_id=first, next_attempt_ms=now_ms + 99_000, reason="x"
        )
    )
    waker = at.database.waker("outbox")
    await at.desk.drop(f"outbox {first}", by=ADMIN)
    assert await waker.wait(1.0)
    item = await at.database.read(
        partial(queues.next_in_lane, queue=OUTBOX, lane="tea", now_ms=now_ms)
    )
    assert item is not None
    assert item.id == second


async def test_nothing_is_dropped_whose_author_cannot_be_told(at: Desk) -> None:
    item_id = await at.outbox("c1")
    at.deaf = True
    with pytest.raises(Unavailable):
        await at.desk.drop(f"outbox {item_id}", by=ADMIN)
    assert (await at.item(item_id)).status == "waiting"
    assert await at.decisions("c1") == []


async def test_what_is_done_is_done(at: Desk) -> None:
    item_id = await at.outbox("c1")
    await at.database.write(partial(queues.done, queue=OUTBOX, item_id=item_id))
    for call in (at.desk.retry, at.desk.drop):
        with pytest.raises(Refused):
            await call(f"outbox {item_id}", by=ADMIN)
    assert (await at.item(item_id)).status == "done"


async def test_a_bare_number_must_mean_one_row(at: Desk) -> None:
    assert await at.inbox("s1") == await at.outbox("c1") == 1
    with pytest.raises(BadInput, match="inbox 1"):
        await at.desk.drop("1", by=ADMIN)
    await at.desk.drop("inbox/1", by=ADMIN)
    await at.desk.drop("1", by=ADMIN)
    assert (await at.item(1)).status == "dropped"
    assert (await at.item(1, INBOX)).status == "dropped"


@pytest.mark.parametrize("typed", ["", "x", "outbox", "outbox x", "-1", "1.5", "9" * 30])
async def test_what_names_no_row_is_refused(at: Desk, typed: str) -> None:
    for call in (at.desk.retry, at.desk.drop):
        with pytest.raises(BadInput):
            await call(typed, by=ADMIN)
    with pytest.raises(NotFound):
        await at.desk.drop("outbox 77", by=ADMIN)
