"""One test per step of the specification, then the rules of caching."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from bridge.errors import BadInput, IsthmusError, NotFound, Unavailable
from bridge.federation.client.discovery import Discovery, Location, cache_seconds
from bridge.ids import ServerName
from bridge.net.client import Endpoint, HttpRequest, HttpResponse
from bridge.net.dns import Service
from tests.support.clock import FakeClock

HOUR_S = 3600.0


def answer(body: object = None, status: int = 200) -> HttpResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status=status, headers={}, body=raw)


@dataclass
class World:
    """The web and the DNS as tables, and a discovery over them."""

    web: dict[str, HttpResponse | IsthmusError] = field(default_factory=dict)
    records: dict[str, tuple[Service, ...] | IsthmusError] = field(default_factory=dict)
    clock: FakeClock = field(default_factory=FakeClock)
    fetched: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.discovery = Discovery(client=self, resolver=self, clock=self.clock)

    async def send(self, request: HttpRequest) -> HttpResponse:
        self.fetched.append(request.url)
        found = self.web.get(request.url, Unavailable("nobody there"))
        if isinstance(found, IsthmusError):
            raise found
        return found

    async def addresses(self, host: str) -> tuple[str, ...]:
        raise NotFound(host)

    async def services(self, name: str) -> tuple[Service, ...]:
        self.asked.append(name)
        found = self.records.get(name, ())
        if isinstance(found, IsthmusError):
            raise found
        return found

    def delegate(self, host: str, to: object) -> None:
        self.web[f"https://{host}/.well-known/matrix/server"] = answer({"m.server": to})

    def offer(self, name: str, *targets: tuple[str, int], ttl_s: int = 60) -> None:
        self.records[name] = tuple(
            Service(target=target, port=port, priority=0, weight=0, ttl_s=ttl_s)
            for target, port in targets
        )

    async def locate(self, name: str) -> Location:
        return await self.discovery.locate(ServerName(name))


@pytest.fixture
def world() -> World:
    return World()


def location(endpoints: Mapping[str, int], *, host_header: str, certificate_name: str) -> Location:
    return Location(
        endpoints=tuple(Endpoint(host=host, port=port) for host, port in endpoints.items()),
        host_header=host_header,
        certificate_name=certificate_name,
    )


@pytest.mark.parametrize(
    ("name", "host", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 8448),
        ("192.0.2.1:443", "192.0.2.1", 443),
        ("[2001:db8::1]", "2001:db8::1", 8448),
        ("[2001:db8::1]:9", "2001:db8::1", 9),
    ],
)
async def test_step_1_an_ip_literal_is_where_it_says(
    world: World, name: str, host: str, port: int
) -> None:
    assert await world.locate(name) == location(
        {host: port}, host_header=name, certificate_name=host
    )
    assert (world.fetched, world.asked) == ([], [])


async def test_step_2_an_explicit_port_is_taken_and_nothing_is_asked(world: World) -> None:
    world.delegate("m.example", "elsewhere.example")
    assert await world.locate("m.example:8008") == location(
        {"m.example": 8008}, host_header="m.example:8008", certificate_name="m.example"
    )
    assert (world.fetched, world.asked) == ([], [])


@pytest.mark.parametrize(
    ("to", "host", "port", "certificate_name"),
    [
        ("192.0.2.1", "192.0.2.1", 8448, "192.0.2.1"),
        ("192.0.2.1:443", "192.0.2.1", 443, "192.0.2.1"),
        ("[2001:db8::1]:443", "2001:db8::1", 443, "2001:db8::1"),
    ],
)
async def test_step_3_1_delegation_to_an_ip_literal(
    world: World, to: str, host: str, port: int, certificate_name: str
) -> None:
    world.delegate("m.example", to)
    assert await world.locate("m.example") == location(
        {host: port}, host_header=to, certificate_name=certificate_name
    )


async def test_step_3_2_delegation_to_a_port(world: World) -> None:
    world.delegate("m.example", "hs.example:443")
    assert await world.locate("m.example") == location(
        {"hs.example": 443}, host_header="hs.example:443", certificate_name="hs.example"
    )
    assert world.asked == []


async def test_step_3_3_delegation_to_a_service(world: World) -> None:
    world.delegate("m.example", "hs.example")
    world.offer("_matrix-fed._tcp.hs.example", ("a.example", 1), ("b.example", 2))
    world.offer("_matrix._tcp.hs.example", ("old.example", 3))
    assert await world.locate("m.example") == location(
        {"a.example": 1, "b.example": 2}, host_header="hs.example", certificate_name="hs.example"
    )


async def test_step_3_4_delegation_to_a_service_by_its_older_name(world: World) -> None:
    world.delegate("m.example", "hs.example")
    world.offer("_matrix._tcp.hs.example", ("old.example", 3))
    assert await world.locate("m.example") == location(
        {"old.example": 3}, host_header="hs.example", certificate_name="hs.example"
    )


async def test_step_3_5_delegation_to_a_bare_name(world: World) -> None:
    world.delegate("m.example", "hs.example")
    world.delegate("hs.example", "third.example:1")
    assert await world.locate("m.example") == location(
        {"hs.example": 8448}, host_header="hs.example", certificate_name="hs.example"
    )
    assert world.fetched == ["https://m.example/.well-known/matrix/server"]


async def test_step_4_a_service_of_the_name_itself(world: World) -> None:
    world.offer("_matrix-fed._tcp.m.example", ("a.example", 1))
    assert await world.locate("m.example") == location(
        {"a.example": 1}, host_header="m.example", certificate_name="m.example"
    )


async def test_step_5_a_service_of_the_name_itself_by_its_older_name(world: World) -> None:
    world.offer("_matrix._tcp.m.example", ("a.example", 1))
    assert await world.locate("m.example") == location(
        {"a.example": 1}, host_header="m.example", certificate_name="m.example"
    )


async def test_step_6_the_name_itself_and_the_usual_port(world: World) -> None:
    assert await world.locate("m.example") == location(
        {"m.example": 8448}, host_header="m.example", certificate_name="m.example"
    )
    assert world.asked == ["_matrix-fed._tcp.m.example", "_matrix._tcp.m.example"]


@pytest.mark.parametrize(
    "bad",
    [
        answer({"m.server": "hs.example:443"}, status=404),
        answer(b"<html>"),
        answer([]),
        answer({}),
        answer({"m.server": 7}),
        answer({"m.server": "https://hs.example"}),
        answer({"m.server": ""}),
        answer({"m.server": "hs.example/path"}),
        answer({"m.server": "u@hs.example"}),
        answer({"m.server": "hs.example\r\nX: 1"}),
        answer({"m.server": "[2001:db8::1%\r\nX: 1]"}),
        answer({"m.server": "hs.example:0"}),
        answer({"m.server": "a" * 300}),
        BadInput("too large"),
        Unavailable("no connection"),
    ],
)
async def test_a_bad_delegation_is_none(world: World, bad: HttpResponse | IsthmusError) -> None:
    world.web["https://m.example/.well-known/matrix/server"] = bad
    assert (await world.locate("m.example")).host_header == "m.example"


async def test_a_service_that_is_declined_makes_the_server_unreachable(world: World) -> None:
    world.offer("_matrix-fed._tcp.m.example", ("", 0))
    with pytest.raises(Unavailable):
        await world.locate("m.example")


async def test_a_service_at_what_is_no_host_is_passed_over(world: World) -> None:
    world.offer(
        "_matrix-fed._tcp.m.example",
        ("a.example/path?x=", 1),
        ("u@a.example", 2),
        ("a.example:9", 3),
        ("b.example", 4),
        ("2001:db8::1", 5),
    )
    assert (await world.locate("m.example")).endpoints == (
        Endpoint(host="b.example", port=4),
        Endpoint(host="2001:db8::1", port=5),
    )


async def test_a_name_server_that_cannot_answer_for_services_is_passed_over(world: World) -> None:
    world.records["_matrix-fed._tcp.m.example"] = Unavailable("SERVFAIL")
    assert (await world.locate("m.example")).endpoints == (Endpoint(host="m.example", port=8448),)


async def test_what_is_no_server_name_is_bad_input(world: World) -> None:
    with pytest.raises(BadInput):
        await world.locate("not/a/name")


async def test_a_delegation_is_believed_for_a_day(world: World) -> None:
    world.delegate("m.example", "hs.example:443")
    await world.locate("m.example")
    world.delegate("m.example", "new.example:443")
    world.clock.shift(23.9 * HOUR_S)
    assert (await world.locate("m.example")).certificate_name == "hs.example"
    world.clock.shift(0.2 * HOUR_S)
    assert (await world.locate("m.example")).certificate_name == "new.example"
    assert len(world.fetched) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 24 * HOUR_S),
        ({"cache-control": "max-age=7200"}, 2 * HOUR_S),
        ({"cache-control": "public, Max-Age=7200", "age": "3600"}, HOUR_S),
        ({"cache-control": "max-age=1"}, 300.0),
        ({"cache-control": "no-store"}, 300.0),
        ({"cache-control": "max-age=9999999999"}, 48 * HOUR_S),
        ({"cache-control": "max-age=soon"}, 24 * HOUR_S),
        ({"expires": "Tue, 14 Nov 2023 23:13:20 GMT"}, HOUR_S),
        ({"expires": "0"}, 300.0),
    ],
)
def test_cache_headers_count_within_bounds(headers: Mapping[str, str], seconds: float) -> None:
    response = HttpResponse(status=200, headers=headers, body=b"")
    assert cache_seconds(response, now_ms=1_700_000_000_000) == seconds


async def test_an_error_that_was_answered_is_believed_for_an_hour(world: World) -> None:
    world.web["https://m.example/.well-known/matrix/server"] = answer({}, status=404)
    await world.locate("m.example")
    world.delegate("m.example", "hs.example:443")
    world.clock.shift(0.99 * HOUR_S)
    assert (await world.locate("m.example")).host_header == "m.example"
    world.clock.shift(0.02 * HOUR_S)
    assert (await world.locate("m.example")).host_header == "hs.example:443"


async def test_repeated_failures_are_asked_for_less_and_less_often(world: World) -> None:
    for _ in range(20 * 60):
        await world.locate("m.example")
        world.clock.shift(60.0)
    # At minute 0, 1, 3, 7, 15, 31, 63, then each hour.
    assert len(world.fetched) == 6 + 19


async def test_what_was_delegated_outlives_a_failure(world: World) -> None:
    world.delegate("m.example", "hs.example:443")
    await world.locate("m.example")
    world.web.clear()
    world.clock.shift(25 * HOUR_S)
    assert (await world.locate("m.example")).host_header == "hs.example:443"
    world.clock.shift(24 * HOUR_S)
    assert (await world.locate("m.example")).host_header == "m.example"


async def test_a_location_is_remembered_until_forgotten_or_old(world: World) -> None:
    world.web["https://m.example/.well-known/matrix/server"] = answer({}, status=404)
    world.offer("_matrix-fed._tcp.m.example", ("a.example", 1), ttl_s=100)
    await world.locate("m.example")
    world.offer("_matrix-fed._tcp.m.example", ("b.example", 1), ttl_s=100)
    world.clock.shift(99)
    assert (await world.locate("m.example")).endpoints[0].host == "a.example"
    world.discovery.forget(ServerName("m.example"))
    assert (await world.locate("m.example")).endpoints[0].host == "b.example"
    world.offer("_matrix-fed._tcp.m.example", ("c.example", 1), ttl_s=100)
    world.clock.shift(101)
    assert (await world.locate("m.example")).endpoints[0].host == "c.example"
