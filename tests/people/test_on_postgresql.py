"""The same on PostgreSQL, where several change things at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from bridge.ids import DeviceId, UserId
from bridge.storage.device_keys import SignatureRow
from tests.people.conftest import PHONE, Scene, device_keys, signing_key
from tests.support.clock import FakeClock
from tests.support.network import open_network

UPDATE = "m.device_list_update"
DEVICES = [DeviceId(f"D{number}") for number in range(8)]


@pytest_asyncio.fixture
async def scene(
    clock: FakeClock, tmp_path: Path, sqlite_template: Path, postgresql_database_url: str
) -> AsyncIterator[Scene]:
    """Ours is on PostgreSQL."""
    async with open_network(clock, tmp_path, sqlite_template) as network:
        ours = await network.add("ours.example", url=postgresql_database_url)
        theirs = await network.add("theirs.example")
        found = Scene(network, ours, theirs, clock)
        found.room = await found.open_room()
        await found.look()
        yield found


async def add(scene: Scene, device: DeviceId) -> None:
    people = scene.ours.people
    await people.devices.put(scene.alice, device, device.lower())
    await people.keys.put_device_keys(scene.alice, device, device_keys(scene.alice, device))


async def test_changes_at_the_same_time_are_told_as_one_line(scene: Scene) -> None:
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    await add(scene, PHONE)
    await scene.carry()
    await scene.fetch()
    async with asyncio.TaskGroup() as tasks:
        for device in DEVICES:
            tasks.create_task(add(scene, device))
    told = await scene.contents(scene.ours, scene.theirs, UPDATE)
    assert len(told) == 2 * len(DEVICES)
    assert [one["prev_id"] for one in told[1:]] == [[one["stream_id"]] for one in told[:-1]]
    before = len(scene.network.requests)
    await scene.carry()
    assert set(await scene.names(scene.theirs, scene.alice)) == {PHONE, *DEVICES}
    assert len(scene.network.requests) == before

    async with asyncio.TaskGroup() as tasks:
        for device in DEVICES:
            tasks.create_task(scene.ours.people.devices.remove(scene.alice, [device]))
    await scene.carry()
    assert set(await scene.names(scene.theirs, scene.alice)) == {PHONE}


async def test_keys_signatures_and_messages_pass(scene: Scene) -> None:
    ours, theirs = scene.ours.people, scene.theirs.people
    await theirs.devices.put(scene.bob, PHONE)
    await add(scene, PHONE)
    master = signing_key(scene.alice, "master", "M")
    await ours.keys.put_cross_signing(scene.alice, master=master)
    signature = SignatureRow(
        target_user=scene.alice,
        target_key=PHONE,
        signer=scene.alice,
        signing_key="ed25519:S",
        signature="s",
    )
    await ours.keys.put_signatures(scene.alice, [signature])
    await scene.carry()
    await scene.fetch()
    told = await theirs.keys.query(scene.bob, scene.ours.name, {scene.alice: []})
    assert told["master_keys"] == {scene.alice: master}
    assert told["device_keys"][scene.alice][PHONE]["signatures"][scene.alice]["ed25519:S"] == "s"

    for number in range(3):
        await theirs.to_device.send(
            sender=scene.bob,
            type="m.test",
            messages={scene.alice: {"*": {"n": number}}},
            txn=str(number),
        )
    await scene.carry()
    waiting = await scene.inbox(scene.ours, scene.alice, PHONE)
    assert [content["n"] for _, _, content in waiting] == [0, 1, 2]
    token = await ours.openid.issue(scene.alice)
    assert await ours.openid.user_info(token.access_token) == scene.alice


async def test_lists_of_others_are_kept_and_forgotten(scene: Scene) -> None:
    await scene.ours.people.devices.put(scene.alice, PHONE)
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    keys = device_keys(scene.bob, PHONE)
    await scene.theirs.people.keys.put_device_keys(scene.bob, PHONE, keys)
    await scene.carry()
    await scene.fetch()
    assert set(await scene.names(scene.ours, scene.bob)) == {PHONE}
    eve = UserId("@eve:theirs.example")
    await scene.join(scene.room, eve)
    await scene.leave(scene.room, scene.bob)
    await scene.look()
    assert await scene.list_of(scene.ours, scene.bob) is None
