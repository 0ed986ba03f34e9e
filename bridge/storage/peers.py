"""Peers: what each still has to be sent, room by room, and when it may be tried again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from bridge.ids import RoomId, ServerName
from bridge.storage.database import Transaction
from bridge.storage.schema import peer_rooms, peers

MAX_ERROR = 500
TOPIC = "peers"
"""Woken when the time of a next attempt changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerState:
    """`failures` counts attempts since the last success."""

    server: ServerName
    failures: int
    next_attempt_ms: int
    last_success_ms: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """A room in which a peer has not been sent everything yet."""

    room_id: RoomId
    sent_position: int
    newest_position: int


def mark(
    tx: Transaction, *, servers: Collection[ServerName], room_id: RoomId, position: int
) -> None:
    """There is something new for these servers. Whoever is new to the room starts here."""
    if not servers:
        return
    tx.execute(
        tx.dialect.insert_ignore(peer_rooms),
        [
            {
                "server": server,
                "room_id": room_id,
                "sent_position": position - 1,
                "newest_position": position,
            }
            for server in sorted(servers)
        ],
    )
    tx.execute(
        update(peer_rooms)
        .where(
            peer_rooms.c.room_id == room_id,
            peer_rooms.c.server.in_(sorted(servers)),
            peer_rooms.c.newest_position < position,
        )
        .values(newest_position=position)
    )


def behind(tx: Transaction) -> Sequence[ServerName]:
    """Every peer with a backlog."""
    rows = tx.execute(
        select(peer_rooms.c.server)
        .where(peer_rooms.c.newest_position > peer_rooms.c.sent_position)
        .distinct()
    )
    return [ServerName(row.server) for row in rows]


def backlog(tx: Transaction, server: ServerName, limit: int) -> Sequence[Backlog]:
    """The peer's rooms that are behind, the longest waiting first."""
    rows = tx.execute(
        select(peer_rooms)
        .where(
            peer_rooms.c.server == server,
            peer_rooms.c.newest_position > peer_rooms.c.sent_position,
        )
        .order_by(peer_rooms.c.sent_position)
        .limit(limit)
    )
    return [
        Backlog(
            room_id=RoomId(row.room_id),
            sent_position=row.sent_position,
            newest_position=row.newest_position,
        )
        for row in rows
    ]


def sent(tx: Transaction, server: ServerName, room_id: RoomId, position: int) -> None:
    """Everything in the room up to `position` is with the peer or not for it."""
    tx.execute(
        update(peer_rooms)
        .where(
            peer_rooms.c.server == server,
            peer_rooms.c.room_id == room_id,
            peer_rooms.c.sent_position < position,
        )
        .values(sent_position=position)
    )


def forget_room(tx: Transaction, room_id: RoomId) -> None:
    tx.execute(delete(peer_rooms).where(peer_rooms.c.room_id == room_id))


def state(tx: Transaction, server: ServerName) -> PeerState:
    row = tx.execute(select(peers).where(peers.c.server == server)).one_or_none()
    if row is None:
        return PeerState(
            server=server, failures=0, next_attempt_ms=0, last_success_ms=None, last_error=None
        )
    return PeerState(
        server=server,
        failures=row.failures,
        next_attempt_ms=row.next_attempt_ms,
        last_success_ms=row.last_success_ms,
        last_error=row.last_error,
    )


def succeeded(tx: Transaction, server: ServerName, *, now_ms: int) -> None:
    _ensure(tx, server)
    tx.execute(
        update(peers)
        .where(peers.c.server == server)
        .values(failures=0, next_attempt_ms=0, last_success_ms=now_ms, last_error=None)
    )


def failed(tx: Transaction, server: ServerName, *, next_attempt_ms: int, error: str) -> None:
    _ensure(tx, server)
    tx.execute(
        update(peers)
        .where(peers.c.server == server)
        .values(
            failures=peers.c.failures + 1,
            next_attempt_ms=next_attempt_ms,
            last_error=error[:MAX_ERROR],
        )
    )
    tx.wake(TOPIC)


def hasten(tx: Transaction, server: ServerName) -> bool:
    """The peer showed itself: it may be tried at once. True where it was being waited for."""
    result = tx.execute(
        update(peers)
        .where(peers.c.server == server, peers.c.next_attempt_ms > 0)
        .values(next_attempt_ms=0)
    )
    return bool(result.rowcount)


def next_attempt_ms(tx: Transaction) -> int | None:
    """When the first of the peers with a backlog may be tried."""
    value = tx.execute(
        select(func.min(func.coalesce(peers.c.next_attempt_ms, 0)))
        .select_from(peer_rooms.outerjoin(peers, peers.c.server == peer_rooms.c.server))
        .where(peer_rooms.c.newest_position > peer_rooms.c.sent_position)
    ).scalar()
    return None if value is None else int(value)


def _ensure(tx: Transaction, server: ServerName) -> None:
    tx.execute(
        tx.dialect.insert_ignore(peers).values(
            server=server, failures=0, next_attempt_ms=0, room_versions="{}"
        )
    )
