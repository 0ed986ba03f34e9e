"""Messages to devices of our users: kept until the device has them, taken once.

Spec: S2S, send-to-device messaging.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select

from bridge.ids import DeviceId, ServerName, UserId
from bridge.storage import streams
from bridge.storage.database import Transaction
from bridge.storage.keys import bounded
from bridge.storage.schema import stream_to_device, to_device_received

MAX_WAITING = 10_000
"""Messages that may wait for one device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMessage:
    """`content` is JSON. `position` 0: not stored yet."""

    user_id: UserId
    device_id: DeviceId
    sender: UserId
    type: str
    content: str
    position: int = 0


def take_once(
    tx: Transaction, *, origin: ServerName, sender: UserId, message_id: str, now_ms: int
) -> bool:
    """False: this message was taken before."""
    row = tx.execute(
        tx.dialect.insert_ignore(to_device_received)
        .values(origin=origin, sender=sender, message_id=bounded(message_id), received_ms=now_ms)
        .returning(to_device_received.c.origin)
    )
    return row.first() is not None


def waiting(
    tx: Transaction, devices: Collection[tuple[UserId, DeviceId]]
) -> dict[tuple[UserId, DeviceId], int]:
    """How many messages wait for each of these devices."""
    users = sorted({user for user, _ in devices})
    rows = tx.execute(
        select(
            stream_to_device.c.user_id,
            stream_to_device.c.device_id,
            func.count().label("messages"),
        )
        .where(stream_to_device.c.user_id.in_(users))
        .group_by(stream_to_device.c.user_id, stream_to_device.c.device_id)
    )
    return {(UserId(row.user_id), DeviceId(row.device_id)): row.messages for row in rows}


def add(tx: Transaction, messages: Sequence[DeviceMessage], now_ms: int) -> None:
    """In this order. For devices that exist."""
    streams.append_all(
        tx,
        stream_to_device,
        [
            {
                "user_id": one.user_id,
                "device_id": one.device_id,
                "sender": one.sender,
                "type": one.type,
                "content": one.content,
                "received_ms": now_ms,
            }
            for one in messages
        ],
    )


def read_since(
    tx: Transaction, user_id: UserId, device_id: DeviceId, after: int, limit: int
) -> list[DeviceMessage]:
    """What waits for the device after a position, in order."""
    rows = streams.read_since(
        tx,
        stream_to_device,
        after,
        limit,
        (stream_to_device.c.user_id == user_id) & (stream_to_device.c.device_id == device_id),
    )
    return [
        DeviceMessage(
            user_id=user_id,
            device_id=device_id,
            sender=UserId(row["sender"]),
            type=row["type"],
            content=row["content"],
            position=row["position"],
        )
        for row in rows
    ]


def forget_up_to(tx: Transaction, user_id: UserId, device_id: DeviceId, position: int) -> int:
    """The device has them; how many went."""
    return tx.execute(
        delete(stream_to_device).where(
            stream_to_device.c.user_id == user_id,
            stream_to_device.c.device_id == device_id,
            stream_to_device.c.position <= position,
        )
    ).rowcount


def prune_received(tx: Transaction, *, before_ms: int, limit: int) -> int:
    """Forget what was taken before; how many."""
    table = to_device_received.c
    old = tx.execute(
        select(table.origin, table.sender, table.message_id)
        .where(table.received_ms < before_ms)
        .limit(limit)
    ).all()
    for row in old:
        tx.execute(
            delete(to_device_received).where(
                table.origin == row.origin,
                table.sender == row.sender,
                table.message_id == row.message_id,
            )
        )
    return len(old)
