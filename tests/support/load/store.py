"""What the load server remembers: one SQLite file, which survives its `kill -9`.

Everything is written before it is acknowledged or sent: an event with its transaction, and what
came in before its answer. The test looks into the same file, and says there what is wanted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS wishes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    json TEXT NOT NULL,
    own INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS outgoing (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    event_ids TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    verdicts TEXT
);
CREATE TABLE IF NOT EXISTS incoming (
    txn_id TEXT PRIMARY KEY, event_ids TEXT NOT NULL, times INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS faults (number INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingTransaction:
    """One that has not been answered: it is repeated as it is."""

    number: int
    at_ms: int
    event_ids: Sequence[str]


class LoadStore:
    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, isolation_level=None, timeout=30.0)
        # A dead process loses nothing that the system has taken; only a dead machine would.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_TABLES)

    def close(self) -> None:
        self._database.close()

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._database.execute(sql, values).fetchall()

    # --- what the test wants ---------------------------------------------------------------

    def wish(self, name: str, value: object) -> None:
        self._database.execute(
            "INSERT INTO wishes VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            (name, json.dumps(value)),
        )

    def wishes(self) -> dict[str, Any]:
        return {name: json.loads(value) for name, value in self.rows("SELECT * FROM wishes")}

    # --- what happened ---------------------------------------------------------------------

    def count(self, name: str, more: int = 1) -> int:
        """The new count."""
        ((count,),) = self.rows(
            "INSERT INTO counts VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET count = count + excluded.count RETURNING count",
            name,
            more,
        )
        return int(count)

    def counts(self) -> dict[str, int]:
        return {name: int(count) for name, count in self.rows("SELECT * FROM counts")}

    def find_fault(self, text: str) -> None:
        """Something that the other server must not do."""
        self._database.execute("INSERT INTO faults (text) VALUES (?)", (text,))

    def faults(self) -> list[str]:
        return [str(text) for (text,) in self.rows("SELECT text FROM faults ORDER BY number")]

    # --- the room --------------------------------------------------------------------------

    def add_event(self, event_id: str, text: str, *, own: bool) -> bool:
        """False: it is here already."""
        sql = "INSERT INTO events (event_id, json, own) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        return self._database.execute(sql, (event_id, text, own)).rowcount > 0

    def events(self) -> list[dict[str, Any]]:
        """In the order in which they came to be here."""
        return [
            json.loads(text) for (text,) in self.rows("SELECT json FROM events ORDER BY number")
        ]

    def ids(self, *, own: bool) -> list[str]:
        sql = "SELECT event_id FROM events WHERE own = ? ORDER BY number"
        return [str(event_id) for (event_id,) in self.rows(sql, own)]

    # --- transactions ----------------------------------------------------------------------

    def open_transaction(self) -> OutgoingTransaction | None:
        rows = self.rows(
            "SELECT number, at_ms, event_ids FROM outgoing WHERE verdicts IS NULL ORDER BY number"
        )
        if not rows:
            return None
        number, at_ms, event_ids = rows[0]
        return OutgoingTransaction(number=number, at_ms=at_ms, event_ids=json.loads(event_ids))

    def begin_transaction(self, at_ms: int, events: Sequence[tuple[str, str]]) -> None:
        """New events of ours and the transaction that carries them: both or neither."""
        with _Commit(self._database):
            for event_id, text in events:
                self.add_event(event_id, text, own=True)
            self._database.execute(
                "INSERT INTO outgoing (at_ms, event_ids) VALUES (?, ?)",
                (at_ms, json.dumps([event_id for event_id, _ in events])),
            )

    def attempt(self, number: int) -> None:
        sql = "UPDATE outgoing SET attempts = attempts + 1 WHERE number = ?"
        self._database.execute(sql, (number,))

    def end_transaction(self, number: int, verdicts: Mapping[str, Any]) -> None:
        sql = "UPDATE outgoing SET verdicts = ? WHERE number = ?"
        self._database.execute(sql, (json.dumps(verdicts), number))

    def take(self, txn_id: str, events: Sequence[tuple[str, str]]) -> list[str]:
        """What another server sent, in one commit. The event IDs that are new."""
        with _Commit(self._database):
            ids = json.dumps([event_id for event_id, _ in events])
            before = self.rows("SELECT event_ids FROM incoming WHERE txn_id = ?", txn_id)
            if before and before[0][0] != ids:
                self.find_fault(f"transaction {txn_id} came with other events than before")
            self._database.execute(
                "INSERT INTO incoming VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                (txn_id, ids),
            )
            new = [one for one, text in events if self.add_event(one, text, own=False)]
            if not before:
                self.count("events again in another transaction", len(events) - len(new))
        return new


class _Commit:
    """One transaction of the database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._database.execute("COMMIT" if kind is None else "ROLLBACK")
