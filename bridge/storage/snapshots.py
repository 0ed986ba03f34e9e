"""State maps as rows: a delta against an earlier one, in a bounded number of hops to a full one."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import insert, select

from bridge.errors import NotFound
from bridge.ids import EventId, RoomId
from bridge.storage.database import Transaction
from bridge.storage.schema import snapshots

Change = tuple[str, str, EventId | None]
"""Type, state key, and the event that holds it now; None: nothing does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRow:
    snapshot_id: int
    parent_id: int | None
    hops: int
    delta: Sequence[Change]


def insert_snapshot(
    tx: Transaction,
    room_id: RoomId,
    *,
    parent_id: int | None,
    hops: int,
    delta: Sequence[Change],
) -> int:
    """Without a parent, `delta` is the whole map and `hops` is 0."""
    done = tx.execute(
        insert(snapshots).values(
            room_id=room_id, parent_id=parent_id, hops=hops, delta=orjson.dumps(delta).decode()
        )
    )
    key = done.inserted_primary_key
    assert key is not None
    return int(key[0])


def load_chain(
    tx: Transaction, snapshot_id: int, *, known: Container[int] = ()
) -> list[SnapshotRow]:
    """The snapshot and what it stands on; the last is full, or its parent is one of `known`.

    Raises `NotFound`.
    """
    chain: list[SnapshotRow] = []
    wanted: int | None = snapshot_id
    while wanted is not None:
        row = tx.execute(select(snapshots).where(snapshots.c.snapshot_id == wanted)).one_or_none()
        if row is None:
            raise NotFound(f"snapshot {wanted} is gone")
        chain.append(
            SnapshotRow(
                snapshot_id=row.snapshot_id,
                parent_id=row.parent_id,
                hops=row.hops,
                delta=[(kind, key, event) for kind, key, event in orjson.loads(row.delta)],
            )
        )
        wanted = None if row.parent_id in known else row.parent_id
    return chain
