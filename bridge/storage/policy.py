"""The rules of the house and the policy rooms whose rules hold here, as rows.

Rows are plain: what they mean is read above (`policy/rules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select

from bridge.errors import NotFound
from bridge.ids import RoomId, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import policy_rooms, policy_rules

TOPIC = "policy"
"""Woken when a rule has come or gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRow:
    """`rule_id` 0: not stored yet."""

    rule_id: int = 0
    source: str
    source_key: str = ""
    action: str
    subject: str
    glob: str
    scopes: tuple[str, ...]
    reason: str
    made_by: UserId
    made_ms: int


def rules(tx: Transaction, limit: int) -> Sequence[RuleRow]:
    """In the order in which they came."""
    found = tx.execute(select(policy_rules).order_by(policy_rules.c.rule_id).limit(limit))
    return [
        RuleRow(
            rule_id=row.rule_id,
            source=row.source,
            source_key=row.source_key,
            action=row.action,
            subject=row.subject,
            glob=row.glob,
            scopes=tuple(row.scopes.split()),
            reason=row.reason,
            made_by=UserId(row.made_by),
            made_ms=row.made_ms,
        )
        for row in found
    ]


def count(tx: Transaction) -> int:
    return int(tx.execute(select(func.count()).select_from(policy_rules)).scalar_one())


def find_same(tx: Transaction, row: RuleRow) -> int | None:
    """The rule that says the same, whatever its reason."""
    return tx.execute(
        select(policy_rules.c.rule_id).where(
            policy_rules.c.source == row.source,
            policy_rules.c.source_key == row.source_key,
            policy_rules.c.action == row.action,
            policy_rules.c.subject == row.subject,
            policy_rules.c.glob == row.glob,
            policy_rules.c.scopes == " ".join(row.scopes),
        )
    ).scalar()


def add(tx: Transaction, row: RuleRow) -> int:
    number = tx.execute(
        insert(policy_rules)
        .values(
            source=row.source,
            source_key=row.source_key,
            action=row.action,
            subject=row.subject,
            glob=row.glob,
            scopes=" ".join(row.scopes),
            reason=row.reason,
            made_by=row.made_by,
            made_ms=row.made_ms,
        )
        .returning(policy_rules.c.rule_id)
    ).scalar_one()
    tx.wake(TOPIC)
    return int(number)


def remove(tx: Transaction, rule_id: int) -> None:
    """Raises NotFound."""
    gone = tx.execute(delete(policy_rules).where(policy_rules.c.rule_id == rule_id))
    if not gone.rowcount:
        raise NotFound(f"there is no rule {rule_id}")
    tx.wake(TOPIC)


def replace_source(tx: Transaction, source: str, rows: Sequence[RuleRow]) -> None:
    """What a policy room says now; a rule that says the same as before keeps its number."""
    before = {
        (row.source_key, row.subject, row.glob, row.action): row for row in rules_of(tx, source)
    }
    wanted = {(row.source_key, row.subject, row.glob, row.action): row for row in rows}
    gone = [row.rule_id for key, row in before.items() if key not in wanted]
    new = [row for key, row in wanted.items() if key not in before]
    for start in range(0, len(gone), 500):
        some = gone[start : start + 500]
        tx.execute(delete(policy_rules).where(policy_rules.c.rule_id.in_(some)))
    for row in new:
        add(tx, row)
    if gone:
        tx.wake(TOPIC)


def rules_of(tx: Transaction, source: str) -> Sequence[RuleRow]:
    return [row for row in rules(tx, 1_000_000) if row.source == source]


def rooms(tx: Transaction) -> Sequence[RoomId]:
    found = tx.execute(select(policy_rooms.c.room_id).order_by(policy_rooms.c.room_id)).scalars()
    return [RoomId(room_id) for room_id in found]


def subscribe(tx: Transaction, room_id: RoomId, *, made_by: UserId, now_ms: int) -> None:
    tx.execute(
        tx.dialect.insert_ignore(policy_rooms),
        [{"room_id": room_id, "made_by": made_by, "made_ms": now_ms}],
    )
    tx.wake(TOPIC)


def unsubscribe(tx: Transaction, room_id: RoomId) -> None:
    """Its rules go with it. Raises NotFound."""
    gone = tx.execute(delete(policy_rooms).where(policy_rooms.c.room_id == room_id))
    if not gone.rowcount:
        raise NotFound(f"{room_id} is not subscribed to")
    tx.execute(delete(policy_rules).where(policy_rules.c.source == room_id))
    tx.wake(TOPIC)
