"""What differs between SQLite and PostgreSQL; the only place that asks which one it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import Select, Table


class Dialect(Protocol):
    """Statements that the two databases spell differently. Pass the values to `tx.execute`."""

    @property
    def name(self) -> str:
        """`sqlite` or `postgresql`."""

    def insert_or_ignore(self, table: Table) -> Any:
        """INSERT ... ON CONFLICT DO NOTHING; add `.returning(...)` to learn whether it was new."""

    def upsert(
        self, table: Table, keys: Sequence[str], columns: Sequence[str] | None = None
    ) -> Any:
        """INSERT ... ON CONFLICT (keys) DO UPDATE of `columns` (default: all that are no key)."""

    def lock_rows(self, statement: Select[Any], *, skip_locked: bool = False) -> Select[Any]:
        """SELECT ... FOR UPDATE; on SQLite, where one writer exists, the statement itself."""
