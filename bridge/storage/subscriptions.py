"""Who sees whose presence: XMPP persons and Matrix users. State is seen from the XMPP person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import delete, func, select

from bridge.ids import UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import subscriptions

Subscription = Literal["none", "from", "to", "both"]
_MET = "met"
"""No subscription, but they know each other."""
_STATES: dict[str, Subscription] = {"from": "from", "to": "to", "both": "both"}


def find(tx: Transaction, address: str, user_id: UserId) -> Subscription:
    row = tx.execute(
        select(subscriptions.c.state).where(
            subscriptions.c.address == address, subscriptions.c.user_id == user_id
        )
    ).one_or_none()
    return "none" if row is None else _STATES.get(row.state, "none")


def put(tx: Transaction, address: str, user_id: UserId, state: Subscription) -> None:
    if state == "none":
        tx.execute(
            delete(subscriptions).where(
                subscriptions.c.address == address, subscriptions.c.user_id == user_id
            )
        )
        return
    tx.execute(
        tx.dialect.upsert(subscriptions, ["address", "user_id"]),
        {"address": address, "user_id": user_id, "state": state},
    )


def meet(tx: Transaction, address: str, user_id: UserId) -> bool:
    """True the first time: until now there was nothing between the two."""
    found: str | None = tx.execute(
        tx.dialect.insert_ignore(subscriptions)
        .values(address=address, user_id=user_id, state=_MET)
        .returning(subscriptions.c.address)
    ).scalar()
    return found is not None


def seen_by_us(tx: Transaction, *, after: str, limit: int) -> Sequence[tuple[str, UserId]]:
    """Persons who let one of ours see their presence, and one of those, by address."""
    rows = tx.execute(
        select(subscriptions.c.address, func.min(subscriptions.c.user_id).label("user_id"))
        .where(subscriptions.c.address > after, subscriptions.c.state.in_(("from", "both")))
        .group_by(subscriptions.c.address)
        .order_by(subscriptions.c.address)
        .limit(limit)
    )
    return [(str(row.address), UserId(row.user_id)) for row in rows]


def who_see(tx: Transaction, user_id: UserId) -> Sequence[str]:
    """The persons whom the user's presence goes to."""
    rows = tx.execute(
        select(subscriptions.c.address)
        .where(subscriptions.c.user_id == user_id, subscriptions.c.state.in_(("to", "both")))
        .order_by(subscriptions.c.address)
    )
    return [str(row.address) for row in rows]
