"""`multipart/mixed` of exactly two parts, as media travels between servers: written and read.

The first part describes the media in JSON, the second is the media or names where it is. It is read
as a stream, each piece within a bound; the media ends where the boundary comes again, and a body
that ends before has been cut off.
Spec: S2S, content repository; RFC 2046, 5.1.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping

from bridge.errors import BadInput, Unavailable

MAX_PREAMBLE_BYTES = 4 << 10
MAX_HEADER_BYTES = 16 << 10
MAX_METADATA_BYTES = 64 << 10
_BOUNDARY = re.compile(
    r";\s*boundary\s*=\s*(?:\"([0-9A-Za-z'()+_,./:=? -]{1,70})\"|([0-9A-Za-z'+_./:=?-]{1,70}))",
    re.IGNORECASE,
)


def head_of(boundary: str, headers: Mapping[str, str]) -> bytes:
    """Everything before the media's own bytes. Values of headers have no line breaks."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n{lines}\r\n"
    ).encode()


def tail_of(boundary: str) -> bytes:
    return f"\r\n--{boundary}--\r\n".encode()


def boundary_of(content_type: str | None) -> str:
    """Raises BadInput where it is no multipart."""
    bare = (content_type or "").partition(";")[0].strip().lower()
    found = _BOUNDARY.search(content_type or "")
    if bare != "multipart/mixed" or found is None:
        raise BadInput("the answer is no multipart/mixed")
    boundary = found[1] or found[2]
    if boundary.endswith(" "):
        raise BadInput("a boundary that ends with a blank")
    return boundary


class TwoParts:
    """Reads `headers`, then `body`. Both raise BadInput for what is no such multipart, and
    Unavailable where it was cut off."""

    def __init__(self, chunks: AsyncIterable[bytes], boundary: str) -> None:
        self._chunks = aiter(chunks)
        self._held = bytearray(b"\r\n")  # the first boundary may stand at the very beginning
        self._mark = f"\r\n--{boundary}".encode()

    async def headers(self) -> dict[str, str]:
        """Of the second part, in lower case; the first one is JSON and says nothing yet."""
        await self._skip_to(self._mark, MAX_PREAMBLE_BYTES)
        await self._end_of_mark()
        await self._part_headers()
        await self._skip_to(self._mark, MAX_METADATA_BYTES)
        await self._end_of_mark()
        return await self._part_headers()

    async def body(self) -> AsyncIterator[bytes]:
        """Of the second part, to the last boundary."""
        keep = len(self._mark) - 1
        while True:
            at = self._held.find(self._mark)
            if at >= 0:
                if at:
                    yield bytes(self._held[:at])
                del self._held[: at + len(self._mark)]
                if not await self._is_last():
                    raise BadInput("more than two parts")
                return
            if len(self._held) > keep:
                whole = bytes(self._held[:-keep])
                del self._held[:-keep]
                yield whole
            await self._more()

    async def _more(self) -> None:
        try:
            self._held += await anext(self._chunks)
        except StopAsyncIteration as exc:
            raise Unavailable("the media was cut off") from exc

    async def _skip_to(self, mark: bytes, max_bytes: int) -> bytes:
        while (at := self._held.find(mark)) < 0:
            if len(self._held) > max_bytes + len(mark):
                raise BadInput("no part begins where one should")
            await self._more()
        if at > max_bytes:
            raise BadInput("a part is larger than it may be")
        before = bytes(self._held[:at])
        del self._held[: at + len(mark)]
        return before

    async def _is_last(self) -> bool:
        while len(self._held) < 2:
            await self._more()
        return self._held[:2] == b"--"

    async def _end_of_mark(self) -> None:
        """A part begins after it, behind blanks that gateways add and the end of the line."""
        if await self._is_last():
            raise BadInput("fewer than two parts")
        rest = await self._skip_to(b"\r\n", 100)
        if rest.strip(b" \t"):
            raise BadInput("something stands behind a boundary")
        # The line's end begins the empty line of a part without headers.
        self._held[:0] = b"\r\n"

    async def _part_headers(self) -> dict[str, str]:
        lines = (await self._skip_to(b"\r\n\r\n", MAX_HEADER_BYTES)).split(b"\r\n")
        found: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if colon:
                key = name.decode("ascii", "replace").strip().lower()
                found[key] = value.decode("utf-8", "replace").strip()
        # A part without a body has the boundary right behind its headers.
        self._held[:0] = b"\r\n" if self._held.startswith(self._mark[2:]) else b""
        return found
