"""Devices and keys as rows, on both databases: what is claimed or taken is so once."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from bridge.ids import DeviceId, ServerName, UserId
from bridge.storage import device_keys, device_lists, devices, edus, openid, to_device
from bridge.storage.database import Database, Transaction
from bridge.storage.device_keys import KeyRow
from bridge.storage.device_lists import MAX_SEEN, RemoteDevice
from bridge.storage.devices import DeviceRow
from bridge.storage.to_device import DeviceMessage

ALICE, BOB = UserId("@alice:ours.example"), UserId("@bob:theirs.example")
PHONE = DeviceId("PHONE")
THEIRS = ServerName("theirs.example")
CURVE = "signed_curve25519"


def keys(*numbers: int) -> list[KeyRow]:
    return [KeyRow(algorithm=CURVE, key_id=f"K{number}", json="{}") for number in numbers]


async def together(*units: object) -> list[object]:
    """At the same time, as far as the database lets them."""
    results: list[object] = []

    async def one(unit: object) -> None:
        assert asyncio.iscoroutine(unit)
        results.append(await unit)

    async with asyncio.TaskGroup() as tasks:
        for unit in units:
            tasks.create_task(one(unit))
    return results


async def test_each_one_time_key_is_claimed_once_however_many_ask(database: Database) -> None:
    await database.write(
        lambda tx: device_keys.add_one_time_keys(tx, ALICE, PHONE, keys(*range(40)))
    )
    ask = partial(device_keys.claim, user_id=ALICE, device_id=PHONE, algorithm=CURVE, now_ms=1)
    given = await together(*(database.write(ask) for _ in range(60)))
    named = [one.key_id for one in given if isinstance(one, KeyRow)]
    assert sorted(named) == sorted(f"K{number}" for number in range(40))
    assert given.count(None) == 20
    counts = await database.read(lambda tx: device_keys.one_time_key_counts(tx, ALICE, PHONE))
    assert counts == {}


async def test_a_claim_that_is_not_committed_gives_nothing_away(database: Database) -> None:
    await database.write(lambda tx: device_keys.add_one_time_keys(tx, ALICE, PHONE, keys(1)))

    def fails(tx: Transaction) -> None:
        assert device_keys.claim(tx, ALICE, PHONE, CURVE, 1) is not None
        raise LookupError("after it")

    with pytest.raises(LookupError):
        await database.write(fails)
    found = await database.write(lambda tx: device_keys.claim(tx, ALICE, PHONE, CURVE, 1))
    assert found is not None


async def test_claimed_keys_are_forgotten_after_a_while_and_others_kept(
    database: Database,
) -> None:
    def unit(tx: Transaction) -> None:
        device_keys.add_one_time_keys(tx, ALICE, PHONE, keys(1, 2, 3))
        device_keys.claim(tx, ALICE, PHONE, CURVE, 10)
        device_keys.claim(tx, ALICE, PHONE, CURVE, 20)

    await database.write(unit)
    prune = partial(device_keys.prune_claimed, before_ms=15, limit=10)
    assert await database.write(prune) == 1
    stored = await database.read(
        lambda tx: device_keys.stored_one_time_keys(tx, ALICE, PHONE, ["K1", "K2", "K3"])
    )
    assert sorted(stored) == [(CURVE, "K2"), (CURVE, "K3")]


async def test_a_message_is_taken_once_however_often_it_comes_at_once(database: Database) -> None:
    def unit(tx: Transaction) -> bool:
        if not to_device.take_once(tx, origin=THEIRS, sender=BOB, message_id="m", now_ms=5):
            return False
        message = DeviceMessage(
            user_id=ALICE, device_id=PHONE, sender=BOB, type="m.test", content="{}"
        )
        to_device.add(tx, [message], 5)
        return True

    taken = await together(*(database.write(unit) for _ in range(10)))
    assert sorted(map(bool, taken)) == [False] * 9 + [True]
    read = partial(to_device.read_since, user_id=ALICE, device_id=PHONE, after=0, limit=10)
    assert len(await database.read(read)) == 1
    assert await database.write(partial(to_device.prune_received, before_ms=5, limit=9)) == 0
    assert await database.write(partial(to_device.prune_received, before_ms=6, limit=9)) == 1
    assert await database.write(unit)


async def test_the_version_of_a_list_counts_every_change(database: Database) -> None:
    numbers = await together(
        *(database.write(partial(devices.next_stream, user_id=ALICE)) for _ in range(20))
    )
    assert sorted(numbers, key=str) == sorted(range(2, 22), key=str)
    assert await database.read(partial(devices.stream_id, user_id=ALICE)) == 21
    assert await database.read(partial(devices.stream_id, user_id=BOB)) == devices.FIRST_STREAM


async def test_changes_noted_at_once_leave_the_newest(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        devices.lock(tx, ALICE)
        devices.note_change(tx, ALICE)

    await together(*(database.write(unit) for _ in range(10)))
    [(position, user)] = await database.read(partial(devices.changed_since, after=0, limit=10))
    assert user == ALICE
    assert await database.read(partial(devices.changed_since, after=position, limit=10)) == []


async def test_a_device_comes_changes_and_goes_with_all_that_is_its(database: Database) -> None:
    row = DeviceRow(user_id=ALICE, device_id=PHONE, display_name="phone", keys=None, stream_id=2)

    def come(tx: Transaction) -> None:
        devices.put(tx, row, 1)
        device_keys.add_one_time_keys(tx, ALICE, PHONE, keys(1))
        device_keys.put_fallback_key(tx, ALICE, PHONE, keys(2)[0])

    await database.write(come)
    assert await database.read(lambda tx: devices.find(tx, ALICE, PHONE)) == row
    assert await database.read(lambda tx: devices.users_with_devices(tx, "", 10)) == [ALICE]
    assert await database.write(lambda tx: devices.remove(tx, ALICE, PHONE))
    assert not await database.write(lambda tx: devices.remove(tx, ALICE, PHONE))
    assert await database.write(lambda tx: device_keys.claim(tx, ALICE, PHONE, CURVE, 1)) is None
    assert not await database.read(devices.is_any)


async def test_a_remote_list_remembers_a_bounded_number_of_updates(database: Database) -> None:
    await database.write(partial(device_lists.follow, user_ids=[BOB]))

    def unit(tx: Transaction, number: int) -> None:
        known = device_lists.lock(tx, BOB)
        assert known is not None
        device_lists.advance(tx, known, number)

    for number in range(MAX_SEEN + 10):
        await database.write(partial(unit, number=number))
    known = await database.read(lambda tx: device_lists.find(tx, BOB))
    assert known is not None
    assert list(known.seen) == list(range(10, MAX_SEEN + 10))
    assert known.stream_id == MAX_SEEN + 9


async def test_a_stale_list_is_due_until_it_is_settled(database: Database) -> None:
    await database.write(partial(device_lists.follow, user_ids=[BOB]))
    [known] = await database.read(partial(device_lists.due, now_ms=5, limit=10))
    device = RemoteDevice(device_id=PHONE, display_name=None, keys=None)
    settle = partial(
        device_lists.replace, known=known, stream=7, devices=[device], next_attempt_ms=50
    )
    await database.write(partial(settle, settled=False))
    assert await database.read(partial(device_lists.due_servers, now_ms=49)) == []
    assert await database.read(partial(device_lists.next_due_ms, after_ms=5)) == 50
    assert await database.read(partial(device_lists.due_servers, now_ms=50)) == [THEIRS]
    await database.write(partial(settle, settled=True))
    assert await database.read(partial(device_lists.due_servers, now_ms=50)) == []
    await database.write(partial(device_lists.mark_stale, user_id=BOB))
    assert await database.read(partial(device_lists.due_servers, now_ms=50)) == [THEIRS]
    await database.write(
        partial(device_lists.postpone, user_id=BOB, attempts=1, next_attempt_ms=9_000)
    )
    await database.write(partial(device_lists.hasten, server=THEIRS, at_ms=60))
    assert await database.read(partial(device_lists.next_due_ms, after_ms=50)) == 60
    assert await database.write(partial(device_lists.forget, user_id=BOB))
    assert await database.read(lambda tx: device_lists.devices_of(tx, BOB)) == []


async def test_strangers_are_those_without_a_common_room(database: Database) -> None:
    await database.write(partial(device_lists.follow, user_ids=[BOB]))
    assert await database.read(partial(device_lists.strangers, limit=10)) == [BOB]
    assert not await database.read(lambda tx: devices.is_with_us(tx, BOB))
    assert await database.read(lambda tx: devices.servers_with(tx, ALICE)) == frozenset()


async def test_openid_tokens_end(database: Database) -> None:
    await database.write(partial(openid.add, token_hash="h", user_id=ALICE, expires_ms=10))
    assert await database.read(partial(openid.find, token_hash="h", now_ms=9)) == ALICE
    assert await database.read(partial(openid.find, token_hash="h", now_ms=10)) is None
    assert await database.write(partial(openid.prune, before_ms=11, limit=10)) == 1


async def test_edus_of_a_users_changes_keep_their_order(database: Database) -> None:
    def unit(tx: Transaction) -> None:
        number = devices.next_stream(tx, ALICE)
        edus.put(
            tx,
            server=THEIRS,
            edu_type="m.device_list_update",
            edu_id=f"{ALICE} {number}",
            content_json=str(number),
            now_ms=1,
        )

    await together(*(database.write(unit) for _ in range(20)))
    rows = await database.read(partial(edus.due, server=THEIRS, limit=100))
    assert [int(one.content_json) for one in rows] == list(range(2, 22))


async def test_many_peers_are_given_an_edu_but_those_with_too_many(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edus, "MAX_WAITING", 2)
    peers = [ServerName(f"s{number}.example") for number in range(700)]

    def unit(tx: Transaction, edu_id: str, servers: list[ServerName]) -> frozenset[ServerName]:
        contents = {server: f'"{server}"' for server in servers}
        return edus.put_all(tx, contents, edu_type="m.test", edu_id=edu_id, now_ms=1)

    assert await database.write(partial(unit, edu_id="1", servers=peers)) == frozenset()
    # The same again is the same one.
    assert await database.write(partial(unit, edu_id="1", servers=peers)) == frozenset()
    assert await database.write(partial(unit, edu_id="2", servers=peers[:1])) == frozenset()
    assert await database.write(partial(unit, edu_id="3", servers=peers)) == {peers[0]}
    assert await database.write(partial(unit, edu_id="4", servers=[])) == frozenset()
    for server, count in ((peers[0], 2), (peers[1], 2), (peers[699], 2)):
        rows = await database.read(partial(edus.due, server=server, limit=10))
        assert [one.content_json for one in rows] == [f'"{server}"'] * count
