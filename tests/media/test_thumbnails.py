"""Thumbnails, made by the real process."""

from __future__ import annotations

import asyncio
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadInput
from bridge.ids import ServerName, UserId
from bridge.media.assembly import MediaParts, build_media
from bridge.media.store import MediaLimits
from bridge.media.thumbnails import Thumbnail, Wish, choose
from bridge.storage.database import Database
from bridge.storage.media import MediaRow
from tests.support.clock import FakeClock
from tests.support.media import moving_picture, opened, picture, read, stream

GW = ServerName("gw.example")
ANNE = UserId("@anne:gw.example")


@pytest.fixture
async def parts(sqlite_database: Database, tmp_path: Path) -> MediaParts:
    made = build_media(
        own_name=GW,
        folder=tmp_path / "media",
        database=sqlite_database,
        clock=FakeClock(),
        limits=MediaLimits(keep_free_bytes=0),
    )
    await made.store.start()
    return made


async def put(parts: MediaParts, data: bytes) -> MediaRow:
    return await parts.store.put(stream(data), uploader=ANNE, content_type=None, name="a")


def made_files(parts: MediaParts) -> list[Path]:
    return [path for path in (parts.store._folder / "thumbnails").rglob("*") if path.is_file()]


async def bytes_of(thumbnail: Thumbnail) -> bytes:
    return await read(thumbnail.blob)


@pytest.mark.parametrize(
    ("wish", "size", "form"),
    [
        (Wish(width=10, height=10, method="crop"), (32, 32), "JPEG"),
        (Wish(width=96, height=96, method="crop"), (96, 96), "JPEG"),
        (Wish(width=300, height=200), (320, 240), "JPEG"),
        (Wish(width=600, height=400), (640, 480), "JPEG"),
        (Wish(width=200, height=100, method="crop"), (320, 240), "JPEG"),
    ],
)
async def test_a_thumbnail_is_not_smaller_than_was_wished(
    parts: MediaParts, wish: Wish, size: tuple[int, int], form: str
) -> None:
    row = await put(parts, picture(1600, 1200))
    made = await parts.thumbnails.open(row, wish)
    image = opened(await bytes_of(made))
    assert (image.size, image.format) == (size, form)
    assert made.content_type == f"image/{form.lower()}"


async def test_a_thumbnail_is_made_once(parts: MediaParts) -> None:
    row = await put(parts, picture(800, 800))
    wish = Wish(width=32, height=32, method="crop")
    first, second = [await parts.thumbnails.open(row, wish) for _ in range(2)]
    assert await bytes_of(first) == await bytes_of(second)
    [file] = made_files(parts)
    written = file.stat().st_mtime_ns
    async with asyncio.TaskGroup() as tasks:
        several = [tasks.create_task(parts.thumbnails.open(row, wish)) for _ in range(5)]
    assert {len(await bytes_of(one.result())) for one in several} == {file.stat().st_size}
    assert file.stat().st_mtime_ns == written
    file.unlink()
    assert opened(await bytes_of(await parts.thumbnails.open(row, wish))).size == (32, 32)


async def test_an_image_that_is_small_is_its_own_thumbnail(parts: MediaParts) -> None:
    data = picture(40, 30, form="JPEG")
    row = await put(parts, data)
    made = await parts.thumbnails.open(row, Wish(width=96, height=96, method="crop"))
    assert (await bytes_of(made), made.is_original) == (data, True)
    assert made_files(parts) == []


async def test_what_can_be_seen_through_stays_so(parts: MediaParts) -> None:
    row = await put(parts, picture(500, 500, mode="RGBA"))
    image = opened(await bytes_of(await parts.thumbnails.open(row, Wish(width=99, height=99))))
    assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (240, 240))


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
async def test_what_moves_moves_only_for_who_asks(parts: MediaParts, form: str) -> None:
    row = await put(parts, moving_picture(form=form))
    still = await parts.thumbnails.open(row, Wish(width=96, height=96, method="scale"))
    image = opened(await bytes_of(still))
    assert getattr(image, "n_frames", 1) == 1
    wish = Wish(width=96, height=96, method="scale", animated=True)
    moving = opened(await bytes_of(await parts.thumbnails.open(row, wish)))
    assert (moving.format, moving.n_frames) == ("WEBP", 3)
    small = await put(parts, moving_picture(20, 20, form=form))
    stopped = opened(await bytes_of(await parts.thumbnails.open(small, Wish(width=96, height=96))))
    assert (getattr(stopped, "n_frames", 1), stopped.size) == (1, (20, 20))


async def test_a_png_that_moves_stands_still_for_who_does_not_ask(parts: MediaParts) -> None:
    for data, is_original in ((picture(40, 30), True), (moving_picture(40, 30, form="PNG"), False)):
        row = await put(parts, data)
        made = await parts.thumbnails.open(row, Wish(width=96, height=96))
        image = opened(await bytes_of(made))
        assert (made.is_original, image.size) == (is_original, (40, 30))
        assert getattr(image, "n_frames", 1) == 1


async def test_no_thumbnail_is_smaller_than_was_wished(parts: MediaParts) -> None:
    for data in (picture(1600, 1200), moving_picture(1600, 1200)):
        row = await put(parts, data)
        made = await parts.thumbnails.open(row, Wish(width=1000, height=1000))
        assert opened(await bytes_of(made)).size == (1600, 1200)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose pixels are many and whose bytes are few."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes((width // 8 + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


async def test_a_decompression_bomb_is_refused_before_it_is_opened(parts: MediaParts) -> None:
    row = await put(parts, bomb(30_000, 30_000))
    with pytest.raises(BadInput) as caught:
        await parts.thumbnails.open(row, Wish(width=32, height=32, method="crop"))
    assert caught.value.errcode == "M_TOO_LARGE"
    assert made_files(parts) == []


async def test_a_bomb_that_lies_about_its_size_is_refused_in_the_process(
    parts: MediaParts,
) -> None:
    # The header that we read says 100 x 100; the WebP inside its container is larger.
    inner = picture(9000, 9000, form="WEBP", quality=1)
    flags = b"\0\0\0\0" + (99).to_bytes(3, "little") * 2
    body = b"VP8X" + struct.pack("<I", 10) + flags + inner[12:]
    row = await put(parts, b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body)
    assert (row.width, row.height) == (100, 100)
    with pytest.raises(BadInput):
        await parts.thumbnails.open(row, Wish(width=32, height=32, method="crop"))
    assert made_files(parts) == []


async def test_a_broken_image_is_tried_once(parts: MediaParts) -> None:
    whole = picture(500, 500)
    row = await put(parts, whole[:60] + b"\0" * 500)
    for _ in range(2):
        with pytest.raises(BadInput) as caught:
            await parts.thumbnails.open(row, Wish(width=32, height=32, method="crop"))
        assert caught.value.errcode == "M_UNKNOWN"
        parts.store.path_of(row).unlink(missing_ok=True)  # the second time nobody looks
    assert list((parts.store._folder / "incoming").iterdir()) == []


async def test_what_is_no_image_has_no_thumbnail(parts: MediaParts) -> None:
    row = await put(parts, b"%PDF-1.7 and so on")
    with pytest.raises(BadInput) as caught:
        await parts.thumbnails.open(row, Wish(width=32, height=32))
    assert caught.value.errcode == "M_UNKNOWN"


@given(
    *(st.integers(1, 4000) for _ in range(4)),
    st.sampled_from(["scale", "crop"]),
)
def test_the_size_that_is_made_is_enough_and_one_of_a_few(
    width: int, height: int, wide: int, high: int, method: str
) -> None:
    wish = Wish(width=wide, height=high, method="crop" if method == "crop" else "scale")
    size = choose(width, height, wish)
    if size is not None:
        assert size[0] >= wide
        assert size[1] >= high
        assert not (width <= wide and height <= high)
