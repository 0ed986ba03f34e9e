"""Who sees whose presence: XMPP persons and Matrix users. State is seen from the XMPP person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import delete, select

from bridge.ids import UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import subscriptions

Subscription = Literal["none", "from", "to", "both"]
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


def who_see(tx: Transaction, user_id: UserId) -> Sequence[str]:
    """The persons whom the user's presence goes to."""
    rows = tx.execute(
        select(subscriptions.c.address)
        .where(subscriptions.c.user_id == user_id, subscriptions.c.state.in_(("to", "both")))
        .order_by(subscriptions.c.address)
    )
    return [str(row.address) for row in rows]
