"""Bring a database to the current schema. Alembic is imported only when this is called.

The revisions stand in `migrations/` of a checkout and in `bridge/migrations/` of a wheel. Several
processes may start at once: one migrates, the others wait for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

import bridge
from bridge.errors import IsthmusError, Misconfigured, Unavailable
from bridge.storage.dialect import dialect_for, translated

if TYPE_CHECKING:
    from alembic.config import Config


MIGRATION_TIMEOUT_S = 3600
_ELSEWHERE = (
    "import sys\n"
    "from bridge.storage import migrate\n"
    "sys.exit(migrate.upgrade_from_standard_input())\n"
)


def migrations_folder() -> Path:
    """Raises Misconfigured when the installation is not complete."""
    package = Path(bridge.__file__).resolve().parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").exists():
            return folder
    raise Misconfigured("database", "the migrations are missing from this installation")


def bring_up(url: str) -> bool:
    """Migrate where it is needed; True when it was. Alembic stays out of this process: it works
    in one of its own, which is told the URL (it may hold a password) on its standard input."""
    if _revision(url) == _newest_revision():
        return False
    package = str(Path(bridge.__file__).resolve().parent.parent)
    search = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ELSEWHERE],
            input=url,
            env={**os.environ, "PYTHONPATH": search},
            capture_output=True,
            text=True,
            timeout=MIGRATION_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"the migration took over {MIGRATION_TIMEOUT_S} s") from exc
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["the migration failed"]
        raise Misconfigured("database.url", lines[-1].removeprefix("database.url: "))
    return True


def upgrade_from_standard_input() -> int:
    """The other end of `bring_up`."""
    try:
        upgrade(sys.stdin.read())
    except IsthmusError as exc:
        sys.stderr.write(f"{exc.reason}\n")
        return 1
    return 0


def _newest_revision() -> str:
    """By the names of the files, `NNNN_name.py`, whose number is the revision."""
    names = sorted(path.name for path in (migrations_folder() / "versions").glob("[0-9]*.py"))
    return names[-1].partition("_")[0]


def _revision(url: str) -> str | None:
    """What the database says of itself; None for an empty one. Raises Unavailable."""
    engine = dialect_for(url).engine("read")
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except SQLAlchemyError as exc:
        raise _ours(exc) from exc
    finally:
        engine.dispose()


def upgrade(url: str, revision: str = "head") -> None:
    """Make or change tables up to the revision. Raises Misconfigured or Unavailable."""
    _change(url, revision, up=True)


def downgrade(url: str, revision: str) -> None:
    """Back to an older revision (`base`: none at all); what only the newer knows is lost."""
    _change(url, revision, up=False)


def is_current(url: str) -> bool:
    """Whether the database is at the newest revision. Raises Misconfigured or Unavailable."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    newest = ScriptDirectory.from_config(_config()).get_current_head()
    engine = dialect_for(url).engine("read")
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == newest
    except SQLAlchemyError as exc:
        raise _ours(exc) from exc
    finally:
        engine.dispose()


def _change(url: str, revision: str, *, up: bool) -> None:
    from alembic import command
    from alembic.util import CommandError

    dialect = dialect_for(url)
    engine = dialect.engine("write")
    config = _config()
    try:
        with engine.begin() as connection:
            dialect.lock_schema(connection)
            config.attributes["connection"] = connection
            (command.upgrade if up else command.downgrade)(config, revision)
    except CommandError as exc:
        raise Misconfigured(
            "database.url", f"the database is newer than the program: {exc}"
        ) from exc
    except SQLAlchemyError as exc:
        raise _ours(exc) from exc
    finally:
        engine.dispose()


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _ours(error: SQLAlchemyError) -> Exception:
    ours = translated(error)
    if isinstance(ours, IsthmusError):
        return ours
    return Misconfigured("database.url", f"cannot be migrated: {error}")
