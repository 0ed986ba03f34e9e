"""Peers: what each still has to be sent, room by room, and when it may be tried again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from sqlalchemy import Row, bindparam, delete, exists, func, select, update

from bridge.ids import RoomId, ServerName
from bridge.storage import streams
from bridge.storage.database import Transaction
from bridge.storage.schema import events, peer_rooms, peers, stream_acceptances

MAX_ERROR = 500
LOOK = 1_000
"""Peers looked for in one statement."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A peer must be sent what stands in a room from `first` to `newest`."""

    server: ServerName
    room_id: RoomId
    first: int
    newest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A peer that must be tried, and from when on."""

    server: ServerName
    next_attempt_ms: int


def mark(tx: Transaction, marks: Sequence[Mark]) -> frozenset[tuple[ServerName, RoomId]]:
    """There is something new for these peers. Answers which of them it is the first of that room.

    Marks come in the order of positions, so a peer that had everything (or is new) starts at
    `first`: whatever lies between is not for it.
    """
    if not marks:
        return frozenset()
    before = tx.execute(
        select(peer_rooms.c.server, peer_rooms.c.room_id).where(
            peer_rooms.c.server.in_({one.server for one in marks}),
            peer_rooms.c.room_id.in_({one.room_id for one in marks}),
        )
    ).all()
    fresh = {(one.server, one.room_id) for one in marks} - {tuple(row) for row in before}
    tx.execute(
        tx.dialect.insert_ignore(peer_rooms),
        [
            {
                "server": mark.server,
                "room_id": mark.room_id,
                "sent_position": mark.first - 1,
                "newest_position": mark.first - 1,
            }
            for mark in marks
        ],
    )
    rows = [
        {"of": mark.server, "within": mark.room_id, "start": mark.first - 1, "newest": mark.newest}
        for mark in marks
    ]
    row = (peer_rooms.c.server == bindparam("of"), peer_rooms.c.room_id == bindparam("within"))
    tx.execute(
        update(peer_rooms)
        .where(
            *row,
            peer_rooms.c.sent_position >= peer_rooms.c.newest_position,
            peer_rooms.c.sent_position < bindparam("start"),
        )
        .values(sent_position=bindparam("start")),
        [{"of": one["of"], "within": one["within"], "start": one["start"]} for one in rows],
    )
    tx.execute(
        update(peer_rooms)
        .where(*row, peer_rooms.c.newest_position < bindparam("newest"))
        .values(newest_position=bindparam("newest")),
        [{"of": one["of"], "within": one["within"], "newest": one["newest"]} for one in rows],
    )
    return frozenset(fresh)


def behind(tx: Transaction) -> Sequence[Waiting]:
    """Every peer with a backlog."""
    rows = tx.execute(
        select(peer_rooms.c.server, func.coalesce(peers.c.next_attempt_ms, 0).label("next"))
        .select_from(peer_rooms.outerjoin(peers, peers.c.server == peer_rooms.c.server))
        .where(peer_rooms.c.newest_position > peer_rooms.c.sent_position)
        .distinct()
    )
    return [Waiting(server=ServerName(row.server), next_attempt_ms=row.next) for row in rows]


def failing(tx: Transaction, servers: Collection[ServerName]) -> Sequence[Waiting]:
    """Those of them that could not be reached the last time."""
    rows = tx.execute(
        select(peers.c.server, peers.c.next_attempt_ms).where(
            peers.c.server.in_(sorted(servers)), peers.c.failures > 0
        )
    )
    return [
        Waiting(server=ServerName(row.server), next_attempt_ms=row.next_attempt_ms) for row in rows
    ]


def waiting(tx: Transaction, servers: Collection[ServerName]) -> Sequence[Waiting]:
    """When each of them may be tried."""
    found: list[Waiting] = []
    names = sorted(servers)
    for start in range(0, len(names), LOOK):
        some = names[start : start + LOOK]
        rows = tx.execute(
            select(peers.c.server, peers.c.next_attempt_ms).where(peers.c.server.in_(some))
        )
        known = {ServerName(row.server): int(row.next_attempt_ms) for row in rows}
        found += [Waiting(server=one, next_attempt_ms=known.get(one, 0)) for one in some]
    return found


def down(tx: Transaction, limit: int) -> Sequence[PeerState]:
    """Peers that could not be reached the last time and still have to be sent something."""
    behind_now = exists().where(
        peer_rooms.c.server == peers.c.server,
        peer_rooms.c.newest_position > peer_rooms.c.sent_position,
    )
    rows = tx.execute(
        select(peers).where(peers.c.failures > 0, behind_now).order_by(peers.c.server).limit(limit)
    )
    return [_state(row) for row in rows]


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


def state(tx: Transaction, server: ServerName) -> PeerState:
    row = tx.execute(select(peers).where(peers.c.server == server)).one_or_none()
    if row is None:
        return PeerState(
            server=server, failures=0, next_attempt_ms=0, last_success_ms=None, last_error=None
        )
    return _state(row)


def _state(row: Row[Any]) -> PeerState:
    return PeerState(
        server=ServerName(row.server),
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


def hasten(tx: Transaction, servers: Collection[ServerName]) -> None:
    """These peers showed themselves: they may be tried at once. Their failures stay counted."""
    tx.execute(update(peers).where(peers.c.server.in_(sorted(servers))).values(next_attempt_ms=0))


def hasten_those(tx: Transaction, concerned: Callable[[ServerName], bool]) -> None:
    """What waits for these is tried now."""
    waiting = {one.server for one in behind(tx) if concerned(one.server)}
    if waiting:
        hasten(tx, waiting)
        tx.wake(TOPIC)


def forget_acceptances(tx: Transaction, *, reader: str, before_ms: int, limit: int = 1_000) -> int:
    """Drop the oldest acceptances that the reader has passed, of events older than `before_ms`
    (or purged); stops at the first younger one. Returns how many went."""
    table = stream_acceptances
    rows = tx.execute(
        select(table.c.position, events.c.received_ms)
        .select_from(table.outerjoin(events, events.c.event_id == table.c.event_id))
        .where(table.c.position <= streams.cursor(tx, reader))
        .order_by(table.c.position)
        .limit(limit)
    )
    old = [
        row.position
        for row in takewhile(
            lambda row: row.received_ms is None or row.received_ms < before_ms, rows
        )
    ]
    if old:
        tx.execute(delete(table).where(table.c.position <= old[-1]))
    return len(old)


def _ensure(tx: Transaction, server: ServerName) -> None:
    tx.execute(
        tx.dialect.insert_ignore(peers).values(
            server=server, failures=0, next_attempt_ms=0, room_versions="{}"
        )
    )
