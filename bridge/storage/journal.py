"""The journal: each step's decision about a message, under its trace ID.

Written in the step's own commit; `why` only reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from bridge.ids import TraceId
from bridge.storage.database import Transaction
from bridge.storage.schema import journal

MAX_DETAIL = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One step: where it happened, what was decided, and why."""

    at_ms: int
    step: str
    decision: str
    detail: str


def record(
    tx: Transaction, trace_id: TraceId, step: str, decision: str, detail: str, now_ms: int
) -> None:
    """Identifiers and reasons only, never message text; `detail` is cut to 500 characters."""
    tx.execute(
        insert(journal).values(
            trace_id=trace_id,
            at_ms=now_ms,
            step=step,
            decision=decision,
            detail=detail[:MAX_DETAIL],
        )
    )


def read(tx: Transaction, trace_id: TraceId, limit: int = 200) -> list[Entry]:
    """In the order in which it was written."""
    rows = tx.execute(
        select(journal)
        .where(journal.c.trace_id == trace_id)
        .order_by(journal.c.journal_id)
        .limit(limit)
    )
    return [
        Entry(at_ms=row.at_ms, step=row.step, decision=row.decision, detail=row.detail)
        for row in rows
    ]


def prune(tx: Transaction, *, before_ms: int, limit: int) -> int:
    """Forget what is older than `before_ms`; returns how many entries."""
    old = select(journal.c.journal_id).where(journal.c.at_ms < before_ms).limit(limit)
    return tx.execute(delete(journal).where(journal.c.journal_id.in_(old))).rowcount
