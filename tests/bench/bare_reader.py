"""The least that a component in a MUC can do: an expat parser that drops what it reads.

Run as a program of its own, so that the kernel counts its CPU: enters `count` occupants into a
MUC, prints `in`, and reads until it is ended. Spec: XEP-0114.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

_AT_ONCE = 25


class Reader:
    """Counts self-presences, and looks at nothing else."""

    def __init__(self, domain: str, secret: str, port: int) -> None:
        self._domain = domain
        self._secret = secret
        self._port = port
        self._stream_id = ""
        self._depth = 0
        self.inside = 0
        self._news = asyncio.Event()

    async def run(self, muc: str, count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._on_start
        parser.EndElementHandler = self._on_end
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(reader, parser))
            writer.write(
                f"<stream:stream xmlns='jabber:component:accept' to={quoteattr(self._domain)}"
                " xmlns:stream='http://etherx.jabber.org/streams'>".encode()
            )
            await self._until(lambda: bool(self._stream_id))
            digest = hashlib.sha1((self._stream_id + self._secret).encode()).hexdigest()
            writer.write(f"<handshake>{digest}</handshake>".encode())
            for number in range(count):
                sender, to = f"g{number}@{self._domain}", f"{muc}/g{number}"
                writer.write(
                    f"<presence from={quoteattr(sender)} to={quoteattr(to)}>"
                    "<x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x>"
                    "</presence>".encode()
                )
                await self._until_inside(number - _AT_ONCE)
            await self._until_inside(count)
            print("in", flush=True)

    async def _until_inside(self, count: int) -> None:
        await self._until(lambda: self.inside >= count)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    async def _read(self, reader: asyncio.StreamReader, parser: expat.XMLParserType) -> None:
        while data := await reader.read(65536):
            parser.Parse(data)
            self._news.set()

    def _on_start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if name == "stream:stream":
            self._stream_id = attributes.get("id", "")
        elif name == "status" and attributes.get("code") == "110":
            self.inside += 1

    def _on_end(self, name: str) -> None:
        self._depth -= 1


if __name__ == "__main__":
    _, domain, secret, port, muc, count = sys.argv
    asyncio.run(Reader(domain, secret, int(port)).run(muc, int(count)))
