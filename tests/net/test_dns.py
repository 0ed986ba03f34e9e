from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Misconfigured, NotFound, Unavailable
from bridge.net.dns import DnsResolver, Service, order_services
from tests.support.dns import SRV, DnsTable, dns_server


@dataclass
class Dns:
    table: DnsTable
    resolver: DnsResolver


@pytest.fixture
async def dns() -> AsyncIterator[Dns]:
    async with dns_server() as table:
        resolver = DnsResolver(nameserver=table.address, timeout_s=1.0)
        try:
            yield Dns(table, resolver)
        finally:
            await resolver.close()


async def test_addresses_of_both_families_are_found(dns: Dns) -> None:
    dns.table.add_address("m.example", "192.0.2.1", "192.0.2.2", "2001:db8::1")
    found = await dns.resolver.addresses("m.example")
    assert set(found) == {"192.0.2.1", "192.0.2.2", "2001:db8::1"}


async def test_a_literal_is_its_own_address_and_is_not_asked_for(dns: Dns) -> None:
    assert await dns.resolver.addresses("[2001:db8::1]") == ("2001:db8::1",)
    assert await dns.resolver.addresses("192.0.2.7") == ("192.0.2.7",)
    assert dns.table.asked == []


async def test_a_name_that_does_not_exist_is_not_found(dns: Dns) -> None:
    with pytest.raises(NotFound):
        await dns.resolver.addresses("nowhere.example")


@pytest.mark.parametrize("name", ["a..example", "x" * 64 + ".example", "\udcff.example", ""])
async def test_a_name_that_cannot_exist_is_not_found(dns: Dns, name: str) -> None:
    with pytest.raises(NotFound):
        await dns.resolver.addresses(name)


async def test_silence_is_unavailable(dns: Dns) -> None:
    dns.table.silence("silent.example")
    with pytest.raises(Unavailable):
        await dns.resolver.addresses("silent.example")


async def test_services_come_by_priority(dns: Dns) -> None:
    name = "_matrix-fed._tcp.m.example"
    dns.table.add_service(name, "second.example", 8449, priority=20)
    dns.table.add_service(name, "first.example", 8448, priority=10)
    found = await dns.resolver.services(name)
    assert [(service.target, service.port) for service in found] == [
        ("first.example", 8448),
        ("second.example", 8449),
    ]


async def test_no_services_are_an_empty_answer(dns: Dns) -> None:
    dns.table.add_address("m.example", "192.0.2.1")
    assert await dns.resolver.services("m.example") == ()
    assert await dns.resolver.services("_matrix-fed._tcp.m.example") == ()


async def test_a_failing_name_server_is_unavailable(dns: Dns) -> None:
    dns.table.break_name("_matrix._tcp.m.example", SRV)
    with pytest.raises(Unavailable):
        await dns.resolver.services("_matrix._tcp.m.example")


@pytest.mark.parametrize("nameserver", ["dns.example", "127.0.0.1:dns", "300.1.1.1"])
async def test_what_is_no_name_server_names_its_setting(nameserver: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        DnsResolver(nameserver=nameserver)
    assert caught.value.setting == "federation.resolver"


_SERVICES = st.lists(
    st.builds(
        Service,
        target=st.text(alphabet="abc", min_size=1, max_size=3),
        port=st.integers(1, 65535),
        priority=st.integers(0, 3),
        weight=st.integers(0, 100),
        ttl_s=st.just(60),
    ),
    max_size=12,
)


@given(_SERVICES, st.integers())
def test_ordering_keeps_every_service_and_never_lets_a_later_priority_go_first(
    services: list[Service], seed: int
) -> None:
    ordered = order_services(services, random.Random(seed))
    assert sorted(map(repr, ordered)) == sorted(map(repr, services))
    assert [s.priority for s in ordered] == sorted(s.priority for s in services)


def test_weight_decides_how_often_a_service_comes_first() -> None:
    chance = random.Random(1)
    light = Service(target="light", port=1, priority=1, weight=1, ttl_s=60)
    heavy = Service(target="heavy", port=1, priority=1, weight=9, ttl_s=60)
    firsts = [order_services([light, heavy], chance)[0].target for _ in range(1000)]
    assert 800 < firsts.count("heavy") < 960
