"""Alembic's entry: runs revisions on the connection that `bridge.storage.migrate` hands over.

From the command line (`alembic -c migrations/alembic.ini -x url=sqlite:///file revision
--autogenerate -m "..."`) it opens the database that `-x url=` names.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from bridge.storage.dialect import dialect_for
from bridge.storage.schema import METADATA


def run(connection: Connection) -> None:
    # SQLite cannot alter most of a table: alembic then copies it ("batch").
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        render_as_batch=True,
        compare_type=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    engine = dialect_for(context.get_x_argument(as_dictionary=True)["url"]).engine("write")
    with engine.begin() as opened:
        run(opened)
