"""Databases as fixtures: `database` runs a test twice, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text

from bridge.demo.servers import PostgreSQL
from bridge.storage.database import Database
from bridge.storage.dialect import dialect_for
from bridge.storage.schema import METADATA
from tests.support.clock import FakeClock


def create_tables(url: str) -> None:
    """All tables as the schema has them now, without the migrations' history."""
    engine = dialect_for(url).engine("write")
    with engine.begin() as connection:
        METADATA.create_all(connection)
    engine.dispose()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "isthmus.sqlite"
    create_tables(f"sqlite:///{path}")
    return path


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgresql_with_tables(postgresql: PostgreSQL) -> str:
    """One database for all tests, one after the other: making one costs a second."""
    url = postgresql.url(await postgresql.create_database("isthmus"))
    create_tables(url)
    return url


def empty_tables(url: str) -> None:
    """As new: no rows, no connections left from before, numbers begin again."""
    engine = dialect_for(url).engine("write")
    with engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        for table in METADATA.sorted_tables:
            connection.execute(table.delete())
        connection.execute(
            text("SELECT setval(format('%I', sequencename), 1, false) FROM pg_sequences")
        )
    engine.dispose()


@pytest.fixture
def sqlite_database_url(tmp_path: Path, sqlite_template: Path) -> str:
    """A new SQLite file with all tables."""
    path = tmp_path / "isthmus.sqlite"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgresql_database_url(postgresql_with_tables: str) -> str:
    """A PostgreSQL database with all tables, as new."""
    empty_tables(postgresql_with_tables)
    return postgresql_with_tables


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A new database with all tables, of either kind."""
    url: str = request.getfixturevalue(f"{request.param}_database_url")
    return url


@pytest_asyncio.fixture
async def database(database_url: str, clock: FakeClock) -> AsyncIterator[Database]:
    """Open, of either kind; its waits end by `clock.advance`."""
    opened = await Database.open(database_url, clock=clock)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def sqlite_database(sqlite_database_url: str, clock: FakeClock) -> AsyncIterator[Database]:
    """For what does not depend on the kind of database."""
    opened = await Database.open(sqlite_database_url, clock=clock)
    yield opened
    await opened.close()
