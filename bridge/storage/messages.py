"""The message map: which stanza is which event, and what its author still waits to hear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Row, delete, exists, func, select, update

from bridge.ids import EventId, RoomId
from bridge.storage.database import Transaction
from bridge.storage.keys import bounded
from bridge.storage.schema import messages, stream_acceptances


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedMessage:
    """One event and one stanza. `part` counts the events of one stanza (origin `chat`)."""

    adapter: str
    room_id: RoomId
    event_id: EventId
    part: int
    chat: str
    """Direct: the Matrix user; served: the room ID; a foreign chat: its address."""
    sender: str
    """Origin `chat`: the author's address."""
    stanza_id: str
    """The author's; in a foreign chat the chat's own ID, where it gave one, and the author's is
    `origin_id`. Empty: it was written on Matrix, and the chat gave none."""
    origin_id: str | None
    origin: str
    receipt_due: bool
    session: str
    sent_to: str
    pending: bool
    noticed_ms: int | None
    at_ms: int


def _message(row: Row[Any]) -> MappedMessage:
    return MappedMessage(
        adapter=row.adapter,
        room_id=RoomId(row.room_id),
        event_id=EventId(row.event_id),
        part=row.part,
        chat=row.chat,
        sender=row.sender,
        stanza_id=row.stanza_id,
        origin_id=row.origin_id,
        origin=row.origin,
        receipt_due=row.receipt_due,
        session=row.session,
        sent_to=row.sent_to,
        pending=row.pending,
        noticed_ms=row.noticed_ms,
        at_ms=row.at_ms,
    )


def put(tx: Transaction, message: MappedMessage) -> None:
    """Idempotent by adapter, event and part. Ids that are far too long are kept as hashes."""
    values = asdict(message)
    values["stanza_id"] = bounded(message.stanza_id)
    values["origin_id"] = None if message.origin_id is None else bounded(message.origin_id)
    tx.execute(tx.dialect.insert_ignore(messages).values(**values))


def of_event(tx: Transaction, event_id: EventId) -> Sequence[MappedMessage]:
    rows = tx.execute(
        select(messages).where(messages.c.event_id == event_id).order_by(messages.c.part)
    ).all()
    return [_message(row) for row in rows]


def of_stanza(
    tx: Transaction, *, adapter: str, chat: str, sender: str, stanza_id: str
) -> Sequence[MappedMessage]:
    """The events that the author's stanza became, in order."""
    rows = tx.execute(
        select(messages)
        .where(
            messages.c.adapter == adapter,
            messages.c.chat == chat,
            messages.c.sender == sender,
            messages.c.stanza_id == bounded(stanza_id),
            messages.c.origin == "chat",
        )
        .order_by(messages.c.message_id)
    ).all()
    return [_message(row) for row in rows]


def of_archived(
    tx: Transaction, *, adapter: str, chat: str, stanza_id: str
) -> Sequence[MappedMessage]:
    """What a message of a foreign chat is, by the chat's own ID of it."""
    rows = tx.execute(
        select(messages)
        .where(
            messages.c.adapter == adapter,
            messages.c.chat == chat,
            messages.c.stanza_id == bounded(stanza_id),
        )
        .order_by(messages.c.message_id)
    ).all()
    return [_message(row) for row in rows]


def is_accepted(tx: Transaction, event_id: EventId) -> bool:
    """Has any peer taken this event already?"""
    return bool(
        tx.execute(
            select(
                exists().where(
                    stream_acceptances.c.event_id == event_id,
                    stream_acceptances.c.error.is_(None),
                )
            )
        ).scalar_one()
    )


def find_refusal(tx: Transaction, event_id: EventId) -> str | None:
    """The word of a peer that did not take this event; None where any took it or none answered."""
    if is_accepted(tx, event_id):
        return None
    found = tx.execute(
        select(stream_acceptances.c.error)
        .where(stream_acceptances.c.event_id == event_id, stream_acceptances.c.error.is_not(None))
        .limit(1)
    ).scalar()
    return None if found is None else str(found)


def settle(tx: Transaction, event_id: EventId) -> Sequence[MappedMessage]:
    """Nothing is awaited for this event any more; answers what was until now."""
    waiting = [m for m in of_event(tx, event_id) if m.pending or m.receipt_due]
    if waiting:
        tx.execute(
            update(messages)
            .where(messages.c.event_id == event_id)
            .values(pending=False, receipt_due=False)
        )
    return waiting


def pending_since(
    tx: Transaction, *, before_ms: int, noticed_before_ms: int, limit: int
) -> Sequence[MappedMessage]:
    """What has waited since before `before_ms`, and was not spoken of since the other time."""
    rows = tx.execute(
        select(messages)
        .where(
            messages.c.pending,
            messages.c.at_ms < before_ms,
            messages.c.noticed_ms.is_(None) | (messages.c.noticed_ms < noticed_before_ms),
        )
        .order_by(messages.c.message_id)
        .limit(limit)
    ).all()
    return [_message(row) for row in rows]


def noticed(tx: Transaction, *, adapter: str, chat: str, sender: str, now_ms: int) -> int | None:
    """The author was told that what they wrote in this chat waits; when it had been said last."""
    where = (
        messages.c.pending,
        messages.c.adapter == adapter,
        messages.c.chat == chat,
        messages.c.sender == sender,
    )
    before: int | None = tx.execute(select(func.max(messages.c.noticed_ms)).where(*where)).scalar()
    tx.execute(update(messages).where(*where).values(noticed_ms=now_ms))
    return before


def prune(tx: Transaction, *, before_ms: int, limit: int) -> int:
    """Forget what was said before; not what its author still waits for. Returns how many went."""
    old = (
        select(messages.c.message_id)
        .where(
            messages.c.pending.is_(False),
            messages.c.at_ms < before_ms,
            messages.c.receipt_due.is_(False),
        )
        .limit(limit)
    )
    return tx.execute(delete(messages).where(messages.c.message_id.in_(old))).rowcount


def forget_room(tx: Transaction, room_id: RoomId) -> Sequence[MappedMessage]:
    """Removes a given-up room from the map; answers what never reached anybody."""
    rows = tx.execute(
        select(messages).where(messages.c.room_id == room_id, messages.c.pending)
    ).all()
    tx.execute(delete(messages).where(messages.c.room_id == room_id))
    return [_message(row) for row in rows]


def forget_chat(tx: Transaction, *, adapter: str, room_id: RoomId, chat: str) -> None:
    """A room and a foreign chat have nothing to do with each other any more."""
    tx.execute(
        delete(messages).where(
            messages.c.adapter == adapter,
            messages.c.room_id == room_id,
            messages.c.chat == chat,
        )
    )
