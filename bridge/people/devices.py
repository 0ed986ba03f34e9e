"""Devices of our own users: made, named, removed; every change told to who follows the list.

Spec: S2S, device management; client-server API, device management.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.errors import BadInput, NotFound
from bridge.ids import DeviceId, ServerName, UserId, server_of
from bridge.people.checks import (
    MASTER,
    SELF_SIGNING,
    display_name,
    from_text,
)
from bridge.people.sharing import DEVICE_LIST, Told, announce
from bridge.people.signed import signed_keys
from bridge.storage import device_keys, to_device
from bridge.storage import devices as rows
from bridge.storage.database import Database, Transaction
from bridge.storage.devices import DeviceRow

MAX_DEVICES = 1_000
"""Of one user: with more, other servers no longer take the list."""


class Devices:
    """`wake`: EDUs are stored for that server."""

    def __init__(
        self,
        *,
        own_name: ServerName,
        database: Database,
        clock: Clock,
        wake: Callable[[ServerName], None],
    ) -> None:
        self._own_name = own_name
        self._database = database
        self._clock = clock
        self._wake = wake

    # --- changes --------------------------------------------------------------------------------

    async def put(self, user_id: UserId, device_id: DeviceId, name: str | None = None) -> None:
        """A new device, or a new name for one; without a name, the one it has stays."""
        self._check_ours(user_id)
        now_ms = self._clock.now_ms()
        wanted = display_name(name)

        def unit(tx: Transaction) -> Told:
            rows.lock(tx, user_id)
            there = rows.find(tx, user_id, device_id)
            if there is None and len(rows.of_user(tx, user_id)) >= MAX_DEVICES:
                raise BadInput(f"more than {MAX_DEVICES} devices", errcode="M_LIMIT_EXCEEDED")
            if there is not None and wanted in (None, there.display_name):
                return Told()
            row = DeviceRow(
                user_id=user_id,
                device_id=device_id,
                display_name=wanted,
                keys=None if there is None else there.keys,
                stream_id=0,
            )
            return announce(tx, user_id, {device_id: row}, now_ms)

        told = await self._database.write(unit)
        told.settle(self._wake, DEVICE_LIST)

    async def remove(self, user_id: UserId, device_ids: Collection[DeviceId]) -> None:
        """With their keys and all that waits for them; those that do not exist are passed over."""
        self._check_ours(user_id)
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> Told:
            rows.lock(tx, user_id)
            there = {one.device_id for one in rows.of_user(tx, user_id)}
            gone = [one for one in dict.fromkeys(device_ids) if one in there]
            for device_id in gone:
                device_keys.remove_signatures_on(tx, user_id, device_id)
            if not gone:
                return Told()
            return announce(tx, user_id, dict.fromkeys(gone), now_ms)

        told = await self._database.write(unit)
        told.settle(self._wake, DEVICE_LIST)

    # --- what is there --------------------------------------------------------------------------

    async def of_user(self, user_id: UserId) -> Sequence[DeviceRow]:
        self._check_ours(user_id)
        return await self._database.read(lambda tx: rows.of_user(tx, user_id))

    async def get(self, user_id: UserId, device_id: DeviceId) -> DeviceRow:
        self._check_ours(user_id)
        found = await self._database.read(lambda tx: rows.find(tx, user_id, device_id))
        if found is None:
            raise NotFound("no such device")
        return found

    async def answer(self, user_id: UserId) -> JsonObject:
        """For GET /user/devices: the whole list and its version.

        Nobody learns from it whether a user exists: who has no devices has an empty list.
        """
        self._check_ours(user_id)

        def unit(tx: Transaction) -> JsonObject:
            # The version first: what changes meanwhile is told again by the update after it.
            answer: JsonObject = {"user_id": user_id, "stream_id": rows.stream_id(tx, user_id)}
            signatures = device_keys.signatures_of(tx, [user_id], None)
            answer["devices"] = [
                {
                    "device_id": one.device_id,
                    "keys": signed_keys(from_text(one.keys), one.device_id, signatures),
                    **({} if one.display_name is None else _named(one.display_name)),
                }
                for one in rows.of_user(tx, user_id)
                if one.keys is not None
            ]
            signing = device_keys.cross_signing_of(tx, [user_id]).get(user_id, {})
            for usage, name in ((MASTER, "master_key"), (SELF_SIGNING, "self_signing_key")):
                if usage in signing:
                    key = from_text(signing[usage])
                    answer[name] = signed_keys(key, None, signatures)
            return answer

        return await self._database.read(unit)

    async def changed_since(self, after: int, limit: int) -> Sequence[tuple[int, UserId]]:
        """Positions and users, ours and others', whose devices or keys changed."""
        return await self._database.read(lambda tx: rows.changed_since(tx, after, limit))

    async def inbox(
        self, user_id: UserId, device_id: DeviceId, after: int, limit: int
    ) -> Sequence[to_device.DeviceMessage]:
        """What waits for the device after a position, in order."""
        return await self._database.read(
            lambda tx: to_device.read_since(tx, user_id, device_id, after, limit)
        )

    async def forget_inbox(self, user_id: UserId, device_id: DeviceId, position: int) -> None:
        """The device has shown that it has what waited up to there."""
        await self._database.write(
            lambda tx: to_device.forget_up_to(tx, user_id, device_id, position)
        )

    def _check_ours(self, user_id: UserId) -> None:
        if server_of(user_id) != self._own_name:
            raise BadInput("not a user of this server", errcode="M_INVALID_PARAM")


def _named(name: str) -> JsonObject:
    return {"device_display_name": name}
