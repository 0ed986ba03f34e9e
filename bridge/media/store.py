"""The media store: bytes are files in the data folder, what is known of them are rows.

A file is received as a stream into `incoming/`, counted and hashed on the way, then moved to
`files/` under a name made of hashes alone: of its mxc URI, so that no media ID can lead anywhere,
and of its content, so that a row never means other bytes than were stored with it. Our own files
are on the disk before their row is; what was fetched from peers can be fetched again, and the
longest unused goes when there is more than the bound. Who reads a file while it is removed reads it
to the end. A crash between file and row leaves a file that nobody asks for; the same upload, tried
again, takes its place.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from bridge.clock import Clock
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import ServerName, UserId
from bridge.media.probe import HEAD_BYTES, Probe, probe
from bridge.media.serving import DEFAULT_TYPE, bare_type, clean_name, clean_type
from bridge.storage import media
from bridge.storage.database import Database, Transaction
from bridge.storage.media import MediaRow
from bridge.telemetry.log import get_logger

T = TypeVar("T")

CHUNK_BYTES = 256 << 10
TOUCH_MS = 3_600_000
EVICTED_AT_ONCE = 20
ABANDONED_S = 3_600.0
"""A file in `incoming/` that nobody has written to for so long belongs to a process that is
gone."""
_PROBED = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

log = get_logger("media")


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """`keep_free_bytes`: of the disk, below which nothing is stored any more."""

    max_bytes: int = 100 << 20
    cache_bytes: int = 5 << 30
    quota_bytes: int = 2 << 30
    keep_free_bytes: int = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Received:
    path: Path
    size_bytes: int
    sha256: str
    probe: Probe | None


class Blob:
    """An opened file, or a part of it. Close it, read or not."""

    def __init__(self, file: BinaryIO, *, start: int, length: int) -> None:
        self._file = file
        self._start = start
        self.length = length

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left, at = self.length, self._start
        while left:
            chunk = await _on_disk(partial(self._read, at, min(left, CHUNK_BYTES)))
            if not chunk:
                raise Unavailable("a file of the media store has become shorter")
            at += len(chunk)
            left -= len(chunk)
            yield chunk

    def _read(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        return self._file.read(size)

    async def close(self) -> None:
        await asyncio.to_thread(self._file.close)


class MediaStore:
    """`start` once before use."""

    def __init__(
        self,
        *,
        own_name: ServerName,
        folder: Path,
        database: Database,
        clock: Clock,
        limits: MediaLimits | None = None,
        new_media_id: Callable[[], str] = lambda: secrets.token_urlsafe(24),
    ) -> None:
        self.own_name = own_name
        self.limits = limits or MediaLimits()
        self._folder = folder
        self._database = database
        self._clock = clock
        self._new_media_id = new_media_id

    async def start(self) -> None:
        """Makes the folders, and removes what a crash has left half received."""
        await _on_disk(self._make_folders)

    def _make_folders(self) -> None:
        for name in ("incoming", "files", "thumbnails"):
            (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        old_s = self._clock.now_ms() / 1000 - ABANDONED_S
        for path in (self._folder / "incoming").iterdir():
            if path.stat().st_mtime < old_s:
                path.unlink(missing_ok=True)

    # --- putting in --------------------------------------------------------------------------

    async def put(
        self,
        chunks: AsyncIterable[bytes],
        *,
        uploader: UserId,
        content_type: str | None,
        name: str | None,
        media_id: str | None = None,
    ) -> MediaRow:
        """A file of one of our own users. The same `media_id` twice is one file: the first.

        BadInput M_TOO_LARGE; Refused where the person's quota is reached; whatever `chunks` raises;
        Unavailable where there is no room.
        """
        if media_id is not None:
            there = await self.find(self.own_name, media_id)
            if there is not None:
                return there
        quota = self.limits.quota_bytes
        left = quota - await self._database.read(partial(media.bytes_of, uploader=uploader))
        if left <= 0:
            raise _over_quota(uploader)
        received = await self._receive(chunks, min(left, self.limits.max_bytes), is_durable=True)
        row = self._row(
            received,
            origin=self.own_name,
            media_id=media_id or self._new_media_id(),
            content_type=true_type(content_type, received.probe),
            name=name,
            uploader=uploader,
        )

        def unit(tx: Transaction) -> MediaRow:
            there = media.find(tx, row.origin, row.media_id)
            if there is not None:
                return there
            if media.bytes_of(tx, uploader) + row.size_bytes > quota:
                raise _over_quota(uploader)
            return self._insert(tx, row)

        return await self._keep(received, row, unit)

    async def put_cached(
        self,
        chunks: AsyncIterable[bytes],
        *,
        origin: ServerName,
        media_id: str,
        content_type: str | None,
        name: str | None,
    ) -> MediaRow:
        """A peer's file, as the peer says it is."""
        most = min(self.limits.max_bytes, self.limits.cache_bytes)
        received = await self._receive(chunks, most, is_durable=False)
        row = self._row(
            received,
            origin=origin,
            media_id=media_id,
            content_type=clean_type(content_type),
            name=name,
            uploader=None,
        )
        kept = await self._keep(received, row, partial(self._insert, row=row))
        await self._evict()
        return kept

    def _row(
        self,
        received: _Received,
        *,
        origin: ServerName,
        media_id: str,
        content_type: str,
        name: str | None,
        uploader: UserId | None,
    ) -> MediaRow:
        now_ms = self._clock.now_ms()
        return MediaRow(
            origin=origin,
            media_id=media_id,
            content_type=content_type,
            size_bytes=received.size_bytes,
            name=clean_name(name),
            width=received.probe.width if received.probe else None,
            height=received.probe.height if received.probe else None,
            sha256=received.sha256,
            uploader=uploader,
            quarantined=False,
            created_ms=now_ms,
            accessed_ms=now_ms,
        )

    @staticmethod
    def _insert(tx: Transaction, row: MediaRow) -> MediaRow:
        """The row of that name: this one, or the one that was first."""
        if not media.put(tx, row):
            return media.find(tx, row.origin, row.media_id) or row
        return row

    async def _keep(
        self, received: _Received, row: MediaRow, unit: Callable[[Transaction], MediaRow]
    ) -> MediaRow:
        """The file at its place, then the row."""
        path = self.path_of(row)
        is_ours = row.origin == self.own_name
        try:
            await _on_disk(partial(_move, received.path, path, is_durable=is_ours))
        except BaseException:
            received.path.unlink(missing_ok=True)
            raise
        try:
            kept = await self._database.write(unit)
        except Unavailable:
            raise  # The row may be there all the same: then it needs its file.
        except IsthmusError:
            await _on_disk(partial(path.unlink, missing_ok=True))
            raise
        if kept.sha256 != row.sha256:
            await _on_disk(partial(path.unlink, missing_ok=True))
        return kept

    async def _receive(
        self, chunks: AsyncIterable[bytes], max_bytes: int, *, is_durable: bool
    ) -> _Received:
        await _on_disk(self._check_room)
        path = self._folder / "incoming" / secrets.token_hex(16)
        digest, size, head = hashlib.sha256(), 0, bytearray()
        file = await _on_disk(lambda: path.open("xb"))

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        def finish() -> None:
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
            file.close()

        waiting = bytearray()
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise BadInput(f"a file over {max_bytes} bytes", errcode="M_TOO_LARGE")
                if len(head) < HEAD_BYTES:
                    head += chunk[: HEAD_BYTES - len(head)]
                waiting += chunk
                if len(waiting) >= CHUNK_BYTES:
                    await _on_disk(partial(write, bytes(waiting)))
                    waiting.clear()
            await _on_disk(partial(write, bytes(waiting)))
            await _on_disk(finish)
        except BaseException:
            file.close()
            path.unlink(missing_ok=True)
            raise
        return _Received(
            path=path, size_bytes=size, sha256=digest.hexdigest(), probe=probe(bytes(head))
        )

    def _check_room(self) -> None:
        if shutil.disk_usage(self._folder).free < self.limits.keep_free_bytes:
            raise Unavailable("the disk of the media store is full", retry_after_s=600.0)

    # --- getting out -------------------------------------------------------------------------

    async def find(self, origin: ServerName, media_id: str) -> MediaRow | None:
        """None also for what is quarantined. It counts as used."""
        row = await self._database.read(partial(media.find, origin=origin, media_id=media_id))
        if row is None or row.quarantined:
            return None
        now_ms = self._clock.now_ms()
        if now_ms - row.accessed_ms > TOUCH_MS:
            await self._database.write(
                partial(media.touch, origin=origin, media_id=media_id, now_ms=now_ms)
            )
        return row

    async def is_quarantined(self, origin: ServerName, media_id: str) -> bool:
        row = await self._database.read(partial(media.find, origin=origin, media_id=media_id))
        return row is not None and row.quarantined

    async def open(self, row: MediaRow, *, start: int = 0, length: int | None = None) -> Blob:
        """NotFound where the file is gone or cut off: a cached one is then forgotten."""
        size = row.size_bytes
        length = size - start if length is None else length
        try:
            return await open_blob(self.path_of(row), size, start=start, length=length)
        except NotFound:
            log.warning("a file of the media store is gone", origin=row.origin, media=row.media_id)
            if row.origin != self.own_name:
                await self.remove(row)
            raise

    def path_of(self, row: MediaRow) -> Path:
        name = f"{name_of(row)}-{row.sha256[:16]}"
        return self._folder / "files" / name[:2] / name

    def thumbnail_path(self, row: MediaRow, name: str) -> Path:
        key = name_of(row)
        return self._folder / "thumbnails" / key[:2] / f"{key}-{row.sha256[:16]}-{name}"

    def incoming_path(self) -> Path:
        """A new one, for a file that is being made."""
        return self._folder / "incoming" / secrets.token_hex(16)

    # --- taking away -------------------------------------------------------------------------

    async def remove(self, row: MediaRow) -> None:
        await self._database.write(partial(media.remove, origin=row.origin, media_id=row.media_id))
        await _on_disk(partial(self._unlink, row))

    def _unlink(self, row: MediaRow) -> None:
        path = self.path_of(row)
        path.unlink(missing_ok=True)
        folder = self._folder / "thumbnails" / path.name[:2]
        if folder.is_dir():
            for thumbnail in folder.glob(f"{path.name}-*"):
                thumbnail.unlink(missing_ok=True)

    async def quarantine(self, origin: ServerName, media_id: str, *, quarantined: bool) -> None:
        """Shown to nobody, and not fetched again. Raises NotFound."""
        if not await self._database.write(
            partial(media.quarantine, origin=origin, media_id=media_id, quarantined=quarantined)
        ):
            raise NotFound(f"there is no mxc://{origin}/{media_id} here")

    async def _evict(self) -> None:
        bound = self.limits.cache_bytes

        def unit(tx: Transaction) -> list[MediaRow]:
            over = media.cached_bytes(tx, self.own_name) - bound
            gone: list[MediaRow] = []
            if over > 0:
                for row in media.longest_unused(tx, self.own_name, limit=EVICTED_AT_ONCE):
                    if over <= 0:
                        break
                    media.remove(tx, row.origin, row.media_id)
                    over -= row.size_bytes
                    gone.append(row)
            return gone

        while gone := await self._database.write(unit):
            for row in gone:
                await _on_disk(partial(self._unlink, row))


def true_type(declared: str | None, found: Probe | None) -> str:
    """What was said, corrected by what the bytes are."""
    said = clean_type(declared)
    if found is None:
        return DEFAULT_TYPE if bare_type(said) in _PROBED else said
    # One container for both: who uploads knows whether there is something to see.
    if bare_type(said).startswith("audio/") and found.content_type.startswith("video/"):
        return said
    return found.content_type


async def open_blob(path: Path, size: int, *, start: int, length: int) -> Blob:
    """NotFound unless the file is there and has exactly this size."""

    def work() -> BinaryIO:
        file = path.open("rb")
        if os.fstat(file.fileno()).st_size != size:
            file.close()
            raise FileNotFoundError(path)
        return file

    try:
        file = await asyncio.to_thread(work)
    except FileNotFoundError as exc:
        raise NotFound("the file is gone") from exc
    except OSError as exc:
        raise Unavailable(f"the file cannot be read: {exc.strerror}") from exc
    return Blob(file, start=start, length=length)


async def _on_disk(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as exc:
        raise Unavailable(f"the media store cannot be written or read: {exc.strerror}") from exc


def _move(source: Path, target: Path, *, is_durable: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    source.replace(target)
    if is_durable:
        for folder in (target.parent, target.parent.parent):
            number = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)


def _hash(origin: str, media_id: str) -> str:
    return hashlib.sha256(f"{origin}\n{media_id}".encode()).hexdigest()


def name_of(row: MediaRow) -> str:
    """What its files are called."""
    return _hash(row.origin, row.media_id)


def _over_quota(uploader: UserId) -> Refused:
    return Refused(f"{uploader} has sent as many files as one person may", rule="media_quota")
