"""Each step's decision, under its trace ID."""

from __future__ import annotations

from functools import partial

from bridge.ids import TraceId
from bridge.storage import journal
from bridge.storage.database import Database, Transaction
from bridge.storage.journal import Entry

TRACE = TraceId("t1")


async def test_the_steps_of_a_trace_come_back_in_order(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        journal.record(tx, TRACE, "inbox", "stored", "from a@a.test", 5)
        journal.record(tx, TraceId("t2"), "inbox", "stored", "", 6)
        journal.record(tx, TRACE, "policy", "refused", "too-long", 5)

    await database.write(unit)
    assert await database.read(partial(journal.read, trace_id=TRACE)) == [
        Entry(at_ms=5, step="inbox", decision="stored", detail="from a@a.test"),
        Entry(at_ms=5, step="policy", decision="refused", detail="too-long"),
    ]


async def test_a_long_detail_is_cut(database: Database) -> None:
    await database.write(lambda tx: journal.record(tx, TRACE, "s", "d", "x" * 5000, 1))
    (entry,) = await database.read(partial(journal.read, trace_id=TRACE))
    assert entry.detail == "x" * journal.MAX_DETAIL


async def test_old_entries_are_forgotten(database: Database) -> None:
    for at_ms in (1, 2, 3):
        await database.write(
            partial(journal.record, trace_id=TRACE, step="s", decision="d", detail="", now_ms=at_ms)
        )
    assert await database.write(partial(journal.prune, before_ms=3, limit=10)) == 2
    (entry,) = await database.read(partial(journal.read, trace_id=TRACE))
    assert entry.at_ms == 3
