"""The media store, on files and on both databases."""

from __future__ import annotations

import hashlib
import os
import resource
import tracemalloc
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import ServerName, UserId
from bridge.media.store import MediaLimits, MediaStore
from bridge.storage import media
from bridge.storage.database import Database, Unit
from tests.support.clock import FakeClock
from tests.support.media import picture, read, stream

GW = ServerName("gw.example")
PEER = ServerName("peer.example")
ANNE = UserId("@anne=40x.example:gw.example")
NO_LIMITS = MediaLimits(keep_free_bytes=0)


async def store_of(database: Database, folder: Path, limits: MediaLimits = NO_LIMITS) -> MediaStore:
    made = MediaStore(
        own_name=GW, folder=folder, database=database, clock=FakeClock(), limits=limits
    )
    await made.start()
    return made


def files(folder: Path) -> list[Path]:
    """All but the database, which stands beside the store in these tests."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if not path.name.startswith("isthmus.sqlite")]


async def put(store: MediaStore, data: bytes, **more: Any) -> media.MediaRow:
    wanted: dict[str, Any] = {
        "uploader": ANNE,
        "content_type": "image/png",
        "name": "a.png",
        **more,
    }
    return await store.put(stream(data), **wanted)


async def cache(store: MediaStore, media_id: str, data: bytes) -> media.MediaRow:
    return await store.put_cached(
        stream(data), origin=PEER, media_id=media_id, content_type="text/plain", name=None
    )


async def test_a_file_comes_out_as_it_went_in(database: Database, tmp_path: Path) -> None:
    store = await store_of(database, tmp_path)
    data = picture(40, 30)
    row = await put(store, data)
    assert (row.origin, row.content_type, row.size_bytes) == (GW, "image/png", len(data))
    assert (row.width, row.height, row.name) == (40, 30, "a.png")
    assert row.sha256 == hashlib.sha256(data).hexdigest()
    assert len(row.media_id) == 32
    found = await store.find(GW, row.media_id)
    assert found == row
    assert await read(await store.open(row)) == data
    assert await read(await store.open(row, start=5, length=9)) == data[5:14]
    assert await store.find(GW, "other") is None


async def test_a_file_with_a_given_id_is_kept_once(database: Database, tmp_path: Path) -> None:
    store = await store_of(database, tmp_path)
    first = await put(store, b"first", media_id="one", content_type="text/plain")
    again = await put(store, b"second", media_id="one", content_type="text/plain")
    assert again == first
    assert await read(await store.open(again)) == b"first"
    assert len(files(tmp_path)) == 1


async def test_names_of_others_never_become_paths(database: Database, tmp_path: Path) -> None:
    store = await store_of(database, tmp_path / "media")
    row = await store.put_cached(
        stream(b"evil"),
        origin=ServerName("../../x"),
        media_id="../../../etc/passwd",
        content_type="text/plain",
        name="../../a\0b",
    )
    assert row.name == "ab"
    assert files(tmp_path) == [store.path_of(row)]
    assert store.path_of(row).is_relative_to(tmp_path / "media" / "files")
    assert await read(await store.open(row)) == b"evil"


async def test_what_is_said_of_a_file_is_corrected_by_its_bytes(
    database: Database, tmp_path: Path
) -> None:
    store = await store_of(database, tmp_path)
    jpeg = picture(8, 8, form="JPEG")
    assert (await put(store, jpeg, content_type="text/html")).content_type == "image/jpeg"
    html = await put(store, b"<html><script>", content_type="image/png")
    assert html.content_type == "application/octet-stream"
    assert (await put(store, b"%PDF-1", content_type=None)).content_type == "application/pdf"
    audio = await put(store, b"\0\0\0\x20ftypisom\0\0", content_type="audio/mp4")
    assert audio.content_type == "audio/mp4"


async def test_an_endless_body_is_cut_off_and_leaves_nothing(
    database: Database, tmp_path: Path
) -> None:
    store = await store_of(database, tmp_path, MediaLimits(max_bytes=10_000, keep_free_bytes=0))

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000

    with pytest.raises(BadInput) as caught:
        await store.put(endless(), uploader=ANNE, content_type=None, name=None)
    assert caught.value.errcode == "M_TOO_LARGE"
    assert files(tmp_path) == []


async def test_a_body_that_breaks_off_leaves_nothing(database: Database, tmp_path: Path) -> None:
    store = await store_of(database, tmp_path)

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        raise Unavailable("cut off")

    with pytest.raises(Unavailable):
        await store.put(broken(), uploader=ANNE, content_type=None, name=None, media_id="m")
    assert files(tmp_path) == []
    assert await store.find(GW, "m") is None


async def test_nobody_sends_more_than_their_quota(database: Database, tmp_path: Path) -> None:
    store = await store_of(database, tmp_path, MediaLimits(quota_bytes=3000, keep_free_bytes=0))
    await put(store, b"x" * 2000)
    with pytest.raises(BadInput):
        await put(store, b"x" * 1001)
    await put(store, b"x" * 1000)
    with pytest.raises(Refused) as caught:
        await put(store, b"x")
    assert (caught.value.errcode, caught.value.rule) == ("M_FORBIDDEN", "media_quota")
    await put(store, b"x", uploader=UserId("@other:gw.example"))
    assert len(files(tmp_path)) == 3


async def test_what_was_unused_for_longest_leaves_the_cache(
    database: Database, tmp_path: Path
) -> None:
    store = await store_of(database, tmp_path, MediaLimits(cache_bytes=2500, keep_free_bytes=0))
    clock = store._clock
    assert isinstance(clock, FakeClock)
    own = await put(store, b"o" * 5000, content_type=None)
    for media_id in ("a", "b"):
        await cache(store, media_id, b"x" * 1000)
        await clock.advance(4000)
    assert await store.find(PEER, "a") is not None  # used again
    kept = await store.open(await cache(store, "c", b"x" * 1000))
    assert await store.find(PEER, "b") is None
    assert [row is not None for row in [await store.find(PEER, m) for m in ("a", "c")]] == [
        True,
        True,
    ]
    assert await store.find(GW, own.media_id) == own
    assert len(files(tmp_path)) == 3
    await cache(store, "d", b"x" * 2000)
    assert await read(kept) == b"x" * 1000  # whoever reads it reads it to the end
    with pytest.raises(BadInput):
        await cache(store, "e", b"x" * 2501)


async def test_what_is_kept_back_is_shown_to_nobody(database: Database, tmp_path: Path) -> None:
    store = await store_of(database, tmp_path)
    row = await put(store, b"bad")
    await store.quarantine(GW, row.media_id, quarantined=True)
    assert await store.find(GW, row.media_id) is None
    assert await store.is_quarantined(GW, row.media_id)
    await store.quarantine(GW, row.media_id, quarantined=False)
    assert await store.find(GW, row.media_id) == row
    with pytest.raises(NotFound):
        await store.quarantine(GW, "none", quarantined=True)


async def test_a_cached_file_that_is_gone_is_forgotten(database: Database, tmp_path: Path) -> None:
    store = await store_of(database, tmp_path)
    row = await cache(store, "a", b"x" * 1000)
    store.path_of(row).write_bytes(b"x" * 999)  # as a crash may leave it
    with pytest.raises(NotFound):
        await store.open(row)
    assert await store.find(PEER, "a") is None
    assert files(tmp_path) == []


async def test_what_a_crash_left_half_received_is_removed(
    database: Database, tmp_path: Path
) -> None:
    store = await store_of(database, tmp_path)
    old, new = tmp_path / "incoming" / "old", tmp_path / "incoming" / "new"
    for path, age_s in ((old, 7200), (new, 60)):
        path.write_bytes(b"half")
        at = store._clock.now_ms() / 1000 - age_s
        os.utime(path, (at, at))
    await store.start()
    assert files(tmp_path) == [new]


async def test_a_full_disk_takes_nothing(database: Database, tmp_path: Path) -> None:
    store = await store_of(database, tmp_path, MediaLimits(keep_free_bytes=1 << 60))
    with pytest.raises(Unavailable):
        await put(store, b"x")


async def test_a_folder_that_cannot_be_written_is_no_crash(
    database: Database, tmp_path: Path
) -> None:
    store = await store_of(database, tmp_path)
    (tmp_path / "incoming").rmdir()
    with pytest.raises(Unavailable):
        await put(store, b"x")


async def test_a_large_file_passes_in_little_memory(database: Database, tmp_path: Path) -> None:
    store = await store_of(database, tmp_path)
    piece = b"0123456789abcdef" * 4096

    async def much() -> AsyncIterator[bytes]:
        for _ in range(100 * 16):
            yield piece

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        row = await store.put(much(), uploader=ANNE, content_type=None, name=None)
        size = 0
        blob = await store.open(row)
        async for chunk in blob:
            size += len(chunk)
        await blob.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == row.size_bytes == 100 << 20
    assert peak < 10 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


async def test_rows_of_a_removed_file_are_gone_with_its_thumbnails(
    database: Database, tmp_path: Path
) -> None:
    store = await store_of(database, tmp_path)
    row = await put(store, picture())
    thumbnail = media.ThumbnailRow(
        origin=GW,
        media_id=row.media_id,
        width=32,
        height=32,
        method="crop",
        animated=False,
        content_type="image/png",
        size_bytes=3,
    )
    for _ in range(2):
        await database.write(partial(media.put_thumbnail, row=thumbnail))
    path = store.thumbnail_path(row, "32x32-crop")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"abc")
    wanted = partial(media.thumbnails, origin=GW, media_id=row.media_id)
    assert await database.read(wanted) == [thumbnail]
    await store.remove(row)
    assert await database.read(wanted) == []
    assert files(tmp_path) == []


async def test_a_commit_of_which_nobody_knows_leaves_the_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await store_of(database, tmp_path)
    write = database.write

    async def undecided(unit: Unit[Any]) -> Any:
        await write(unit)
        raise Unavailable("the connection broke in the commit")

    monkeypatch.setattr(database, "write", undecided)
    with pytest.raises(Unavailable):
        await put(store, b"first", media_id="one")
    monkeypatch.undo()
    again = await put(store, b"first", media_id="one")
    assert await read(await store.open(again)) == b"first"


async def test_the_same_file_twice_at_once_is_not_over_the_quota(
    database: Database, tmp_path: Path
) -> None:
    store = await store_of(database, tmp_path, MediaLimits(quota_bytes=3000, keep_free_bytes=0))
    first: list[media.MediaRow] = []

    async def slow() -> AsyncIterator[bytes]:
        first.append(await put(store, b"x" * 2000, media_id="one"))
        yield b"x" * 2000

    row = await store.put(
        slow(), uploader=ANNE, content_type="image/png", name="a.png", media_id="one"
    )
    assert [row] == first
    assert await read(await store.open(row)) == b"x" * 2000
