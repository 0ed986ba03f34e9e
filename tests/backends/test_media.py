"""The media part of the Matrix port over our own homeserver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import UserId
from bridge.ports.matrix import MatrixBackend
from tests.support.clock import FakeClock
from tests.support.network import open_network


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def bytes_of(backend: MatrixBackend, mxc: str, **more: int) -> bytes:
    stream = await backend.open_media(mxc, **more)
    try:
        return b"".join([chunk async for chunk in stream])
    finally:
        await stream.close()


async def test_an_upload_is_found_by_its_transaction_and_read_once(
    clock: FakeClock, tmp_path: Path, sqlite_template: Path
) -> None:
    async with open_network(clock, tmp_path, sqlite_template) as network:
        server = await network.add("gw.example")
        backend: MatrixBackend = server.backend
        anne = server.user("anne")
        assert await backend.find_upload("t1") is None
        made = await backend.upload(
            chunks=pieces(b"hel", b"lo"),
            uploader=anne,
            content_type="text/plain",
            name="a",
            txn="t1",
        )
        assert (made.size_bytes, made.content_type, made.name) == (5, "text/plain", "a")
        assert made.mxc.startswith("mxc://gw.example/")
        assert "t1" not in made.mxc

        again = await backend.upload(
            chunks=pieces(b"other"), uploader=anne, content_type=None, name=None, txn="t1"
        )
        assert again == made == await backend.find_upload("t1")
        assert await bytes_of(backend, made.mxc, start=1, length=3) == b"ell"
        with pytest.raises(Refused):
            await backend.upload(
                chunks=pieces(b"x"),
                uploader=UserId("@a:other.example"),
                content_type=None,
                name=None,
                txn="t2",
            )


async def test_media_of_another_server_comes_from_there(
    clock: FakeClock, tmp_path: Path, sqlite_template: Path
) -> None:
    async with open_network(clock, tmp_path, sqlite_template) as network:
        server, peer = await network.add("gw.example"), await network.add("peer.example")
        theirs = await peer.backend.upload(
            chunks=pieces(b"tea"), uploader=peer.user("bob"), content_type=None, name="t", txn="t"
        )
        assert await server.backend.media(theirs.mxc) == theirs
        peer.down = True
        assert await bytes_of(server.backend, theirs.mxc) == b"tea"
        with pytest.raises(Unavailable):
            await server.backend.media("mxc://peer.example/other")
        with pytest.raises(NotFound):
            await server.backend.media("mxc://gw.example/other")


@pytest.mark.parametrize(
    "mxc", ["", "http://x/y", "mxc://x", "mxc://x/", "mxc://x/../y", "mxc://x/%2e", "mxc://a b/y"]
)
async def test_what_is_no_mxc_uri_is_refused(
    mxc: str, clock: FakeClock, tmp_path: Path, sqlite_template: Path
) -> None:
    async with open_network(clock, tmp_path, sqlite_template) as network:
        server = await network.add("gw.example")
        with pytest.raises(BadInput):
            await server.backend.open_media(mxc)
