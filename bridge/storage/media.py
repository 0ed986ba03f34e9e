"""What is known of each file of the media store, and of its thumbnails; the bytes are files.

Our own and those of peers stand in one table, told apart by the server in their mxc URI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from bridge.ids import ServerName, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import media, media_thumbnails


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRow:
    """`uploader` None: fetched from the server that it is of. Sizes of images are in pixels."""

    origin: ServerName
    media_id: str
    content_type: str
    size_bytes: int
    name: str | None
    width: int | None
    height: int | None
    sha256: str
    uploader: UserId | None
    quarantined: bool
    created_ms: int
    accessed_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThumbnailRow:
    """`width` and `height`: the size that was wished, within which the thumbnail is."""

    origin: ServerName
    media_id: str
    width: int
    height: int
    method: str
    animated: bool
    content_type: str
    size_bytes: int


def find(tx: Transaction, origin: ServerName, media_id: str) -> MediaRow | None:
    row = tx.execute(
        select(media).where(media.c.origin == origin, media.c.media_id == media_id)
    ).first()
    return None if row is None else MediaRow(**row._mapping)


def put(tx: Transaction, row: MediaRow) -> bool:
    """False: there is one of this name already, which stays."""
    added = tx.execute(
        tx.dialect.insert_ignore(media).values(**_values(row)).returning(media.c.media_id)
    )
    return added.first() is not None


def _values(row: MediaRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in MediaRow.__slots__}


def remove(tx: Transaction, origin: ServerName, media_id: str) -> None:
    """With the thumbnails."""
    for table in (media_thumbnails, media):
        tx.execute(delete(table).where(table.c.origin == origin, table.c.media_id == media_id))


def touch(tx: Transaction, origin: ServerName, media_id: str, *, now_ms: int) -> None:
    tx.execute(
        update(media)
        .where(media.c.origin == origin, media.c.media_id == media_id)
        .values(accessed_ms=now_ms)
    )


def quarantine(tx: Transaction, origin: ServerName, media_id: str, *, quarantined: bool) -> bool:
    """False: there is no such file."""
    changed = tx.execute(
        update(media)
        .where(media.c.origin == origin, media.c.media_id == media_id)
        .values(quarantined=quarantined)
    )
    return bool(changed.rowcount)


def bytes_of(tx: Transaction, uploader: UserId) -> int:
    """All that somebody has uploaded."""
    return int(
        tx.execute(
            select(func.coalesce(func.sum(media.c.size_bytes), 0)).where(
                media.c.uploader == uploader
            )
        ).scalar_one()
    )


def cached_bytes(tx: Transaction, own: ServerName) -> int:
    """All that was fetched from peers."""
    return int(
        tx.execute(
            select(func.coalesce(func.sum(media.c.size_bytes), 0)).where(media.c.origin != own)
        ).scalar_one()
    )


def longest_unused(tx: Transaction, own: ServerName, *, limit: int) -> Sequence[MediaRow]:
    """Of what was fetched from peers and is not kept back: nobody should fetch that again."""
    found = tx.execute(
        select(media)
        .where(media.c.origin != own, media.c.quarantined.is_(False))
        .order_by(media.c.accessed_ms, media.c.origin, media.c.media_id)
        .limit(limit)
    )
    return [MediaRow(**row._mapping) for row in found]


def find_thumbnail(
    tx: Transaction,
    origin: ServerName,
    media_id: str,
    *,
    width: int,
    height: int,
    method: str,
    animated: bool,
) -> ThumbnailRow | None:
    table = media_thumbnails.c
    row = tx.execute(
        select(media_thumbnails).where(
            table.origin == origin,
            table.media_id == media_id,
            table.width == width,
            table.height == height,
            table.method == method,
            table.animated.is_(animated),
        )
    ).first()
    return None if row is None else ThumbnailRow(**row._mapping)


def thumbnails(tx: Transaction, origin: ServerName, media_id: str) -> Sequence[ThumbnailRow]:
    found = tx.execute(
        select(media_thumbnails).where(
            media_thumbnails.c.origin == origin, media_thumbnails.c.media_id == media_id
        )
    )
    return [ThumbnailRow(**row._mapping) for row in found]


def put_thumbnail(tx: Transaction, row: ThumbnailRow) -> None:
    """The newest counts."""
    values = {name: getattr(row, name) for name in ThumbnailRow.__slots__}
    keys = ["origin", "media_id", "width", "height", "method", "animated"]
    tx.execute(tx.dialect.upsert(media_thumbnails, keys).values(**values))
