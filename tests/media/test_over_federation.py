"""Thumbnails between two of our own servers, made by the real process."""

from __future__ import annotations

from pathlib import Path

from bridge.demo.servers import CertificateAuthority
from bridge.media.thumbnails import Wish
from tests.support.matrix_side import matrix_sides
from tests.support.media import opened, picture, stream


async def test_a_thumbnail_of_a_peer_is_of_the_size_that_was_wished(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        row = await peer.running.media.store.put(
            stream(picture(1600, 1200)),
            uploader=peer.user("anne"),
            content_type="image/png",
            name="secret name.png",
        )
        for wish, size in (
            (Wish(width=96, height=96, method="crop"), (96, 96)),
            (Wish(width=320, height=240), (320, 240)),
            (Wish(width=1000, height=1000), (1600, 1200)),
        ):
            remote = us.running.remote_media
            async with remote.thumbnail(peer.name, row.media_id, wish) as file:
                data = b"".join([chunk async for chunk in file.chunks])
            image = opened(data)
            assert image.size == size
            assert file.content_type == f"image/{image.format.lower()}"
