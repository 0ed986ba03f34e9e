"""People: devices, their keys, messages to them, tokens that stand for their users.

Revision: 0008, after 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.Column("keys", sa.Text(), nullable=True),
        sa.Column("stream_id", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "device_id", name=op.f("pk_devices")),
    )
    op.create_table(
        "device_streams",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("stream_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_device_streams")),
    )
    op.create_table(
        "device_list_shares",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("stream_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "server", name=op.f("pk_device_list_shares")),
    )
    op.create_table(
        "one_time_keys",
        sa.Column(
            "key_number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.Column("claimed_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key_number", name=op.f("pk_one_time_keys")),
        sa.UniqueConstraint(
            "user_id",
            "device_id",
            "algorithm",
            "key_id",
            name=op.f("uq_one_time_keys_user_id_device_id_algorithm_key_id"),
        ),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("one_time_keys", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_one_time_keys_claimed_ms"), ["claimed_ms"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_one_time_keys_user_id_device_id_algorithm_claimed_ms"),
            ["user_id", "device_id", "algorithm", "claimed_ms"],
            unique=False,
        )
    op.create_table(
        "fallback_keys",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.Column("used", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "device_id", "algorithm", name=op.f("pk_fallback_keys")),
    )
    op.create_table(
        "cross_signing_keys",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("usage", sa.Text(), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "usage", name=op.f("pk_cross_signing_keys")),
    )
    op.create_table(
        "key_signatures",
        sa.Column("target_user", sa.Text(), nullable=False),
        sa.Column("target_key", sa.Text(), nullable=False),
        sa.Column("signer", sa.Text(), nullable=False),
        sa.Column("signing_key", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "target_user", "target_key", "signer", "signing_key", name=op.f("pk_key_signatures")
        ),
    )
    op.create_table(
        "remote_device_lists",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("stream_id", sa.BigInteger(), nullable=True),
        sa.Column("seen", sa.Text(), nullable=False),
        sa.Column("stale", sa.Boolean(), nullable=False),
        sa.Column("marks", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_remote_device_lists")),
    )
    with op.batch_alter_table("remote_device_lists", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_remote_device_lists_stale_next_attempt_ms"),
            ["stale", "next_attempt_ms"],
            unique=False,
        )
    op.create_table(
        "remote_devices",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.Column("keys", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("user_id", "device_id", name=op.f("pk_remote_devices")),
    )
    op.create_table(
        "stream_device_lists",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_stream_device_lists")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("stream_device_lists", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_stream_device_lists_user_id"), ["user_id"], unique=False
        )
    op.create_table(
        "stream_to_device",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_stream_to_device")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("stream_to_device", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_stream_to_device_user_id_device_id_position"),
            ["user_id", "device_id", "position"],
            unique=False,
        )
    op.create_table(
        "to_device_received",
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "origin", "sender", "message_id", name=op.f("pk_to_device_received")
        ),
    )
    with op.batch_alter_table("to_device_received", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_to_device_received_received_ms"), ["received_ms"], unique=False
        )
    op.create_table(
        "openid_tokens",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_openid_tokens")),
    )
    with op.batch_alter_table("openid_tokens", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_openid_tokens_expires_ms"), ["expires_ms"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("openid_tokens", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_openid_tokens_expires_ms"))
    op.drop_table("openid_tokens")
    with op.batch_alter_table("to_device_received", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_to_device_received_received_ms"))
    op.drop_table("to_device_received")
    with op.batch_alter_table("stream_to_device", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_stream_to_device_user_id_device_id_position"))
    op.drop_table("stream_to_device")
    with op.batch_alter_table("stream_device_lists", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_stream_device_lists_user_id"))
    op.drop_table("stream_device_lists")
    op.drop_table("remote_devices")
    with op.batch_alter_table("remote_device_lists", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_remote_device_lists_stale_next_attempt_ms"))
    op.drop_table("remote_device_lists")
    op.drop_table("key_signatures")
    op.drop_table("cross_signing_keys")
    op.drop_table("fallback_keys")
    with op.batch_alter_table("one_time_keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_one_time_keys_claimed_ms"))
        batch_op.drop_index(batch_op.f("ix_one_time_keys_user_id_device_id_algorithm_claimed_ms"))
    op.drop_table("one_time_keys")
    op.drop_table("device_list_shares")
    op.drop_table("device_streams")
    op.drop_table("devices")
