"""The revisions make exactly the tables of the schema, up and down and up again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import orjson
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select

from bridge.errors import Misconfigured
from bridge.ids import EventId, RoomId, ServerName, TraceId, UserId
from bridge.storage import events, migrate, queues
from bridge.storage.database import Database
from bridge.storage.dialect import dialect_for
from bridge.storage.events import EventRow
from bridge.storage.schema import METADATA, meta


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new.sqlite"
    url: str = request.getfixturevalue("postgresql_url")
    return url


def differences(url: str) -> list[object]:
    engine = dialect_for(url).engine("read")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found: list[object] = compare_metadata(context, METADATA)
    engine.dispose()
    return found


def tables(url: str) -> set[str]:
    engine = dialect_for(url).engine("read")
    with engine.connect() as connection:
        names = set(inspect(connection).get_table_names())
    engine.dispose()
    return names


def test_the_newest_revision_is_the_schema(empty_url: str) -> None:
    assert not migrate.is_current(empty_url)
    migrate.upgrade(empty_url)
    assert migrate.is_current(empty_url)
    assert differences(empty_url) == []
    migrate.upgrade(empty_url)
    assert migrate.is_current(empty_url)


async def test_a_migrated_database_works_and_goes_down_and_up_again(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    database = await Database.open(empty_url)
    first = await database.write(
        lambda tx: queues.put_outbox(
            tx,
            lane="tea",
            adapter="xmpp",
            cause="c1",
            payload={},
            trace_id=TraceId("t"),
            now_ms=1,
        )
    )
    assert first == 1
    await database.close()
    migrate.downgrade(empty_url, "base")
    assert tables(empty_url) == {"alembic_version"}
    migrate.upgrade(empty_url)
    assert differences(empty_url) == []
    database = await Database.open(empty_url)
    assert await database.read(lambda tx: tx.execute(select(meta.c.key)).scalars().all()) == [
        "epoch"
    ]
    await database.close()


async def test_redactions_are_found_by_their_targets_after_the_migration(empty_url: str) -> None:
    contents: dict[str, dict[str, object]] = {
        "$old": {"redacts": "$one", "content": {}},
        "$new": {"content": {"redacts": "$two"}},
        "$odd": {"content": {"redacts": ["$three"]}},
        "$nul": {"content": {"redacts": "$\0"}},
    }
    migrate.upgrade(empty_url)
    database = await Database.open(empty_url)
    for event_id, json in contents.items():
        row = EventRow(
            event_id=EventId(event_id),
            room_id=RoomId("!r:x"),
            type="m.room.redaction",
            state_key=None,
            sender=UserId("@a:server.example:8448"),
            depth=1,
            origin_server_ts=1,
            json=orjson.dumps(json).decode(),
            verdict=events.ACCEPTED,
            rule=None,
            outlier=False,
            snapshot_before=None,
            redacted_by=None,
            received_ms=1,
            trace_id=TraceId("t"),
        )
        await database.write(partial(events.insert_events, new=[(row, ())]))
    await database.close()
    migrate.downgrade(empty_url, "0003")
    assert "redactions" not in tables(empty_url)
    migrate.upgrade(empty_url)
    assert differences(empty_url) == []
    database = await Database.open(empty_url)
    server = ServerName("server.example:8448")
    targets = {EventId(f"${name}"): server for name in ("one", "two", "three")}
    found = await database.read(lambda tx: events.find_redactions(tx, RoomId("!r:x"), targets))
    assert found == {"$one": "$old", "$two": "$new"}
    elsewhere = {EventId("$one"): ServerName("other.example")}
    assert (
        await database.read(lambda tx: events.find_redactions(tx, RoomId("!r:x"), elsewhere)) == {}
    )
    await database.close()


def test_made_and_migrated_tables_are_written_the_same(tmp_path: Path) -> None:
    """SQLite keeps what was written, AUTOINCREMENT included, which alembic does not compare."""

    def written(path: Path) -> set[str]:
        engine = dialect_for(f"sqlite:///{path}").engine("read")
        with engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'"
            )
            lines = {" ".join(sql.split()) for (sql,) in rows}
        engine.dispose()
        return lines

    migrate.upgrade(f"sqlite:///{tmp_path}/migrated.sqlite")
    engine = dialect_for(f"sqlite:///{tmp_path}/made.sqlite").engine("write")
    with engine.begin() as connection:
        METADATA.create_all(connection)
    engine.dispose()
    assert written(tmp_path / "migrated.sqlite") == written(tmp_path / "made.sqlite")


def test_a_database_newer_than_the_program_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/newer.sqlite"
    migrate.upgrade(url)
    engine = dialect_for(url).engine("write")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    assert not migrate.is_current(url)
    with pytest.raises(Misconfigured, match="newer"):
        migrate.upgrade(url)


def test_bringing_up_migrates_once(empty_url: str) -> None:
    assert migrate.bring_up(empty_url)
    assert migrate.is_current(empty_url)
    assert not migrate.bring_up(empty_url)


def test_bringing_up_says_why_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No such file"):
        migrate.bring_up(f"sqlite:///{tmp_path}/missing/new.sqlite")


def test_bringing_up_refuses_a_database_newer_than_the_program(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.sqlite"
    migrate.bring_up(url)
    engine = dialect_for(url).engine("write")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(Misconfigured, match="newer than the program"):
        migrate.bring_up(url)
