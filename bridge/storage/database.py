"""Units of work: `await database.write(unit)`, `await database.read(unit)`.

A unit is one plain function of a `Transaction`. On SQLite it runs on the writer's thread, where
waiting units share a commit, or on a reading thread; on PostgreSQL on one of a few threads with a
connection each. A reading unit sees a snapshot on SQLite; on PostgreSQL each of its statements
sees what is committed by then.

`wake` and `Waker` tell readers of rows that there is something to read: in this process at once
after the commit, in others through LISTEN and NOTIFY. A wake-up may be lost between processes (a
crash after the commit), so whoever waits also looks after its timeout.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakSet

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from bridge.clock import Clock, SystemClock
from bridge.errors import Misconfigured, Unavailable
from bridge.storage.dialect import Dialect, dialect_for
from bridge.storage.schema import meta
from bridge.storage.signals import Signals
from bridge.storage.workers import GroupWriter, Job, Pool, Threads, Transaction

__all__ = ["Database", "Transaction", "Unit", "Waker"]

T = TypeVar("T")
Unit = Callable[[Transaction], T]
"""A plain function. It may run more than once (only one run is committed): no effects outside
the transaction, nothing awaited, no network."""

READERS = 3
WRITERS = 4
MAX_WAITING = 2_000
MAX_WAIT_S = 30.0


class Waker:
    """One waiter's ear on a topic: a wake-up between two calls of `wait` is not lost."""

    __slots__ = ("__weakref__", "_clock", "_event", "_woken")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()
        self._woken = False

    def wake(self) -> None:
        self._woken = True
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """True: woken; False: the time is over (then look anyway). For one task at a time."""
        if not self._woken:
            async with asyncio.TaskGroup() as tasks:
                timer = tasks.create_task(self._expire(timeout_s))
                await self._event.wait()
                timer.cancel()
        woken, self._woken = self._woken, False
        self._event.clear()
        return woken

    async def _expire(self, timeout_s: float) -> None:
        await self._clock.sleep(timeout_s)
        self._event.set()


class Database:
    """Units of work on SQLite or PostgreSQL. Made by `open`, ended by `close`."""

    def __init__(self, dialect: Dialect, clock: Clock) -> None:
        self.dialect = dialect
        self.epoch = ""
        """Random, part of every derived identifier that others remember; renewed when a backup
        is restored."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._wakers: dict[str, WeakSet[Waker]] = {}
        self._closed = False
        self._read_places = asyncio.Semaphore(MAX_WAITING)
        self._write_places = asyncio.Semaphore(MAX_WAITING)
        self._reader = Pool(
            name="read",
            engine=dialect.engine("read"),
            dialect=dialect,
            answer=lambda jobs: self._from_thread(jobs, self._read_places),
        )
        self._writer: Threads
        if dialect.one_writer:
            self._writer = GroupWriter(
                name="write",
                engine=dialect.engine("write"),
                dialect=dialect,
                answer=lambda jobs: self._from_thread(jobs, self._write_places),
                clock=clock,
            )
        else:
            self._writer = Pool(
                name="write",
                engine=dialect.engine("write"),
                dialect=dialect,
                answer=lambda jobs: self._from_thread(jobs, self._write_places),
            )
        self._signals = (
            None
            if dialect.one_writer
            else Signals(dialect.engine("signals"), lambda topics: self._call(self._wake, topics))
        )

    @staticmethod
    async def open(url: str, *, clock: Clock | None = None) -> Database:
        """`sqlite:///path` or `postgresql://...`; the tables must be there (`migrate.upgrade`).

        Raises Misconfigured when they are not or the URL cannot be one, Unavailable.
        """
        database = Database(dialect_for(url), clock or SystemClock())
        try:
            database._reader.start(READERS)
            database._writer.start(1 if database.dialect.one_writer else WRITERS)
            try:
                database.epoch = await database.write(_get_epoch)
            except SQLAlchemyError as exc:
                raise Misconfigured("database.url", "has no tables of Isthmus yet") from exc
            if database._signals is not None:
                await asyncio.to_thread(database._signals.start)
        except BaseException:
            await database.close()
            raise
        return database

    async def write(self, unit: Unit[T]) -> T:
        """Run the unit and commit. Raises what the unit raises, or Unavailable (Conflict when
        others wrote the same rows). After a cancellation it may or may not have been committed."""
        return await self._run(self._writer, self._write_places, unit)

    async def read(self, unit: Unit[T]) -> T:
        """Run a unit that only reads."""
        return await self._run(self._reader, self._read_places, unit)

    def waker(self, topic: str) -> Waker:
        """A new ear on a topic; it hears what is committed from now on."""
        waker = Waker(self._clock)
        self._wakers.setdefault(topic, WeakSet()).add(waker)
        return waker

    async def renew_epoch(self) -> None:
        """After a backup was restored: what others remember of us is older or newer than we."""

        def unit(tx: Transaction) -> str:
            tx.execute(update(meta).where(meta.c.key == "epoch").values(value=_new_epoch()))
            return _get_epoch(tx)

        self.epoch = await self.write(unit)

    async def close(self) -> None:
        """Finish the units that were handed in before, then let go of the database."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._reader.close)
        if self._signals is not None:
            await asyncio.to_thread(self._signals.close)

    async def _run(self, threads: Threads, places: asyncio.Semaphore, unit: Unit[T]) -> T:
        if places.locked():
            try:
                async with asyncio.timeout(MAX_WAIT_S):
                    await places.acquire()
            except TimeoutError as exc:
                raise Unavailable("the database has too much to do") from exc
        else:
            await places.acquire()
        if self._closed:
            places.release()
            raise Unavailable("the database is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        threads.put(Job(unit, future))
        return await future

    def _from_thread(self, jobs: Sequence[Job[Any]], places: asyncio.Semaphore) -> None:
        self._call(self._answer, jobs, places)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        # The loop is gone when the program ended without `close`: then nobody waits either.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _answer(self, jobs: Sequence[Job[Any]], places: asyncio.Semaphore) -> None:
        topics: set[str] = set()
        for job in jobs:
            places.release()
            job.answer()
            topics |= job.topics
        if topics:
            self._wake(topics)
            if self._signals is not None:
                self._signals.send(topics)

    def _wake(self, topics: set[str] | None) -> None:
        """None: some may have been missed, so all."""
        for topic in self._wakers if topics is None else topics:
            for waker in self._wakers.get(topic, ()):
                waker.wake()


def _new_epoch() -> str:
    return secrets.token_hex(4)


def _get_epoch(tx: Transaction) -> str:
    statement = select(meta.c.value).where(meta.c.key == "epoch")
    found: str | None = tx.execute(statement).scalar()
    if found is None:
        tx.execute(tx.dialect.insert_ignore(meta).values(key="epoch", value=_new_epoch()))
        found = tx.execute(statement).scalar()
    return found or ""
