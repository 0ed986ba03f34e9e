"""Redactions are found by their target, which may come after them.

Of redactions that are stored already it is not known any more what power their senders had when
they came: where the target is still missing, they hold for what their own server said.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BATCH = 500


def upgrade() -> None:
    table = op.create_table(
        "redactions",
        sa.Column("target_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("room_id", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("by_power", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("target_id", "event_id", name=op.f("pk_redactions")),
    )
    with op.batch_alter_table("redactions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_redactions_room_id"), ["room_id"], unique=False)
    events = sa.table(
        "events",
        sa.column("event_id", sa.Text()),
        sa.column("room_id", sa.Text()),
        sa.column("sender", sa.Text()),
        sa.column("type", sa.Text()),
        sa.column("json", sa.Text()),
        sa.column("verdict", sa.Text()),
        sa.column("outlier", sa.Boolean()),
    )
    query = (
        sa.select(events.c.event_id, events.c.room_id, events.c.sender, events.c.json)
        .where(
            events.c.type == "m.room.redaction",
            events.c.verdict == "accepted",
            events.c.outlier.is_(sa.false()),
            events.c.event_id > sa.bindparam("after"),
        )
        .order_by(events.c.event_id)
        .limit(BATCH)
    )
    connection, after = op.get_bind(), ""
    while rows := connection.execute(query, {"after": after}).all():
        after = rows[-1].event_id
        found = [
            {
                "target_id": target,
                "event_id": row.event_id,
                "room_id": row.room_id,
                "server": row.sender.partition(":")[2],
                "by_power": False,
            }
            for row in rows
            if (target := _target(json.loads(row.json))) is not None
        ]
        if found:
            op.bulk_insert(table, found)


def downgrade() -> None:
    with op.batch_alter_table("redactions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_redactions_room_id"))
    op.drop_table("redactions")


def _target(event: dict[str, object]) -> str | None:
    """Wherever the room's version keeps it: old ones at the top, new ones in `content`."""
    content = event.get("content")
    for place in (event, content if isinstance(content, dict) else {}):
        target = place.get("redacts")
        if isinstance(target, str) and "\0" not in target:
            return target
    return None
