"""The threads that run units of work.

`GroupWriter` is one thread: units that wait while it works share the next commit, bounded in items
and milliseconds. Each unit but the first stands in a savepoint, so that a failure is its own
affair; if the commit itself fails, or the database gave the whole transaction up, the units are run
again one by one, each with a commit of its own. `Pool` is several threads, a connection and a
transaction per unit: for reading, and for writing where the database has many writers.

A caller hears of its unit after the commit. A caller that has gone away changes nothing for a unit
that has begun; one that has not begun is left out.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Engine, Executable, Table
from sqlalchemy.exc import SQLAlchemyError

from bridge.clock import Clock
from bridge.errors import Misconfigured
from bridge.storage.dialect import Dialect, translated

T = TypeVar("T")

GROUP_ITEMS = 64
GROUP_MS = 20
REPEATS = 5


class Transaction:
    """What a unit of work gets. `dialect` has what differs between SQLite and PostgreSQL."""

    __slots__ = ("_connection", "dialect", "failure", "held", "topics")

    def __init__(self, connection: Connection, dialect: Dialect) -> None:
        self._connection = connection
        self.dialect = dialect
        self.held: set[str] = set()
        """Streams in which this transaction draws positions."""
        self.topics: set[str] = set()
        self.failure: Exception | None = None
        """The first failed statement: nothing of this unit can be committed after it."""

    def execute(
        self,
        statement: Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> CursorResult[Any]:
        """Raises Conflict, BadInput or Unavailable; other errors are mistakes in the statement."""
        try:
            return self._connection.execute(statement, parameters)
        except (SQLAlchemyError, UnicodeEncodeError, OverflowError) as exc:
            ours = translated(exc)
            self.failure = self.failure or ours
            if ours is exc:
                raise
            raise ours from exc

    def wake(self, topic: str) -> None:
        """After the commit, wake whoever waits on the topic, in every process."""
        self.topics.add(topic)

    def hold_positions(self, table: Table) -> None:
        """For `streams.append` only."""
        if table.name not in self.held:
            self.dialect.hold_positions(self.execute, table)
            self.held.add(table.name)

    def settled_position(self, table: Table) -> int:
        """For `streams` only."""
        return self.dialect.settled_position(self.execute, table)


class Job(Generic[T]):
    """A unit of work, whoever waits for it, and what became of it."""

    __slots__ = ("_future", "_result", "_unit", "error", "topics", "undecided")

    def __init__(self, unit: Callable[[Transaction], T], future: asyncio.Future[T]) -> None:
        self._unit = unit
        self._future = future
        self._result: T | None = None
        self.error: BaseException | None = None
        self.undecided = False
        """The connection was lost during the commit."""
        self.topics: frozenset[str] = frozenset()

    @property
    def wanted(self) -> bool:
        return not self._future.cancelled()

    @property
    def failed(self) -> bool:
        return self.error is not None

    def run(self, tx: Transaction) -> None:
        """On a worker thread: keeps the result or the exception for `answer`."""
        self.error = None
        with _Caught(self):
            self._result = self._unit(tx)
            if tx.failure is not None:
                self.fail(tx.failure)
        # Readers of a stream that this unit held back may go on, even if it was for nothing.
        self.topics = frozenset(tx.held if self.failed else tx.topics)

    def fail(self, error: BaseException) -> None:
        self.error = error

    def answer(self) -> None:
        """On the loop."""
        if self._future.done():
            return
        if self.error is None:
            self._future.set_result(cast(T, self._result))
        elif isinstance(self.error, StopIteration):
            self._future.set_exception(RuntimeError("a unit of work raised StopIteration"))
        else:
            self._future.set_exception(self.error)


class _Caught:
    """Hands whatever a unit raises to the one who waits for it."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is not None:
            self._job.fail(error)
        return error is not None


Answer = Callable[[Sequence[Job[Any]]], None]
"""Called on a worker thread with jobs that are finished, each in its own way."""


class Threads(ABC):
    """Threads that take jobs from one queue. The queue's bound is kept by whoever puts."""

    def __init__(self, *, name: str, engine: Engine, dialect: Dialect, answer: Answer) -> None:
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._engine = engine
        self._dialect = dialect
        self._answer = answer
        self._name = name
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        for number in range(count):
            thread = threading.Thread(
                target=self._run, name=f"isthmus-{self._name}-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def put(self, job: Job[Any]) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        """Finishes what was put before, then ends the threads. Blocks."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._engine.dispose()

    def _run(self) -> None:
        connection: Connection | None = None
        while (job := self._jobs.get()) is not None:
            if not job.wanted:
                self._answer([job])
                continue
            fresh = connection is None
            try:
                connection = connection or self._engine.connect()
            except (SQLAlchemyError, Misconfigured) as exc:
                job.fail(_ours(exc))
                self._answer([job])
                continue
            group = self._run_jobs(connection, job, fresh)
            if connection.invalidated:
                connection.close()
                connection = None
            self._answer(group)
        if connection is not None:
            connection.close()

    @abstractmethod
    def _run_jobs(self, connection: Connection, job: Job[Any], fresh: bool) -> list[Job[Any]]:
        """Runs the job, and others that wait if it likes; returns all that are finished."""

    def _run_alone(self, connection: Connection, job: Job[Any]) -> None:
        """One unit, one commit; what goes wrong goes to the job."""
        committing = False
        try:
            connection.begin()
            job.run(Transaction(connection, self._dialect))
            if job.error is None:
                committing = True
                connection.commit()
            else:
                connection.rollback()
        except SQLAlchemyError as exc:
            job.undecided = committing
            job.fail(_ours(exc))
            _abandon(connection)


class GroupWriter(Threads):
    """One thread, one connection, one transaction at a time, shared by what waits."""

    def __init__(
        self, *, name: str, engine: Engine, dialect: Dialect, answer: Answer, clock: Clock
    ) -> None:
        super().__init__(name=name, engine=engine, dialect=dialect, answer=answer)
        self._clock = clock

    def _run_jobs(self, connection: Connection, job: Job[Any], fresh: bool) -> list[Job[Any]]:
        group = [job]
        try:
            connection.begin()
            job.run(Transaction(connection, self._dialect))
            if job.error is not None:
                connection.rollback()
                return group
            if self._fill(connection, group):
                connection.commit()
                return group
            _abandon(connection)
        except SQLAlchemyError as exc:
            _abandon(connection)
            if len(group) == 1:
                job.fail(_ours(exc))
                return group
        for each in group:
            self._run_alone(connection, each)
        return group

    def _fill(self, connection: Connection, group: list[Job[Any]]) -> bool:
        """Adds what waits to the transaction; False when the database has given it up."""
        deadline_s = self._clock.monotonic_s() + GROUP_MS / 1000
        while len(group) < GROUP_ITEMS and self._clock.monotonic_s() < deadline_s:
            job = self._next()
            if job is None:
                break
            group.append(job)
            savepoint = connection.begin_nested()
            job.run(Transaction(connection, self._dialect))
            if job.error is None:
                savepoint.commit()
            elif self._dialect.in_transaction(connection):
                savepoint.rollback()
            else:
                return False
        return True

    def _next(self) -> Job[Any] | None:
        """What waits already; the sign to end goes back to the queue."""
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return None
            if job is None:
                self._jobs.put(None)
                return None
            if job.wanted:
                return job
            self._answer([job])


class Pool(Threads):
    """Several threads with a connection each; a transaction per unit.

    A unit runs again when the database preferred another transaction, and once on a new
    connection when the one that it found had died (but not when that happened in the commit:
    whether it came through is then unknown).
    """

    def _run_jobs(self, connection: Connection, job: Job[Any], fresh: bool) -> list[Job[Any]]:
        for _ in range(REPEATS):
            self._run_alone(connection, job)
            if job.error is None or job.undecided:
                break
            if connection.invalidated:
                if fresh:
                    break
                fresh = True
            elif not self._dialect.is_worth_repeating(job.error):
                break
        return [job]


def _ours(error: Exception) -> Exception:
    """Our exception with the library's as its cause."""
    ours = translated(error)
    if ours is not error:
        ours.__cause__ = error
    return ours


def _abandon(connection: Connection) -> None:
    """Roll back, or throw the connection away if it cannot even do that."""
    try:
        connection.rollback()
    except SQLAlchemyError:
        connection.invalidate()
