"""Federation transactions that we took, so that a replay gets the same answer."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from sqlalchemy import bindparam, delete, insert, select

from bridge.ids import EventId, ServerName
from bridge.storage.database import Transaction
from bridge.storage.schema import transactions

# Made once: building a statement costs more than running it.
_FIND = select(transactions.c.event_ids).where(
    transactions.c.origin == bindparam("of"), transactions.c.transaction_id == bindparam("id")
)
_INSERT = insert(transactions)


def find(
    tx: Transaction, origin: ServerName, transaction_id: str
) -> list[tuple[EventId, str | None]] | None:
    """The PDUs of a transaction that we took: event ID, and why it was refused at the door."""
    text = tx.execute(_FIND, {"of": origin, "id": transaction_id}).scalar_one_or_none()
    return None if text is None else [(event_id, why) for event_id, why in orjson.loads(text)]


def put(
    tx: Transaction,
    origin: ServerName,
    transaction_id: str,
    *,
    pdus: Sequence[tuple[EventId, str | None]],
    received_ms: int,
) -> None:
    tx.execute(
        _INSERT,
        {
            "origin": origin,
            "transaction_id": transaction_id,
            "event_ids": orjson.dumps(pdus).decode(),
            "received_ms": received_ms,
        },
    )


def forget(tx: Transaction, *, before_ms: int) -> None:
    tx.execute(delete(transactions).where(transactions.c.received_ms < before_ms))
