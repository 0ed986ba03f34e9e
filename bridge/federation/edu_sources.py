"""EDUs that wait in the database, as the sender takes them: whole, in order, until they arrived.

Receipts are put together room by room: one EDU holds one receipt of each user in each room, so what
somebody has read in several threads goes into several EDUs. Spec: S2S, receipts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Protocol

from bridge.engine.canonical import JsonObject, parse_json
from bridge.ids import RoomId, ServerName, UserId
from bridge.storage import edus
from bridge.storage.database import Database, Transaction
from bridge.storage.edus import ReceiptRow

MAX_BYTES = 512 * 1024
"""Of stored EDUs in one transaction; one alone may be more."""
MAX_RECEIPTS_PER_EDU = 100


class EduSource(Protocol):
    """EDUs of one class, for whoever they are. Asked in the lane of the peer, one at a time."""

    @property
    def is_passing(self) -> bool:
        """What it gives may be lost, and is dropped while the peer is down."""
        ...

    async def pending(self, server: ServerName, limit: int) -> tuple[list[JsonObject], object]:
        """The next EDUs, whole (`edu_type` and `content`), and a token that names them."""
        ...

    async def sent(self, server: ServerName, token: object) -> None:
        """The peer has them. Idempotent."""
        ...

    async def waiting(self) -> Collection[ServerName]:
        """Peers that something is kept for: they are tried until they have it."""
        ...

    def dropped(self, server: ServerName) -> None:
        """The peer is down: what is passing has passed."""
        ...


class StoredEdus:
    """EDUs of which every one counts."""

    is_passing = False

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def pending(self, server: ServerName, limit: int) -> tuple[list[JsonObject], object]:
        rows = await self._database.read(partial(edus.due, server=server, limit=limit))
        taken: list[JsonObject] = []
        row_ids: list[int] = []
        size = 0
        for row in rows:
            length = len(row.content_json.encode())
            if taken and size + length > MAX_BYTES:
                break
            size += length
            row_ids.append(row.row_id)
            taken.append(
                _edu(row.edu_type, parse_json(row.content_json.encode(), max_bytes=length))
            )
        return taken, tuple(row_ids)

    async def sent(self, server: ServerName, token: object) -> None:
        assert isinstance(token, tuple)
        await self._database.write(partial(edus.delete_edus, row_ids=token))

    async def waiting(self) -> Collection[ServerName]:
        return await self._database.read(edus.servers_with_edus)

    def dropped(self, server: ServerName) -> None:
        return


class StoredReceipts:
    """How far our users have read: the newest of each thread."""

    is_passing = False

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def pending(self, server: ServerName, limit: int) -> tuple[list[JsonObject], object]:

        def look(tx: Transaction) -> tuple[Sequence[ReceiptRow], bool]:
            rows = edus.due_receipts(tx, server, limit * MAX_RECEIPTS_PER_EDU)
            return rows, edus.has_outside(tx, server)

        rows, has_outside = await self._database.read(look)
        if has_outside:
            # It has left since, and is told nothing more of that room.
            await self._database.write(partial(edus.forget_outside, server=server))
        made, taken = to_receipt_edus(rows, limit)
        return made, tuple(taken)

    async def sent(self, server: ServerName, token: object) -> None:
        assert isinstance(token, tuple)
        await self._database.write(partial(edus.delete_receipts, server=server, rows=token))

    async def waiting(self) -> Collection[ServerName]:
        return await self._database.read(edus.servers_with_receipts)

    def dropped(self, server: ServerName) -> None:
        return


def to_receipt_edus(
    rows: Sequence[ReceiptRow], limit: int
) -> tuple[list[JsonObject], list[ReceiptRow]]:
    """EDUs, at most `limit`, and the receipts that they hold."""
    made: list[dict[RoomId, dict[UserId, JsonObject]]] = []
    counts: list[int] = []
    taken: list[ReceiptRow] = []
    for row in rows:
        place = next(
            (
                number
                for number, rooms in enumerate(made)
                if counts[number] < MAX_RECEIPTS_PER_EDU
                and row.user_id not in rooms.get(row.room_id, ())
            ),
            None,
        )
        if place is None:
            if len(made) == limit:
                continue
            place = len(made)
            made.append({})
            counts.append(0)
        data: JsonObject = {"ts": row.at_ms}
        if row.thread_id is not None:
            data["thread_id"] = row.thread_id
        entry = {"event_ids": [row.event_id], "data": data}
        made[place].setdefault(row.room_id, {})[row.user_id] = entry
        counts[place] += 1
        taken.append(row)
    contents = [{room_id: {"m.read": users} for room_id, users in rooms.items()} for rooms in made]
    return [_edu("m.receipt", content) for content in contents], taken


def _edu(edu_type: str, content: object) -> JsonObject:
    return {"edu_type": edu_type, "content": content}
