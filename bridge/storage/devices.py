"""Devices of our own users: the list of each, its version, and which servers follow it.

Each user's list has a stream: a number that counts up with every change. `next_stream` locks it, so
that whoever changes a list does so alone until the commit; take it before anything else is written.
Spec: S2S, device management.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, delete, select, update

from bridge.ids import DeviceId, EventId, RoomId, ServerName, UserId
from bridge.storage import streams
from bridge.storage.database import Transaction
from bridge.storage.schema import (
    device_list_shares,
    device_streams,
    devices,
    events,
    fallback_keys,
    memberships,
    one_time_keys,
    rooms,
    stream_device_lists,
    stream_to_device,
)

FIRST_STREAM = 1
"""The version of a list that has never changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """`keys`: JSON as uploaded; None: it has none."""

    user_id: UserId
    device_id: DeviceId
    display_name: str | None
    keys: str | None
    stream_id: int


# --- the list and its version ----------------------------------------------------------------


def stream_id(tx: Transaction, user_id: UserId) -> int:
    found: int | None = tx.execute(
        select(device_streams.c.stream_id).where(device_streams.c.user_id == user_id)
    ).scalar()
    return FIRST_STREAM if found is None else found


def lock(tx: Transaction, user_id: UserId) -> int:
    """The version; nobody else changes the list until the commit."""
    tx.execute(
        tx.dialect.insert_ignore(device_streams).values(user_id=user_id, stream_id=FIRST_STREAM)
    )
    wanted = select(device_streams.c.stream_id).where(device_streams.c.user_id == user_id)
    return int(tx.execute(tx.dialect.lock_rows(wanted)).scalar_one())


def next_stream(tx: Transaction, user_id: UserId) -> int:
    """One more change of the list; tells it to those who wait for changes."""
    number = lock(tx, user_id) + 1
    tx.execute(
        update(device_streams).where(device_streams.c.user_id == user_id).values(stream_id=number)
    )
    return number


def note_change(tx: Transaction, user_id: UserId) -> None:
    """Something about the user's devices or keys is new, for those who follow the changes of all.

    Whoever calls holds the lock of the list.
    """
    position = streams.append(tx, stream_device_lists, {"user_id": user_id})
    tx.execute(
        delete(stream_device_lists).where(
            stream_device_lists.c.user_id == user_id, stream_device_lists.c.position < position
        )
    )


def put(tx: Transaction, row: DeviceRow, now_ms: int) -> None:
    values = {
        "user_id": row.user_id,
        "device_id": row.device_id,
        "display_name": row.display_name,
        "keys": row.keys,
        "stream_id": row.stream_id,
        "created_ms": now_ms,
    }
    changing = ("display_name", "keys", "stream_id")
    tx.execute(tx.dialect.upsert(devices, ("user_id", "device_id"), changing).values(values))


def find(tx: Transaction, user_id: UserId, device_id: DeviceId) -> DeviceRow | None:
    row = tx.execute(
        select(devices).where(devices.c.user_id == user_id, devices.c.device_id == device_id)
    ).one_or_none()
    return None if row is None else _device(row)


def of_user(tx: Transaction, user_id: UserId) -> list[DeviceRow]:
    """In the order in which they last changed."""
    rows = tx.execute(
        select(devices)
        .where(devices.c.user_id == user_id)
        .order_by(devices.c.stream_id, devices.c.device_id)
    )
    return [_device(row) for row in rows]


def of_users(tx: Transaction, user_ids: Collection[UserId]) -> dict[UserId, list[DeviceRow]]:
    rows = tx.execute(
        select(devices)
        .where(devices.c.user_id.in_(sorted(user_ids)))
        .order_by(devices.c.user_id, devices.c.device_id)
    )
    found: dict[UserId, list[DeviceRow]] = {}
    for row in rows:
        found.setdefault(UserId(row.user_id), []).append(_device(row))
    return found


def remove(tx: Transaction, user_id: UserId, device_id: DeviceId) -> bool:
    """The device, its keys, and what waits for it. False: there was none."""
    gone = tx.execute(
        delete(devices).where(devices.c.user_id == user_id, devices.c.device_id == device_id)
    ).rowcount
    for table in (one_time_keys, fallback_keys, stream_to_device):
        tx.execute(delete(table).where(table.c.user_id == user_id, table.c.device_id == device_id))
    return gone > 0


def users_with_devices(tx: Transaction, after: str, limit: int) -> list[UserId]:
    """By name, the next after `after`."""
    rows = tx.execute(
        select(devices.c.user_id)
        .distinct()
        .where(devices.c.user_id > after)
        .order_by(devices.c.user_id)
        .limit(limit)
    )
    return [UserId(row.user_id) for row in rows]


def is_any(tx: Transaction) -> bool:
    return tx.execute(select(devices.c.user_id).limit(1)).first() is not None


def has_any(tx: Transaction, user_id: UserId) -> bool:
    wanted = select(devices.c.device_id).where(devices.c.user_id == user_id)
    return tx.execute(wanted.limit(1)).first() is not None


def members_named(
    tx: Transaction, event_ids: Collection[EventId]
) -> frozenset[tuple[RoomId, UserId]]:
    """Of these events, whose membership of which room they tell."""
    rows = tx.execute(
        select(events.c.room_id, events.c.state_key).where(
            events.c.event_id.in_(sorted(event_ids)),
            events.c.type == "m.room.member",
            events.c.state_key.is_not(None),
        )
    )
    return frozenset((RoomId(row.room_id), UserId(row.state_key)) for row in rows)


def owners_in_room(tx: Transaction, room_id: RoomId) -> list[UserId]:
    """Joined users of the room who have devices."""
    rows = tx.execute(
        select(memberships.c.user_id)
        .where(
            memberships.c.room_id == room_id,
            memberships.c.membership == "join",
            memberships.c.user_id.in_(select(devices.c.user_id)),
        )
        .order_by(memberships.c.user_id)
    )
    return [UserId(row.user_id) for row in rows]


# --- who follows a list ----------------------------------------------------------------------


def shares(tx: Transaction, user_id: UserId) -> dict[ServerName, int]:
    """The servers that follow the list, and what each was told last."""
    rows = tx.execute(select(device_list_shares).where(device_list_shares.c.user_id == user_id))
    return {ServerName(row.server): row.stream_id for row in rows}


def set_shares(
    tx: Transaction, user_id: UserId, servers: Collection[ServerName], stream: int
) -> None:
    """These were told of this version."""
    if servers:
        tx.execute(
            tx.dialect.upsert(device_list_shares, ("user_id", "server")),
            [
                {"user_id": user_id, "server": server, "stream_id": stream}
                for server in sorted(servers)
            ],
        )


def end_shares(tx: Transaction, user_id: UserId, servers: Collection[ServerName]) -> None:
    """They follow the list no more; should they again, they are told that they lack something."""
    if servers:
        tx.execute(
            delete(device_list_shares).where(
                device_list_shares.c.user_id == user_id,
                device_list_shares.c.server.in_(sorted(servers)),
            )
        )


def servers_with(tx: Transaction, user_id: UserId) -> frozenset[ServerName]:
    """Servers with a joined user in a room where this one is joined, the user's own included."""
    theirs = memberships.alias("theirs")
    rows = tx.execute(
        select(theirs.c.server)
        .distinct()
        .select_from(
            memberships.join(
                theirs,
                and_(theirs.c.room_id == memberships.c.room_id, theirs.c.membership == "join"),
            ).join(rooms, rooms.c.room_id == memberships.c.room_id)
        )
        .where(
            memberships.c.user_id == user_id,
            memberships.c.membership == "join",
            rooms.c.joined.is_(True),
        )
    )
    return frozenset(ServerName(row.server) for row in rows)


def is_with_us(tx: Transaction, user_id: UserId) -> bool:
    """Whether the user is joined in a room that we are in."""
    found = tx.execute(
        select(memberships.c.room_id)
        .join(rooms, rooms.c.room_id == memberships.c.room_id)
        .where(
            memberships.c.user_id == user_id,
            memberships.c.membership == "join",
            rooms.c.joined.is_(True),
        )
        .limit(1)
    )
    return found.first() is not None


def is_with_a_device(tx: Transaction, user_id: UserId) -> bool:
    """Whether the user is in a room with one of ours who has a device."""
    ours = memberships.alias("ours")
    found = tx.execute(
        select(ours.c.user_id)
        .select_from(
            memberships.join(
                ours, and_(ours.c.room_id == memberships.c.room_id, ours.c.membership == "join")
            ).join(devices, devices.c.user_id == ours.c.user_id)
        )
        .where(memberships.c.user_id == user_id, memberships.c.membership == "join")
        .limit(1)
    )
    return found.first() is not None


def changed_since(tx: Transaction, after: int, limit: int) -> Sequence[tuple[int, UserId]]:
    """Whose devices or keys changed after a position of the stream, in order."""
    rows = streams.read_since(tx, stream_device_lists, after, limit)
    return [(row["position"], UserId(row["user_id"])) for row in rows]


def _device(row: Row[Any]) -> DeviceRow:
    return DeviceRow(
        user_id=UserId(row.user_id),
        device_id=DeviceId(row.device_id),
        display_name=row.display_name,
        keys=row.keys,
        stream_id=row.stream_id,
    )
