"""From a server name to where to connect, what to say and which certificate to expect.

The steps, numbered as in the specification and in the code:

1. an IP literal: that address, the given port or 8448;
2. an explicit port: the name's addresses and that port;
3. `https://NAME/.well-known/matrix/server` delegates to another name, which is then
   3.1 an IP literal, or 3.2 has a port, or is looked up as
   3.3 SRV `_matrix-fed._tcp`, 3.4 SRV `_matrix._tcp` (the older one), 3.5 port 8448;
4. without delegation, SRV `_matrix-fed._tcp.NAME`;
5. SRV `_matrix._tcp.NAME`;
6. the name's addresses and port 8448.

Names are resolved to addresses when connecting, by the guarded client. Spec: S2S, resolving
server names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

from bridge.clock import Clock
from bridge.errors import BadInput, IsthmusError, Unavailable
from bridge.federation.client.memory import BoundedMap, Turns
from bridge.ids import ServerName, parse_server_name, split_server_name
from bridge.net.addresses import parse_address
from bridge.net.client import Endpoint, HttpRequest, HttpResponse
from bridge.net.dns import Resolver
from bridge.telemetry.log import get_logger

DEFAULT_PORT = 8448
MAX_WELL_KNOWN_BYTES = 50 * 1024
MAX_WELL_KNOWN_REDIRECTS = 5
WELL_KNOWN_TIMEOUT_S = 20.0

# How long what a .well-known request brought is believed.
DELEGATION_S = 24 * 3600.0
MIN_DELEGATION_S = 300.0
MAX_DELEGATION_S = 48 * 3600.0
FIRST_FAILURE_S = 60.0
MAX_FAILURE_S = 3600.0
# How long a location is, unless the DNS says something else within these bounds.
LOCATION_S = 300.0
MIN_LOCATION_S = 60.0
MAX_LOCATION_S = 3600.0

_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,10})", re.IGNORECASE)
_NO_CACHE = re.compile(r"(?:^|[\s,])no-(?:store|cache)(?:$|[\s,=])", re.IGNORECASE)

log = get_logger("discovery")


class HttpOut(Protocol):
    """What is used of `net.client.HttpClient`."""

    async def send(self, request: HttpRequest) -> HttpResponse: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a server is: try the endpoints in order; `certificate_name` is what must be proven."""

    endpoints: tuple[Endpoint, ...]
    host_header: str
    certificate_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _WellKnown:
    """`server` is None for "no delegation". `stale_until_s` bounds its use after failures."""

    server: ServerName | None
    until_s: float
    stale_until_s: float
    failures: int = 0


class Discovery:
    """Answers from memory where it may; asks once per name at a time otherwise."""

    def __init__(
        self,
        *,
        client: HttpOut,
        resolver: Resolver,
        clock: Clock,
        max_entries: int = 20_000,
        well_known_port: int = 443,
    ) -> None:
        self._client = client
        self._resolver = resolver
        self._clock = clock
        self._well_known_port = well_known_port
        self._well_known: BoundedMap[str, _WellKnown] = BoundedMap(max_entries)
        self._locations: BoundedMap[ServerName, tuple[float, Location]] = BoundedMap(max_entries)
        self._turns: Turns[ServerName] = Turns()

    async def locate(self, server: ServerName) -> Location:
        """Raises `BadInput` for no server name, `Unavailable` where a service is declined."""
        host, port = split_server_name(server)
        # 1 and 2
        known = _locate_directly(host, port)
        if known is not None:
            return known
        async with self._turns.turn(server):
            cached = self._locations.get(server)
            if cached is not None and self._clock.monotonic_s() < cached[0]:
                return cached[1]
            # 3
            delegation = await self._delegation(host)
            location, good_for_s = await self._locate_delegated(
                delegation.server or ServerName(host)
            )
            until_s = min(self._clock.monotonic_s() + good_for_s, delegation.until_s)
            self._locations.put(server, (until_s, location))
            return location

    def forget(self, server: ServerName) -> None:
        """Look again next time: nothing answered there."""
        self._locations.drop(server)

    async def _locate_delegated(self, name: ServerName) -> tuple[Location, float]:
        """3.1 to 3.5 for a delegated name; 4 to 6, which read the same, for the name itself."""
        host, port = split_server_name(name)
        known = _locate_directly(host, port)
        if known is not None:
            return known, LOCATION_S
        for service in ("_matrix-fed._tcp", "_matrix._tcp"):
            try:
                records = await self._resolver.services(f"{service}.{host}")
            except Unavailable as exc:
                # Some name servers cannot answer for SRV at all. Port 8448 is tried instead:
                # whoever is there must prove the same name.
                log.debug("service not looked up", service=service, peer=name, reason=exc.reason)
                return _location(host, (Endpoint(host=host, port=DEFAULT_PORT),)), MIN_LOCATION_S
            if not records:
                continue
            endpoints = tuple(
                Endpoint(host=record.target, port=record.port)
                for record in records
                if record.port and _is_host(record.target)
            )
            if not endpoints:
                raise Unavailable(f"{name} declines to be reached by {service}")
            good_for_s = float(min(record.ttl_s for record in records))
            return _location(host, endpoints), _within(good_for_s, MIN_LOCATION_S, MAX_LOCATION_S)
        return _location(host, (Endpoint(host=host, port=DEFAULT_PORT),)), LOCATION_S

    async def _delegation(self, host: str) -> _WellKnown:
        known = self._well_known.get(host)
        now = self._clock.monotonic_s()
        if known is None or now >= known.until_s:
            known = await self._ask_well_known(host, known)
            self._well_known.put(host, known)
        return known

    async def _ask_well_known(self, host: str, previous: _WellKnown | None) -> _WellKnown:
        """A failure backs off, and what was known before stays good for its 48 hours."""
        port = "" if self._well_known_port == 443 else f":{self._well_known_port}"
        now = self._clock.monotonic_s
        try:
            answer = await self._client.send(
                HttpRequest(
                    method="GET",
                    url=f"https://{host}{port}/.well-known/matrix/server",
                    headers={"Accept": "application/json"},
                    max_redirects=MAX_WELL_KNOWN_REDIRECTS,
                    max_bytes=MAX_WELL_KNOWN_BYTES,
                    timeout_s=WELL_KNOWN_TIMEOUT_S,
                )
            )
        except IsthmusError as exc:
            log.debug("no delegation", host=host, reason=exc.reason)
            failures = (previous.failures if previous else 0) + 1
            wait_s = min(FIRST_FAILURE_S * 2 ** min(failures - 1, 10), MAX_FAILURE_S)
            if previous is not None and previous.server and now() < previous.stale_until_s:
                server, stale_until_s = previous.server, previous.stale_until_s
            else:
                server, stale_until_s = None, now()
            return _WellKnown(
                server=server,
                until_s=now() + wait_s,
                stale_until_s=stale_until_s,
                failures=failures,
            )
        try:
            server = _delegated_name(answer)
        except BadInput as exc:
            log.debug("no delegation", host=host, reason=exc.reason)
            return _WellKnown(server=None, until_s=now() + MAX_FAILURE_S, stale_until_s=now())
        return _WellKnown(
            server=server,
            until_s=now() + cache_seconds(answer, now_ms=self._clock.now_ms()),
            stale_until_s=now() + MAX_DELEGATION_S,
        )


def _locate_directly(host: str, port: int | None) -> Location | None:
    """An IP literal or an explicit port: nothing to look up."""
    address = parse_address(host)
    if address is not None:
        endpoint = Endpoint(host=str(address), port=port or DEFAULT_PORT)
        return Location(
            endpoints=(endpoint,),
            host_header=host if port is None else f"{host}:{port}",
            certificate_name=str(address),
        )
    if port is not None:
        return Location(
            endpoints=(Endpoint(host=host, port=port),),
            host_header=f"{host}:{port}",
            certificate_name=host,
        )
    return None


def _is_host(target: str) -> bool:
    """A name or an address, and nothing that means more in a URL. Empty: declined."""
    try:
        return split_server_name(f"[{target}]" if ":" in target else target)[1] is None
    except BadInput:
        return False


def _location(host: str, endpoints: tuple[Endpoint, ...]) -> Location:
    return Location(endpoints=endpoints, host_header=host, certificate_name=host)


def _delegated_name(answer: HttpResponse) -> ServerName:
    """`m.server` of the document, whatever its content type. Raises `BadInput`."""
    if answer.status != 200:
        raise BadInput(f"status {answer.status}")
    document = answer.json()
    if not isinstance(document, dict):
        raise BadInput("not a JSON object")
    return parse_server_name(document.get("m.server"))


def cache_seconds(answer: HttpResponse, *, now_ms: int) -> float:
    """From the cache headers, within our bounds; 24 hours without any."""
    control = answer.headers.get("cache-control", "")
    seconds = DELEGATION_S
    max_age = _MAX_AGE.search(control)
    if _NO_CACHE.search(control):
        seconds = 0.0
    elif max_age is not None:
        age = answer.headers.get("age", "")
        seconds = float(max_age[1]) - (float(age) if age.isascii() and age.isdigit() else 0.0)
    elif "expires" in answer.headers:
        try:
            expires = parsedate_to_datetime(answer.headers["expires"])
            seconds = expires.timestamp() - now_ms / 1000
        except (ValueError, OverflowError):
            seconds = 0.0
    return _within(seconds, MIN_DELEGATION_S, MAX_DELEGATION_S)


def _within(value: float, low: float, high: float) -> float:
    return max(low, min(value, high))
