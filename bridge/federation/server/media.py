"""Our media for other servers: the files, and thumbnails of images.

Only what is ours is handed out, never what was fetched from others. Spec: S2S, content repository.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from bridge.errors import BadInput, NotFound
from bridge.federation.multipart import head_of, tail_of
from bridge.ids import ServerName, parse_media_id
from bridge.media.serving import SAFE_HEADERS, disposition
from bridge.media.store import Blob, MediaStore
from bridge.media.thumbnails import Thumbnails, Wish
from bridge.storage.media import MediaRow
from bridge.web.routing import Request, Response

MAX_SIDE = 10_000


class TwoPartStream:
    """The metadata and the file, one after the other."""

    def __init__(self, blob: Blob, *, content_type: str, content_disposition: str) -> None:
        self.boundary = secrets.token_hex(16)
        self._blob = blob
        self._head = head_of(
            self.boundary,
            {"Content-Type": content_type, "Content-Disposition": content_disposition},
        )
        self._tail = tail_of(self.boundary)
        self.length = len(self._head) + blob.length + len(self._tail)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._head
        async for chunk in self._blob:
            yield chunk
        yield self._tail

    async def close(self) -> None:
        await self._blob.close()


class Media:
    """The two endpoints."""

    def __init__(self, *, store: MediaStore, thumbnails: Thumbnails) -> None:
        self._store = store
        self._thumbnails = thumbnails

    async def download(self, request: Request, _origin: ServerName) -> Response:
        """GET /media/download/{mediaId}. What we have not got will not come: `timeout_ms` is not
        waited for, since nobody is given an mxc URI before the file."""
        row = await self._row(request)
        return _answer(await self._store.open(row), row.content_type, row.name)

    async def thumbnail(self, request: Request, _origin: ServerName) -> Response:
        """GET /media/thumbnail/{mediaId}."""
        wish = Wish(
            width=_side(request, "width"),
            height=_side(request, "height"),
            method="crop" if _one_of(request, "method", "scale", "crop") == "crop" else "scale",
            animated=_one_of(request, "animated", "false", "true") == "true",
        )
        row = await self._row(request)
        made = await self._thumbnails.open(row, wish)
        return _answer(made.blob, made.content_type, row.name if made.is_original else None)

    async def _row(self, request: Request) -> MediaRow:
        try:
            media_id = parse_media_id(request.params["media_id"])
        except BadInput as exc:
            raise NotFound("there is no such media") from exc
        row = await self._store.find(self._store.own_name, media_id)
        if row is None:
            raise NotFound("there is no such media")
        return row


def _answer(blob: Blob, content_type: str, name: str | None) -> Response:
    stream = TwoPartStream(
        blob, content_type=content_type, content_disposition=disposition(content_type, name)
    )
    return Response(
        stream=stream,
        length=stream.length,
        content_type=f"multipart/mixed; boundary={stream.boundary}",
        headers=SAFE_HEADERS,
    )


def _side(request: Request, name: str) -> int:
    text = request.query_one(name)
    if text is None:
        raise BadInput(f"{name} is missing", errcode="M_MISSING_PARAM")
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= MAX_SIDE):
        raise BadInput(f"{name} is no number of pixels", errcode="M_INVALID_PARAM")
    return int(text)


def _one_of(request: Request, name: str, default: str, other: str) -> str:
    value = request.query_one(name)
    if value is None:
        return default
    if value not in (default, other):
        raise BadInput(f"{name} is neither {default} nor {other}", errcode="M_INVALID_PARAM")
    return value
