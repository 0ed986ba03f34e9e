"""EDUs that wait for peers, and how far people have read.

Revision: 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outbound_edus",
        sa.Column(
            "row_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("edu_type", sa.Text(), nullable=False),
        sa.Column("edu_id", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_outbound_edus")),
        sa.UniqueConstraint(
            "server", "edu_type", "edu_id", name=op.f("uq_outbound_edus_server_edu_type_edu_id")
        ),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("outbound_edus", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_outbound_edus_server_row_id"), ["server", "row_id"], unique=False
        )
    op.create_table(
        "outbound_receipts",
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("room_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("thread_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "server", "room_id", "user_id", "thread_id", name=op.f("pk_outbound_receipts")
        ),
    )
    op.create_table(
        "receipts",
        sa.Column("room_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("thread_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "room_id", "user_id", "kind", "thread_id", name=op.f("pk_receipts")
        ),
    )


def downgrade() -> None:
    op.drop_table("receipts")
    op.drop_table("outbound_receipts")
    with op.batch_alter_table("outbound_edus", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_outbound_edus_server_row_id"))
    op.drop_table("outbound_edus")
