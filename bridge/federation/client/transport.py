"""One signed JSON request to a peer, and what its status means.

A 4xx with an error code is final (`Refused`; `NotFound` for M_NOT_FOUND); 429, 5xx, and whatever
keeps a Matrix answer from arriving is `Unavailable`. An unknown endpoint is `Refused` with
M_UNRECOGNIZED, also where the peer did not say so in JSON.
Spec: S2S, request authentication, unsupported endpoints.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject, encode_canonical
from bridge.engine.keys import Signer
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.federation.client.discovery import Discovery, HttpOut
from bridge.federation.xmatrix import sign_request
from bridge.ids import ServerName
from bridge.net.client import HttpRequest, HttpResponse, HttpStream
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.telemetry import metrics
from bridge.telemetry.log import get_logger

DEFAULT_TIMEOUT_S = 60.0
DEFAULT_MAX_BYTES = 16 << 20
MAX_RETRY_AFTER_S = 24 * 3600.0
MAX_ERROR_BYTES = 64 << 10
_MAX_REASON_CHARACTERS = 500

log = get_logger("transport")


def encode_path(*segments: str) -> str:
    """`/`-joined and percent-encoded segment by segment; identifiers may contain anything."""
    return "".join("/" + quote(segment, safe="") for segment in segments)


class HttpAsked(HttpOut, Protocol):
    """What is used of `net.client.HttpClient`."""

    def open(self, request: HttpRequest) -> AbstractAsyncContextManager[HttpStream]: ...


class Transport:
    """Errors of `request`: `Refused`, `NotFound`, `Unavailable`, `BadInput` (answer too large)."""

    def __init__(
        self,
        *,
        own_name: ServerName,
        key: Signer,
        client: HttpAsked,
        discovery: Discovery,
        clock: Clock,
        house: House | None = None,
    ) -> None:
        self.own_name = own_name
        self._key = key
        self._client = client
        self._discovery = discovery
        self._clock = clock
        self._house = house or House(own_name=own_name)

    async def request(
        self,
        peer: ServerName,
        method: str,
        path: str,
        *,
        endpoint: str,
        query: Sequence[tuple[str, str]] = (),
        body: JsonObject | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        signed: bool = True,
        long_lists: Collection[str] = (),
    ) -> Any:
        """The parsed JSON of a 200. `path` is encoded already; `endpoint` names it in metrics;
        `long_lists`: keys of an answer that is parsed as it arrives."""
        started = self._clock.monotonic_s()
        outcome = "cancelled"
        try:
            answer = await self._send(
                peer,
                method,
                path,
                query,
                body,
                timeout_s=timeout_s,
                max_bytes=max_bytes,
                signed=signed,
                long_lists=long_lists,
            )
            value = read_answer(answer, peer)
            outcome = "ok"
            return value
        except IsthmusError as exc:
            outcome = _outcome(exc)
            log.debug(
                "peer request failed",
                peer=peer,
                endpoint=endpoint,
                outcome=outcome,
                reason=exc.reason,
            )
            raise
        finally:
            metrics.PEER_REQUESTS.labels(endpoint, outcome).inc()
            metrics.PEER_SECONDS.labels(endpoint).observe(self._clock.monotonic_s() - started)

    @asynccontextmanager
    async def open(
        self,
        peer: ServerName,
        path: str,
        *,
        endpoint: str,
        query: Sequence[tuple[str, str]] = (),
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        signed: bool = True,
    ) -> AsyncIterator[HttpStream]:
        """A 200 to a GET, whose body is read by the caller: any bytes, not JSON. The outcome that
        is counted is that of the answer's head."""
        started = self._clock.monotonic_s()
        outcome = "cancelled"
        request = await self._request(
            peer,
            "GET",
            path,
            query,
            None,
            accept="*/*",
            timeout_s=timeout_s,
            max_bytes=max_bytes,
            signed=signed,
        )
        try:
            async with AsyncExitStack() as stack:
                async with self._reached(peer):
                    answer = await stack.enter_async_context(self._client.open(request))
                if answer.status != 200:
                    error = HttpResponse(
                        status=answer.status,
                        headers=answer.headers,
                        body=await answer.read(MAX_ERROR_BYTES),
                    )
                    read_answer(error, peer)
                    raise Unavailable(f"{peer} answered with status {answer.status}")
                outcome = "ok"
                yield answer
        except IsthmusError as exc:
            if outcome != "ok":
                outcome = _outcome(exc)
            raise
        finally:
            metrics.PEER_REQUESTS.labels(endpoint, outcome).inc()
            metrics.PEER_SECONDS.labels(endpoint).observe(self._clock.monotonic_s() - started)

    async def _send(
        self,
        peer: ServerName,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: JsonObject | None,
        *,
        timeout_s: float,
        max_bytes: int,
        signed: bool,
        long_lists: Collection[str],
    ) -> HttpResponse:
        request = await self._request(
            peer,
            method,
            path,
            query,
            body,
            accept="application/json",
            timeout_s=timeout_s,
            max_bytes=max_bytes,
            signed=signed,
            long_lists=long_lists,
        )
        async with self._reached(peer):
            return await self._client.send(request)

    async def _request(
        self,
        peer: ServerName,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: JsonObject | None,
        *,
        accept: str,
        timeout_s: float,
        max_bytes: int,
        signed: bool,
        long_lists: Collection[str] = (),
    ) -> HttpRequest:
        """Where to and what to send."""
        if peer == self.own_name:
            raise Refused("a federation request to ourselves", rule="own_server")
        if signed:
            # Keys are asked for unsigned: what others tell of a denied server must be checked.
            self._house.check_server(peer, Scope.ALL, door="outgoing")
        target = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
        location = await self._discovery.locate(peer)
        headers = {"Host": location.host_header, "Accept": accept}
        if signed:
            headers["Authorization"] = sign_request(
                method=method,
                target=target,
                origin=self.own_name,
                destination=peer,
                content=body,
                key=self._key,
            ).header()
        if body is not None:
            headers["Content-Type"] = "application/json"
        return HttpRequest(
            method=method,
            url=f"https://{location.host_header}{target}",
            headers=headers,
            body=None if body is None else encode_canonical(body),
            connect_to=location.endpoints,
            certificate_name=location.certificate_name,
            max_bytes=max_bytes,
            timeout_s=timeout_s,
            long_lists=long_lists,
        )

    @asynccontextmanager
    async def _reached(self, peer: ServerName) -> AsyncIterator[None]:
        """What the client itself finds: no answer, or an address that it will not connect to."""
        try:
            yield
        except BadInput as exc:
            if exc.errcode == "M_NOT_JSON":
                raise _no_json(peer) from exc
            raise
        except Unavailable:
            self._discovery.forget(peer)
            raise
        except Refused as exc:
            # The client refused an address, not the peer us: the name may point elsewhere later.
            self._discovery.forget(peer)
            raise Unavailable(f"{peer} cannot be reached: {exc.reason}") from exc


def read_answer(answer: HttpResponse, peer: ServerName) -> Any:
    """The JSON of a 200; everything else is an error of our tree."""
    if answer.status == 200:
        try:
            return answer.json()
        except BadInput as exc:
            raise _no_json(peer) from exc
    error = _error_object(answer)
    reason = f"{peer}: {_text(error.get('error')) or f'status {answer.status}'}"
    errcode = _text(error.get("errcode"))
    if answer.status == 429 or not 400 <= answer.status < 500:
        raise Unavailable(reason, errcode=errcode or None, retry_after_s=retry_after_s(answer))
    if answer.status in (404, 405) and not errcode:
        errcode = "M_UNRECOGNIZED"
    if answer.status == 404 and errcode == "M_NOT_FOUND":
        raise NotFound(reason)
    raise Refused(reason, errcode=errcode or "M_UNKNOWN", rule="peer")


def _no_json(peer: ServerName) -> Unavailable:
    """Some proxy's page, not the server's answer: what was asked may not have happened."""
    return Unavailable(f"{peer} answered without JSON")


def retry_after_s(answer: HttpResponse) -> float | None:
    """From `retry_after_ms` in the error or the `Retry-After` header in seconds; bounded."""
    told = _error_object(answer).get("retry_after_ms")
    header = answer.headers.get("retry-after", "")
    if isinstance(told, int | float) and not isinstance(told, bool) and math.isfinite(told):
        seconds = told / 1000
    elif header.isascii() and header.isdigit() and len(header) < 10:
        seconds = float(header)
    else:
        return None
    return max(0.0, min(seconds, MAX_RETRY_AFTER_S))


def _error_object(answer: HttpResponse) -> dict[str, Any]:
    try:
        value = answer.json()
    except BadInput:
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value[:_MAX_REASON_CHARACTERS] if isinstance(value, str) else ""


def _outcome(error: IsthmusError) -> str:
    if isinstance(error, Unavailable):
        return "unavailable"
    return "bad_input" if isinstance(error, BadInput) else "refused"
