"""The media store and what stands on it, wired."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bridge.clock import Clock
from bridge.ids import ServerName
from bridge.media.links import LinkSigner, read_key
from bridge.media.store import MediaLimits, MediaStore
from bridge.media.thumbnails import Thumbnails
from bridge.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaParts:
    store: MediaStore
    thumbnails: Thumbnails
    signer: LinkSigner


def build_media(
    *, own_name: ServerName, folder: Path, database: Database, clock: Clock, limits: MediaLimits
) -> MediaParts:
    """`store.start` has still to be called. Raises Misconfigured."""
    store = MediaStore(
        own_name=own_name, folder=folder, database=database, clock=clock, limits=limits
    )
    return MediaParts(
        store=store,
        thumbnails=Thumbnails(store=store, database=database),
        signer=LinkSigner(read_key(folder / "link.key")),
    )
