"""Devices, keys, messages to devices and OpenID between two gateways over HTTPS.

Answers are held against the OpenAPI files of the specification.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bridge.demo.servers import CertificateAuthority
from bridge.engine.canonical import encode_canonical
from bridge.federation.xmatrix import sign_request
from bridge.ids import DeviceId, UserId
from bridge.net.client import HttpRequest, HttpResponse
from bridge.storage import device_lists, to_device
from bridge.storage.device_lists import RemoteList
from tests.support.matrix_side import MatrixSide, matrix_sides, until
from tests.support.openapi import complaints

V1 = "/_matrix/federation/v1"
PHONE, LAPTOP = DeviceId("PHONE"), DeviceId("LAPTOP")
CURVE = "signed_curve25519"


def device_keys(user_id: UserId, device_id: str) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"ed25519:{device_id}": "ed", f"curve25519:{device_id}": "cu"},
        "signatures": {user_id: {f"ed25519:{device_id}": "sig"}},
    }


def signing_key(user_id: UserId, usage: str, public: str) -> dict[str, Any]:
    return {"user_id": user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}


class Pair:
    """alice of `us` and bob of `peer` share a room; alice has a phone with keys."""

    def __init__(self, us: MatrixSide, peer: MatrixSide) -> None:
        self.us, self.peer = us, peer
        self.alice, self.bob = us.user("alice"), peer.user("bob")

    async def ask(self, method: str, target: str, body: Any = None) -> HttpResponse:
        signed = sign_request(
            method=method,
            target=target,
            origin=self.peer.name,
            destination=self.us.name,
            content=body,
            key=self.peer.key,
        )
        return await self.peer.running.client.send(
            HttpRequest(
                method=method,
                url=f"https://{self.us.name}{target}",
                headers={"Authorization": signed.header()},
                body=None if body is None else encode_canonical(body),
                max_bytes=10 << 20,
            )
        )

    async def good(self, method: str, target: str, template: str, body: Any = None) -> Any:
        answer = await self.ask(method, target, body)
        assert answer.status == 200, answer.body
        assert complaints(method, template, 200, answer.json()) == []
        return answer.json()

    async def list_of_alice(self) -> RemoteList | None:
        return await self.peer.database.read(lambda tx: device_lists.find(tx, self.alice))

    async def devices_of_alice(self) -> dict[str, str | None]:
        """As the peer keeps them; nothing while its list is stale."""
        known = await self.list_of_alice()
        if known is None or known.stale:
            return {}
        rows = await self.peer.database.read(lambda tx: device_lists.devices_of(tx, self.alice))
        return {one.device_id: one.display_name for one in rows}

    async def inbox(self, side: MatrixSide, user: UserId, device: DeviceId) -> list[Any]:
        rows = await side.database.read(
            partial(to_device.read_since, user_id=user, device_id=device, after=0, limit=1_000)
        )
        return [json.loads(one.content) for one in rows]


@asynccontextmanager
async def pair(
    certificates: CertificateAuthority, folder: Path, template: Path
) -> AsyncIterator[Pair]:
    async with matrix_sides(certificates, folder, template, 2) as (us, peer):
        found = Pair(us, peer)
        people = us.running.people
        await people.devices.put(found.alice, PHONE, "alice's phone")
        await people.keys.put_device_keys(found.alice, PHONE, device_keys(found.alice, PHONE))
        await peer.running.people.devices.put(found.bob, PHONE)
        room = await us.create_room(found.alice, public=True)
        await peer.join(room, found.bob, us.name)
        yield found


def enc(text: str) -> str:
    return quote(text, safe="")


async def test_answers_are_as_the_specification_describes_them(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with pair(certificates, tmp_path, sqlite_template) as one:
        alice, people = one.alice, one.us.running.people
        await people.keys.put_cross_signing(
            alice,
            master=signing_key(alice, "master", "M"),
            self_signing=signing_key(alice, "self_signing", "S"),
        )
        await people.keys.add_one_time_keys(
            alice, PHONE, {f"{CURVE}:A": {"key": "k", "signatures": {alice: {"ed25519:P": "s"}}}}
        )

        listed = await one.good("GET", f"{V1}/user/devices/{enc(alice)}", f"{V1}/user/devices/{{}}")
        assert listed["devices"] == [
            {
                "device_id": PHONE,
                "device_display_name": "alice's phone",
                "keys": device_keys(alice, PHONE),
            }
        ]
        assert listed["master_key"] == signing_key(alice, "master", "M")

        path = f"{V1}/user/keys/query"
        told = await one.good("POST", path, path, {"device_keys": {alice: []}})
        assert told["device_keys"][alice][PHONE]["unsigned"] == {
            "device_display_name": "alice's phone"
        }
        assert told["self_signing_keys"] == {alice: signing_key(alice, "self_signing", "S")}

        path = f"{V1}/user/keys/claim"
        wanted = {"one_time_keys": {alice: {PHONE: CURVE}}}
        given = await one.good("POST", path, path, wanted)
        assert list(given["one_time_keys"][alice][PHONE]) == [f"{CURVE}:A"]
        assert await one.good("POST", path, path, wanted) == {"one_time_keys": {}}

        ghost = enc(f"@ghost=40x.example:{one.us.name}")
        listed = await one.good("GET", f"{V1}/user/devices/{ghost}", f"{V1}/user/devices/{{}}")
        assert (listed["devices"], listed["stream_id"]) == ([], 1)


async def test_an_openid_token_tells_anybody_who_it_stands_for(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with pair(certificates, tmp_path, sqlite_template) as one:
        path = f"{V1}/openid/userinfo"
        token = (await one.us.running.people.openid.issue(one.alice)).access_token

        async def ask(query: str) -> tuple[int, Any]:
            answer = await one.peer.running.client.send(
                HttpRequest(
                    method="GET", url=f"https://{one.us.name}{path}{query}", max_bytes=1 << 16
                )
            )
            assert complaints("GET", path, answer.status, answer.json()) == []
            return answer.status, answer.json()

        assert await ask(f"?access_token={token}") == (200, {"sub": one.alice})
        status, body = await ask("?access_token=guess")
        assert (status, body["errcode"]) == (401, "M_UNKNOWN_TOKEN")
        status, body = await ask("")
        assert (status, body["errcode"]) == (401, "M_MISSING_TOKEN")


async def test_what_makes_no_sense_is_refused_as_specified(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with pair(certificates, tmp_path, sqlite_template) as one:
        for method, path, template, body, expected in (
            ("GET", f"user/devices/{enc(one.bob)}", "user/devices/{}", None, "M_INVALID_PARAM"),
            ("GET", "user/devices/nobody", "user/devices/{}", None, "M_INVALID_PARAM"),
            ("POST", "user/keys/query", "user/keys/query", {}, "M_BAD_JSON"),
            ("POST", "user/keys/query", "user/keys/query", {"device_keys": []}, "M_BAD_JSON"),
            ("POST", "user/keys/claim", "user/keys/claim", {}, "M_BAD_JSON"),
            (
                "POST",
                "user/keys/claim",
                "user/keys/claim",
                {"one_time_keys": {one.alice: {"X": "y" * (1 << 20)}}},
                "M_TOO_LARGE",
            ),
        ):
            answer = await one.ask(method, f"{V1}/{path}", body)
            assert answer.status in (400, 413), path
            assert answer.json()["errcode"] == expected, path
            assert complaints(method, f"{V1}/{template}", answer.status, answer.json()) == []


async def test_a_key_that_comes_back_is_told_like_any_other(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with pair(certificates, tmp_path, sqlite_template) as one:
        alice = one.alice

        async def follows() -> bool:
            return await one.devices_of_alice() == {PHONE: "alice's phone"}

        await until(follows)
        for public in ("A", "B", "A"):
            key = signing_key(alice, "master", public)
            await one.us.running.people.keys.put_cross_signing(alice, master=key)

            async def told(wanted: object = key) -> bool:
                answer = await one.peer.running.people.keys.query(one.bob, one.us.name, {alice: []})
                return bool(answer["master_keys"].get(alice) == wanted)

            await until(told)


async def test_two_gateways_exchange_everything_through_an_outage(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with pair(certificates, tmp_path, sqlite_template) as one:
        alice, bob = one.alice, one.bob

        async def follows() -> bool:
            return await one.devices_of_alice() == {PHONE: "alice's phone"}

        await until(follows)

        # A new device, a name, messages and signing keys, while the peer is not there.
        await one.peer.stop()
        people = one.us.running.people
        await people.devices.put(alice, LAPTOP, "laptop")
        await people.keys.put_device_keys(alice, LAPTOP, device_keys(alice, LAPTOP))
        await people.devices.put(alice, PHONE, "old phone")
        await people.keys.put_cross_signing(alice, master=signing_key(alice, "master", "M"))
        for number in range(120):
            await people.to_device.send(
                sender=alice, type="m.test", messages={bob: {PHONE: {"n": number}}}, txn=str(number)
            )
        await one.us.restart()
        await one.peer.start()

        async def caught_up() -> bool:
            return (
                await one.devices_of_alice() == {PHONE: "old phone", LAPTOP: "laptop"}
                and len(await one.inbox(one.peer, bob, PHONE)) >= 120
            )

        await until(caught_up, timeout_s=40.0)
        numbers = [one["n"] for one in await one.inbox(one.peer, bob, PHONE)]
        assert numbers == list(range(120))
        theirs = one.peer.running.people
        told = await theirs.keys.query(bob, one.us.name, {alice: []})
        assert told["master_keys"] == {alice: signing_key(alice, "master", "M")}

        # A key is claimed, and an answer comes back.
        await one.us.running.people.keys.add_one_time_keys(alice, PHONE, {f"{CURVE}:A": {}})
        given = await theirs.keys.claim(one.us.name, {alice: {PHONE: CURVE}})
        assert given == {"one_time_keys": {alice: {PHONE: {f"{CURVE}:A": {}}}}}
        await theirs.to_device.send(
            sender=bob, type="m.test", messages={alice: {"*": {"n": 1}}}, txn="back"
        )

        async def answered() -> bool:
            return all(
                [await one.inbox(one.us, alice, device) == [{"n": 1}] for device in (PHONE, LAPTOP)]
            )

        await until(answered)
