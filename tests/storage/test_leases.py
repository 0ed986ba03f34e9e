"""A lease has one owner at a time, and its epoch grows with each."""

from __future__ import annotations

from functools import partial

import pytest

from bridge.errors import Conflict
from bridge.storage import leases
from bridge.storage.database import Database
from bridge.storage.leases import Lease


async def acquire(database: Database, owner: str, now_ms: int) -> Lease | None:
    return await database.write(
        partial(leases.acquire, name="component", owner=owner, now_ms=now_ms, ttl_ms=100)
    )


async def test_one_owner_at_a_time(database: Database) -> None:
    first = await acquire(database, "one", 0)
    assert first == Lease(name="component", owner="one", epoch=1)
    assert await acquire(database, "other", 99) is None
    await database.write(partial(leases.check, lease=first, now_ms=99))


async def test_another_takes_over_when_it_lapses(database: Database) -> None:
    first = await acquire(database, "one", 0)
    assert first is not None
    second = await acquire(database, "other", 100)
    assert second == Lease(name="component", owner="other", epoch=2)
    for act in (
        partial(leases.check, lease=first, now_ms=100),
        partial(leases.renew, lease=first, now_ms=100, ttl_ms=100),
    ):
        with pytest.raises(Conflict):
            await database.write(act)
    await database.write(partial(leases.release, lease=first))
    await database.write(partial(leases.check, lease=second, now_ms=100))


async def test_a_renewed_lease_runs_longer(database: Database) -> None:
    lease = await acquire(database, "one", 0)
    assert lease is not None
    await database.write(partial(leases.renew, lease=lease, now_ms=90, ttl_ms=100))
    assert await acquire(database, "other", 150) is None
    with pytest.raises(Conflict):
        await database.write(partial(leases.check, lease=lease, now_ms=190))


async def test_a_released_lease_is_free_at_once(database: Database) -> None:
    lease = await acquire(database, "one", 0)
    assert lease is not None
    await database.write(partial(leases.release, lease=lease))
    second = await acquire(database, "other", 1)
    assert second is not None
    assert second.epoch > lease.epoch


async def test_the_same_owner_begins_a_new_epoch(database: Database) -> None:
    before = await acquire(database, "one", 0)
    after = await acquire(database, "one", 1)
    assert before is not None
    assert after is not None
    assert after.epoch > before.epoch
    with pytest.raises(Conflict):
        await database.write(partial(leases.check, lease=before, now_ms=2))
