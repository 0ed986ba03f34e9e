"""What differs between SQLite and PostgreSQL; the only place that asks which one it is.

SQLite has one writer, which makes positions visible in order. PostgreSQL has many: there a
sequence number can become visible after a higher one. So whoever appends to a stream first takes a
shared advisory lock that names the newest number given out, and keeps it until the commit:
whatever number it draws is higher. A reader that first looks at the sequence and then at the locks
knows that everything up to the lowest lock, and up to the sequence's number, is settled. (An order
by transaction ID would not do: a transaction may draw its ID early and its number late.)
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol
from zlib import crc32

from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    Engine,
    NullPool,
    Select,
    Table,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError

from bridge.errors import BadInput, Conflict, Misconfigured, Unavailable

BUSY_TIMEOUT_MS = 10_000
CONNECT_TIMEOUT_S = 10

Access = Literal["read", "write", "signals"]
Execute = Callable[..., CursorResult[Any]]


class Dialect(Protocol):
    """Statements that the two databases spell differently, and their errors."""

    @property
    def name(self) -> str: ...

    @property
    def one_writer(self) -> bool:
        """All units that write share one thread, and commits."""
        ...

    def insert_ignore(self, table: Table) -> Any:
        """INSERT ... ON CONFLICT DO NOTHING: add `.values(...)`, and `.returning(...)` to learn
        whether the row was new."""
        ...

    def upsert(
        self, table: Table, keys: Sequence[str], columns: Sequence[str] | None = None
    ) -> Any:
        """INSERT ... ON CONFLICT (keys) DO UPDATE of `columns` (default: all but the keys)."""
        ...

    def lock_rows(self, statement: Select[Any], *, skip_locked: bool = False) -> Select[Any]:
        """SELECT ... FOR UPDATE; on SQLite, where one writer exists, the statement itself."""
        ...

    def hold_positions(self, execute: Execute, table: Table) -> None:
        """Before a transaction draws its first position of this stream."""
        ...

    def settled_position(self, execute: Execute, table: Table) -> int:
        """No transaction can any more commit a row at or below this position."""
        ...

    def engine(self, access: Access) -> Engine: ...

    def lock_schema(self, connection: Connection) -> None:
        """Until the end of the transaction nobody else changes the tables this way."""
        ...

    def in_transaction(self, connection: Connection) -> bool:
        """False when the database itself gave the transaction up."""
        ...

    def is_worth_repeating(self, error: BaseException) -> bool:
        """The database gave this transaction up in favour of another: run it again at once."""
        ...


def dialect_for(url: str) -> Dialect:
    """`sqlite:///path/to/file` or `postgresql://user:password@host/name`."""
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise Misconfigured("database.url", "is not a database URL") from exc
    if parsed.drivername == "sqlite":
        return Sqlite(parsed)
    if parsed.drivername in ("postgresql", "postgres"):
        return Postgresql(parsed.set(drivername="postgresql+psycopg"))
    raise Misconfigured("database.url", "must begin with sqlite:/// or postgresql://")


def translated(error: Exception) -> Exception:
    """Ours for what can happen to right code; anything else is a mistake of ours and stays."""
    if isinstance(error, IntegrityError):
        return Conflict(f"somebody else wrote first: {error.orig}")
    if isinstance(error, DataError | UnicodeEncodeError | OverflowError):
        return BadInput("a value that the database cannot hold")
    if isinstance(error, DBAPIError):
        if _sqlstate(error) in _REPEATABLE:
            return Conflict("the database preferred another transaction")
        if _is_outage(error):
            return Unavailable(f"the database is not available: {error.orig}")
    return error


_SCHEMA_LOCK = crc32(b"isthmus schema")
# Serialization failure, deadlock.
_REPEATABLE = frozenset({"40001", "40P01"})
# Connection, resources (disk, memory, connections), operator intervention, system error.
_OUTAGE_CLASSES = frozenset({"08", "53", "57", "58"})
_LOCK_NOT_AVAILABLE = "55P03"
_READ_ONLY = "25006"
_SQLITE_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    }
)


def _sqlstate(error: BaseException | None) -> str:
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def _is_outage(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_OUTAGES
    state = _sqlstate(error)
    return (
        error.connection_invalidated
        or state[:2] in _OUTAGE_CLASSES
        or state in (_LOCK_NOT_AVAILABLE, _READ_ONLY)
        # A connection that could not be made has no state.
        or (not state and type(error.orig).__name__ in ("OperationalError", "ConnectionTimeout"))
    )


class Sqlite:
    """One file, one writer thread, several reading ones. WAL; each commit is on the disk."""

    name = "sqlite"
    one_writer = True

    def __init__(self, url: URL) -> None:
        if url.database in (None, "", ":memory:") or url.query:
            raise Misconfigured("database.url", "must name a file: sqlite:///path/to/file")
        assert url.database is not None
        self._url = url
        self._path = Path(url.database)

    def insert_ignore(self, table: Table) -> Any:
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table).on_conflict_do_nothing()

    def upsert(
        self, table: Table, keys: Sequence[str], columns: Sequence[str] | None = None
    ) -> Any:
        from sqlalchemy.dialects import sqlite

        insert = sqlite.insert(table)
        return insert.on_conflict_do_update(
            index_elements=list(keys),
            set_={name: insert.excluded[name] for name in _updated(table, keys, columns)},
        )

    def lock_rows(self, statement: Select[Any], *, skip_locked: bool = False) -> Select[Any]:
        return statement

    def hold_positions(self, execute: Execute, table: Table) -> None:
        return

    def settled_position(self, execute: Execute, table: Table) -> int:
        newest: int | None = execute(select(func.max(table.c.position))).scalar()
        return newest or 0

    def engine(self, access: Access) -> Engine:
        self._make_file()
        engine = create_engine(
            self._url, poolclass=NullPool, connect_args={"check_same_thread": False}
        )

        def configure(connection: sqlite3.Connection, _record: object) -> None:
            # We begin transactions ourselves: the driver would do it late, and not for reads.
            connection.isolation_level = None
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA temp_store = MEMORY")
            if access == "read":
                connection.execute("PRAGMA query_only = ON")

        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if access == "write" else "BEGIN")

        event.listen(engine, "connect", configure)
        event.listen(engine, "begin", begin)
        return engine

    def lock_schema(self, connection: Connection) -> None:
        return  # the one writer's lock is enough

    def in_transaction(self, connection: Connection) -> bool:
        return bool(connection.connection.driver_connection.in_transaction)  # type: ignore[union-attr]

    def is_worth_repeating(self, error: BaseException) -> bool:
        return False

    def _make_file(self) -> None:
        """Messages are private: the file is for its owner only."""
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as exc:
            raise Misconfigured("database.url", f"{self._path}: {exc.strerror}") from exc


class Postgresql:
    """READ COMMITTED and row locks; psycopg on threads (docs/measurements.md says why)."""

    name = "postgresql"
    one_writer = False

    def __init__(self, url: URL) -> None:
        self._url = url

    def insert_ignore(self, table: Table) -> Any:
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()

    def upsert(
        self, table: Table, keys: Sequence[str], columns: Sequence[str] | None = None
    ) -> Any:
        from sqlalchemy.dialects import postgresql

        insert = postgresql.insert(table)
        return insert.on_conflict_do_update(
            index_elements=list(keys),
            set_={name: insert.excluded[name] for name in _updated(table, keys, columns)},
        )

    def lock_rows(self, statement: Select[Any], *, skip_locked: bool = False) -> Select[Any]:
        return statement.with_for_update(skip_locked=skip_locked)

    def hold_positions(self, execute: Execute, table: Table) -> None:
        execute(
            text(
                "SELECT pg_advisory_xact_lock_shared("
                " (CAST(:stream AS bigint) << 48)"
                " | (CASE WHEN is_called THEN last_value ELSE last_value - 1 END))"
                f" FROM {_sequence(table)}"
            ),
            {"stream": _stream_number(table)},
        )

    def settled_position(self, execute: Execute, table: Table) -> int:
        # The inner query depends on `head`, so that the sequence is read before the locks.
        found = execute(
            text(
                "WITH head AS MATERIALIZED ("
                " SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END AS newest"
                f" FROM {_sequence(table)})"
                " SELECT LEAST(head.newest, ("
                "  SELECT min(((classid::bigint & 65535) << 32) | objid::bigint)"
                "  FROM pg_locks WHERE head.newest IS NOT NULL"
                "  AND locktype = 'advisory' AND objsubid = 1"
                "  AND classid::bigint >> 16 = :stream"
                "  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                " )) FROM head"
            ),
            {"stream": _stream_number(table)},
        )
        return int(found.scalar_one())

    def engine(self, access: Access) -> Engine:
        engine = create_engine(
            self._url,
            poolclass=NullPool,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": f"isthmus {access}",
            },
        )

        def configure(connection: Any, _record: object) -> None:
            connection.read_only = access == "read"
            connection.autocommit = access == "signals"

        event.listen(engine, "connect", configure)
        return engine

    def lock_schema(self, connection: Connection) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))

    def in_transaction(self, connection: Connection) -> bool:
        return connection.in_transaction()

    def is_worth_repeating(self, error: BaseException) -> bool:
        return _sqlstate(error) in _REPEATABLE or _sqlstate(error.__cause__) in _REPEATABLE


def _updated(table: Table, keys: Sequence[str], columns: Sequence[str] | None) -> Sequence[str]:
    if columns is not None:
        return columns
    return [column.name for column in table.columns if column.name not in keys]


def _sequence(table: Table) -> str:
    return f'"{table.name}_position_seq"'


def _stream_number(table: Table) -> int:
    """15 bits that tell the streams' locks apart."""
    return crc32(table.name.encode()) & 0x7FFF
