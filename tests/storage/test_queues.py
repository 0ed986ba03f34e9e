"""Rows of inbox and outbox: once per cause, in order per lane, held up by what must be retried."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from bridge.errors import NotFound
from bridge.ids import TraceId
from bridge.storage import queues, schema
from bridge.storage.database import Database, Unit
from bridge.storage.queues import INBOX, OUTBOX, Due, QueueItem

NOW = 1_000_000


def put(cause: str, lane: str = "tea", now_ms: int = NOW, **payload: Any) -> Unit[int | None]:
    return partial(
        queues.put_outbox,
        lane=lane,
        adapter="xmpp",
        cause=cause,
        payload=payload,
        trace_id=TraceId(f"trace {cause}"),
        now_ms=now_ms,
    )


async def put_all(database: Database, *causes: str, lane: str = "tea") -> list[int]:
    ids = [await database.write(put(cause, lane)) for cause in causes]
    return [item_id for item_id in ids if item_id is not None]


async def next_cause(database: Database, lane: str = "tea", now_ms: int = NOW) -> str | None:
    item = await database.read(partial(queues.next_in_lane, queue=OUTBOX, lane=lane, now_ms=now_ms))
    return item.cause if item else None


async def due(database: Database, now_ms: int = NOW, limit: int = 100) -> Due:
    return await database.read(partial(queues.lanes_due, queue=OUTBOX, now_ms=now_ms, limit=limit))


async def test_an_item_comes_back_as_it_was_put(database: Database) -> None:
    item_id = await database.write(put("c1", text="té", parts=[1, None]))
    assert item_id is not None
    item = await database.read(partial(queues.get, queue=OUTBOX, item_id=item_id))
    assert item == QueueItem(
        id=item_id,
        lane="tea",
        adapter="xmpp",
        source="",
        cause="c1",
        payload={"text": "té", "parts": [1, None]},
        status="waiting",
        attempts=0,
        next_attempt_ms=NOW,
        reason=None,
        trace_id=TraceId("trace c1"),
        created_ms=NOW,
    )


async def test_the_same_cause_is_one_row_even_when_it_is_done(database: Database) -> None:
    (item_id,) = await put_all(database, "c1", "c1")
    await database.write(partial(queues.done, queue=OUTBOX, item_id=item_id))
    assert await put_all(database, "c1") == []
    assert await next_cause(database) is None


async def test_the_same_id_from_two_sources_is_two_rows(database: Database) -> None:
    def put_from(source: str) -> Unit[int | None]:
        return partial(
            queues.put_inbox,
            lane="tea",
            adapter="xmpp",
            source=source,
            source_id="s1",
            payload={},
            trace_id=TraceId("t"),
            now_ms=NOW,
        )

    first = await database.write(put_from("a@a.test"))
    second = await database.write(put_from("b@a.test"))
    assert first is not None
    assert second is not None
    assert await database.write(put_from("a@a.test")) is None
    item = await database.read(partial(queues.get, queue=INBOX, item_id=second))
    assert (item.source, item.cause) == ("b@a.test", "s1")


async def test_a_new_row_wakes_its_queue_and_a_repeated_one_does_not(database: Database) -> None:
    waker = database.waker("outbox")
    await put_all(database, "c1")
    assert await waker.wait(1.0)
    await put_all(database, "c1")
    assert not waker._woken


async def test_ids_are_not_given_out_again_after_pruning(database: Database) -> None:
    """Transaction IDs and stanza ids that others remember are made from them."""
    ids = await put_all(database, "c1", "c2")
    await database.write(lambda tx: tx.execute(delete(schema.outbox)).rowcount)
    assert min(await put_all(database, "c3")) > max(ids)


async def test_a_lane_is_worked_off_in_order(database: Database) -> None:
    ids = await put_all(database, "c1", "c2", "c3")
    seen = []
    for item_id in ids:
        seen.append(await next_cause(database))
        await database.write(partial(queues.done, queue=OUTBOX, item_id=item_id))
    assert seen == ["c1", "c2", "c3"]
    assert await next_cause(database) is None


async def test_a_postponed_item_holds_its_lane_up_and_no_other(database: Database) -> None:
    first, _ = await put_all(database, "c1", "c2")
    await put_all(database, "d1", lane="dinner")
    await database.write(
        partial(queues.retry, queue=OUTBOX, item_id=first, next_attempt_ms=NOW + 500, reason="away")
    )
    assert await next_cause(database) is None
    assert await due(database) == Due(lanes=["dinner"], next_ms=NOW + 500)
    assert await next_cause(database, now_ms=NOW + 500) == "c1"
    assert await due(database, NOW + 500) == Due(lanes=["tea", "dinner"], next_ms=None)
    item = await database.read(partial(queues.get, queue=OUTBOX, item_id=first))
    assert (item.attempts, item.reason) == (1, "away")


async def test_what_is_parked_or_dropped_steps_aside(database: Database) -> None:
    first, second, _ = await put_all(database, "c1", "c2", "c3")
    await database.write(partial(queues.park, queue=OUTBOX, item_id=first, reason="refused"))
    await database.write(partial(queues.drop, queue=OUTBOX, item_id=second, reason="old"))
    assert await next_cause(database) == "c3"
    parked = await database.read(partial(queues.parked, queue=OUTBOX, limit=10))
    assert [(item.cause, item.reason) for item in parked] == [("c1", "refused")]


async def test_a_parked_item_can_be_put_back_to_its_old_place(database: Database) -> None:
    first, _ = await put_all(database, "c1", "c2")
    await database.write(partial(queues.park, queue=OUTBOX, item_id=first, reason="refused"))
    waker = database.waker("outbox")
    await database.write(partial(queues.requeue, queue=OUTBOX, item_id=first, now_ms=NOW + 1))
    assert await waker.wait(1.0)
    assert await next_cause(database, now_ms=NOW + 1) == "c1"


async def test_a_lane_can_be_hastened(database: Database) -> None:
    (first,) = await put_all(database, "c1")
    await database.write(
        partial(queues.retry, queue=OUTBOX, item_id=first, next_attempt_ms=NOW + 500, reason="away")
    )
    await database.write(partial(queues.hasten, queue=OUTBOX, lane="other", now_ms=NOW))
    assert await next_cause(database) is None
    await database.write(partial(queues.hasten, queue=OUTBOX, lane="tea", now_ms=NOW))
    assert await next_cause(database) == "c1"


async def test_the_oldest_lanes_come_first_when_there_are_too_many(database: Database) -> None:
    for number in (5, 3, 4):
        await put_all(database, f"c{number}", lane=f"lane{number}")
    assert (await due(database, limit=2)).lanes == ["lane5", "lane3"]


async def test_an_empty_queue_has_nothing_due(database: Database) -> None:
    assert await due(database) == Due(lanes=[], next_ms=None)


async def test_long_waiting_items_are_found_until_their_author_is_told(
    database: Database,
) -> None:
    await database.write(put("old", now_ms=NOW - 1000))
    await database.write(put("young", now_ms=NOW))
    find = partial(queues.long_waiting, queue=OUTBOX, before_ms=NOW - 500, limit=10)
    (item,) = await database.read(find)
    assert item.cause == "old"
    await database.write(partial(queues.told_waiting, queue=OUTBOX, item_id=item.id))
    assert await database.read(find) == []


async def test_the_backlog_counts_what_waits_and_what_is_parked(database: Database) -> None:
    empty = await database.read(partial(queues.backlog, queue=OUTBOX))
    assert (empty.waiting, empty.oldest_ms, empty.parked) == (0, None, 0)
    first, second, _, _ = await put_all(database, "c1", "c2", "c3", "c4")
    await database.write(partial(queues.park, queue=OUTBOX, item_id=first, reason="refused"))
    await database.write(partial(queues.done, queue=OUTBOX, item_id=second))
    found = await database.read(partial(queues.backlog, queue=OUTBOX))
    assert (found.waiting, found.oldest_ms, found.parked) == (2, NOW, 1)


async def test_only_old_items_that_nobody_waits_for_are_forgotten(database: Database) -> None:
    first, second, third = await put_all(database, "c1", "c2", "c3")
    await database.write(partial(queues.done, queue=OUTBOX, item_id=first))
    await database.write(partial(queues.park, queue=OUTBOX, item_id=second, reason="refused"))
    prune = partial(queues.prune, queue=OUTBOX, limit=10)
    assert await database.write(partial(prune, before_ms=NOW)) == 0
    assert await database.write(partial(prune, before_ms=NOW + 1)) == 2
    for gone in (first, second):
        with pytest.raises(NotFound):
            await database.read(partial(queues.get, queue=OUTBOX, item_id=gone))
    await database.read(partial(queues.get, queue=OUTBOX, item_id=third))


async def test_an_item_that_is_not_there_is_not_found(database: Database) -> None:
    with pytest.raises(NotFound):
        await database.write(partial(queues.done, queue=OUTBOX, item_id=999))


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "é", "Z", "a b", ""]),
            st.sampled_from(["waiting", "waiting", "done", "parked"]),
            st.integers(min_value=0, max_value=10),
        ),
        max_size=12,
    )
)
async def test_the_due_lanes_are_those_whose_first_waiting_item_is_due(
    database: Database, rows: list[tuple[str, str, int]]
) -> None:
    def fill(tx: Any) -> None:
        tx.execute(delete(schema.outbox))
        for number, (lane, status, next_ms) in enumerate(rows):
            item_id = put(f"c{number}", lane, next_ms)(tx)
            assert item_id is not None
            if status == "done":
                queues.done(tx, OUTBOX, item_id)
            elif status == "parked":
                queues.park(tx, OUTBOX, item_id, reason="")

    heads: dict[str, int] = {}
    for lane, status, next_ms in rows:
        if status == "waiting":
            heads.setdefault(lane, next_ms)
    await database.write(fill)
    later = [next_ms for next_ms in heads.values() if next_ms > 5]
    assert await due(database, 5) == Due(
        lanes=[lane for lane, next_ms in heads.items() if next_ms <= 5],
        next_ms=min(later, default=None),
    )


async def test_a_lane_is_full_when_as_many_wait_as_may(database: Database) -> None:
    ids = await put_all(database, "c1", "c2", "c3")
    await put_all(database, "c4", lane="coffee")

    async def is_full(bound: int) -> bool:
        return await database.read(partial(queues.is_full, queue=OUTBOX, lane="tea", bound=bound))

    assert [await is_full(bound) for bound in (1, 3, 4)] == [True, True, False]
    await database.write(partial(queues.done, queue=OUTBOX, item_id=ids[0]))
    assert not await is_full(3)


async def test_what_stands_in_a_lane_is_given_up_by_its_status(database: Database) -> None:
    parked, before, after = await put_all(database, "c1", "c2", "c3")
    (elsewhere,) = await put_all(database, "c4", lane="coffee")
    for item_id in (parked, elsewhere, after):
        await database.write(partial(queues.park, queue=OUTBOX, item_id=item_id, reason="no"))
    count = await database.write(
        partial(
            queues.drop_lane,
            queue=OUTBOX,
            lane="tea",
            statuses=["parked"],
            reason="over",
            before_id=after,
        )
    )
    assert count == 1
    items = [
        await database.read(partial(queues.get, queue=OUTBOX, item_id=item_id))
        for item_id in (parked, before, after, elsewhere)
    ]
    assert [item.status for item in items] == ["dropped", "waiting", "parked", "parked"]
    assert items[0].reason == "over"
