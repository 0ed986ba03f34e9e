"""The rules of the house and the policy rooms whose rules hold here, as rows.

Rows are plain: what they mean is read above (`policy/rules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, delete, func, insert, select

from bridge.errors import NotFound
from bridge.ids import RoomId, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import policy_rooms, policy_rules

TOPIC = "policy"
"""Woken when a rule has come or gone."""
OWN = "bot"
"""The source of rules that are none of a policy room."""
BATCH = 500


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
    """Those of this house first, in the order in which they came."""
    order = case((policy_rules.c.source == OWN, 0), else_=1)
    query = select(policy_rules).order_by(order, policy_rules.c.rule_id).limit(limit)
    return [_rule_row(row) for row in tx.execute(query)]


def _rule_row(row: Any) -> RuleRow:
    return RuleRow(
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


def get(tx: Transaction, rule_id: int) -> RuleRow:
    """Raises NotFound."""
    found = tx.execute(select(policy_rules).where(policy_rules.c.rule_id == rule_id)).first()
    if found is None:
        raise NotFound(f"there is no rule {rule_id}")
    return _rule_row(found)


def count(tx: Transaction, source: str) -> int:
    query = select(func.count()).select_from(policy_rules).where(policy_rules.c.source == source)
    return int(tx.execute(query).scalar_one())


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
        insert(policy_rules).values(**_values(row)).returning(policy_rules.c.rule_id)
    ).scalar_one()
    tx.wake(TOPIC)
    return int(number)


def _values(row: RuleRow) -> dict[str, Any]:
    return {
        "source": row.source,
        "source_key": row.source_key,
        "action": row.action,
        "subject": row.subject,
        "glob": row.glob,
        "scopes": " ".join(row.scopes),
        "reason": row.reason,
        "made_by": row.made_by,
        "made_ms": row.made_ms,
    }


def remove(tx: Transaction, rule_id: int) -> None:
    """Raises NotFound."""
    gone = tx.execute(delete(policy_rules).where(policy_rules.c.rule_id == rule_id))
    if not gone.rowcount:
        raise NotFound(f"there is no rule {rule_id}")
    tx.wake(TOPIC)


def replace_source(
    tx: Transaction, source: str, rows: Sequence[RuleRow]
) -> tuple[Sequence[RuleRow], Sequence[RuleRow]]:
    """What a policy room says now; a rule that says the same as before keeps its number. Returns
    what is new (without numbers) and what is gone."""
    before = {_meaning(row): row for row in rules_of(tx, source)}
    wanted = {_meaning(row): row for row in rows}
    gone = [row for key, row in before.items() if key not in wanted]
    new = [row for key, row in wanted.items() if key not in before]
    for start in range(0, len(gone), BATCH):
        some = [row.rule_id for row in gone[start : start + BATCH]]
        tx.execute(delete(policy_rules).where(policy_rules.c.rule_id.in_(some)))
    for start in range(0, len(new), BATCH):
        tx.execute(insert(policy_rules), [_values(row) for row in new[start : start + BATCH]])
    if new or gone:
        tx.wake(TOPIC)
    return new, gone


def _meaning(row: RuleRow) -> tuple[str, ...]:
    return row.source_key, row.subject, row.glob, row.action, row.reason


def rules_of(tx: Transaction, source: str) -> Sequence[RuleRow]:
    query = select(policy_rules).where(policy_rules.c.source == source)
    return [_rule_row(row) for row in tx.execute(query.order_by(policy_rules.c.rule_id))]


def rooms(tx: Transaction) -> Sequence[RoomId]:
    found = tx.execute(select(policy_rooms.c.room_id).order_by(policy_rooms.c.room_id)).scalars()
    return [RoomId(room_id) for room_id in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRoom:
    room_id: RoomId
    made_by: UserId


def find_room(tx: Transaction, room_id: RoomId) -> PolicyRoom | None:
    row = tx.execute(select(policy_rooms).where(policy_rooms.c.room_id == room_id)).first()
    return None if row is None else PolicyRoom(room_id=room_id, made_by=UserId(row.made_by))


def subscribe(tx: Transaction, room_id: RoomId, *, made_by: UserId, now_ms: int) -> None:
    tx.execute(
        tx.dialect.insert_ignore(policy_rooms),
        [{"room_id": room_id, "made_by": made_by, "made_ms": now_ms}],
    )
    tx.wake(TOPIC)


def unsubscribe(tx: Transaction, room_id: RoomId) -> Sequence[RuleRow]:
    """Its rules, which are returned, go with it. Raises NotFound."""
    gone = tx.execute(delete(policy_rooms).where(policy_rooms.c.room_id == room_id))
    if not gone.rowcount:
        raise NotFound(f"{room_id} is not subscribed to")
    _, rules_gone = replace_source(tx, room_id, ())
    tx.wake(TOPIC)
    return rules_gone
