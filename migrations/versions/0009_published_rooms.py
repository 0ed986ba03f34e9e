"""Rooms that we list for everybody; events are found by their time, members counted quickly.

Revision: 0009, after 0008.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "published_rooms",
        sa.Column("room_id", sa.Text(), nullable=False),
        sa.Column("joined", sa.Boolean(), nullable=False),
        sa.Column("joined_members", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("topic", sa.Text(), nullable=True),
        sa.Column("canonical_alias", sa.Text(), nullable=True),
        sa.Column("avatar_url", sa.Text(), nullable=True),
        sa.Column("join_rule", sa.Text(), nullable=False),
        sa.Column("room_type", sa.Text(), nullable=True),
        sa.Column("world_readable", sa.Boolean(), nullable=False),
        sa.Column("guest_can_join", sa.Boolean(), nullable=False),
        sa.Column("federated", sa.Boolean(), nullable=False),
        sa.Column("acl", sa.Text(), nullable=True),
        sa.Column("folded", sa.Text(), nullable=False),
        sa.Column("published_by", sa.Text(), nullable=False),
        sa.Column("published_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("room_id", name=op.f("pk_published_rooms")),
    )
    with op.batch_alter_table("published_rooms", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_published_rooms_joined_members_room_id"),
            ["joined_members", "room_id"],
            unique=False,
        )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_events_room_id_origin_server_ts_depth"),
            ["room_id", "origin_server_ts", "depth"],
            unique=False,
        )
    with op.batch_alter_table("memberships", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_memberships_room_id_server"))
        batch_op.create_index(
            batch_op.f("ix_memberships_room_id_membership_server"),
            ["room_id", "membership", "server"],
            unique=False,
        )


def downgrade() -> None:
    with op.batch_alter_table("memberships", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_memberships_room_id_membership_server"))
        batch_op.create_index(
            batch_op.f("ix_memberships_room_id_server"), ["room_id", "server"], unique=False
        )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_events_room_id_origin_server_ts_depth"))
    with op.batch_alter_table("published_rooms", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_published_rooms_joined_members_room_id"))
    op.drop_table("published_rooms")
