"""HTTP/1.1 over TLS in both directions, with connections that break where we say.

As little of it as two servers need: a head, a body of a known length, one exchange after the
other. It is written by hand because no library cuts itself off in the middle of a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

_MAX_BODY_BYTES = 64 << 20
_LONGEST_S = 60.0
_BROKEN = (OSError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError)


class Cut(StrEnum):
    """Where a connection breaks."""

    NONE = "none"
    BEFORE = "before the request"
    IN_REQUEST = "in the middle of the body"
    UNANSWERED = "after the request, before the answer"
    IN_ANSWER = "in the middle of the answer"


class Dice:
    """So many of the exchanges break, each kind as often as the others."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.share = 0.0

    def throw(self, *kinds: Cut) -> Cut:
        if self._random.random() >= self.share:
            return Cut.NONE
        return self._random.choice(kinds)

    def split(self, data: bytes) -> bytes:
        """Some of it, never all."""
        return data[: self._random.randrange(len(data))]


class Lost(Exception):
    """No answer came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request (`first` is `METHOD TARGET HTTP/1.1`) or an answer (`HTTP/1.1 200 OK`)."""

    first: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        parts: list[bytes] = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(parts)
    size = int(headers.get("content-length", "0"))
    if size > _MAX_BODY_BYTES:
        raise OSError(f"a body of {size} bytes")
    return await reader.readexactly(size)


def _text(first: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class FlakyClient:
    """Requests to one server, one at a time; a connection is kept while nothing breaks."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext,
        dice: Dice,
        on_cut: Callable[[Cut], None],
    ) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._dice = dice
        self._on_cut = on_cut
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Message]:
        """Raises `Lost`, whether we broke the connection or somebody else."""
        cut = self._dice.throw(Cut.BEFORE, Cut.IN_REQUEST, Cut.UNANSWERED, Cut.IN_ANSWER)
        if cut is not Cut.NONE:
            self._on_cut(cut)
        more = {"Host": f"{self._host}:{self._port}", **headers}
        request = _text(f"{method} {target} HTTP/1.1", more, body)
        try:
            async with asyncio.timeout(_LONGEST_S):
                return await self._exchange(request, cut)
        except _BROKEN as exc:
            self._hang_up()
            raise Lost(str(exc) or type(exc).__name__) from exc
        except Lost:
            self._hang_up()
            raise

    async def _exchange(self, request: bytes, cut: Cut) -> tuple[int, Message]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        reader, writer = self._streams
        if cut is Cut.BEFORE:
            raise Lost(cut)
        writer.write(self._dice.split(request) if cut is Cut.IN_REQUEST else request)
        await writer.drain()
        if cut in (Cut.IN_REQUEST, Cut.UNANSWERED):
            raise Lost(cut)
        first, headers = await _read_head(reader)
        if cut is Cut.IN_ANSWER:
            raise Lost(cut)
        body = await _read_body(reader, headers)
        if headers.get("connection", "").lower() == "close":
            self._hang_up()
        return int(first.split()[1]), Message(first=first, headers=headers, body=body)

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class FlakyServer:
    """Answers every request by `answer`: a status and what becomes JSON."""

    def __init__(
        self,
        *,
        answer: Callable[[Message], Awaitable[tuple[int, Any]]],
        dice: Dice,
        on_cut: Callable[[Cut], None],
    ) -> None:
        self._answer = answer
        self._dice = dice
        self._on_cut = on_cut

    @contextlib.asynccontextmanager
    async def listening(self, port: int, tls: ssl.SSLContext) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls)
        try:
            yield
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except _BROKEN:
            pass  # It was theirs to break.
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False: the connection is over."""
        first, headers = await _read_head(reader)
        cut = self._dice.throw(Cut.BEFORE, Cut.UNANSWERED, Cut.IN_ANSWER)
        if cut is not Cut.NONE:
            self._on_cut(cut)
        if cut is Cut.BEFORE:
            return False
        body = await _read_body(reader, headers)
        status, value = await self._answer(Message(first=first, headers=headers, body=body))
        if cut is Cut.UNANSWERED:
            return False
        data = json.dumps(value).encode()
        answer = _text(f"HTTP/1.1 {status} Answer", {"Content-Type": "application/json"}, data)
        writer.write(self._dice.split(answer) if cut is Cut.IN_ANSWER else answer)
        await writer.drain()
        return cut is Cut.NONE
