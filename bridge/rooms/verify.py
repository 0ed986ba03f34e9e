"""Steps 2 and 3 on receipt: signatures with fetched keys, then the content hash.

The decisions are in `engine.receipt`; here the keys are fetched.

Until room version 2 servers name their events, and nothing keeps them from giving a name twice, in
one room or in two. The first event that we store has it; every later one is dropped here, with the
rule `event_id.taken`, before anything could take the one for the other.
Spec: S2S, checks on receipt of a PDU; validating hashes and signatures on received events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Protocol

from bridge.clock import Clock
from bridge.engine.keys import Signer
from bridge.engine.pdu import Pdu
from bridge.engine.receipt import VerifyKey, check_signatures_and_hash, keys_to_fetch
from bridge.engine.versions import RoomVersion
from bridge.errors import BadInput, IsthmusError, Refused, Unavailable
from bridge.ids import EventId, KeyId, RoomId, ServerName
from bridge.rooms.load import KnownEvent
from bridge.rooms.network import KeyRing
from bridge.telemetry.log import get_logger

MAX_KEYS_PER_SERVER = 4
"""Signatures of one server on one event whose keys we fetch."""
MAX_FETCHES = 16
"""Keys fetched at the same time for one answer of a peer."""
KEYS_TIMEOUT_S = 300.0
"""For the keys of one answer: it may name thousands of servers that are gone, or never were."""
MAX_KEYS = 20_000
"""Keys of one answer that are fetched at all."""
BREATH = 50
"""Events verified before other tasks get a turn."""

log = get_logger("rooms")


class Names(Protocol):
    """The events that we have: `RoomStates`."""

    async def events(self, event_ids: Iterable[EventId]) -> Mapping[EventId, KnownEvent]: ...


class Verifier:
    """Checks events against the keys of their servers."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        key: Signer,
        keyring: KeyRing,
        names: Names,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._key = key
        self._keyring = keyring
        self._names = names
        self._clock = clock

    async def check(self, pdu: Pdu) -> Pdu:
        """The event, or its redacted copy. Raises `Refused` (drop it), `Unavailable`."""
        checked = await self._check_signatures(pdu)
        if pdu.version.event_format.named_by_sender:
            known = await self._names.events([pdu.event_id])
            check_name(pdu, {event_id: one.pdu for event_id, one in known.items()})
        return checked

    async def _check_signatures(self, pdu: Pdu, late: Container[ServerName] = ()) -> Pdu:
        """`late`: servers that are not asked now."""
        keys: dict[ServerName, dict[KeyId, VerifyKey]] = {}
        problem: Unavailable | None = None
        for server, key_ids in keys_to_fetch(pdu).items():
            if server in late:
                raise Unavailable(f"no keys of {server} in time")
            found = keys.setdefault(server, {})
            for key_id in sorted(key_ids)[:MAX_KEYS_PER_SERVER]:
                try:
                    text = await self._find_key(server, key_id, _needed_until(pdu))
                except Unavailable as exc:
                    problem = exc
                    continue
                if text is not None:
                    found[key_id] = VerifyKey(key_base64=text, valid_until_ts=pdu.origin_server_ts)
        try:
            return check_signatures_and_hash(pdu, keys, now_ms=self._clock.now_ms())
        except Refused as exc:
            if problem is not None and exc.rule == "signature.missing":
                raise problem from exc
            raise

    async def _find_key(self, server: ServerName, key_id: KeyId, at_ms: int) -> str | None:
        if server == self._server_name and key_id == self._key.key_id:
            return self._key.verify_key_base64
        return await self._keyring.verify_key(server, key_id, at_ms)

    async def check_all(
        self, jsons: Iterable[object], version: RoomVersion, room_id: RoomId
    ) -> list[Pdu]:
        """Those of a peer's answer that are good events of this room; the others are dropped."""
        parsed: list[Pdu] = []
        for number, json in enumerate(jsons):
            if number % BREATH == 0:
                await asyncio.sleep(0)
            try:
                pdu = Pdu.parse(json, version)
            except BadInput as exc:
                log.info("pdu dropped", room_id=room_id, rule="format", reason=exc.reason)
                continue
            if pdu.room_id == room_id:
                parsed.append(pdu)
        late = await self._fetch_keys(parsed)
        names: dict[EventId, Pdu] = {}
        if version.event_format.named_by_sender:
            known = await self._names.events([pdu.event_id for pdu in parsed])
            names = {event_id: one.pdu for event_id, one in known.items()}
        good: list[Pdu] = []
        for number, pdu in enumerate(parsed):
            if number % BREATH == 0:
                await asyncio.sleep(0)
            try:
                checked = await self._check_signatures(pdu, late)
                if version.event_format.named_by_sender:
                    check_name(pdu, names)
                    names.setdefault(pdu.event_id, pdu)
                good.append(checked)
            except IsthmusError as exc:
                log.info(
                    "pdu dropped",
                    room_id=room_id,
                    event_id=pdu.event_id,
                    rule=getattr(exc, "rule", "signature.key"),
                )
        return good

    async def _fetch_keys(self, pdus: Sequence[Pdu]) -> Container[ServerName]:
        """Each key once, several at a time: the key ring remembers them, and who did not answer.

        Returns the servers that nobody got round to in time.
        """
        wanted: dict[tuple[ServerName, KeyId], int] = {}
        for pdu in pdus:
            for server, key_ids in keys_to_fetch(pdu).items():
                for key_id in sorted(key_ids)[:MAX_KEYS_PER_SERVER]:
                    at = max(wanted.get((server, key_id), 0), _needed_until(pdu))
                    wanted[server, key_id] = at
        if len(wanted) < 2:
            return ()
        late = {server for server, _ in wanted}
        turn = asyncio.Semaphore(MAX_FETCHES)

        async def fetch(server: ServerName, key_id: KeyId, at_ms: int) -> None:
            async with turn:
                # It is asked for again, and its failure reported, with the event itself.
                with suppress(IsthmusError):
                    await self._find_key(server, key_id, at_ms)
                late.discard(server)

        try:
            async with asyncio.timeout(KEYS_TIMEOUT_S), asyncio.TaskGroup() as group:
                for (server, key_id), at_ms in islice(wanted.items(), MAX_KEYS):
                    group.create_task(fetch(server, key_id, at_ms))
        except TimeoutError:
            log.warning("keys did not come in time", servers=len(late))
        return late


def check_name(pdu: Pdu, known: Mapping[EventId, Pdu]) -> None:
    """Raise `Refused` when another event has this ID. `known`: at least the one that has it."""
    there = known.get(pdu.event_id)
    if there is not None and not there.is_same(pdu):
        raise Refused("another event has this ID", rule="event_id.taken")


def _needed_until(pdu: Pdu) -> int:
    """The time at which the key must count; 0 where the version does not look at it."""
    return pdu.origin_server_ts if pdu.version.signing.enforce_key_validity else 0
