"""Ports on loopback: find free ones, and say who sits on a taken one.

Free ports are drawn from below the range that the kernel gives to outgoing connections, so that a
server which is stopped for a while finds its port free again.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import Misconfigured, Unavailable

_LOOPBACK = "127.0.0.1"
_LOWEST = 20_000
_USUAL_HIGHEST = 32_767
_ATTEMPTS = 2_000
_STATE_LISTEN = "0A"
_dice = random.SystemRandom()
_given: set[int] = set()


def _highest() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii")
    except OSError:
        return _USUAL_HIGHEST
    lowest_outgoing = int(text.split()[0])
    return lowest_outgoing - 1 if lowest_outgoing > _LOWEST + 1_000 else _USUAL_HIGHEST


def is_free(port: int) -> bool:
    """Whether a server could listen on this port on loopback now.

    As servers do, it does not mind connections that are over and only remembered (TIME_WAIT).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nobody listens on and that this process has not given away before."""
    highest = _highest()
    for _ in range(_ATTEMPTS):
        port = _dice.randint(_LOWEST, highest)
        if port not in _given and is_free(port):
            _given.add(port)
            return port
    raise Unavailable(f"no free port between {_LOWEST} and {highest}")


def free_ports(count: int) -> tuple[int, ...]:
    """`count` different free ports."""
    return tuple(free_port() for _ in range(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who listens on a port. `pid` is None where the kernel does not let us see the owner."""

    port: int
    pid: int | None
    command: str

    def __str__(self) -> str:
        if self.pid is None:
            return f"a process of another user listens on port {self.port}"
        return f"port {self.port} is taken by process {self.pid} ({self.command})"


def _listening_inodes(port: int) -> set[str]:
    """Inodes of the sockets in state LISTEN on `port`, from both address families' tables."""
    wanted = f"{port:04X}"
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) < 10 or fields[3] != _STATE_LISTEN:
                continue
            if fields[1].rpartition(":")[2] == wanted:
                inodes.add(fields[9])
    return inodes


def _command_of(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "unknown"
    return raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()[:200] or "unknown"


def _owns_socket(pid: int, links: set[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if os.readlink(f"{folder}/{descriptor}") in links:
                return True
        except OSError:
            continue
    return False


def who_listens(port: int) -> Listener | None:
    """The process that listens on `port` on any address; None if nobody does."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    links = {f"socket:[{inode}]" for inode in inodes}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _owns_socket(int(entry), links):
            return Listener(port=port, pid=int(entry), command=_command_of(int(entry)))
    return Listener(port=port, pid=None, command="unknown")


def check_ports(wanted: Mapping[str, int]) -> None:
    """Raise `Misconfigured` naming every port of `wanted` (purpose -> port) that is taken."""
    complaints = []
    for purpose, port in wanted.items():
        listener = who_listens(port)
        if listener is not None:
            complaints.append(f"{purpose}: {listener}")
        elif not is_free(port):
            complaints.append(f"{purpose}: port {port} cannot be opened")
    if complaints:
        raise Misconfigured("ports", "; ".join(complaints))
