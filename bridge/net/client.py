"""HTTP out, guarded: bounded in size, time and redirects, and only to addresses we may reach.

The address check stands where the socket is made, so it sees the address that is really
connected to, whatever name, literal, redirect or DNS answer led there.

`connect_to` and `certificate_name` separate whom we connect to from whom we mean: federation
connects to what discovery found, sends the `Host` header of the server and wants its certificate.
Spec: S2S, server discovery, TLS.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from bridge.errors import BadInput, IsthmusError, Misconfigured, Refused, Unavailable
from bridge.net.addresses import AddressPolicy
from bridge.net.dns import Resolver
from bridge.net.jsonparts import JsonParts

DEFAULT_MAX_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A host (name or address, IPv6 without brackets) and a port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request. `url` is sent byte by byte as it stands: the caller has encoded it.

    `connect_to` replaces the host and port of the URL for the connection; each is tried in turn
    until one can be connected to. `certificate_name` replaces the URL's host as the name that the
    certificate must prove. Redirects are followed at most `max_redirects` times, only to https
    (or from http to http), and never together with `connect_to`.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    connect_to: Sequence[Endpoint] = ()
    certificate_name: str | None = None
    max_redirects: int = 0
    max_bytes: int = DEFAULT_MAX_BYTES
    timeout_s: float = 30.0
    long_lists: Collection[str] = ()
    """Keys of the JSON object of a 200 that may hold long lists: it is parsed as it arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """The answer, read to its end. Header names in lower case; of repeated ones the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    parsed: Any = None
    """Instead of a body, where the request named `long_lists`."""

    def json(self) -> Any:
        """The parsed body, whatever its content type. Raises `BadInput`."""
        if self.parsed is not None:
            return self.parsed
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as exc:
            raise BadInput(f"the answer is not JSON: {exc}", errcode="M_NOT_JSON") from exc


class HttpStream:
    """An answer whose body is still to come, piece by piece, decompressed.

    `read` gives the rest of it, up to a bound: for errors. Errors as those of `HttpClient.send`;
    `Unavailable` also where nothing comes for `stall_timeout_s`.
    """

    def __init__(
        self, answer: aiohttp.ClientResponse, *, max_bytes: int, stall_timeout_s: float
    ) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.headers.items()}
        self.url = str(answer.url)
        self._answer = answer
        self._max_bytes = max_bytes
        self._stall_timeout_s = stall_timeout_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = self._answer.content_length
        if length is not None and length > self._max_bytes:
            raise _too_large(length, self._max_bytes)
        size = 0
        while True:
            try:
                async with asyncio.timeout(self._stall_timeout_s):
                    part = await self._answer.content.read(_CHUNK_BYTES)
            except TimeoutError as exc:
                raise Unavailable("the answer stopped coming") from exc
            except (aiohttp.ClientError, OSError, ValueError) as exc:
                raise Unavailable(f"the answer was cut off: {exc}") from exc
            if not part:
                return
            size += len(part)
            if size > self._max_bytes:
                raise _too_large(None, self._max_bytes)
            yield part

    async def read(self, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in self:
            size += len(part)
            if size > max_bytes:
                raise _too_large(None, max_bytes)
            parts.append(part)
        return b"".join(parts)


def _too_large(length: int | None, max_bytes: int) -> BadInput:
    what = "an answer" if length is None else f"an answer of {length} bytes,"
    return BadInput(f"{what} over {max_bytes} bytes", errcode="M_TOO_LARGE")


class _AddressForbidden(OSError):
    """Raised where the socket is made; an OSError, so that the next address is tried."""


class _Names(AbstractResolver):
    """Our resolver in the shape that aiohttp asks for."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            found = await self._resolver.addresses(host)
        except IsthmusError as exc:
            raise OSError(exc.reason) from exc
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        """The resolver belongs to whoever made it."""


def trusting(
    extra_ca: Path | None, *, setting: str = "federation.certificate_authority"
) -> ssl.SSLContext:
    """The system's certificate authorities and, if given, those of a PEM file."""
    context = ssl.create_default_context()
    if extra_ca is not None:
        try:
            context.load_verify_locations(cafile=str(extra_ca))
        except (OSError, ssl.SSLError) as exc:
            raise Misconfigured(setting, f"cannot read {extra_ca}: {exc}") from exc
    return context


class HttpClient:
    """Make it inside a running event loop; `close` it. Errors of `send`:

    `Unavailable`: no connection, no certificate we trust, no answer in time. `Refused`: the
    address is not one we may connect to (rule `private_address`), or a redirect leads astray.
    `BadInput`: the answer is too large or no HTTP. A status is never an error.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        policy: AddressPolicy,
        extra_ca: Path | None = None,
        user_agent: str = "Isthmus",
        connect_timeout_s: float = 10.0,
        max_connections: int = 500,
    ) -> None:
        self._policy = policy
        self._connect_timeout_s = connect_timeout_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Names(resolver),
                use_dns_cache=False,
                ssl=trusting(extra_ca),
                limit=max_connections,
                limit_per_host=20,
                socket_factory=self._make_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent},
            skip_auto_headers=["Content-Type"],
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(self, request: HttpRequest) -> HttpResponse:
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._follow(request)
        except TimeoutError as exc:
            raise Unavailable(f"no answer within {request.timeout_s:g} s") from exc

    @asynccontextmanager
    async def open(
        self, request: HttpRequest, *, stall_timeout_s: float = 30.0
    ) -> AsyncIterator[HttpStream]:
        """As `send`, but the body is read by the caller, inside the `async with`. `timeout_s` is
        for all of it, the caller's work on it included; `max_bytes` bounds the body."""
        try:
            async with asyncio.timeout(request.timeout_s):
                async with self._opened(request) as answer:
                    yield HttpStream(
                        answer, max_bytes=request.max_bytes, stall_timeout_s=stall_timeout_s
                    )
        except TimeoutError as exc:
            raise Unavailable(f"no whole answer within {request.timeout_s:g} s") from exc

    @asynccontextmanager
    async def _opened(self, request: HttpRequest) -> AsyncIterator[aiohttp.ClientResponse]:
        """Connects as `_follow` does."""
        for hops in range(request.max_redirects + 1):
            async with await self._begin_anywhere(request) as answer:
                try:
                    location = answer.headers.get("location")
                    is_moved = answer.status in _REDIRECTS and location is not None
                    if not (is_moved and request.max_redirects):
                        yield answer
                        return
                finally:
                    # Whatever is left of the body is not waited for.
                    answer.close()
            if hops < request.max_redirects:
                request = _redirected(request, location or "")
        raise Refused("too many redirects", rule="redirects")

    async def _begin_anywhere(self, request: HttpRequest) -> aiohttp.ClientResponse:
        failure: IsthmusError | None = None
        for url in _targets(request):
            try:
                return await self._begin(request, url)
            except _NotConnected as exc:
                failure = exc.reason
        assert failure is not None
        raise failure

    def _make_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, proto, _, target = info
        address = ipaddress.ip_address(str(target[0]).partition("%")[0])
        if not self._policy.may_connect(address):
            raise _AddressForbidden(f"{address} is not a public address")
        made = socket.socket(family=family, type=kind, proto=proto)
        made.setblocking(False)
        return made

    async def _follow(self, request: HttpRequest) -> HttpResponse:
        """Send, and follow redirects within the bound."""
        for hops in range(request.max_redirects + 1):
            answer = await self._send_once(request)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None or not request.max_redirects:
                return answer
            if hops < request.max_redirects:
                request = _redirected(request, location)
        raise Refused("too many redirects", rule="redirects")

    async def _send_once(self, request: HttpRequest) -> HttpResponse:
        """To the URL's host, or to the first of `connect_to` that can be connected to."""
        async with await self._begin_anywhere(request) as answer:
            with _translated(request, _url(request.url)):
                headers = {name.lower(): value for name, value in answer.headers.items()}
                if answer.status == 200 and request.long_lists:
                    parsed = await _parse(answer, request)
                    return HttpResponse(status=200, headers=headers, body=b"", parsed=parsed)
                body = await _read(answer, request.max_bytes)
                return HttpResponse(status=answer.status, headers=headers, body=body)

    async def _begin(self, request: HttpRequest, url: URL) -> aiohttp.ClientResponse:
        """The answer's head. `_NotConnected` where another endpoint may be tried."""
        # The connection is one thing that may fail and be tried elsewhere; once it stands, what
        # was sent may have been worked on, and is not sent again from here.
        with _translated(request, url):
            return await self._session.request(
                request.method,
                url,
                headers=request.headers,
                data=_in_pieces(request.body),
                allow_redirects=False,
                server_hostname=request.certificate_name,
                timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s),
            )


@contextmanager
def _translated(request: HttpRequest, url: URL) -> Iterator[None]:
    """The library's exceptions become ours."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
        failure = _connect_failure(exc, url)
        if request.connect_to:
            raise _NotConnected(failure) from exc
        raise failure from exc
    except aiohttp.ServerTimeoutError as exc:
        raise Unavailable(f"no answer from {url.host} in time") from exc
    except aiohttp.ServerDisconnectedError as exc:
        # Its text is what had come of the answer.
        raise Unavailable(f"{url.host} closed the connection before it answered") from exc
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as exc:
        raise Unavailable(f"connection to {url.host} failed: {exc}") from exc
    except aiohttp.InvalidURL as exc:
        raise BadInput(f"not a URL: {request.url!r}") from exc
    except (aiohttp.ClientError, ValueError) as exc:
        raise BadInput(f"{url.host} does not answer in HTTP: {exc}") from exc


def _targets(request: HttpRequest) -> Sequence[URL]:
    """The URL itself, or each of `connect_to` in its place."""
    url = _url(request.url)
    if not request.connect_to:
        return [url]
    return [
        _url(
            f"{url.scheme}://{f'[{endpoint.host}]' if ':' in endpoint.host else endpoint.host}"
            f":{endpoint.port}{url.raw_path_qs}"
        )
        for endpoint in request.connect_to
    ]


def _in_pieces(body: bytes | None) -> bytes | io.BytesIO | None:
    """A large body as a file: it goes out piece by piece, and others get their turn."""
    return body if body is None or len(body) <= _CHUNK_BYTES else io.BytesIO(body)


class _NotConnected(Exception):
    def __init__(self, reason: IsthmusError) -> None:
        super().__init__(reason)
        self.reason = reason


def _url(text: str) -> URL:
    try:
        url = URL(text, encoded=True)
        if url.scheme not in ("http", "https") or not url.host:
            raise BadInput(f"not an HTTP URL: {text!r}")
    except ValueError as exc:
        raise BadInput(f"not a URL: {text!r}") from exc
    return url


def _redirected(request: HttpRequest, location: str) -> HttpRequest:
    """The next request, without a body, credentials or the fields that meant the first host."""
    if request.connect_to:
        raise Refused("a redirect where none is followed", rule="redirects")
    here = _url(request.url)
    try:
        there = here.join(URL(location))
    except ValueError as exc:
        raise Refused("a redirect to nowhere", rule="redirects") from exc
    if there.scheme not in ("https", here.scheme):
        raise Refused("a redirect away from https", rule="redirects")
    kept = {
        name: value
        for name, value in request.headers.items()
        if name.lower() not in ("authorization", "host", "cookie", "content-type")
    }
    return replace(
        request, method="GET", url=str(there), headers=kept, body=None, certificate_name=None
    )


def _connect_failure(exc: BaseException, url: URL) -> IsthmusError:
    """The policy's refusal, wherever in the causes it stands, is told from mere failure."""
    seen: list[BaseException] = [exc]
    for cause in seen:
        if isinstance(cause, _AddressForbidden):
            return Refused(f"{url.host}: {cause}", rule="private_address")
        inner = (cause.__cause__, cause.__context__, getattr(cause, "os_error", None))
        if isinstance(cause, BaseExceptionGroup):
            seen.extend(cause.exceptions)
        seen.extend(item for item in inner if isinstance(item, BaseException) and item not in seen)
    return Unavailable(f"cannot connect to {url.host}:{url.port}: {exc}")


async def _parse(answer: aiohttp.ClientResponse, request: HttpRequest) -> Any:
    """The JSON of the body, in parts. Other tasks get their turn between them."""
    parts = JsonParts(request.long_lists)
    async with aclosing(_pieces(answer, request.max_bytes)) as pieces:
        async for part in pieces:
            parts.feed(part)
            await asyncio.sleep(0)
    return parts.finish()


async def _read(answer: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    return b"".join([part async for part in _pieces(answer, max_bytes)])


async def _pieces(answer: aiohttp.ClientResponse, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body, decompressed, up to the bound. Leaving early closes the connection."""
    length = answer.content_length
    if length is not None and length > max_bytes:
        answer.close()
        raise BadInput(f"an answer of {length} bytes, over {max_bytes}", errcode="M_TOO_LARGE")
    size = 0
    async for part in answer.content.iter_chunked(_CHUNK_BYTES):
        size += len(part)
        if size > max_bytes:
            answer.close()
            raise BadInput(f"an answer over {max_bytes} bytes", errcode="M_TOO_LARGE")
        yield part
