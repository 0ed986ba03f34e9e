"""Messages are found by their stanza id and origin-id alone: what `why` is asked about.

Revision: 0003, after 0002.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("messages", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_messages_stanza_id"), ["stanza_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_messages_origin_id"), ["origin_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("messages", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_messages_origin_id"))
        batch_op.drop_index(batch_op.f("ix_messages_stanza_id"))
