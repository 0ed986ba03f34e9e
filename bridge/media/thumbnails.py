"""Thumbnails: made once, of a few sizes, in a process of their own (`shrink`).

Which one answers a wish:
1. an image no larger than the wish is its own thumbnail;
2. of the sizes that are made, the smallest that is not below the wish, in the way of the wish;
3. where all are below, the image itself: larger is allowed, smaller is not.
What moves is handed out only to who asks for it. That an image cannot be made smaller is remembered
like a thumbnail. Spec: C2S, thumbnails; S2S, content repository.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from bridge.errors import BadInput, NotFound, Unavailable
from bridge.media.probe import HEAD_BYTES
from bridge.media.serving import bare_type
from bridge.media.shrink import NO_IMAGE, NO_LIBRARY, TOO_LARGE
from bridge.media.store import Blob, MediaStore, open_blob
from bridge.storage import media
from bridge.storage.database import Database
from bridge.storage.media import MediaRow, ThumbnailRow
from bridge.telemetry.log import get_logger

Method = Literal["scale", "crop"]
Size = tuple[int, int, Method]

SIZES: tuple[Size, ...] = (
    (32, 32, "crop"),
    (96, 96, "crop"),
    (320, 240, "scale"),
    (640, 480, "scale"),
    (800, 600, "scale"),
)
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_MAY_MOVE = frozenset({"image/gif", "image/webp"})
MAX_PIXELS = 50_000_000
MAX_SOURCE_BYTES = 50 << 20
AT_ONCE = 2
MAX_WAITING = 50
TIMEOUT_S = 30.0
_SHRINK = Path(__file__).with_name("shrink.py")

log = get_logger("media")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The size that somebody would like at least."""

    width: int
    height: int
    method: Method = "scale"
    animated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    content_type: str
    blob: Blob
    is_original: bool = False


class Thumbnails:
    """Over one store. `open` raises BadInput for what has none (M_UNKNOWN) or is too large
    (M_TOO_LARGE), NotFound, Unavailable."""

    def __init__(self, *, store: MediaStore, database: Database) -> None:
        self._store = store
        self._database = database
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def open(self, row: MediaRow, wish: Wish) -> Thumbnail:
        """The caller closes the blob."""
        if bare_type(row.content_type) not in IMAGE_TYPES or not row.width or not row.height:
            raise BadInput("this is no image of which thumbnails are made", errcode="M_UNKNOWN")
        if row.size_bytes > MAX_SOURCE_BYTES or row.width * row.height > MAX_PIXELS:
            raise BadInput("this image is too large for thumbnails", errcode="M_TOO_LARGE")
        wanted = choose(row.width, row.height, wish)
        if wanted is None and (wish.animated or not await self._may_move(row)):
            blob = await self._store.open(row)
            return Thumbnail(content_type=row.content_type, blob=blob, is_original=True)
        # What stands still of an image that moves is a thumbnail of its own size.
        size: Size = wanted or (row.width, row.height, "scale")
        made = await self._find(row, size, wish.animated) or await self._make(
            row, size, wish.animated
        )
        if not made.size_bytes:
            raise BadInput("no thumbnail can be made of this image", errcode="M_UNKNOWN")
        try:
            blob = await open_blob(
                self._path(row, made), made.size_bytes, start=0, length=made.size_bytes
            )
        except NotFound:
            made = await self._make(row, size, wish.animated, again=True)
            blob = await open_blob(
                self._path(row, made), made.size_bytes, start=0, length=made.size_bytes
            )
        return Thumbnail(content_type=made.content_type, blob=blob)

    async def _may_move(self, row: MediaRow) -> bool:
        """A PNG says at its beginning whether it does; of the others nobody looks."""
        kind = bare_type(row.content_type)
        if kind != "image/png":
            return kind in _MAY_MOVE
        blob = await self._store.open(row, length=min(row.size_bytes, HEAD_BYTES))
        try:
            head = b"".join([chunk async for chunk in blob])
        finally:
            await blob.close()
        return b"acTL" in head.partition(b"IDAT")[0]

    def _path(self, row: MediaRow, made: ThumbnailRow) -> Path:
        moves = "-moving" if made.animated else ""
        return self._store.thumbnail_path(row, f"{made.width}x{made.height}-{made.method}{moves}")

    async def _find(self, row: MediaRow, size: Size, animated: bool) -> ThumbnailRow | None:
        return await self._database.read(
            partial(
                media.find_thumbnail,
                origin=row.origin,
                media_id=row.media_id,
                width=size[0],
                height=size[1],
                method=size[2],
                animated=animated,
            )
        )

    async def _make(
        self, row: MediaRow, size: Size, animated: bool, *, again: bool = False
    ) -> ThumbnailRow:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("too many thumbnails are being made", retry_after_s=2.0)
        self._waiting += 1
        try:
            async with self._places:
                # Whoever was before us may have wished the same.
                there = None if again else await self._find(row, size, animated)
                return there or await self._make_now(row, size, animated)
        finally:
            self._waiting -= 1

    async def _make_now(self, row: MediaRow, size: Size, animated: bool) -> ThumbnailRow:
        source = self._store.path_of(row)
        if not await asyncio.to_thread(source.exists):
            raise NotFound("the file is gone")
        target = self._store.incoming_path()
        try:
            content_type = await asyncio.to_thread(_shrink, source, target, size, animated)
            made = ThumbnailRow(
                origin=row.origin,
                media_id=row.media_id,
                width=size[0],
                height=size[1],
                method=size[2],
                animated=animated,
                content_type=content_type,
                size_bytes=target.stat().st_size if content_type else 0,
            )
            if content_type:
                await asyncio.to_thread(_place, target, self._path(row, made))
        except OSError as exc:
            raise Unavailable(f"the thumbnail cannot be written: {exc.strerror}") from exc
        finally:
            target.unlink(missing_ok=True)
        await self._database.write(partial(media.put_thumbnail, row=made))
        return made


def choose(width: int, height: int, wish: Wish) -> Size | None:
    """The size to make of an image of so many pixels; None: the image itself."""
    if width <= wish.width and height <= wish.height:
        return None
    for wide, high, method in SIZES:
        if wide < wish.width or high < wish.height:
            continue
        if method == wish.method == "scale":
            return wide, high, method
        if method == wish.method == "crop" and wide * wish.height == high * wish.width:
            return wide, high, method
        if wish.method == "crop" and method == "scale":
            # Whoever wants to cut it needs enough of both sides.
            ratio = min(1.0, wide / width, high / height)
            if width * ratio >= wish.width and height * ratio >= wish.height:
                return wide, high, method
    return None


def _shrink(source: Path, target: Path, size: Size, animated: bool) -> str:
    """The media type of what was made; empty where nothing can be."""
    width, height, method = size
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-I", str(_SHRINK), str(source), str(target)),
                *(str(width), str(height), method, "1" if animated else "0", str(MAX_PIXELS)),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ""
    if done.returncode == NO_LIBRARY:
        raise Unavailable("thumbnails need Pillow, which is not installed here")
    if done.returncode == TOO_LARGE:
        raise BadInput("this image is too large for thumbnails", errcode="M_TOO_LARGE")
    if done.returncode not in (0, NO_IMAGE):
        log.warning("a thumbnail's process ended badly", status=done.returncode)
    return done.stdout.decode("ascii", "replace").strip() if done.returncode == 0 else ""


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    source.replace(target)
