"""Which IP addresses we may connect to: public ones, and the networks an operator allows.

Whoever names a server makes us connect somewhere; without this check a name that resolves to a
private address would let strangers reach what only our machine may reach.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from bridge.errors import Misconfigured

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# IPv6 prefixes that carry an IPv4 address to somewhere else: judged by the address inside.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# All that was ever given to networks of the Internet; the rest is special or somebody's own, the
# translated IPv4 addresses of RFC 2765 (`::ffff:0:10.0.0.1`) among it.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# 192.88.99.0/24, the benchmarking and a documentation range are "global" to some Python versions.
_NEVER_PUBLIC: tuple[IpNetwork, ...] = (
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv4Network("198.18.0.0/15"),
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv6Network("3fff::/20"),
)


def parse_address(text: str) -> IpAddress | None:
    """An IPv4 or IPv6 literal, IPv6 with or without brackets and zone; None when it is a name."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def parse_networks(texts: Iterable[str], *, setting: str) -> tuple[IpNetwork, ...]:
    """CIDR networks or single addresses. `setting` is named when one is wrong."""
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError as exc:
            raise Misconfigured(setting, f"{text!r} is not a network") from exc
    return tuple(networks)


def is_public(address: IpAddress) -> bool:
    """Whether it is a unicast address of the open Internet, also inside IPv6 wrappings."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            return False
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_UNICAST:
            return False
    if any(address in network for network in _NEVER_PUBLIC if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPolicy:
    """Public addresses and the `allowed` networks; nothing else."""

    allowed: tuple[IpNetwork, ...] = ()

    def may_connect(self, address: IpAddress) -> bool:
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        inside = any(
            address in network for network in self.allowed if network.version == address.version
        )
        return inside or is_public(address)
