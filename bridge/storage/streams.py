"""Positions: everything that is read "since" a position goes through `read_since`.

Tables named `stream_...` have a column `position`. DESIGN of the house: a reader never passes a
position below which a transaction may still commit. (Signatures; bodies follow.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Table

from bridge.storage.database import Transaction


def append(tx: Transaction, table: Table, values: Mapping[str, Any]) -> int:
    """Add a row (all columns but `position`); returns its position and wakes topic `table.name`."""
    raise NotImplementedError


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
    raise NotImplementedError


def head(tx: Transaction, table: Table) -> int:
    """The newest settled position (0: nothing yet): where a new reader starts."""
    raise NotImplementedError


def cursor(tx: Transaction, name: str) -> int:
    """How far the durable reader `name` has come; 0 when it has never read."""
    raise NotImplementedError


def advance(tx: Transaction, name: str, position: int) -> None:
    """Move the cursor forward; a position behind it changes nothing."""
    raise NotImplementedError
