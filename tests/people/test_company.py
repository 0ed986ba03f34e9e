"""Who shares a room with whom decides who is told of whose devices."""

from __future__ import annotations

import asyncio

from bridge.people.company import PAUSE_S
from bridge.storage import devices, rooms
from tests.people.conftest import LAPTOP, PHONE, Scene, device_keys

UPDATE = "m.device_list_update"


async def shares(scene: Scene) -> dict[str, int]:
    found = await scene.ours.database.read(lambda tx: devices.shares(tx, scene.alice))
    return {str(server): stream for server, stream in found.items()}


async def test_a_server_that_comes_into_a_room_is_told_that_it_lacks_the_list(
    scene: Scene,
) -> None:
    people = scene.ours.people
    await people.devices.put(scene.alice, PHONE)
    await people.keys.put_device_keys(scene.alice, PHONE, device_keys(scene.alice, PHONE))
    await people.devices.put(scene.alice, LAPTOP)
    await people.keys.put_device_keys(scene.alice, LAPTOP, device_keys(scene.alice, LAPTOP))
    third = await scene.network.add("third.example")
    carol = third.user("carol")
    await third.people.devices.put(carol, PHONE)
    await scene.join(scene.room, carol)
    assert await scene.contents(scene.ours, third, UPDATE) == []
    await scene.look()
    [told] = await scene.contents(scene.ours, third, UPDATE)
    assert told["prev_id"] == [0]
    await scene.carry()
    await scene.fetch()
    assert set(await scene.names(third, scene.alice)) == {"PHONE", "LAPTOP"}
    # From now on by updates alone.
    before = len(scene.network.requests)
    await people.devices.put(scene.alice, PHONE, "my phone")
    await scene.carry()
    assert (await scene.names(third, scene.alice))["PHONE"] == "my phone"
    assert len(scene.network.requests) == before


async def test_our_user_who_comes_into_a_room_of_others_is_told_to_them(scene: Scene) -> None:
    third = await scene.network.add("third.example")
    await scene.ours.people.devices.put(scene.alice, PHONE)
    await scene.carry()
    room = await third.backend.create_room(creator=third.user("carol"), txn="r", public=True)
    await scene.ours.backend.join(user_id=scene.alice, room_id=room, via=[third.name])
    await scene.network.deliver()
    await scene.look()
    assert [one["device_id"] for one in await scene.contents(scene.ours, third, UPDATE)] == [
        "PHONE"
    ]
    # Who was told already is not told again.
    assert await scene.contents(scene.ours, scene.theirs, UPDATE) == []
    await scene.look()
    assert len(await scene.contents(scene.ours, third, UPDATE)) == 1


async def test_who_left_is_told_nothing_and_lacks_it_when_back(scene: Scene) -> None:
    people = scene.ours.people
    await people.devices.put(scene.alice, PHONE, "one")
    await scene.carry()
    await scene.leave(scene.room, scene.bob)
    await people.devices.put(scene.alice, PHONE, "two")
    assert await scene.contents(scene.ours, scene.theirs, UPDATE) == []
    assert await shares(scene) == {}
    await scene.join(scene.room, scene.bob)
    await scene.look()
    [told] = await scene.contents(scene.ours, scene.theirs, UPDATE)
    assert (told["device_display_name"], told["prev_id"]) == ("two", [0])


async def test_a_server_that_knows_the_version_before_a_deletion_is_not_misled(
    scene: Scene,
) -> None:
    people = scene.ours.people
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    for device in (PHONE, LAPTOP):
        await people.devices.put(scene.alice, device)
        await people.keys.put_device_keys(scene.alice, device, device_keys(scene.alice, device))
    await scene.carry()
    await scene.fetch()
    assert set(await scene.names(scene.theirs, scene.alice)) == {"PHONE", "LAPTOP"}
    # We think that they follow no more, and they kept what they had.
    await scene.ours.database.write(
        lambda tx: devices.end_shares(tx, scene.alice, [scene.theirs.name])
    )
    await people.devices.remove(scene.alice, [PHONE])
    await scene.carry()
    scene.clock.shift(10.0)
    await scene.fetch()
    assert set(await scene.names(scene.theirs, scene.alice)) == {"LAPTOP"}


async def test_the_list_of_somebody_who_left_all_rooms_is_forgotten(scene: Scene) -> None:
    second = await scene.open_room()
    await scene.look()
    await scene.ours.people.devices.put(scene.alice, PHONE)
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    keys = device_keys(scene.bob, PHONE)
    await scene.theirs.people.keys.put_device_keys(scene.bob, PHONE, keys)
    await scene.carry()
    await scene.fetch()
    await scene.leave(scene.room, scene.bob)
    await scene.look()
    assert set(await scene.names(scene.ours, scene.bob)) == {"PHONE"}
    await scene.leave(second, scene.bob)
    await scene.look()
    assert await scene.list_of(scene.ours, scene.bob) is None
    assert await scene.names(scene.ours, scene.bob) == {}


async def test_when_our_last_user_leaves_the_lists_of_the_room_are_forgotten(
    scene: Scene,
) -> None:
    await scene.ours.people.devices.put(scene.alice, PHONE)
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    await scene.carry()
    assert await scene.list_of(scene.ours, scene.bob) is not None
    await scene.leave(scene.room, scene.alice)
    await scene.look()
    assert await scene.list_of(scene.ours, scene.bob) is None
    assert await shares(scene) == {}


async def test_a_restart_reads_on_and_repeats_nothing(scene: Scene) -> None:
    await scene.ours.people.devices.put(scene.alice, PHONE)
    await scene.carry()
    again = await scene.network.restart(scene.ours)
    scene.ours = again
    third = await scene.network.add("third.example")
    await scene.join(scene.room, third.user("carol"))
    await scene.look()
    assert len(await scene.contents(scene.ours, third, UPDATE)) == 1
    assert await scene.contents(scene.ours, scene.theirs, UPDATE) == []


async def test_the_sweep_finds_what_no_event_told(scene: Scene) -> None:
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    await scene.ours.people.devices.put(scene.alice, PHONE)
    await scene.carry()
    await scene.ours.database.write(lambda tx: rooms.purge(tx, scene.room))
    await scene.look()
    assert await scene.list_of(scene.ours, scene.bob) is not None
    assert await shares(scene) != {}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.ours.people.company.sweep())
        while not scene.clock.sleeper_count:
            await asyncio.sleep(0)
        await scene.clock.advance(PAUSE_S)
    assert await scene.list_of(scene.ours, scene.bob) is None
    assert await shares(scene) == {}
