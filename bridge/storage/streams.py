"""Positions: everything that is read "since" a position goes through `read_since`.

Tables named `stream_...` have a column `position`. A reader never passes a position below which a
transaction may still commit; how that is known, `dialect.py` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Insert, Table, insert, select, update
from sqlalchemy.sql.dml import ReturningInsert

from bridge.storage.database import Transaction
from bridge.storage.schema import cursors


def append(tx: Transaction, table: Table, values: Mapping[str, Any]) -> int:
    """Add a row (all columns but `position`); returns its position and wakes topic `table.name`."""
    tx.hold_positions(table)
    tx.wake(table.name)
    return int(tx.execute(_insertion(table), dict(values)).scalar_one())


def append_all(tx: Transaction, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """The same for several rows, in their order; nobody asks for the positions."""
    if not rows:
        return
    tx.hold_positions(table)
    tx.wake(table.name)
    tx.execute(_plain_insertion(table), rows)


@cache
def _plain_insertion(table: Table) -> Insert:
    return insert(table)


@cache
def _insertion(table: Table) -> ReturningInsert[tuple[int]]:
    """Made once per table: building a statement costs more than running it."""
    return insert(table).returning(table.c.position)


def read_since(
    tx: Transaction,
    table: Table,
    after: int,
    limit: int,
    where: ColumnElement[bool] | None = None,
) -> list[dict[str, Any]]:
    """Settled rows with `position > after`, in order, at most `limit`, as dicts by column name.

    On PostgreSQL rows of the running transaction itself are not among them.
    """
    settled = tx.settled_position(table)
    if settled <= after:
        return []
    statement = select(table).where(table.c.position > after, table.c.position <= settled)
    if where is not None:
        statement = statement.where(where)
    rows = tx.execute(statement.order_by(table.c.position).limit(limit))
    return [dict(row) for row in rows.mappings()]


def head(tx: Transaction, table: Table) -> int:
    """The newest settled position (0: nothing yet): where a new reader starts."""
    return tx.settled_position(table)


def cursor(tx: Transaction, name: str) -> int:
    """How far the durable reader `name` has come; 0 when it has never read."""
    found: int | None = tx.execute(
        select(cursors.c.position).where(cursors.c.name == name)
    ).scalar()
    return found or 0


def advance(tx: Transaction, name: str, position: int) -> None:
    """Move the cursor forward; a position behind it changes nothing."""
    tx.execute(tx.dialect.insert_ignore(cursors).values(name=name, position=position))
    tx.execute(
        update(cursors)
        .where(cursors.c.name == name, cursors.c.position < position)
        .values(position=position)
    )
