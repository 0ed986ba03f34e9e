from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Misconfigured
from bridge.net.addresses import AddressPolicy, is_public, parse_address, parse_networks


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.1.1", "172.16.0.1",
        "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b:1::1", "100::1", "2001:0:1::1", "2001:db8::1", "2002:7f00:1::", "fc00::1",
        "fe80::1", "fec0::1", "ff02::1", "ff0e::1",
        "::ffff:0:10.0.0.1", "::ffff:0:8.8.8.8", "64:ff9b::a9fe:a9fe", "100:0:0:1::1",
        "2002:a00:1::", "3fff::1", "5f00::1", "4000::1", "fe80::1%3", "::ffff:169.254.169.254",
    ],
)  # fmt: skip
def test_private_and_special_addresses_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    assert not AddressPolicy().may_connect(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_addresses_of_the_internet_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


def test_an_allowed_network_may_be_connected_to_also_in_mapped_form() -> None:
    policy = AddressPolicy(allowed=parse_networks(["127.0.0.0/8", "fd00::/8"], setting="s"))
    assert policy.may_connect(ipaddress.ip_address("127.0.0.1"))
    assert policy.may_connect(ipaddress.ip_address("::ffff:127.0.0.1"))
    assert policy.may_connect(ipaddress.ip_address("fd00::1"))
    assert not policy.may_connect(ipaddress.ip_address("::1"))
    assert not policy.may_connect(ipaddress.ip_address("10.0.0.1"))


def test_a_wrong_network_names_its_setting() -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_networks(["127.0.0.0/8", "home"], setting="federation.allowed_networks")
    assert caught.value.setting == "federation.allowed_networks"


def test_literals_are_told_from_names() -> None:
    assert parse_address("[::1]") == ipaddress.ip_address("::1")
    assert parse_address("192.0.2.1") == ipaddress.ip_address("192.0.2.1")
    assert parse_address("example.org") is None
    assert parse_address("127.1") is None


@given(st.ip_addresses())
def test_wrapping_an_ipv4_address_in_ipv6_changes_nothing(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if isinstance(address, ipaddress.IPv4Address):
        assert is_public(address) == is_public(ipaddress.IPv6Address(f"::ffff:{address}"))
