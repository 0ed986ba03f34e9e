"""The media part of `MatrixBackend`: our own store, and what peers have, fetched into it."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Protocol

from bridge.ids import ServerName, UserId, parse_mxc
from bridge.media.links import LinkSigner
from bridge.media.store import MediaStore
from bridge.ports.matrix import Media, MediaStream
from bridge.storage.media import MediaRow


class RemoteFiles(Protocol):
    """What is used of `federation.client.media.RemoteMedia`."""

    async def get(self, origin: ServerName, media_id: str) -> MediaRow: ...


class MediaFiles:
    def __init__(self, *, store: MediaStore, remote: RemoteFiles, signer: LinkSigner) -> None:
        self._store = store
        self._signer = signer
        self._remote = remote

    async def upload(
        self,
        *,
        chunks: AsyncIterable[bytes],
        uploader: UserId,
        content_type: str | None,
        name: str | None,
        txn: str,
    ) -> Media:
        row = await self._store.put(
            chunks,
            uploader=uploader,
            content_type=content_type,
            name=name,
            media_id=self._signer.secret_id(txn),
        )
        return to_media(row)

    async def find_upload(self, txn: str) -> Media | None:
        row = await self._store.find(self._store.own_name, self._signer.secret_id(txn))
        return None if row is None else to_media(row)

    async def media(self, mxc: str) -> Media:
        return to_media(await self._remote.get(*parse_mxc(mxc)))

    async def open_media(
        self, mxc: str, *, start: int = 0, length: int | None = None
    ) -> MediaStream:
        row = await self._remote.get(*parse_mxc(mxc))
        return await self._store.open(row, start=start, length=length)


def to_media(row: MediaRow) -> Media:
    return Media(
        mxc=f"mxc://{row.origin}/{row.media_id}",
        content_type=row.content_type,
        size_bytes=row.size_bytes,
        name=row.name,
        sha256=row.sha256,
        width=row.width,
        height=row.height,
    )
