"""Foreign chats that we visit: how far they are read, our guests in them, their occupants.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chats",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("chat", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=True),
        sa.Column("archive_id", sa.Text(), nullable=True),
        sa.Column("archive_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("adapter", "chat", name=op.f("pk_chats")),
    )
    op.create_table(
        "guests",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("chat", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("nickname", sa.Text(), nullable=False),
        sa.Column("entered_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("adapter", "chat", "user_id", name=op.f("pk_guests")),
    )
    op.create_table(
        "occupants",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("chat", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("nickname", sa.Text(), nullable=False),
        sa.Column("joined", sa.Boolean(), nullable=False),
        sa.Column("absent_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("adapter", "chat", "address", name=op.f("pk_occupants")),
    )
    with op.batch_alter_table("occupants", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_occupants_absent_ms"), ["absent_ms"], unique=False)
    op.add_column("portals", sa.Column("since_position", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("portals", "since_position")
    op.drop_table("occupants")
    op.drop_table("guests")
    op.drop_table("chats")
