"""Keys of other servers, for those who ask us as their notary. Unsigned requests: anybody may ask.

We answer what a server published last, as it signed it, with our signatures added; also when the
server is gone. It is asked again first where its document lacks a key that is asked for, ends
before the time asked for, or has passed half of its life. How often is bounded three times: per
server (the key ring), per request, and per requester, who gets so many documents in a while too.
Beyond that the answer is what we have.
Spec: S2S, querying keys through another server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.engine.signing import sign_json
from bridge.errors import BadInput, IsthmusError
from bridge.federation.client.keyring import KeyDocument
from bridge.federation.client.memory import BoundedMap
from bridge.federation.own_keys import OwnKeys
from bridge.federation.server.keys import Keys
from bridge.ids import ServerName, parse_server_name
from bridge.telemetry.log import get_logger
from bridge.web.routing import Request, Response

MAX_SERVERS = 1000
"""Of one request; a peer that joins a big room asks for many at once."""
MAX_BODY_BYTES = 512 * 1024
MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_ASKED = 50
"""Servers that are asked again for one request."""
MAX_ASKED_AT_ONCE = 8
ASKING_TIMEOUT_S = 15.0
# A requester's allowance, how fast it comes back, and what takes from it.
ALLOWANCE = 10_000.0
ALLOWANCE_PER_S = 50.0
ASKING_COSTS = 100.0
ANSWERING_COSTS = 1.0
MAX_REQUESTERS = 10_000
MAX_TS = 2**53 - 1
BREATH = 20
"""Documents signed before other tasks get a turn."""

log = get_logger("notary")


class Documents(Protocol):
    """What is used of `ServerKeyRing`."""

    async def documents(
        self, servers: Sequence[ServerName]
    ) -> Mapping[ServerName, KeyDocument]: ...

    async def renew_document(self, server: ServerName) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What is asked of one server. No key IDs: whatever it has."""

    key_ids: frozenset[str]
    until_ms: int


@dataclass(slots=True)
class _Allowance:
    left: float
    at_s: float


class Notary:
    def __init__(
        self,
        *,
        own_name: ServerName,
        own: Keys,
        keys: OwnKeys,
        documents: Documents,
        clock: Clock,
    ) -> None:
        self._own_name = own_name
        self._own = own
        self._keys = keys
        self._documents = documents
        self._clock = clock
        self._allowances: BoundedMap[str, _Allowance] = BoundedMap(MAX_REQUESTERS)

    async def query_one(self, request: Request) -> Response:
        """With or, as it used to be, without a key ID in the path."""
        server = parse_server_name(request.params["server_name"])
        key_id = request.params.get("key_id")
        text = request.query_one("minimum_valid_until_ts")
        wanted = _Wanted(
            key_ids=frozenset() if key_id is None else frozenset([key_id]),
            until_ms=self._clock.now_ms() if text is None else _read_ts(text),
        )
        return await self._answer({server: wanted}, requester=request.peer_address)

    async def query(self, request: Request) -> Response:
        asked = request.json_object().get("server_keys")
        if not isinstance(asked, dict):
            raise BadInput("server_keys is not an object", errcode="M_BAD_JSON")
        if len(asked) > MAX_SERVERS:
            raise BadInput(f"more than {MAX_SERVERS} servers", errcode="M_TOO_LARGE")
        wanted: dict[ServerName, _Wanted] = {}
        for name, criteria in asked.items():
            one = self._read_criteria(criteria)
            try:
                wanted[parse_server_name(name)] = one
            except BadInput:
                continue  # No such server can exist: it is one of which nothing is known.
        return await self._answer(wanted, requester=request.peer_address)

    def _read_criteria(self, criteria: Any) -> _Wanted:
        if not isinstance(criteria, dict):
            raise BadInput("a server's keys are not an object", errcode="M_BAD_JSON")
        until_ms = 0
        for each in criteria.values():
            if not isinstance(each, dict):
                raise BadInput("a key's criteria are not an object", errcode="M_BAD_JSON")
            ts = each.get("minimum_valid_until_ts", self._clock.now_ms())
            if not isinstance(ts, int) or isinstance(ts, bool) or abs(ts) > MAX_TS:
                raise BadInput("minimum_valid_until_ts is no time", errcode="M_BAD_JSON")
            until_ms = max(until_ms, ts)
        return _Wanted(
            key_ids=frozenset(criteria), until_ms=until_ms if criteria else self._clock.now_ms()
        )

    async def _answer(self, wanted: Mapping[ServerName, _Wanted], *, requester: str) -> Response:
        others = [server for server in wanted if server != self._own_name]
        found = await self._documents.documents(others)
        weak = [server for server in others if self._is_weak(found.get(server), wanted[server])]
        asked = weak[: self._allow(requester, min(len(weak), MAX_ASKED), each=ASKING_COSTS)]
        if asked:
            await self._renew(asked)
            found = {**found, **await self._documents.documents(asked)}
        answer: list[JsonObject] = []
        if self._own_name in wanted:
            answer.append(self._own.document())
        ready = [found[server] for server in others if server in found]
        ready = ready[: self._allow(requester, len(ready), each=ANSWERING_COSTS)]
        size = 0
        for number, document in enumerate(ready):
            if number % BREATH == 0:
                await asyncio.sleep(0)
            size += len(document.json)
            if size > MAX_ANSWER_BYTES:
                break
            answer.append(self._signed(document))
        return Response(json={"server_keys": answer})

    def _is_weak(self, document: KeyDocument | None, wanted: _Wanted) -> bool:
        if document is None or document.valid_until_ms < wanted.until_ms:
            return True
        life_ms = max(0, document.valid_until_ms - document.fetched_ms)
        if self._clock.now_ms() > document.fetched_ms + life_ms // 2:
            return True
        content = json.loads(document.json)
        there = {*content["verify_keys"], *content.get("old_verify_keys", {})}
        return not wanted.key_ids <= there

    def _allow(self, requester: str, number: int, *, each: float) -> int:
        """How many of so many this requester is allowed now, at that price each."""
        now_s = self._clock.monotonic_s()
        allowance = self._allowances.get(requester)
        if allowance is None:
            allowance = _Allowance(left=ALLOWANCE, at_s=now_s)
            self._allowances.put(requester, allowance)
        gained = (now_s - allowance.at_s) * ALLOWANCE_PER_S
        allowance.left = min(ALLOWANCE, allowance.left + gained)
        allowance.at_s = now_s
        allowed = min(number, int(allowance.left // each))
        allowance.left -= allowed * each
        return allowed

    async def _renew(self, servers: Sequence[ServerName]) -> None:
        """As many as answer in time; what one of them says is stored as soon as it does."""
        places = asyncio.Semaphore(MAX_ASKED_AT_ONCE)

        async def renew(server: ServerName) -> None:
            async with places:
                try:
                    await self._documents.renew_document(server)
                except IsthmusError as exc:
                    log.debug("no newer keys", peer=server, reason=exc.reason)

        try:
            async with asyncio.timeout(ASKING_TIMEOUT_S), asyncio.TaskGroup() as tasks:
                for server in servers:
                    tasks.create_task(renew(server))
        except TimeoutError:
            log.info("keys asked for in vain", servers=len(servers))

    def _signed(self, document: KeyDocument) -> JsonObject:
        content: JsonObject = json.loads(document.json)
        for key in self._keys.current:
            content = sign_json(content, server=self._own_name, key=key)
        return content


def _read_ts(text: str) -> int:
    if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > 17:
        raise BadInput("minimum_valid_until_ts is no time", errcode="M_INVALID_PARAM")
    return int(text)
