"""Fetches device lists that are stale, and forgets those of users with whom we share no room.

One lane per server; no list is fetched again within `PAUSE_S`, however often its server makes it
stale, and failures are tried again with pauses that grow. Spec: S2S, GET /user/devices.
"""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random

from bridge.clock import Clock
from bridge.delivery.backoff import Backoff
from bridge.delivery.lanes import Lanes
from bridge.engine.canonical import JsonObject
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import ServerName, UserId
from bridge.people.checks import stream_id
from bridge.people.lists import put_signing_keys, remote_device, signing_keys
from bridge.people.network import PeoplePeers
from bridge.storage import device_keys, device_lists, devices
from bridge.storage.database import Database, Transaction
from bridge.storage.device_lists import RemoteDevice, RemoteList
from bridge.telemetry.log import get_logger
from bridge.telemetry.metrics import DEVICE_LIST_FETCHES

log = get_logger("people")

PAUSE_S = 10.0
POLL_S = 60.0
AT_ONCE = 200
MAX_ATTEMPTS = 30
"""After as many failures the list is followed no more; the next that is heard begins anew."""
LANES = 20


class Resync:
    """`run()` is its one task."""

    def __init__(
        self,
        *,
        database: Database,
        peers: PeoplePeers,
        clock: Clock,
        random: Random,
        backoff: Backoff | None = None,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._database = database
        self._peers = peers
        self._clock = clock
        self._random = random
        self._backoff = backoff or Backoff(first_s=2.0, most_s=3600.0)
        self._pause_ms = round(pause_s * 1000)
        self._lanes = Lanes(self.serve, workers=LANES, name="device lists")
        self._waker = database.waker(device_lists.TOPIC)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lanes.run())
            tasks.create_task(self._look_forever())

    async def _look_forever(self) -> None:
        while True:
            now_ms = self._clock.now_ms()
            try:
                servers = await self._database.read(
                    partial(device_lists.due_servers, now_ms=now_ms)
                )
                next_ms = await self._database.read(
                    partial(device_lists.next_due_ms, after_ms=now_ms)
                )
            except Unavailable as exc:
                log.warning("stale device lists must wait", reason=exc.reason)
                await self._clock.sleep(1.0)
                continue
            for server in servers:
                self._lanes.wake(server)
            pause_s = POLL_S
            if next_ms is not None:
                pause_s = min(POLL_S, (next_ms - now_ms) / 1000)
            await self._waker.wait(pause_s)

    async def serve(self, key: str) -> None:
        """What is due of the users of that server, one list after the other."""
        server = ServerName(key)
        while True:
            now_ms = self._clock.now_ms()
            due = await self._database.read(
                partial(device_lists.due, now_ms=now_ms, limit=AT_ONCE, server=server)
            )
            if not due:
                return
            for one in due:
                if not await self.fetch(one):
                    return

    async def fetch(self, known: RemoteList) -> bool:
        """One list. False: its server cannot be asked now."""
        user_id = known.user_id
        if not await self._database.read(lambda tx: devices.is_with_us(tx, user_id)):
            await self._database.write(lambda tx: device_lists.forget(tx, user_id))
            return True
        try:
            answer = await self._peers.user_devices(known.server, user_id)
            stream, found, keys = _read(user_id, answer)
        except (Unavailable, Refused, NotFound, BadInput) as exc:
            DEVICE_LIST_FETCHES.labels(outcome="failed").inc()
            log.info("device list not fetched", peer=known.server, reason=exc.reason)
            is_away = isinstance(exc, Unavailable)
            await self._postpone(known, all_of_server=is_away)
            return not is_away
        DEVICE_LIST_FETCHES.labels(outcome="ok").inc()
        next_ms = self._clock.now_ms() + self._pause_ms

        def unit(tx: Transaction) -> None:
            now = device_lists.lock(tx, user_id)
            if now is None:
                return
            device_lists.replace(
                tx,
                now,
                stream=stream,
                devices=found,
                settled=now.marks == known.marks,
                next_attempt_ms=next_ms,
            )
            gone = {usage for usage in ("master", "self_signing") if usage not in keys}
            device_keys.remove_cross_signing_keys(tx, user_id, gone)
            put_signing_keys(tx, now, keys)
            devices.note_change(tx, user_id)

        await self._database.write(unit)
        return True

    async def _postpone(self, known: RemoteList, *, all_of_server: bool) -> None:
        """`all_of_server`: the others would fare no better now."""
        delay_s = self._backoff.delay_s(known.attempts, self._random)
        next_ms = self._clock.now_ms() + round(delay_s * 1000)

        def unit(tx: Transaction) -> None:
            if known.attempts + 1 >= MAX_ATTEMPTS:
                device_lists.forget(tx, known.user_id)
                return
            device_lists.postpone(
                tx, known.user_id, attempts=known.attempts + 1, next_attempt_ms=next_ms
            )
            if all_of_server:
                device_lists.postpone_all(tx, known.server, next_attempt_ms=next_ms)

        await self._database.write(unit)


def _read(user_id: UserId, answer: JsonObject) -> tuple[int, list[RemoteDevice], dict[str, str]]:
    """`BadInput` for a list that is not this user's, or too long to be kept."""
    if answer.get("user_id") != user_id:
        raise BadInput("the device list is of somebody else")
    listed = answer.get("devices")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise BadInput("a device list without devices")
    if len(listed) > device_lists.MAX_DEVICES:
        raise BadInput(f"more than {device_lists.MAX_DEVICES} devices")
    found: dict[str, RemoteDevice] = {}
    for one in listed:
        try:
            device = remote_device(user_id, one)
        except BadInput:
            continue
        found[device.device_id] = device
    keys: dict[str, str] = {}
    try:
        keys = signing_keys(user_id, answer)
    except BadInput as exc:
        log.info("cross-signing keys of a device list left out", reason=exc.reason)
    return stream_id(answer.get("stream_id")), list(found.values()), keys
