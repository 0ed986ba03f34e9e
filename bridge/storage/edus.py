"""EDUs that wait for a peer, and must not be lost: every one counts, or the newest of a kind.

*Every one counts* (to-device messages, device lists, signing keys): rows in order, each under an ID
of its own. *Newest wins* (receipts): one row for each peer, room, user and thread. Who writes them
wakes the sender afterwards. DESIGN of the house: EDUs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, delete, exists, func, or_, select, update

from bridge.ids import EventId, RoomId, ServerName, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import memberships, outbound_edus, outbound_receipts

MAX_WAITING = 10_000
"""EDUs that one peer may have waiting, and receipts."""
_AT_ONCE = 500
UNTHREADED = ""
"""In place of the thread of a receipt that has none: a key has no NULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EduRow:
    row_id: int
    edu_type: str
    content_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptRow:
    """How far somebody has read; `thread_id` None is a receipt for the whole room."""

    room_id: RoomId
    user_id: UserId
    thread_id: str | None
    event_id: EventId
    at_ms: int


_PUT: dict[str, Any] = {}
"""By database, made once: building a statement costs more than running it."""
_RECEIPT_KEY = ("server", "room_id", "user_id", "thread_id")
_IS_THERE = (
    exists()
    .where(
        memberships.c.room_id == outbound_receipts.c.room_id,
        memberships.c.server == outbound_receipts.c.server,
        memberships.c.membership == "join",
    )
    .correlate(outbound_receipts)
)
_EDU_SERVERS = select(outbound_edus.c.server).distinct()
_RECEIPT_SERVERS = select(outbound_receipts.c.server).distinct()
_HAS_WAITING = select(
    or_(
        exists().where(outbound_edus.c.server == bindparam("of")),
        exists().where(outbound_receipts.c.server == bindparam("of")),
    )
)
_WAITING = select(func.count()).select_from(
    select(outbound_edus.c.row_id)
    .where(outbound_edus.c.server == bindparam("of"))
    .limit(MAX_WAITING)
    .subquery()
)


def put(
    tx: Transaction,
    *,
    server: ServerName,
    edu_type: str,
    edu_id: str,
    content_json: str,
    now_ms: int,
) -> bool:
    """Sent to the peer after all that was put before. The same `edu_id` of a type that still waits
    is one EDU. False: so many wait for the peer that this one is not stored."""
    if tx.execute(_WAITING, {"of": server}).scalar_one() >= MAX_WAITING:
        return False
    tx.execute(
        tx.dialect.insert_ignore(outbound_edus).values(
            server=server,
            edu_type=edu_type,
            edu_id=edu_id,
            content=content_json,
            created_ms=now_ms,
        )
    )
    return True


def put_all(
    tx: Transaction,
    contents: Mapping[ServerName, str],
    *,
    edu_type: str,
    edu_id: str,
    now_ms: int,
) -> frozenset[ServerName]:
    """`put` for many peers in a few statements; those for which too many wait."""
    servers = sorted(contents)
    full: set[ServerName] = set()
    rows: list[dict[str, object]] = []
    for start in range(0, len(servers), _AT_ONCE):
        some = servers[start : start + _AT_ONCE]
        counts = tx.execute(
            select(outbound_edus.c.server, func.count().label("waiting"))
            .where(outbound_edus.c.server.in_(some))
            .group_by(outbound_edus.c.server)
        )
        full |= {ServerName(one.server) for one in counts if one.waiting >= MAX_WAITING}
    for server in servers:
        if server not in full:
            rows.append(
                {
                    "server": server,
                    "edu_type": edu_type,
                    "edu_id": edu_id,
                    "content": contents[server],
                    "created_ms": now_ms,
                }
            )
    if rows:
        tx.execute(tx.dialect.insert_ignore(outbound_edus), rows)
    return frozenset(full)


def due(tx: Transaction, server: ServerName, limit: int) -> Sequence[EduRow]:
    """The first that the peer must be sent, in order."""
    rows = tx.execute(
        select(outbound_edus)
        .where(outbound_edus.c.server == server)
        .order_by(outbound_edus.c.row_id)
        .limit(limit)
    )
    return [
        EduRow(row_id=row.row_id, edu_type=row.edu_type, content_json=row.content) for row in rows
    ]


def delete_edus(tx: Transaction, row_ids: Collection[int]) -> None:
    """The peer has them."""
    tx.execute(delete(outbound_edus).where(outbound_edus.c.row_id.in_(sorted(row_ids))))


def put_receipt(tx: Transaction, servers: Collection[ServerName], row: ReceiptRow) -> None:
    """Takes the place of what still waits of the same thread. What is new for a peer for which too
    much waits is not kept: what somebody reads next will tell it."""
    if not servers:
        return
    values = {
        "room_id": row.room_id,
        "user_id": row.user_id,
        "thread_id": row.thread_id or UNTHREADED,
        "event_id": row.event_id,
        "at_ms": row.at_ms,
    }
    counts = tx.execute(
        select(outbound_receipts.c.server, func.count().label("waiting"))
        .where(outbound_receipts.c.server.in_(sorted(servers)))
        .group_by(outbound_receipts.c.server)
    )
    full = {one.server for one in counts if one.waiting >= MAX_WAITING}
    rows = [values | {"server": server} for server in sorted(servers) if server not in full]
    if rows:
        tx.execute(_put(tx), rows)
    if full:
        table = outbound_receipts.c
        tx.execute(
            update(outbound_receipts)
            .where(
                table.server.in_(sorted(full)),
                table.room_id == row.room_id,
                table.user_id == row.user_id,
                table.thread_id == values["thread_id"],
            )
            .values(event_id=row.event_id, at_ms=row.at_ms)
        )


def _put(tx: Transaction) -> Any:
    if tx.dialect.name not in _PUT:
        _PUT[tx.dialect.name] = tx.dialect.upsert(outbound_receipts, _RECEIPT_KEY)
    return _PUT[tx.dialect.name]


def due_receipts(tx: Transaction, server: ServerName, limit: int) -> Sequence[ReceiptRow]:
    """Room by room, of rooms where the peer still is."""
    rows = tx.execute(
        select(outbound_receipts)
        .where(outbound_receipts.c.server == server, _IS_THERE)
        .order_by(
            outbound_receipts.c.room_id, outbound_receipts.c.user_id, outbound_receipts.c.thread_id
        )
        .limit(limit)
    )
    return [
        ReceiptRow(
            room_id=RoomId(row.room_id),
            user_id=UserId(row.user_id),
            thread_id=row.thread_id or None,
            event_id=EventId(row.event_id),
            at_ms=row.at_ms,
        )
        for row in rows
    ]


def has_outside(tx: Transaction, server: ServerName) -> bool:
    """Whether receipts of rooms wait where the peer is not any more."""
    query = exists().where(outbound_receipts.c.server == server, ~_IS_THERE)
    return bool(tx.execute(select(query)).scalar())


def forget_outside(tx: Transaction, server: ServerName) -> None:
    tx.execute(delete(outbound_receipts).where(outbound_receipts.c.server == server, ~_IS_THERE))


def delete_receipts(tx: Transaction, server: ServerName, rows: Sequence[ReceiptRow]) -> None:
    """The peer has them; what was read meanwhile stays."""
    if not rows:
        return
    table = outbound_receipts.c
    tx.execute(
        delete(outbound_receipts).where(
            table.server == server,
            table.room_id == bindparam("in_room"),
            table.user_id == bindparam("of"),
            table.thread_id == bindparam("within"),
            table.event_id == bindparam("upto"),
            table.at_ms == bindparam("at"),
        ),
        [
            {
                "in_room": row.room_id,
                "of": row.user_id,
                "within": row.thread_id or UNTHREADED,
                "upto": row.event_id,
                "at": row.at_ms,
            }
            for row in rows
        ],
    )


def has_waiting(tx: Transaction, server: ServerName) -> bool:
    """Whether anything at all waits for the peer."""
    return bool(tx.execute(_HAS_WAITING, {"of": server}).scalar())


def servers_with_edus(tx: Transaction) -> frozenset[ServerName]:
    return frozenset(ServerName(one) for one in tx.execute(_EDU_SERVERS).scalars())


def servers_with_receipts(tx: Transaction) -> frozenset[ServerName]:
    return frozenset(ServerName(one) for one in tx.execute(_RECEIPT_SERVERS).scalars())
