"""The keys of other servers: remembered, stored, fetched from the server itself or a notary.

A key counts until `valid_until_ts` (at most seven days from when we fetched it), an old key until
its `expired_ts`. What we have is used while it counts for the time asked about; otherwise the
server is asked again, but never in quick succession.

A key that is known under an ID is not replaced by another under the same ID, unless the server
itself says so after the known one has run out: an ID has one key. What servers publish is kept as
they signed it, for those whose notary we are.

Spec: S2S, retrieving server keys; rooms/v5, signing key validity period.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject, check_canonical, encode_canonical
from bridge.engine.keys import ALGORITHM, decode_base64
from bridge.engine.signing import check_json_signature, signatures_of
from bridge.errors import BadInput, IsthmusError, Unavailable
from bridge.federation.client.memory import BoundedMap, Turns
from bridge.ids import KeyId, ServerName
from bridge.telemetry import metrics
from bridge.telemetry.log import get_logger

MAX_VALIDITY_MS = 7 * 24 * 3600 * 1000
MAX_ANSWER_BYTES = 256 * 1024
MAX_DOCUMENT_BYTES = 64 * 1024
"""Of one server's own document; a notary may give several at once."""
MAX_KEYS = 200
MAX_KEY_LENGTH = 100
_KEY_ID = re.compile(rf"{ALGORITHM}:[\x21-\x7e]{{1,200}}")
FETCH_TIMEOUT_S = 20.0
QUEUE_TIMEOUT_S = 30.0
"""How long one waits for its turn to fetch: anybody may name servers that answer slowly."""
# Between two fetches from one server: after a key that it does not have, and after failures.
REFETCH_S = 30.0
MAX_RETRY_S = 300.0

log = get_logger("keyring")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKey:
    """One published key. `expired_ms` is set for an old key, which signs events only."""

    server: ServerName
    key_id: KeyId
    verify_key: str
    """Unpadded Base64."""
    valid_until_ms: int
    """As believed: capped at seven days after `fetched_ms`."""
    expired_ms: int | None = None
    fetched_ms: int = 0

    def counts_at(self, ts_ms: int) -> bool:
        return ts_ms <= (self.valid_until_ms if self.expired_ms is None else self.expired_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDocument:
    """What a server published. `json` is canonical and carries the server's own signatures only."""

    server: ServerName
    json: str
    valid_until_ms: int
    """As it says."""
    fetched_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """One good document, read."""

    keys: Sequence[ServerKey]
    document: KeyDocument


class KeyStore(Protocol):
    """Where fetched keys survive a restart."""

    async def find(self, server: ServerName, key_id: KeyId) -> ServerKey | None: ...

    async def put(self, keys: Sequence[ServerKey], document: KeyDocument | None = None) -> None:
        """Replaces what is there for the same server and key ID, and the server's document."""
        ...

    async def find_documents(self, servers: Sequence[ServerName]) -> Sequence[KeyDocument]:
        """Of those servers of which there is one."""
        ...


class OwnKeyBook(Protocol):
    """What is used of `OwnKeys`."""

    def find(self, key_id: KeyId, at_ms: int) -> str | None: ...


class KeyRequests(Protocol):
    """What is used of `Transport`."""

    async def request(
        self,
        peer: ServerName,
        method: str,
        path: str,
        *,
        endpoint: str,
        query: Sequence[tuple[str, str]] = (),
        body: JsonObject | None = None,
        timeout_s: float = ...,
        max_bytes: int = ...,
        signed: bool = True,
    ) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """When the server may be asked again, and whether it answered."""

    next_s: float
    renew_s: float
    """Before then nobody makes us ask for the newest document."""
    failures: int
    missing: KeyId | None
    """What was looked for in vain."""


class ServerKeyRing:
    """Keys of all servers; `own_keys` are ours, which need no asking."""

    def __init__(
        self,
        *,
        own_name: ServerName,
        own_keys: OwnKeyBook,
        transport: KeyRequests,
        store: KeyStore,
        clock: Clock,
        notaries: Sequence[ServerName] = (),
        max_fetches: int = 20,
        queue_timeout_s: float = QUEUE_TIMEOUT_S,
        max_remembered: int = 10_000,
    ) -> None:
        self._own_name = own_name
        self._own_keys = own_keys
        self._transport = transport
        self._store = store
        self._clock = clock
        self._notaries = tuple(name for name in notaries if name != own_name)
        self._queue_timeout_s = queue_timeout_s
        self._fetching = asyncio.Semaphore(max_fetches)
        self._turns: Turns[ServerName] = Turns()
        self._keys: BoundedMap[tuple[ServerName, KeyId], ServerKey] = BoundedMap(max_remembered)
        self._attempts: BoundedMap[ServerName, _Attempt] = BoundedMap(max_remembered)

    async def verify_key(
        self, server: ServerName, key_id: KeyId, minimum_valid_until_ts: int
    ) -> str | None:
        """Unpadded Base64, or None: the server is known to have no such key for that time.

        Raises `Unavailable` while nobody can be asked. For a request pass the present time, for
        an event its `origin_server_ts` (0 where the room version does not look at validity).
        """
        if server == self._own_name:
            return self._own_keys.find(key_id, minimum_valid_until_ts)
        if not _KEY_ID.fullmatch(key_id):
            return None
        found = await self._find(server, key_id, minimum_valid_until_ts)
        if found is not None:
            return found.verify_key
        async with self._turns.turn(server):
            found = await self._find(server, key_id, minimum_valid_until_ts)
            if found is None:
                await self._refresh(server, (key_id, minimum_valid_until_ts))
                found = await self._find(server, key_id, minimum_valid_until_ts)
        return None if found is None else found.verify_key

    async def documents(self, servers: Sequence[ServerName]) -> Mapping[ServerName, KeyDocument]:
        """What those servers published last, as far as we know it. Nobody is asked."""
        found = await self._store.find_documents(servers)
        return {document.server: document for document in found}

    async def renew_document(self, server: ServerName) -> None:
        """Asks the server itself, no notary, unless it was asked lately. Raises `Unavailable`."""
        async with self._turns.turn(server):
            await self._refresh(server, None)

    async def _find(self, server: ServerName, key_id: KeyId, ts_ms: int) -> ServerKey | None:
        known = await self._known(server, key_id)
        return known if known is not None and known.counts_at(ts_ms) else None

    async def _known(self, server: ServerName, key_id: KeyId) -> ServerKey | None:
        """Whether it counts or not."""
        known = self._keys.get((server, key_id))
        if known is None:
            known = await self._store.find(server, key_id)
            if known is not None:
                self._keys.put((server, key_id), known)
        return known

    async def _refresh(self, server: ServerName, wanted: tuple[KeyId, int] | None) -> None:
        """Ask the server, then the notaries, until the wanted key counts for the time.

        Where none is wanted the server alone is asked. After a key that was looked for in vain, or
        nobody's answer, there is a pause. A key that came is no reason for one, or a server that
        has just replaced its key would not be believed. Raises `Unavailable`, also within a pause
        for a key that we have not looked for: that another one, for which anybody may have asked,
        was not there proves nothing about it.
        """
        now = self._clock.monotonic_s()
        last = self._attempts.get(server)
        if last is not None and now < last.renew_s and wanted is None and not last.failures:
            return
        if last is not None and now < last.next_s:
            if not last.failures and await self._is_settled(server, wanted, last):
                return
            raise Unavailable(f"no keys of {server} now", retry_after_s=last.next_s - now)
        failures = last.failures if last is not None else 0
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                await self._fetching.acquire()
        except TimeoutError as exc:
            raise Unavailable("too many keys are being fetched", retry_after_s=REFETCH_S) from exc
        try:
            await self._fetch(server, wanted)
        except (Unavailable, asyncio.CancelledError):
            # Whoever had no patience has asked all the same.
            wait_s = min(REFETCH_S * 2 ** min(failures, 10), MAX_RETRY_S)
            self._attempts.put(server, self._attempt(wait_s, failures + 1))
            raise
        finally:
            self._fetching.release()
        in_vain = wanted is not None and await self._find(server, *wanted) is None
        missing = wanted[0] if in_vain and wanted is not None else None
        wait_s = REFETCH_S if in_vain else 0.0
        self._attempts.put(server, self._attempt(wait_s, 0, missing))

    async def _is_settled(
        self, server: ServerName, wanted: tuple[KeyId, int] | None, last: _Attempt
    ) -> bool:
        """Whether what we know of the key is what the server said a moment ago."""
        if wanted is None or wanted[0] == last.missing:
            return True
        return await self._known(server, wanted[0]) is not None

    def _attempt(self, wait_s: float, failures: int, missing: KeyId | None = None) -> _Attempt:
        now = self._clock.monotonic_s()
        return _Attempt(
            next_s=now + wait_s, renew_s=now + REFETCH_S, failures=failures, missing=missing
        )

    async def _fetch(self, server: ServerName, wanted: tuple[KeyId, int] | None) -> None:
        failure: IsthmusError | None = None
        answered = False
        for notary in (None, *(name for name in self._notaries if name != server)):
            try:
                if notary is None:
                    published = [await self._ask_directly(server)]
                elif wanted is None:
                    break
                else:
                    published = await self._ask_notary(notary, server, *wanted)
            except IsthmusError as exc:
                self._count(notary, "failed")
                log.info("keys not fetched", peer=server, notary=notary, reason=exc.reason)
                failure = failure or exc
                continue
            self._count(notary, "ok")
            answered = answered or notary is None or bool(published)
            for each in published:
                await self._remember(each, direct=notary is None)
            if wanted is None or await self._find(server, *wanted) is not None:
                return
        if not answered:
            reason = failure.reason if failure is not None else "nobody has them"
            raise Unavailable(f"no keys of {server}: {reason}") from failure

    async def _remember(self, published: _Published, *, direct: bool) -> None:
        """Store what says more than what is there: a notary may answer from an old copy.

        A document that gives a known ID to another key is kept from those who ask us.
        """
        fresh, good = [], True
        for key in published.keys:
            known = self._keys.get((key.server, key.key_id))
            known = known or await self._store.find(key.server, key.key_id)
            if known is not None and not _is_same_key(key, known):
                if not (direct and self._may_change(known)):
                    good = False
                    log.warning(
                        "a key changed under its ID, which is refused",
                        peer=key.server,
                        key_id=key.key_id,
                        rule="key.changed",
                        direct=direct,
                    )
                    continue
                fresh.append(key)
            elif known is None or _replaces(key, known):
                fresh.append(key)
        document = published.document if good else None
        if document is not None and not direct:
            there = (await self.documents([document.server])).get(document.server)
            if there is not None and there.valid_until_ms >= document.valid_until_ms:
                document = None
        if fresh or document is not None:
            await self._store.put(fresh, document)
            for key in fresh:
                self._keys.put((key.server, key.key_id), key)

    def _may_change(self, known: ServerKey) -> bool:
        """A server that was set up anew, with the same ID by chance or by habit: as soon as nobody
        would believe its former key for anything new. A retired key stays what it was."""
        return known.expired_ms is None and known.valid_until_ms < self._clock.now_ms()

    async def _ask_directly(self, server: ServerName) -> _Published:
        answer = await self._transport.request(
            server,
            "GET",
            "/_matrix/key/v2/server",
            endpoint="keys",
            timeout_s=FETCH_TIMEOUT_S,
            max_bytes=MAX_DOCUMENT_BYTES,
            signed=False,
        )
        return _read(answer, server, now_ms=self._clock.now_ms())

    async def _ask_notary(
        self, notary: ServerName, server: ServerName, key_id: KeyId, ts_ms: int
    ) -> list[_Published]:
        """The notary's own keys come from itself; both signatures must be there."""
        criteria = {"minimum_valid_until_ts": ts_ms}
        answer = await self._transport.request(
            notary,
            "POST",
            "/_matrix/key/v2/query",
            endpoint="keys_query",
            body={"server_keys": {server: {key_id: criteria}}},
            timeout_s=FETCH_TIMEOUT_S,
            max_bytes=MAX_ANSWER_BYTES,
        )
        entries = answer.get("server_keys") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise BadInput("a notary's answer without server_keys")
        found: list[_Published] = []
        for entry in entries[:MAX_KEYS]:
            if not isinstance(entry, dict) or entry.get("server_name") != server:
                continue
            published = _read(entry, server, now_ms=self._clock.now_ms())
            if not await self._is_signed_by_notary(entry, notary):
                raise BadInput(f"{notary} did not sign the keys it gave")
            found.append(published)
        return found

    async def _is_signed_by_notary(self, entry: JsonObject, notary: ServerName) -> bool:
        now_ms = self._clock.now_ms()
        for key_id in list(signatures_of(entry, notary))[:5]:
            known = await self._find(notary, key_id, now_ms)
            if known is None:
                await self._remember(await self._ask_directly(notary), direct=True)
                known = await self._find(notary, key_id, now_ms)
            if known is not None and check_json_signature(
                entry, server=notary, key_id=key_id, verify_key=known.verify_key
            ):
                return True
        return False

    def _count(self, notary: ServerName | None, outcome: str) -> None:
        metrics.KEY_FETCHES.labels("server" if notary is None else "notary", outcome).inc()


def _is_same_key(one: ServerKey, other: ServerKey) -> bool:
    return decode_base64(one.verify_key) == decode_base64(other.verify_key)


def _replaces(new: ServerKey, known: ServerKey) -> bool:
    """An expiry is final unless the key is published again; otherwise the longer validity wins."""
    if known.expired_ms is not None:
        return True
    return new.expired_ms is not None or new.valid_until_ms >= known.valid_until_ms


def _read(answer: Any, server: ServerName, *, now_ms: int) -> _Published:
    """Raises `BadInput`."""
    keys = read_server_keys(answer, server, now_ms=now_ms)
    own = {**answer, "signatures": {server: signatures_of(answer, server)}}
    json = encode_canonical({key: own[key] for key in own if key != "unsigned"})
    if len(json) > MAX_DOCUMENT_BYTES:
        raise BadInput(f"the key document of {server} is too large")
    document = KeyDocument(
        server=server,
        json=json.decode("utf-8"),
        valid_until_ms=answer["valid_until_ts"],
        fetched_ms=now_ms,
    )
    return _Published(keys=keys, document=document)


def read_server_keys(answer: Any, server: ServerName, *, now_ms: int) -> list[ServerKey]:
    """The keys of a key document that the server itself signed. Raises `BadInput`.

    The document must carry a valid signature by one of the keys it lists as current.
    """
    if not isinstance(answer, dict) or answer.get("server_name") != server:
        raise BadInput(f"no key document of {server}")
    check_canonical(answer)
    valid_until = answer.get("valid_until_ts")
    if not isinstance(valid_until, int) or isinstance(valid_until, bool):
        raise BadInput("a key document without valid_until_ts")
    current = dict(_listed(answer.get("verify_keys"), "verify_keys"))
    if not any(
        check_json_signature(answer, server=server, key_id=key_id, verify_key=str(entry["key"]))
        for key_id, entry in current.items()
    ):
        raise BadInput(f"the key document of {server} is not signed by its keys")
    believed_until = min(valid_until, now_ms + MAX_VALIDITY_MS)
    keys = [
        ServerKey(
            server=server,
            key_id=key_id,
            verify_key=entry["key"],
            valid_until_ms=believed_until,
            fetched_ms=now_ms,
        )
        for key_id, entry in current.items()
    ]
    for key_id, entry in _listed(answer.get("old_verify_keys", {}), "old_verify_keys"):
        expired = entry.get("expired_ts")
        if not isinstance(expired, int) or isinstance(expired, bool):
            raise BadInput("an old key without expired_ts")
        if key_id not in current:
            keys.append(
                ServerKey(
                    server=server,
                    key_id=key_id,
                    verify_key=entry["key"],
                    valid_until_ms=believed_until,
                    # An old key signs no requests: what expires in the future has expired now.
                    expired_ms=min(expired, now_ms - 1),
                    fetched_ms=now_ms,
                )
            )
    return keys


def _listed(value: object, name: str) -> Iterable[tuple[KeyId, dict[str, Any]]]:
    """Key ID and entry of each key of our algorithm."""
    if not isinstance(value, dict) or len(value) > MAX_KEYS:
        raise BadInput(f"{name} is not an object of at most {MAX_KEYS} keys")
    for key_id, entry in value.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
            raise BadInput(f"{name} has an entry without a key")
        if _KEY_ID.fullmatch(key_id) and _is_key(entry["key"]):
            yield KeyId(key_id), entry


def _is_key(text: str) -> bool:
    try:
        return len(text) <= MAX_KEY_LENGTH and len(decode_base64(text)) == 32
    except BadInput:
        return False
