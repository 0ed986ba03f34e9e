"""The database behind units of work (signatures; the bodies follow in the next commits)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import CursorResult, Executable

from bridge.clock import Clock
from bridge.storage.dialect import Dialect

T = TypeVar("T")
Unit = Callable[["Transaction"], T]
"""A plain function. It may run more than once (only one run is committed): no effects outside
the transaction, nothing awaited, no network."""


class Transaction:
    """What a unit of work gets. `dialect` has what differs between SQLite and PostgreSQL."""

    dialect: Dialect

    def execute(
        self,
        statement: Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> CursorResult[Any]:
        raise NotImplementedError

    def wake(self, topic: str) -> None:
        """After the commit, wake whoever waits on the topic."""
        raise NotImplementedError


class Waker:
    """One waiter's ear on a topic: a wake-up between two calls of `wait` is not lost."""

    async def wait(self, timeout_s: float) -> bool:
        """True: woken; False: the time is over (then look anyway)."""
        raise NotImplementedError


class Database:
    """Units of work on SQLite or PostgreSQL."""

    epoch: str
    """Part of every derived identifier that others remember."""

    @staticmethod
    async def open(url: str, *, clock: Clock | None = None) -> Database:
        """`sqlite:///path` or `postgresql://...`; the schema must be current (`migrate`)."""
        raise NotImplementedError

    async def write(self, unit: Unit[T]) -> T:
        """Run the unit and commit. Raises what the unit raises, or Unavailable."""
        raise NotImplementedError

    async def read(self, unit: Unit[T]) -> T:
        """Run a unit that only reads."""
        raise NotImplementedError

    def waker(self, topic: str) -> Waker:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError
