"""Device lists of other servers' users, as far as we follow them.

A list is *stale* when something of it was missed: then it must be fetched, and what is stored of it
is not to be relied on. `marks` counts what was heard while it was stale; a fetched list settles the
matter only if nothing was heard since the fetch began. Spec: S2S, device management.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Row, and_, case, delete, func, insert, select, update

from bridge.ids import DeviceId, RoomId, ServerName, UserId, server_of
from bridge.storage.database import Transaction
from bridge.storage.schema import (
    cross_signing_keys,
    memberships,
    remote_device_lists,
    remote_devices,
    rooms,
)

TOPIC = "device_lists"
"""Woken when a list has become stale."""
MAX_SEEN = 50
MAX_DEVICES = 1_000
"""Of one list that is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDevice:
    """`keys`: JSON as its server gave it; None: a device without keys."""

    device_id: DeviceId
    display_name: str | None
    keys: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteList:
    user_id: UserId
    server: ServerName
    stream_id: int | None
    """None: never fetched."""
    seen: Sequence[int]
    stale: bool
    marks: int
    attempts: int
    next_attempt_ms: int


def find(tx: Transaction, user_id: UserId) -> RemoteList | None:
    row = tx.execute(
        select(remote_device_lists).where(remote_device_lists.c.user_id == user_id)
    ).one_or_none()
    return None if row is None else _list(row)


def lock(tx: Transaction, user_id: UserId) -> RemoteList | None:
    """The same; nobody else changes it until the commit."""
    wanted = select(remote_device_lists).where(remote_device_lists.c.user_id == user_id)
    row = tx.execute(tx.dialect.lock_rows(wanted)).one_or_none()
    return None if row is None else _list(row)


def follow(tx: Transaction, user_ids: Sequence[UserId]) -> None:
    """Lists that we have not fetched yet: stale from their beginning."""
    for user_id in user_ids:
        tx.execute(
            tx.dialect.insert_ignore(remote_device_lists).values(
                user_id=user_id,
                server=server_of(user_id),
                stream_id=None,
                seen="[]",
                stale=True,
                marks=0,
                attempts=0,
                next_attempt_ms=0,
            )
        )
    tx.wake(TOPIC)


def mark_stale(tx: Transaction, user_id: UserId) -> None:
    """Something was missed, or came while something was missing."""
    tx.execute(
        update(remote_device_lists)
        .where(remote_device_lists.c.user_id == user_id)
        .values(stale=True, marks=remote_device_lists.c.marks + 1)
    )
    tx.wake(TOPIC)


def put_device(tx: Transaction, user_id: UserId, device: RemoteDevice) -> bool:
    """False: there are so many that another one is not kept."""
    others = tx.execute(
        select(func.count()).where(
            remote_devices.c.user_id == user_id, remote_devices.c.device_id != device.device_id
        )
    )
    if others.scalar_one() >= MAX_DEVICES:
        return False
    tx.execute(
        tx.dialect.upsert(remote_devices, ("user_id", "device_id")).values(
            user_id=user_id,
            device_id=device.device_id,
            display_name=device.display_name,
            keys=device.keys,
        )
    )
    return True


def remove_device(tx: Transaction, user_id: UserId, device_id: DeviceId) -> None:
    tx.execute(
        delete(remote_devices).where(
            remote_devices.c.user_id == user_id, remote_devices.c.device_id == device_id
        )
    )


def advance(tx: Transaction, known: RemoteList, stream: int) -> None:
    """An update is in it now."""
    earlier = [one for one in known.seen if one != stream]
    seen = [*earlier[1 - MAX_SEEN :], stream]
    tx.execute(
        update(remote_device_lists)
        .where(remote_device_lists.c.user_id == known.user_id)
        .values(stream_id=stream, seen=orjson.dumps(seen).decode())
    )


def replace(
    tx: Transaction,
    known: RemoteList,
    *,
    stream: int,
    devices: Sequence[RemoteDevice],
    settled: bool,
    next_attempt_ms: int,
) -> None:
    """The whole list as it was fetched. `settled`: it can be relied on. It is not fetched again
    before `next_attempt_ms`."""
    tx.execute(delete(remote_devices).where(remote_devices.c.user_id == known.user_id))
    if devices:
        tx.execute(
            insert(remote_devices),
            [
                {
                    "user_id": known.user_id,
                    "device_id": one.device_id,
                    "display_name": one.display_name,
                    "keys": one.keys,
                }
                for one in devices
            ],
        )
    tx.execute(
        update(remote_device_lists)
        .where(remote_device_lists.c.user_id == known.user_id)
        .values(
            stream_id=stream,
            seen=orjson.dumps([stream]).decode(),
            stale=not settled,
            attempts=0,
            next_attempt_ms=next_attempt_ms,
        )
    )


def postpone(tx: Transaction, user_id: UserId, *, attempts: int, next_attempt_ms: int) -> None:
    tx.execute(
        update(remote_device_lists)
        .where(remote_device_lists.c.user_id == user_id)
        .values(attempts=attempts, next_attempt_ms=next_attempt_ms)
    )


def postpone_all(tx: Transaction, server: ServerName, *, next_attempt_ms: int) -> None:
    """Stale lists of the server are not fetched before; what may be hastened is what has failed."""
    tx.execute(
        update(remote_device_lists)
        .where(
            remote_device_lists.c.server == server,
            remote_device_lists.c.stale.is_(True),
            remote_device_lists.c.next_attempt_ms < next_attempt_ms,
        )
        .values(
            next_attempt_ms=next_attempt_ms,
            attempts=case(
                (remote_device_lists.c.attempts == 0, 1), else_=remote_device_lists.c.attempts
            ),
        )
    )


def hasten(tx: Transaction, server: ServerName, at_ms: int) -> None:
    """The server is there again: what failed is tried at that time, if not sooner."""
    tx.execute(
        update(remote_device_lists)
        .where(
            remote_device_lists.c.server == server,
            remote_device_lists.c.stale.is_(True),
            remote_device_lists.c.attempts > 0,
            remote_device_lists.c.next_attempt_ms > at_ms,
        )
        .values(next_attempt_ms=at_ms)
    )
    tx.wake(TOPIC)


def has_failed(tx: Transaction, server: ServerName) -> bool:
    """Whether lists of that server could not be fetched."""
    found = tx.execute(
        select(remote_device_lists.c.user_id)
        .where(
            remote_device_lists.c.server == server,
            remote_device_lists.c.stale.is_(True),
            remote_device_lists.c.attempts > 0,
        )
        .limit(1)
    )
    return found.first() is not None


def due(
    tx: Transaction, now_ms: int, limit: int, *, server: ServerName | None = None
) -> list[RemoteList]:
    """Stale lists that may be fetched now, those that wait longest first; of one server or all."""
    wanted = (
        select(remote_device_lists)
        .where(
            remote_device_lists.c.stale.is_(True), remote_device_lists.c.next_attempt_ms <= now_ms
        )
        .order_by(remote_device_lists.c.next_attempt_ms, remote_device_lists.c.user_id)
        .limit(limit)
    )
    if server is not None:
        wanted = wanted.where(remote_device_lists.c.server == server)
    return [_list(row) for row in tx.execute(wanted)]


def due_servers(tx: Transaction, now_ms: int) -> list[ServerName]:
    """Whose users they are."""
    rows = tx.execute(
        select(remote_device_lists.c.server)
        .distinct()
        .where(
            remote_device_lists.c.stale.is_(True), remote_device_lists.c.next_attempt_ms <= now_ms
        )
    )
    return [ServerName(row.server) for row in rows]


def next_due_ms(tx: Transaction, after_ms: int) -> int | None:
    """When the next of the others may be fetched."""
    found: int | None = tx.execute(
        select(remote_device_lists.c.next_attempt_ms)
        .where(
            remote_device_lists.c.stale.is_(True), remote_device_lists.c.next_attempt_ms > after_ms
        )
        .order_by(remote_device_lists.c.next_attempt_ms)
        .limit(1)
    ).scalar()
    return found


def devices_of(tx: Transaction, user_id: UserId) -> list[RemoteDevice]:
    rows = tx.execute(
        select(remote_devices)
        .where(remote_devices.c.user_id == user_id)
        .order_by(remote_devices.c.device_id)
    )
    return [
        RemoteDevice(
            device_id=DeviceId(row.device_id), display_name=row.display_name, keys=row.keys
        )
        for row in rows
    ]


def forget(tx: Transaction, user_id: UserId) -> bool:
    """We follow the list no more. False: we did not."""
    for table in (remote_devices, cross_signing_keys):
        tx.execute(delete(table).where(table.c.user_id == user_id))
    gone = tx.execute(
        delete(remote_device_lists).where(remote_device_lists.c.user_id == user_id)
    ).rowcount
    return gone > 0


def is_any(tx: Transaction) -> bool:
    return tx.execute(select(remote_device_lists.c.user_id).limit(1)).first() is not None


def strangers(tx: Transaction, limit: int, *, room_id: RoomId | None = None) -> list[UserId]:
    """Users whose list we follow without sharing a room with them; all, or those once in a room."""
    shared = (
        select(memberships.c.user_id)
        .join(rooms, rooms.c.room_id == memberships.c.room_id)
        .where(
            memberships.c.user_id == remote_device_lists.c.user_id,
            memberships.c.membership == "join",
            rooms.c.joined.is_(True),
        )
    )
    wanted = select(remote_device_lists.c.user_id).where(~shared.exists())
    if room_id is not None:
        there = memberships.alias("there")
        wanted = wanted.join(
            there,
            and_(there.c.user_id == remote_device_lists.c.user_id, there.c.room_id == room_id),
        )
    rows = tx.execute(wanted.order_by(remote_device_lists.c.user_id).limit(limit))
    return [UserId(row.user_id) for row in rows]


def _list(row: Row[Any]) -> RemoteList:
    return RemoteList(
        user_id=UserId(row.user_id),
        server=ServerName(row.server),
        stream_id=row.stream_id,
        seen=orjson.loads(row.seen),
        stale=row.stale,
        marks=row.marks,
        attempts=row.attempts,
        next_attempt_ms=row.next_attempt_ms,
    )
