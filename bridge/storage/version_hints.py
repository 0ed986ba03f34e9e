"""What we know of the room versions that a peer speaks: hints in its row of `peers`."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from sqlalchemy import insert, select, update

from bridge.ids import RoomVersionId, ServerName
from bridge.storage.database import Transaction
from bridge.storage.schema import peers


def find(tx: Transaction, server: ServerName) -> Mapping[RoomVersionId, bool]:
    """True: it has shown that it speaks it. False: it has refused it."""
    text = tx.execute(
        select(peers.c.room_versions).where(peers.c.server == server)
    ).scalar_one_or_none()
    return {} if text is None else orjson.loads(text)


def put(tx: Transaction, server: ServerName, hints: Mapping[RoomVersionId, bool]) -> None:
    """Add to what is known; the newest word about a version counts."""
    known = find(tx, server)
    if all(known.get(version) is speaks for version, speaks in hints.items()):
        return
    text = orjson.dumps({**known, **hints}).decode()
    _ensure(tx, server)
    tx.execute(update(peers).where(peers.c.server == server).values(room_versions=text))


def find_software(tx: Transaction, server: ServerName) -> tuple[str | None, int] | None:
    """The name in its version answer, and when it was asked; None: never."""
    row = tx.execute(
        select(peers.c.software, peers.c.software_ms).where(peers.c.server == server)
    ).one_or_none()
    return None if row is None or row.software_ms is None else (row.software, row.software_ms)


def put_software(tx: Transaction, server: ServerName, software: str | None, at_ms: int) -> None:
    _ensure(tx, server)
    tx.execute(
        update(peers).where(peers.c.server == server).values(software=software, software_ms=at_ms)
    )


def _ensure(tx: Transaction, server: ServerName) -> None:
    there = tx.execute(select(peers.c.server).where(peers.c.server == server)).first()
    if there is None:
        tx.execute(
            insert(peers).values(server=server, failures=0, next_attempt_ms=0, room_versions="{}")
        )
