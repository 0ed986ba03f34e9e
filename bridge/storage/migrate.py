"""Bring a database to the current schema. Alembic is imported only when this is called.

The revisions stand in `migrations/` of a checkout and in `bridge/migrations/` of a wheel. Several
processes may start at once: one migrates, the others wait for it.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

import bridge
from bridge.errors import IsthmusError, Misconfigured
from bridge.storage.dialect import dialect_for, translated

if TYPE_CHECKING:
    from alembic.config import Config


def migrations_folder() -> Path:
    """Raises Misconfigured when the installation is not complete."""
    package = Path(bridge.__file__).resolve().parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").exists():
            return folder
    raise Misconfigured("database", "the migrations are missing from this installation")


def bring_up(url: str) -> bool:
    """Migrate where it is needed; True when it was. Alembic stays out of this process where
    nothing is to be done, and whenever it is needed works in a process of its own."""
    if _revision(url) == _newest_revision():
        return False
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        problem = pool.submit(_upgrade_elsewhere, url).result()
    if problem is not None:
        raise Misconfigured(*problem)
    return True


def _upgrade_elsewhere(url: str) -> tuple[str, str] | None:
    """`upgrade` in another process: what is wrong comes back as setting and reason."""
    try:
        upgrade(url)
    except IsthmusError as exc:
        return "database.url", exc.reason
    return None


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
