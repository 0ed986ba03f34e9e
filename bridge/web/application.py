"""The HTTP server: listeners, with or without TLS, in front of a table of routes.

aiohttp carries the bytes; which endpoint a path belongs to is decided by our own table over the
target as it was sent, since what is signed in a federation request is exactly that.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

from bridge.clock import Clock, SystemClock
from bridge.errors import BadInput, IsthmusError, Misconfigured, Unavailable
from bridge.telemetry.log import get_logger
from bridge.web.middleware import answer, count, error_response, unknown_path, wrong_method
from bridge.web.routing import ByteStream, Endpoint, Request, Response, Route, RouteTable

__all__ = ["Endpoint", "Listener", "Request", "Response", "Route", "RouteTable", "WebServer"]

DEFAULT_MAX_BODY_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
IDLE_TIMEOUT_S = 130.0
"""Synapse keeps an idle connection for 120 s: let whoever asks be the one who closes it."""
LINGER_S = 1.0
"""How long the rest of a body that nobody wants is taken, so that the answer can be read."""
MAX_CONNECTIONS = 5_000
SHARE_OF_READING = 4
"""One address has at most this part of the requests whose bodies are being read: whoever sends
slowly keeps others waiting only where he comes from."""
MAX_READING_BYTES = 256 << 20
"""Of all the bodies that are being read at a time."""
MAX_STREAMS = 200
"""Answers sent piece by piece at a time: each holds a file and a connection for long."""
MAX_STREAMS_PER_ADDRESS = 100
"""Whoever reads slowly on purpose leaves some to others; a proxy in front of us is one address."""
STREAM_CHUNK_TIMEOUT_S = 60.0
"""How long one piece may take to be read and taken."""

log = get_logger("web")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where to listen; port 0 takes a free one. TLS when certificate and key are given (PEM)."""

    host: str
    port: int
    certificate: Path | None = None
    private_key: Path | None = None
    setting: str = "listeners"

    def tls(self) -> ssl.SSLContext | None:
        """None for plain HTTP. Raises `Misconfigured`."""
        if self.certificate is None and self.private_key is None:
            return None
        if self.certificate is None or self.private_key is None:
            raise Misconfigured(self.setting, "certificate and private key belong together")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ssl.SSLError) as exc:
            raise Misconfigured(
                self.setting, f"cannot use {self.certificate} with {self.private_key}: {exc}"
            ) from exc
        return context


def connections_allowed() -> int:
    """Half of what the process may open: the rest is for requests of our own and the database."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 2)


class _Doorkeeper(web.Server):
    """Closes connections beyond the bound at once: they would end what the process may open."""

    max_connections = 0

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._open: dict[web.RequestHandler, asyncio.Transport] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._open[handler] = transport
        if len(self.connections) > self.max_connections:
            transport.abort()

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        self._open.pop(handler, None)
        super().connection_lost(handler, exc)

    async def end(self) -> None:
        """After the last answer. Under TLS a connection would wait for the peer's goodbye."""
        for transport in list(self._open.values()):
            transport.abort()
        for _ in range(_TURNS):
            if not self._open:
                return
            await asyncio.sleep(0)


_TURNS = 10
"""Of the event loop, until what was aborted is closed; it takes two or three."""


class WebServer:
    """`start`, then requests are answered until `stop`, which lets those in hand finish.

    A connection without a request has `idle_timeout_s`, which is also the time for a request's
    header, however slowly it comes; its body has `body_timeout_s`, the answer `answer_timeout_s`
    to be taken.
    """

    def __init__(
        self,
        *,
        routes: Iterable[Route],
        listeners: Sequence[Listener],
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        max_in_flight: int = 500,
        max_connections: int | None = None,
        max_reading_bytes: int = MAX_READING_BYTES,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        body_timeout_s: float = 60.0,
        answer_timeout_s: float = 300.0,
        drain_timeout_s: float = 10.0,
        server_header: str = "Isthmus",
        clock: Clock | None = None,
        new_request_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._table = RouteTable(routes)
        self._listeners = tuple(listeners)
        self._max_body_bytes = max_body_bytes
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._streams: Counter[str] = Counter()
        """By address."""
        self._reading: Counter[str] = Counter()
        self._reading_bytes = 0
        self._max_reading_bytes = max_reading_bytes
        self._max_connections = max_connections or connections_allowed()
        self._idle_timeout_s = idle_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._body_timeout_s = body_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._server_header = server_header
        self._clock = clock or SystemClock()
        self._new_request_id = new_request_id
        self._runner: web.ServerRunner | None = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each listener, in their order, once started."""
        if self._runner is None:
            return []
        return [(str(address[0]), int(address[1])) for address in self._runner.addresses]

    async def start(self) -> None:
        """Raises `Misconfigured` when a certificate is unusable or an address is taken."""
        contexts = [listener.tls() for listener in self._listeners]
        server = _Doorkeeper(
            self._serve,
            access_log=None,
            lingering_time=LINGER_S,
            keepalive_timeout=self._idle_timeout_s,
        )
        server.max_connections = self._max_connections
        runner = web.ServerRunner(server, shutdown_timeout=self._drain_timeout_s)
        await runner.setup()
        self._runner = runner
        for listener, context in zip(self._listeners, contexts, strict=True):
            site = web.TCPSite(runner, listener.host, listener.port, ssl_context=context)
            try:
                await site.start()
            except OSError as exc:
                await self.stop()
                raise Misconfigured(
                    listener.setting, f"cannot listen on {listener.host}:{listener.port}: {exc}"
                ) from exc

    async def stop(self) -> None:
        """Accept no more, wait for requests in hand within the bound, close."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            doorkeeper = runner.server
            await runner.cleanup()
            if isinstance(doorkeeper, _Doorkeeper):
                await doorkeeper.end()

    async def _serve(self, raw: web.BaseRequest) -> web.StreamResponse:
        response = await self._answer(raw)
        if response.stream is not None:
            return await self._serve_stream(raw, response, response.stream)
        return await self._serve_whole(raw, response)

    async def _serve_whole(self, raw: web.BaseRequest, response: Response) -> web.StreamResponse:
        headers = {"Server": self._server_header, **response.headers}
        sent = web.Response(status=response.status, body=response.to_bytes(), headers=headers)
        sent.headers["Content-Type"] = response.content_type
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                await sent.prepare(raw)
                await sent.write_eof()
        except TimeoutError:
            if raw.transport is not None:
                raw.transport.abort()
        except ConnectionError:
            pass  # Whoever asked has gone: peers do, and ask again.
        return sent

    async def _serve_stream(
        self, raw: web.BaseRequest, response: Response, stream: ByteStream
    ) -> web.StreamResponse:
        address = raw.remote or ""
        is_too_much = self._streams[address] >= MAX_STREAMS_PER_ADDRESS
        if is_too_much or self._streams.total() >= MAX_STREAMS:
            await stream.close()
            busy = error_response(Unavailable("too many files at once", retry_after_s=5.0))
            return await self._serve_whole(raw, busy)
        headers = {"Server": self._server_header, **response.headers}
        sent = web.StreamResponse(status=response.status, headers=headers)
        sent.headers["Content-Type"] = response.content_type
        sent.content_length = response.length
        self._streams[address] += 1
        try:
            async with asyncio.timeout(STREAM_CHUNK_TIMEOUT_S) as patience:
                await sent.prepare(raw)
                if raw.method != "HEAD":
                    async for chunk in stream:
                        await sent.write(chunk)
                        patience.reschedule(
                            asyncio.get_running_loop().time() + STREAM_CHUNK_TIMEOUT_S
                        )
                await sent.write_eof()
        except (TimeoutError, IsthmusError, ConnectionError) as exc:
            log.debug("a stream was broken off", reason=str(exc))
            if raw.transport is not None:
                raw.transport.abort()
        finally:
            self._streams[address] -= 1
            if not self._streams[address]:
                del self._streams[address]
            await stream.close()
        return sent

    async def _answer(self, raw: web.BaseRequest) -> Response:
        try:
            found = self._table.find(raw.raw_path.partition("?")[0])
        except BadInput as exc:
            return error_response(exc)
        if raw.method not in found:
            response = wrong_method(found) if found else unknown_path()
            count("unknown", "any", response.status)
            return response
        route, params = found[raw.method]
        if self._in_flight >= self._max_in_flight:
            count(route.path, route.method, 429)
            return error_response(Unavailable("too many requests at once", retry_after_s=1.0))
        request_id = self._new_request_id()

        async def work() -> Response:
            body = await self._read_body(raw, route.max_body_bytes or self._max_body_bytes)
            return await route.endpoint(
                Request(
                    method=raw.method,
                    target=raw.raw_path,
                    params=params,
                    headers={name.lower(): value for name, value in raw.headers.items()},
                    headers_all=tuple((n.lower(), value) for n, value in raw.headers.items()),
                    body=body,
                    peer_address=raw.remote or "",
                    request_id=request_id,
                )
            )

        self._in_flight += 1
        try:
            return await answer(work, route=route, request_id=request_id, clock=self._clock)
        finally:
            self._in_flight -= 1

    async def _read_body(self, raw: web.BaseRequest, max_bytes: int) -> bytes:
        """Raises `BadInput`; `Unavailable` where too much is being read already."""
        if not raw.body_exists:
            return b""
        if raw.content_length is not None and raw.content_length > max_bytes:
            raise BadInput(f"the body is over {max_bytes} bytes", errcode="M_TOO_LARGE")
        address = raw.remote or ""
        if self._reading[address] >= max(1, self._max_in_flight // SHARE_OF_READING):
            raise Unavailable("too many requests of yours at once", retry_after_s=1.0)
        self._reading[address] += 1
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_timeout_s):
                async for part in raw.content.iter_chunked(_CHUNK_BYTES):
                    size += len(part)
                    self._reading_bytes += len(part)
                    if size > max_bytes:
                        raise BadInput(f"the body is over {max_bytes} bytes", errcode="M_TOO_LARGE")
                    if self._reading_bytes > self._max_reading_bytes:
                        raise Unavailable("too much is being sent at once", retry_after_s=1.0)
                    parts.append(part)
        except TimeoutError as exc:
            raise BadInput("the body did not arrive in time", errcode="M_UNKNOWN") from exc
        except (ClientPayloadError, HttpProcessingError, ConnectionError) as exc:
            raise BadInput(f"the body did not arrive whole: {exc}", errcode="M_UNKNOWN") from exc
        finally:
            self._reading_bytes -= size
            self._reading[address] -= 1
            if not self._reading[address]:
                del self._reading[address]
        return b"".join(parts)
