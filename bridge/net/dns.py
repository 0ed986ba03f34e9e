"""Looking up addresses and services, with a resolver of our choice.

The names asked come from strangers: answers are bounded, every wait has a timeout, and search
domains are never tried. Addresses take the hosts file into account, as the system does.
RFC 2782 for services.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import aiodns
import pycares

from bridge.errors import Misconfigured, NotFound, Unavailable
from bridge.net.addresses import parse_address

MAX_RECORDS = 32
"""Of one answer; what is beyond is not looked at."""

_NOTHING_THERE = frozenset(
    {
        aiodns.error.ARES_ENODATA,
        aiodns.error.ARES_ENOTFOUND,
        aiodns.error.ARES_EBADNAME,
        aiodns.error.ARES_EBADQUERY,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One SRV record. A `target` of "" says that the service is decidedly not offered."""

    target: str
    port: int
    priority: int
    weight: int
    ttl_s: int


class Resolver(Protocol):
    """What discovery and the HTTP client ask."""

    async def addresses(self, host: str) -> tuple[str, ...]:
        """IPv4 and IPv6 addresses. Raises `NotFound` for none, `Unavailable` for no answer."""
        ...

    async def services(self, name: str) -> tuple[Service, ...]:
        """SRV records in the order to try; empty for none. Raises `Unavailable`."""
        ...


class DnsResolver:
    """The resolver over c-ares. Make it inside a running event loop.

    `nameserver` is `ADDRESS` or `ADDRESS:PORT` (an IPv6 address with a port in brackets); by
    default those of the system are asked.
    """

    def __init__(
        self,
        *,
        nameserver: str | None = None,
        timeout_s: float = 10.0,
        setting: str = "federation.resolver",
        chance: random.Random | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._chance = chance or random.Random()
        # c-ares asks again itself; the sum stays within our own timeout.
        try:
            self._dns = aiodns.DNSResolver(
                nameservers=[nameserver] if nameserver else None,
                timeout=timeout_s / 4,
                tries=2,
                domains=[],
            )
        except (ValueError, pycares.AresError) as exc:
            raise Misconfigured(setting, f"{nameserver!r} is no name server: {exc}") from exc

    async def addresses(self, host: str) -> tuple[str, ...]:
        literal = parse_address(host)
        if literal is not None:
            return (str(literal),)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._dns.getaddrinfo(host)
        except (aiodns.error.DNSError, TimeoutError, UnicodeError) as exc:
            if _says_nothing_there(exc):
                raise NotFound(f"no address for {host}") from exc
            raise Unavailable(f"no answer about the addresses of {host}: {exc}") from exc
        found = [node.addr[0].decode("ascii") for node in answer.nodes[:MAX_RECORDS]]
        if not found:
            raise NotFound(f"no address for {host}")
        return tuple(dict.fromkeys(found))

    async def services(self, name: str) -> tuple[Service, ...]:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._dns.query_dns(name, "SRV")
        except (aiodns.error.DNSError, TimeoutError, UnicodeError) as exc:
            if _says_nothing_there(exc):
                return ()
            raise Unavailable(f"no answer about the services of {name}: {exc}") from exc
        found = [
            Service(
                target=record.data.target.rstrip("."),
                port=record.data.port,
                priority=record.data.priority,
                weight=record.data.weight,
                ttl_s=record.ttl,
            )
            for record in answer.answer[:MAX_RECORDS]
            if isinstance(record.data, pycares.SRVRecordData)
        ]
        return order_services(found, self._chance)

    async def close(self) -> None:
        await self._dns.close()


def _says_nothing_there(exc: Exception) -> bool:
    if isinstance(exc, UnicodeError):
        return True
    return isinstance(exc, aiodns.error.DNSError) and exc.args[:1] in {
        (code,) for code in _NOTHING_THERE
    }


def order_services(services: Sequence[Service], chance: random.Random) -> tuple[Service, ...]:
    """Lowest priority first; within one, at random in proportion to weight. RFC 2782, usage."""
    ordered: list[Service] = []
    for priority in sorted({service.priority for service in services}):
        left = sorted(
            (service for service in services if service.priority == priority),
            key=lambda service: service.weight,
        )
        while left:
            pick = chance.randint(0, sum(service.weight for service in left))
            for service in left:
                pick -= service.weight
                if pick <= 0:
                    break
            left.remove(service)
            ordered.append(service)
    return tuple(ordered)
