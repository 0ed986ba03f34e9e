"""A small DNS server on loopback: A, AAAA and SRV over UDP, from a table. RFC 1035, RFC 2782."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

A, AAAA, SRV = 1, 28, 33
_NXDOMAIN, _SERVFAIL = 3, 2


class DnsTable(asyncio.DatagramProtocol):
    """Fill it, then ask it. Names without an entry do not exist."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, int], list[tuple[int, bytes]]] = {}
        self._broken: set[tuple[str, int]] = set()
        self._silent: set[str] = set()
        self.asked: list[tuple[str, int]] = []
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        host, port = transport.get_extra_info("sockname")[:2]
        self.address = f"{host}:{port}"

    def add_address(self, name: str, *addresses: str, ttl_s: int = 60) -> None:
        for text in addresses:
            address = ipaddress.ip_address(text)
            kind = A if address.version == 4 else AAAA
            self._records.setdefault((name, kind), []).append((ttl_s, address.packed))

    def add_service(
        self, name: str, target: str, port: int, *, priority: int = 10, weight: int = 0
    ) -> None:
        data = struct.pack("!HHH", priority, weight, port) + _wire_name(target)
        self._records.setdefault((name, SRV), []).append((60, data))

    def break_name(self, name: str, kind: int) -> None:
        """Answer SERVFAIL."""
        self._broken.add((name, kind))

    def silence(self, name: str) -> None:
        """Never answer."""
        self._silent.add(name)

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        name, end = _read_name(data, 12)
        kind = struct.unpack_from("!H", data, end)[0]
        self.asked.append((name, kind))
        if name in self._silent:
            return
        answers = self._records.get((name, kind), [])
        exists = any(known == name for known, _ in self._records)
        code = 0 if exists else _NXDOMAIN
        if (name, kind) in self._broken:
            code, answers = _SERVFAIL, []
        header = data[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(answers), 0, 0)
        body = data[12 : end + 4]
        for ttl_s, record in answers:
            body += b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, ttl_s, len(record)) + record
        self._transport.sendto(header + body, addr)


def _read_name(data: bytes, position: int) -> tuple[str, int]:
    labels = []
    while data[position]:
        length = data[position]
        labels.append(data[position + 1 : position + 1 + length].decode("ascii").lower())
        position += 1 + length
    return ".".join(labels), position + 1


def _wire_name(name: str) -> bytes:
    labels = [label.encode("ascii") for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


@asynccontextmanager
async def dns_server() -> AsyncIterator[DnsTable]:
    loop = asyncio.get_running_loop()
    transport, table = await loop.create_datagram_endpoint(DnsTable, local_addr=("127.0.0.1", 0))
    try:
        yield table
    finally:
        transport.close()
