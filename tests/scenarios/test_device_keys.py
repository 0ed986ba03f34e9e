"""Devices and keys between us and a real Synapse: asked for, claimed, followed; messages to devices
both ways with either server away in between, nothing lost and nothing twice. And what a whole
gateway says of ghosts, which have none.

alice has an account on the Synapse and its real client API; bob is ours, his devices are made by
`people`, as the client API will make them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bridge.demo.people import MatrixPerson
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from bridge.engine.canonical import encode_canonical
from bridge.engine.keys import SigningKey
from bridge.ids import DeviceId, RoomId, UserId, server_of
from bridge.storage import device_keys, device_lists, to_device
from tests.support.gateway import Gateway
from tests.support.matrix_side import MatrixSide, matrix_sides, until
from tests.support.servers import MakeMatrixPerson

PHONE, LAPTOP = DeviceId("PHONE"), DeviceId("LAPTOP")
CURVE = "signed_curve25519"
V3 = "/_matrix/client/v3"
MESSAGES = 60


class Identity:
    """What a client of the user would have: keys, and signatures that can be verified."""

    def __init__(self, user_id: UserId, device_id: str) -> None:
        self.user_id, self.device_id = user_id, device_id
        self.key = new_key()

    def signed(self, value: Mapping[str, Any], key: SigningKey, name: str) -> dict[str, Any]:
        signature = key.sign(encode_canonical(dict(value)))
        return {**value, "signatures": {self.user_id: {f"ed25519:{name}": signature}}}

    def device_keys(self) -> dict[str, Any]:
        keys = {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                f"ed25519:{self.device_id}": self.key.verify_key_base64,
                f"curve25519:{self.device_id}": new_key().verify_key_base64,
            },
        }
        return self.signed(keys, self.key, self.device_id)

    def one_time_keys(self, *names: str) -> dict[str, Any]:
        return {
            f"{CURVE}:{name}": self.signed(
                {"key": new_key().verify_key_base64}, self.key, self.device_id
            )
            for name in names
        }

    def cross_signing(self) -> dict[str, dict[str, Any]]:
        master, own = new_key(), new_key()
        return {
            "master_key": self._public("master", master),
            "self_signing_key": self.signed(
                self._public("self_signing", own), master, master.verify_key_base64
            ),
        }

    def _public(self, usage: str, key: SigningKey) -> dict[str, Any]:
        public = key.verify_key_base64
        return {"user_id": self.user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}


def new_key() -> SigningKey:
    return SigningKey.from_seed("1", secrets.token_bytes(32))


class Scene:
    """alice (of the Synapse) and bob (ours, with a phone) share a room."""

    def __init__(self, us: MatrixSide, alice: MatrixPerson, alice_device: str) -> None:
        self.us, self.alice = us, alice
        self.alice_id, self.bob = UserId(alice.user_id), us.user("bob")
        self.hers = Identity(self.alice_id, alice_device)
        self.his = Identity(self.bob, PHONE)
        self.room = RoomId("")
        self._since: str | None = None
        self.heard: list[dict[str, Any]] = []
        """Messages that alice's device was given, in order."""

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return await self.alice.request(method, V3 + path, body)

    async def query(self) -> Any:
        """What a client of alice's is told of bob's devices."""
        return await self.ask("POST", "/keys/query", {"device_keys": {self.bob: []}})

    async def claim(self) -> Any:
        wanted = {"one_time_keys": {self.bob: {PHONE: CURVE}}}
        answer = await self.ask("POST", "/keys/claim", wanted)
        return answer["one_time_keys"].get(self.bob, {}).get(PHONE, {})

    async def hear(self) -> None:
        """What waits for alice's device; the next look says that she has it."""
        query = {"timeout": "0"}
        if self._since is not None:
            query["since"] = self._since
        answer = await self.alice.request("GET", V3 + "/sync", query=query)
        self._since = answer["next_batch"]
        self.heard += [
            one["content"]
            for one in answer.get("to_device", {}).get("events", ())
            if one["type"] == "m.test"
        ]

    async def kept(self) -> dict[str, str | None]:
        """alice's devices with their names as we keep them; nothing while the list is stale."""
        known = await self.us.database.read(partial(device_lists.find, user_id=self.alice_id))
        if known is None or known.stale:
            return {}
        rows = await self.us.database.read(partial(device_lists.devices_of, user_id=self.alice_id))
        return {one.device_id: one.display_name for one in rows}

    async def given(self) -> list[Any]:
        """Messages that wait for bob's phone."""
        rows = await self.us.database.read(
            partial(to_device.read_since, user_id=self.bob, device_id=PHONE, after=0, limit=1_000)
        )
        return [json.loads(one.content)["n"] for one in rows]


@asynccontextmanager
async def scene_of(
    certificates: CertificateAuthority,
    folder: Path,
    template: Path,
    alice: MatrixPerson,
) -> AsyncIterator[Scene]:
    async with matrix_sides(certificates, folder, template, 1) as (us,):
        scene = Scene(us, alice, await device_of(alice))
        people = us.running.people
        await people.devices.put(scene.bob, PHONE, "bob's phone")
        await people.keys.put_device_keys(scene.bob, PHONE, scene.his.device_keys())
        scene.room = await us.create_room(scene.bob, public=True)
        await us.invite(scene.room, scene.bob, scene.alice_id)
        await alice.see_invite(sender=scene.bob)
        await alice.join(scene.room)
        await us.wait_for_membership(scene.room, scene.alice_id, "join")
        yield scene


async def test_a_user_of_synapse_queries_our_devices_and_claims_each_key_once(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    alice = await matrix_person(synapse, "alice")
    async with scene_of(certificates, tmp_path, sqlite_template, alice) as scene:
        people = scene.us.running.people

        async def known() -> bool:
            return PHONE in (await scene.query())["device_keys"].get(scene.bob, {})

        await until(known)
        told = (await scene.query())["device_keys"][scene.bob]
        assert set(told) == {PHONE}
        assert told[PHONE]["unsigned"] == {"device_display_name": "bob's phone"}

        keys = scene.his.one_time_keys("A", "B", "C")
        await people.keys.add_one_time_keys(scene.bob, PHONE, keys)
        fallback = scene.his.one_time_keys("F")
        await people.keys.put_fallback_keys(scene.bob, PHONE, fallback)
        given = [await scene.claim() for _ in range(5)]
        one_time = {name: key for one in given[:3] for name, key in one.items()}
        assert one_time == keys
        assert given[3:] == [fallback, fallback]

        # A second device, a new name, and the end of the first, as a client of alice's sees it.
        other = Identity(scene.bob, LAPTOP)
        await people.devices.put(scene.bob, LAPTOP)
        await people.keys.put_device_keys(scene.bob, LAPTOP, other.device_keys())
        await people.devices.put(scene.bob, LAPTOP, "bob's laptop")
        await people.devices.remove(scene.bob, [PHONE])

        async def changed() -> bool:
            told = (await scene.query())["device_keys"][scene.bob]
            return {name: one.get("unsigned") for name, one in told.items()} == {
                LAPTOP: {"device_display_name": "bob's laptop"}
            }

        await until(changed)

        # And his cross-signing keys, the first of which come back after others.
        first, second = scene.his.cross_signing(), scene.his.cross_signing()
        for signing in (first, second, first):
            await people.keys.put_cross_signing(
                scene.bob, master=signing["master_key"], self_signing=signing["self_signing_key"]
            )

            async def signed(wanted: dict[str, Any] = signing) -> bool:
                told = await scene.query()
                return wanted == {
                    "master_key": told["master_keys"].get(scene.bob),
                    "self_signing_key": told["self_signing_keys"].get(scene.bob),
                }

            await until(signed)


async def test_devices_and_signing_keys_of_synapse_reach_our_cache(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    alice = await matrix_person(synapse, "anna")
    async with scene_of(certificates, tmp_path, sqlite_template, alice) as scene:
        device = scene.hers.device_id
        keys = scene.hers.device_keys()
        await scene.ask("POST", "/keys/upload", {"device_keys": keys})

        async def known() -> bool:
            return device in await scene.kept()

        await until(known)
        path = f"/devices/{quote(device, safe='')}"
        await scene.ask("PUT", path, {"display_name": "alice's computer"})

        # By updates alone from now on.
        await scene.ask("POST", "/keys/device_signing/upload", scene.hers.cross_signing())

        async def signed() -> bool:
            stored = await scene.us.database.read(
                partial(device_keys.cross_signing_of, user_ids=[scene.alice_id])
            )
            return set(stored.get(scene.alice_id, {})) == {"master", "self_signing"}

        await until(signed)
        told = await scene.us.running.people.keys.query(
            scene.bob, server_of(scene.alice_id), {scene.alice_id: []}
        )
        assert told["device_keys"][scene.alice_id][device]["keys"] == keys["keys"]
        assert set(told["master_keys"]) == {scene.alice_id}

        # While we are away; what we missed is fetched or told again.
        await scene.us.stop()
        second = await matrix_person(synapse, "anna")
        other = Identity(scene.alice_id, await device_of(second))
        await second.request("POST", V3 + "/keys/upload", {"device_keys": other.device_keys()})
        await scene.us.start()

        async def both() -> bool:
            return {device, other.device_id} <= set(await scene.kept())

        await until(both, timeout_s=60.0)
        await second.request("POST", V3 + "/logout", {})

        async def gone() -> bool:
            kept = await scene.kept()
            return device in kept and other.device_id not in kept

        await until(gone)


@pytest.mark.timeout(240)
async def test_messages_to_devices_pass_both_ways_through_outages(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    alice = await matrix_person(synapse, "agnes")
    async with scene_of(certificates, tmp_path, sqlite_template, alice) as scene:
        device = scene.hers.device_id
        await scene.ask("POST", "/keys/upload", {"device_keys": scene.hers.device_keys()})
        await scene.hear()

        async def to_bob(number: int) -> None:
            messages = {scene.bob: {PHONE: {"n": number}}}
            await scene.ask("PUT", f"/sendToDevice/m.test/t{number}", {"messages": messages})

        async def to_alice(number: int) -> None:
            await scene.us.running.people.to_device.send(
                sender=scene.bob,
                type="m.test",
                messages={scene.alice_id: {device: {"n": number}}},
                txn=f"t{number}",
            )

        async def bob_has(count: int) -> bool:
            return len(await scene.given()) >= count

        async def alice_has(count: int) -> bool:
            await scene.hear()
            return len(scene.heard) >= count

        await to_bob(0)
        await until(partial(bob_has, 1))
        await to_alice(0)
        await until(partial(alice_has, 1))

        # We are away, and come back.
        await scene.us.stop()
        for number in range(1, MESSAGES):
            await to_bob(number)
        await scene.us.start()
        await until(partial(bob_has, MESSAGES), timeout_s=60.0)

        # The Synapse is away; we restart meanwhile; it comes back.
        await synapse.stop()
        for number in range(1, MESSAGES):
            await to_alice(number)
        await scene.us.restart()
        await synapse.start()
        await until(partial(alice_has, MESSAGES), timeout_s=60.0)

        # To all her devices, and to one that there is not: no error for anybody.
        await scene.us.running.people.to_device.send(
            sender=scene.bob,
            type="m.test",
            messages={scene.alice_id: {"*": {"n": MESSAGES}, "NONE": {"n": -1}}},
            txn="all",
        )
        await until(partial(alice_has, MESSAGES + 1))
        await to_bob(MESSAGES)
        await until(partial(bob_has, MESSAGES + 1))
        assert [one["n"] for one in scene.heard] == list(range(MESSAGES + 1))
        assert await scene.given() == list(range(MESSAGES + 1))


async def test_a_ghost_has_no_devices_and_what_is_for_them_is_dropped_and_noted(
    gateway: Gateway,
    prosody_pair: tuple[Prosody, Prosody],
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
) -> None:
    alice = await matrix_person(synapse, "amelia")
    ghost = gateway.ghost("juliet@a.test")
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")

    told = await alice.request("POST", V3 + "/keys/query", {"device_keys": {ghost: []}})
    assert told["device_keys"] == {ghost: {}}
    assert told["failures"] == {}
    wanted = {"one_time_keys": {ghost: {"ANY": CURVE}}}
    given = await alice.request("POST", V3 + "/keys/claim", wanted)
    assert (given["one_time_keys"], given["failures"]) == ({}, {})

    messages: dict[str, Any] = {"messages": {ghost: {"ANY": {"secret": "x"}}}}
    await alice.request("PUT", V3 + "/sendToDevice/m.test/t1", messages)

    async def noted() -> list[tuple[Any, ...]]:
        return gateway.query("SELECT decision, detail FROM journal WHERE step = 'to-device'")

    [(decision, detail)] = await until(noted)
    assert decision == "dropped"
    assert detail.startswith(f"m.test of {alice.user_id}, message ")
    assert detail.endswith(": 1 no_device")
    # The room goes on as before, and her devices are not kept where nobody needs them.
    await alice.say(room, "hello")
    await alice.request(
        "POST",
        V3 + "/keys/upload",
        {"device_keys": Identity(UserId(alice.user_id), await device_of(alice)).device_keys()},
    )
    messages = {"messages": {ghost: {"*": {"n": 2}}}}
    await alice.request("PUT", V3 + "/sendToDevice/m.test/t2", messages)

    async def noted_again() -> bool:
        return len(await noted()) == 2

    await until(noted_again)
    assert gateway.query("SELECT * FROM remote_device_lists") == []
    assert gateway.query("SELECT * FROM stream_to_device") == []


async def device_of(person: MatrixPerson) -> str:
    return str((await person.request("GET", V3 + "/account/whoami"))["device_id"])
