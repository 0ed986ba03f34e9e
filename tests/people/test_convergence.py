"""Whatever happens to devices, rooms and updates: in the end both sides have one list."""

from __future__ import annotations

from random import Random

import pytest

from bridge.ids import DeviceId
from bridge.storage import devices
from tests.people.conftest import PHONE, Scene, device_keys

DEVICES = [DeviceId(f"D{number}") for number in range(4)]
STEPS = 40


class Story:
    """Random things happen to alice's devices, told to bob's server, which has a device."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene, self.dice = scene, Random(seed)
        self.count = 0

    async def step(self) -> None:
        act = self.dice.choice(
            [
                self.change,
                self.change,
                self.change,
                self.remove,
                self.carry,
                self.carry,
                self.lose,
                self.repeat,
                self.fetch,
                self.pass_time,
                self.leave_and_return,
                self.ask,
                self.restart,
            ]
        )
        await act()

    async def change(self) -> None:
        self.count += 1
        scene, device = self.scene, self.dice.choice(DEVICES)
        people = scene.ours.people
        await people.devices.put(scene.alice, device, f"{device} {self.count}")
        keys = device_keys(scene.alice, device, str(self.count))
        await people.keys.put_device_keys(scene.alice, device, keys)

    async def remove(self) -> None:
        device = self.dice.choice(DEVICES)
        await self.scene.ours.people.devices.remove(self.scene.alice, [device])

    async def carry(self) -> None:
        await self.scene.carry()

    async def lose(self) -> None:
        self.scene.lost.add(self.scene.theirs.name)
        await self.scene.carry()
        self.scene.lost.clear()

    async def repeat(self) -> None:
        """The first that waits arrives, and its sender does not hear of that."""
        told = await self.scene.contents(self.scene.ours, self.scene.theirs, "m.device_list_update")
        for content in told[:1]:
            await self.scene.hand_over(
                self.scene.ours, self.scene.theirs, "m.device_list_update", content
            )

    async def fetch(self) -> None:
        self.scene.ours.down = self.dice.random() < 0.3
        await self.scene.fetch()
        self.scene.ours.down = False

    async def pass_time(self) -> None:
        self.scene.clock.shift(self.dice.choice([1.0, 20.0, 7_200.0]))

    async def leave_and_return(self) -> None:
        scene = self.scene
        await scene.leave(scene.room, scene.bob)
        if self.dice.random() < 0.5:
            await scene.look()
        if self.dice.random() < 0.5:
            await self.change()
        await scene.join(scene.room, scene.bob)
        if self.dice.random() < 0.5:
            await scene.look()

    async def ask(self) -> None:
        await self.scene.theirs.people.keys.query(
            self.scene.bob, self.scene.ours.name, {self.scene.alice: []}
        )

    async def restart(self) -> None:
        if self.dice.random() < 0.5:
            self.scene.ours = await self.scene.network.restart(self.scene.ours)
        else:
            self.scene.theirs = await self.scene.network.restart(self.scene.theirs)

    async def settle(self) -> None:
        """One more change, and nothing is lost any more."""
        await self.change()
        for _ in range(4):
            await self.scene.look()
            await self.scene.carry()
            self.scene.clock.shift(7_200.0)
            await self.scene.fetch()

    async def truth(self) -> dict[str, tuple[str | None, str | None]]:
        rows = await self.scene.ours.database.read(lambda tx: devices.of_user(tx, self.scene.alice))
        return {one.device_id: (one.display_name, one.keys) for one in rows}


@pytest.mark.parametrize("seed", range(6))
async def test_both_sides_come_to_one_list(scene: Scene, seed: int) -> None:
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    story = Story(scene, seed)
    for _ in range(STEPS):
        await story.step()
    await story.settle()
    known = await scene.list_of(scene.theirs, scene.alice)
    assert known is not None
    assert not known.stale
    kept = await scene.kept(scene.theirs, scene.alice)
    assert kept == await story.truth()
    assert len(kept) > 0
