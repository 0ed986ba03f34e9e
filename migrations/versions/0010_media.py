"""Files whose bytes stand in the data folder, and their thumbnails.

Revision: 0010, after 0009.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "media",
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("width", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("uploader", sa.Text()),
        sa.Column("quarantined", sa.Boolean(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("accessed_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("origin", "media_id", name=op.f("pk_media")),
    )
    op.create_index(op.f("ix_media_uploader"), "media", ["uploader"])
    op.create_index(op.f("ix_media_origin_accessed_ms"), "media", ["origin", "accessed_ms"])
    op.create_table(
        "media_thumbnails",
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("animated", sa.Boolean(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "origin",
            "media_id",
            "width",
            "height",
            "method",
            "animated",
            name=op.f("pk_media_thumbnails"),
        ),
    )


def downgrade() -> None:
    op.drop_table("media_thumbnails")
    op.drop_table("media")
