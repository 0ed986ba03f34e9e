"""Rooms, their forward extremities, current memberships and gaps.

The room row's `position` counts appends; `advance` compares it before it writes (DESIGN, Append).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, func, insert, select, update

from bridge.errors import Conflict
from bridge.ids import EventId, RoomId, RoomVersionId, ServerName, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import (
    aliases,
    event_edges,
    events,
    forward_extremities,
    gaps,
    inbound_pdus,
    invites,
    memberships,
    outbound_receipts,
    peer_rooms,
    published_rooms,
    receipts,
    redactions,
    rooms,
    snapshots,
    stream_events,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRow:
    room_id: RoomId
    version: RoomVersionId
    position: int
    snapshot_id: int | None
    joined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRow:
    user_id: UserId
    server: ServerName
    membership: str
    event_id: EventId


_FIND = select(rooms).where(rooms.c.room_id == bindparam("room"))
_SET_STATE = (
    update(rooms)
    .where(rooms.c.room_id == bindparam("room"))
    .values(snapshot_id=bindparam("snapshot"), joined=bindparam("in_it"))
)


def find(tx: Transaction, room_id: RoomId) -> RoomRow | None:
    row = tx.execute(_FIND, {"room": room_id}).one_or_none()
    if row is None:
        return None
    return RoomRow(
        room_id=RoomId(row.room_id),
        version=RoomVersionId(row.version),
        position=row.position,
        snapshot_id=row.snapshot_id,
        joined=row.joined,
    )


def hold(tx: Transaction, room_id: RoomId, *, expected: int) -> None:
    """Nobody moves the room on until the end of the transaction. Raises `Conflict` when it is not
    at `expected` any more."""
    query = select(rooms.c.position).where(rooms.c.room_id == room_id)
    if tx.execute(tx.dialect.lock_rows(query)).scalar() != expected:
        raise Conflict(f"room {room_id} moved on from position {expected}")


def insert_room(tx: Transaction, row: RoomRow) -> None:
    tx.execute(
        insert(rooms).values(
            room_id=row.room_id,
            version=row.version,
            position=row.position,
            snapshot_id=row.snapshot_id,
            joined=row.joined,
        )
    )


def expect(tx: Transaction, room_id: RoomId, version: RoomVersionId) -> None:
    """A row for a room that we may enter soon: that of an invite, where there is none. Raises
    `Conflict` where we were inside it, and it had another version."""
    row = find(tx, room_id)
    if row is None:
        insert_room(
            tx,
            RoomRow(room_id=room_id, version=version, position=0, snapshot_id=None, joined=False),
        )
    elif row.version != version:
        if row.snapshot_id is not None:
            raise Conflict(f"room {room_id} had version {row.version}")
        set_version(tx, room_id, version)


# Statements of the hot path are made once: building one costs more than running it.
_ADVANCE = (
    update(rooms)
    .where(and_(rooms.c.room_id == bindparam("room"), rooms.c.position == bindparam("expected")))
    .values(position=bindparam("new"))
)
_DELETE_EXTREMITY = delete(forward_extremities).where(
    forward_extremities.c.room_id == bindparam("room"),
    forward_extremities.c.event_id == bindparam("event"),
)
_REPLACE_EXTREMITY = (
    update(forward_extremities)
    .where(
        forward_extremities.c.room_id == bindparam("room"),
        forward_extremities.c.event_id == bindparam("event"),
    )
    .values(event_id=bindparam("successor"))
)
_INSERT_EXTREMITY = insert(forward_extremities)


def advance(tx: Transaction, room_id: RoomId, *, expected: int) -> None:
    """Move the room on from `expected`. Raises `Conflict` when somebody else moved it first."""
    done = tx.execute(_ADVANCE, {"room": room_id, "expected": expected, "new": expected + 1})
    if done.rowcount != 1:
        raise Conflict(f"room {room_id} moved on from position {expected}")


def set_version(tx: Transaction, room_id: RoomId, version: RoomVersionId) -> None:
    """What an invite said of a room need not be true; whoever enters it knows."""
    tx.execute(update(rooms).where(rooms.c.room_id == room_id).values(version=version))


def set_state(tx: Transaction, room_id: RoomId, *, snapshot_id: int, joined: bool) -> None:
    """After `advance`, in the same transaction."""
    tx.execute(_SET_STATE, {"room": room_id, "snapshot": snapshot_id, "in_it": joined})


def extremities(tx: Transaction, room_id: RoomId) -> list[tuple[EventId, int]]:
    """Event IDs and depths."""
    rows = tx.execute(
        select(forward_extremities.c.event_id, events.c.depth)
        .join(events, events.c.event_id == forward_extremities.c.event_id)
        .where(forward_extremities.c.room_id == room_id)
        .order_by(forward_extremities.c.event_id)
    )
    return [(EventId(row.event_id), row.depth) for row in rows]


def change_extremities(
    tx: Transaction, room_id: RoomId, *, gone: Collection[EventId], new: Collection[EventId]
) -> None:
    if len(gone) == 1 and len(new) == 1:  # As nearly always.
        (old,), (successor,) = gone, new
        tx.execute(_REPLACE_EXTREMITY, {"room": room_id, "event": old, "successor": successor})
        return
    for event_id in sorted(gone):
        tx.execute(_DELETE_EXTREMITY, {"room": room_id, "event": event_id})
    for event_id in sorted(new):
        tx.execute(_INSERT_EXTREMITY, {"room_id": room_id, "event_id": event_id})


def set_members(
    tx: Transaction,
    room_id: RoomId,
    *,
    changed: Sequence[MemberRow],
    gone: Collection[UserId] = (),
    replace: bool = False,
) -> None:
    """Write the member events that the current state now holds. `replace`: these are all."""
    users = [] if replace else [*(row.user_id for row in changed), *gone]
    if replace:
        tx.execute(delete(memberships).where(memberships.c.room_id == room_id))
    for start in range(0, len(users), 500):
        tx.execute(
            delete(memberships).where(
                memberships.c.room_id == room_id,
                memberships.c.user_id.in_(users[start : start + 500]),
            )
        )
    if changed:
        tx.execute(
            insert(memberships),
            [
                {
                    "room_id": room_id,
                    "user_id": row.user_id,
                    "server": row.server,
                    "membership": row.membership,
                    "event_id": row.event_id,
                }
                for row in changed
            ],
        )


def members(
    tx: Transaction,
    room_id: RoomId,
    kinds: Collection[str],
    *,
    limit: int,
    server: ServerName | None = None,
) -> list[MemberRow]:
    """In the order in which their member events arrived (outliers first); of one server or all."""
    wanted = (
        select(memberships)
        .outerjoin(stream_events, stream_events.c.event_id == memberships.c.event_id)
        .where(memberships.c.room_id == room_id, memberships.c.membership.in_(sorted(kinds)))
        .order_by(func.coalesce(stream_events.c.position, 0), memberships.c.user_id)
        .limit(limit)
    )
    if server is not None:
        wanted = wanted.where(memberships.c.server == server)
    rows = tx.execute(wanted)
    return [_member(row) for row in rows]


def member(tx: Transaction, room_id: RoomId, user_id: UserId) -> MemberRow | None:
    row = tx.execute(
        select(memberships).where(
            memberships.c.room_id == room_id, memberships.c.user_id == user_id
        )
    ).one_or_none()
    return None if row is None else _member(row)


def joined_among(
    tx: Transaction, users: Mapping[RoomId, Collection[UserId]]
) -> frozenset[tuple[RoomId, UserId]]:
    """Of these users in these rooms, those who are joined, in rooms that we are in."""
    found: set[tuple[RoomId, UserId]] = set()
    wanted = sorted(room_id for room_id, some in users.items() if some)
    ours = tx.execute(
        select(rooms.c.room_id).where(rooms.c.room_id.in_(wanted), rooms.c.joined)
    ).scalars()
    for room_id in map(RoomId, ours.all()):
        # Room by room: for pairs of both SQLite would read the whole table.
        names = tx.execute(
            select(memberships.c.user_id).where(
                memberships.c.room_id == room_id,
                memberships.c.user_id.in_(sorted(users[room_id])),
                memberships.c.membership == "join",
            )
        ).scalars()
        found.update((room_id, UserId(name)) for name in names)
    return frozenset(found)


def joined_anywhere(tx: Transaction, users: Collection[UserId]) -> frozenset[UserId]:
    """Those of them who are joined in a room that we are in."""
    names = tx.execute(
        select(memberships.c.user_id)
        .distinct()
        .select_from(memberships.join(rooms, rooms.c.room_id == memberships.c.room_id))
        .where(
            rooms.c.joined,
            memberships.c.user_id.in_(sorted(users)),
            memberships.c.membership == "join",
        )
    ).scalars()
    return frozenset(map(UserId, names))


def rooms_of(tx: Transaction, user_id: UserId, kinds: Collection[str]) -> list[RoomId]:
    rows = tx.execute(
        select(memberships.c.room_id).where(
            memberships.c.user_id == user_id, memberships.c.membership.in_(sorted(kinds))
        )
    )
    return [RoomId(row.room_id) for row in rows]


def servers(tx: Transaction, room_id: RoomId) -> frozenset[ServerName]:
    """Servers with a joined user in the current state."""
    rows = tx.execute(
        select(memberships.c.server)
        .distinct()
        .where(memberships.c.room_id == room_id, memberships.c.membership == "join")
    )
    return frozenset(ServerName(row.server) for row in rows)


def entrance(tx: Transaction, room_id: RoomId, server: ServerName) -> EventId | None:
    """The member event of one of the server's joined users."""
    found = tx.execute(
        select(memberships.c.event_id)
        .where(
            memberships.c.room_id == room_id,
            memberships.c.server == server,
            memberships.c.membership == "join",
        )
        .order_by(memberships.c.user_id)
        .limit(1)
    ).scalar()
    return None if found is None else EventId(found)


def has_left(tx: Transaction, room_id: RoomId, server: ServerName) -> bool:
    """Whether a user of the server was in the room, or might have been, and is not now."""
    found = tx.execute(
        select(memberships.c.user_id)
        .where(
            memberships.c.room_id == room_id,
            memberships.c.server == server,
            memberships.c.membership.in_(("leave", "ban")),
        )
        .limit(1)
    ).scalar()
    return found is not None


def joined_counts(tx: Transaction, room_id: RoomId) -> dict[ServerName, int]:
    """Joined users per server in the current state."""
    rows = tx.execute(
        select(memberships.c.server, func.count().label("users"))
        .where(memberships.c.room_id == room_id, memberships.c.membership == "join")
        .group_by(memberships.c.server)
    )
    return {ServerName(row.server): row.users for row in rows}


def neighbours(tx: Transaction) -> frozenset[ServerName]:
    """Servers with a joined user in any room that we are in, ours included."""
    rows = tx.execute(
        select(memberships.c.server)
        .distinct()
        .select_from(memberships.join(rooms, rooms.c.room_id == memberships.c.room_id))
        .where(rooms.c.joined, memberships.c.membership == "join")
    )
    return frozenset(ServerName(row.server) for row in rows)


def count_shared(tx: Transaction, server: ServerName) -> int:
    """In how many rooms we both are."""
    return int(
        tx.execute(
            select(func.count(memberships.c.room_id.distinct()))
            .select_from(memberships.join(rooms, rooms.c.room_id == memberships.c.room_id))
            .where(
                rooms.c.joined.is_(True),
                memberships.c.server == server,
                memberships.c.membership == "join",
            )
        ).scalar_one()
    )


def count_members(tx: Transaction, room_id: RoomId) -> int:
    """Joined users."""
    query = select(func.count()).where(
        memberships.c.room_id == room_id, memberships.c.membership == "join"
    )
    return int(tx.execute(query).scalar_one())


def has_member_of(
    tx: Transaction, room_id: RoomId, server: ServerName, kinds: Collection[str]
) -> bool:
    """Whether a user of the server has one of these memberships in the current state."""
    query = select(memberships.c.user_id).where(
        memberships.c.room_id == room_id,
        memberships.c.membership.in_(sorted(kinds)),
        memberships.c.server == server,
    )
    return tx.execute(query.limit(1)).first() is not None


def count_joined(tx: Transaction, room_id: RoomId, server: ServerName) -> int:
    query = select(func.count()).where(
        memberships.c.room_id == room_id,
        memberships.c.server == server,
        memberships.c.membership == "join",
    )
    return int(tx.execute(query).scalar_one())


def add_gaps(tx: Transaction, room_id: RoomId, missing: Iterable[EventId]) -> None:
    wanted = sorted(set(missing))
    if not wanted:
        return
    known = {
        row.event_id
        for row in tx.execute(
            select(gaps.c.event_id).where(gaps.c.room_id == room_id, gaps.c.event_id.in_(wanted))
        )
    }
    rows = [{"room_id": room_id, "event_id": one} for one in wanted if one not in known]
    if rows:
        tx.execute(insert(gaps), rows)


def is_gap(tx: Transaction, room_id: RoomId, event_id: EventId) -> bool:
    query = select(gaps.c.event_id).where(gaps.c.room_id == room_id, gaps.c.event_id == event_id)
    return tx.execute(query).first() is not None


def close_gap(tx: Transaction, room_id: RoomId, event_id: EventId) -> None:
    tx.execute(delete(gaps).where(gaps.c.room_id == room_id, gaps.c.event_id == event_id))


def purge_strangers(tx: Transaction, *, before_ms: int, limit: int) -> int:
    """Rooms that we know by invites only, the last of which ended before; how many went."""
    told = select(events.c.event_id).where(
        events.c.room_id == rooms.c.room_id, events.c.received_ms >= before_ms
    )
    open_invites = select(invites.c.room_id).where(invites.c.room_id == rooms.c.room_id)
    waiting = select(inbound_pdus.c.room_id).where(
        inbound_pdus.c.room_id == rooms.c.room_id, inbound_pdus.c.outcome.is_(None)
    )
    found = tx.execute(
        select(rooms.c.room_id)
        .where(
            rooms.c.snapshot_id.is_(None),
            ~told.exists(),
            ~open_invites.exists(),
            ~waiting.exists(),
        )
        .limit(limit)
    )
    gone = [RoomId(room_id) for room_id in found.scalars()]
    for room_id in gone:
        purge(tx, room_id)
    return len(gone)


def purge(tx: Transaction, room_id: RoomId) -> None:
    """Every row of the room goes. Rows of `local_transactions` stay: they answer repetitions."""
    of_room = select(events.c.event_id).where(events.c.room_id == room_id)
    tx.execute(delete(event_edges).where(event_edges.c.event_id.in_(of_room)))
    for table in (
        forward_extremities,
        gaps,
        outbound_receipts,
        receipts,
        snapshots,
        memberships,
        invites,
        stream_events,
        inbound_pdus,
        peer_rooms,
        aliases,
        published_rooms,
        redactions,
        events,
        rooms,
    ):
        tx.execute(delete(table).where(table.c.room_id == room_id))


def _member(row: Row[Any]) -> MemberRow:
    return MemberRow(
        user_id=UserId(row.user_id),
        server=ServerName(row.server),
        membership=row.membership,
        event_id=EventId(row.event_id),
    )
