"""A TCP link that can fail: swallow, cut, refuse, and heal.

Put between two servers (or a server and the gateway) instead of the real port.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

from bridge.demo.servers.ports import free_port

_CHUNK_BYTES = 64 * 1024
_CONNECT_TIMEOUT_S = 10.0


def _reset(end: asyncio.StreamWriter) -> None:
    """Close without the usual farewell: with no time to linger the kernel sends RST."""
    connection = end.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.transport.abort()


class Relay:
    """Listens on `port`, forwards to `target_port`; both on loopback."""

    def __init__(self, target_port: int, *, port: int | None = None) -> None:
        self.target_port = target_port
        self.port = port if port is not None else free_port()
        self.swallowed_bytes = 0
        self._swallows = False
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._coming: set[asyncio.StreamWriter] = set()

    @property
    def link_count(self) -> int:
        """Connections that are open through it."""
        return len(self._ends) // 2

    async def up(self) -> None:
        """Accept and forward (again)."""
        self._swallows = False
        if self._server is None:
            self._server = await asyncio.start_server(self._link, "127.0.0.1", self.port)

    async def down(self) -> None:
        """Refuse new connections and abort the open ones."""
        server, self._server = self._server, None
        if server is not None:
            # Who was accepted in this moment is let in first: a server that is closed meanwhile
            # forgets the socket without closing it.
            loop = asyncio.get_running_loop()
            for listening in server.sockets:
                loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)
            server.close()
        self.cut()

    def cut(self) -> None:
        """Abort the open connections (both ends see a reset); new ones are still accepted."""
        for end in self._ends | self._coming:
            _reset(end)
        self._ends.clear()
        self._coming.clear()

    def hole(self) -> None:
        """Let connections stand and swallow every byte on them."""
        self._swallows = True

    def heal(self) -> None:
        """Forward again what comes from now on."""
        self._swallows = False

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._coming.add(writer)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                far_reader, far_writer = await asyncio.open_connection(
                    "127.0.0.1", self.target_port
                )
        except OSError:
            self._coming.discard(writer)
            _reset(writer)
            return
        if writer not in self._coming:  # Cut meanwhile.
            _reset(far_writer)
            return
        self._coming.discard(writer)
        ends = {writer, far_writer}
        self._ends |= ends
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer))
        finally:
            self._ends -= ends
            for end in ends:
                end.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Carry one direction to its end, then close the other side, unless all is swallowed."""
        try:
            while data := await source.read(_CHUNK_BYTES):
                if self._swallows:
                    self.swallowed_bytes += len(data)
                else:
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        if not self._swallows:
            sink.close()

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.down()
