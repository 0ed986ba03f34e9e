"""Delegation over real DNS and TLS: redirects, the certificate, the bound of the document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bridge.federation.client.discovery import Discovery
from bridge.ids import ServerName
from bridge.net.addresses import AddressPolicy, parse_networks
from bridge.net.client import HttpClient
from bridge.net.dns import DnsResolver
from bridge.web.application import Listener, Request, Response, Route, WebServer
from tests.support.clock import FakeClock
from tests.support.dns import DnsTable, dns_server
from tests.support.tls import PrivateCa

PATH = "/.well-known/matrix/server"


@dataclass
class World:
    dns: DnsTable
    discovery: Discovery
    port: int
    answers: dict[str, Response] = field(default_factory=dict)

    async def host_header(self, name: str) -> str:
        return (await self.discovery.locate(ServerName(name))).host_header


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    ca = PrivateCa(tmp_path)
    files = ca.issue("m.example", "www.m.example")
    answers: dict[str, Response] = {}

    async def document(request: Request) -> Response:
        return answers[request.headers["host"].partition(":")[0]]

    server = WebServer(
        routes=[Route(method="GET", path=PATH, endpoint=document)],
        listeners=[
            Listener(
                host="127.0.0.1",
                port=0,
                certificate=files.certificate,
                private_key=files.private_key,
            )
        ],
    )
    await server.start()
    port = server.addresses[0][1]
    async with dns_server() as dns:
        for name in ("m.example", "www.m.example", "thief.example"):
            dns.add_address(name, "127.0.0.1")
        resolver = DnsResolver(nameserver=dns.address, timeout_s=2.0)
        client = HttpClient(
            resolver=resolver,
            policy=AddressPolicy(allowed=parse_networks(["127.0.0.0/8"], setting="test")),
            extra_ca=ca.path,
        )
        discovery = Discovery(
            client=client, resolver=resolver, clock=FakeClock(), well_known_port=port
        )
        yield World(dns=dns, discovery=discovery, port=port, answers=answers)
        await client.close()
        await resolver.close()
    await server.stop()


async def test_a_document_delegates_whatever_its_content_type(world: World) -> None:
    world.answers["m.example"] = Response(
        body=b'{"m.server": "hs.example:443"}', content_type="text/plain"
    )
    assert await world.host_header("m.example") == "hs.example:443"


async def test_redirects_are_followed_to_another_host(world: World) -> None:
    there = f"https://www.m.example:{world.port}{PATH}"
    world.answers["m.example"] = Response(status=301, headers={"Location": there})
    world.answers["www.m.example"] = Response(json={"m.server": "hs.example:443"})
    assert await world.host_header("m.example") == "hs.example:443"


async def test_a_redirection_loop_ends_without_delegation(world: World) -> None:
    world.answers["m.example"] = Response(status=302, headers={"Location": PATH})
    assert await world.host_header("m.example") == "m.example"


async def test_a_document_over_the_bound_does_not_delegate(world: World) -> None:
    padded = {"m.server": "hs.example:443", "pad": "x" * 60_000}
    world.answers["m.example"] = Response(json=padded)
    assert await world.host_header("m.example") == "m.example"


async def test_a_server_that_cannot_prove_the_name_does_not_delegate(world: World) -> None:
    world.answers["thief.example"] = Response(json={"m.server": "hs.example:443"})
    assert await world.host_header("thief.example") == "thief.example"


async def test_a_service_found_by_real_dns_is_used_when_there_is_no_document(
    world: World,
) -> None:
    world.answers["m.example"] = Response(status=404)
    world.dns.add_service("_matrix._tcp.m.example", "target.example", 8449)
    found = await world.discovery.locate(ServerName("m.example"))
    assert [(each.host, each.port) for each in found.endpoints] == [("target.example", 8449)]
    assert found.certificate_name == "m.example"
