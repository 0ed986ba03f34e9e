"""What somebody may write to name a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.bot.journal import MessageJournal, read_event, read_row
from bridge.errors import BadInput
from bridge.ids import TraceId
from bridge.storage import queues
from bridge.storage.database import Database, Transaction


@pytest.mark.parametrize(
    "typed",
    [
        "$abc",
        " $abc ",
        "https://matrix.to/#/!room:m.example/$abc?via=m.example",
        "https://matrix.to/#/%21room%3Am.example/%24abc?via=a&via=b",
        "matrix.to/#/#garden:m.example/$abc",
        "matrix:roomid/room:m.example/e/abc?via=m.example",
        "matrix:r/garden:m.example/event/abc",
        "MATRIX:r/garden:m.example/e/%61bc",
    ],
)
def test_an_event_is_read_from_its_id_and_from_links(typed: str) -> None:
    assert read_event(typed) == "$abc"


@pytest.mark.parametrize("typed", ["s1", "", "inbox 12", "@a:b", "!r:b", "https://m.example/$abc"])
def test_what_is_no_event_is_not_read_as_one(typed: str) -> None:
    assert read_event(typed) is None


@pytest.mark.parametrize(
    "typed",
    ["$", "https://matrix.to/#/@a:b", "https://matrix.to/#/!r:b", "matrix:u/a:b", "matrix:x",
     "https://matrix.to/#/!r:b/nothing", "$a\0"],
)  # fmt: skip
def test_a_link_to_something_else_is_refused(typed: str) -> None:
    with pytest.raises(BadInput):
        read_event(typed)


@pytest.mark.parametrize("typed", ["outbox 12", "Outbox12", "outbox/12", " outbox #12".strip()])
def test_a_row_is_read_by_its_name(typed: str) -> None:
    row = read_row(typed.replace(" #", "#"))
    assert row is not None
    assert (row.queue.topic, row.id) == ("outbox", 12)


@given(st.text(max_size=80))
def test_whatever_is_typed_is_a_name_or_refused(typed: str) -> None:
    read_row(typed)
    try:
        found = read_event(typed)
    except BadInput:
        return
    assert found is None or found.startswith("$")


async def test_the_ids_that_we_give_name_the_rows_they_are_made_of(
    sqlite_database: Database,
) -> None:
    def unit(tx: Transaction) -> int:
        found = queues.put_outbox(
            tx, lane="tea", adapter="x", cause="c", payload={}, trace_id=TraceId("t1"), now_ms=1
        )
        assert found is not None
        return found

    row = await sqlite_database.write(unit)
    journal = MessageJournal(database=sqlite_database)
    for typed in (f"{sqlite_database.epoch}.out.{row}", f"outbox {row}", "t1"):
        (story,) = await journal.find(typed)
        assert [item.id for item in story.outbox] == [row]
    for typed in (f"other.out.{row}", f"{sqlite_database.epoch}.in.{row}.0", "t2", ""):
        assert await journal.find(typed) == []
