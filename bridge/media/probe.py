"""What a file is, by its first bytes: never by what somebody says of it.

Only types that are told apart safely and that clients show; everything else is None. Headers are
read by hand and by bounds, since a stranger wrote them: nothing is decoded here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEAD_BYTES = 256 << 10
"""So much of a file is looked at; the size of a JPEG stands behind its metadata."""
MAX_SIDE = 65_535
_MAX_SEGMENTS = 200

_SOF = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""JPEG markers whose segment holds the size of the image."""
_VIDEO_BRANDS = frozenset({b"isom", b"iso2", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V "})


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """`width` and `height` of an image in pixels, where they could be told."""

    content_type: str
    width: int | None = None
    height: int | None = None


def probe(head: bytes) -> Probe | None:
    """From the first `HEAD_BYTES` of a file."""
    image = _png(head) or _gif(head) or _webp(head) or _jpeg(head)
    if image is not None:
        return image
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    if head[:4] == b"OggS":
        is_video = b"theora" in head[:128]
        return Probe(content_type="video/ogg" if is_video else "audio/ogg")
    if head[:4] == b"\x1aE\xdf\xa3" and b"webm" in head[:64]:
        return Probe(content_type="video/webm")
    if head[:4] == b"fLaC":
        return Probe(content_type="audio/flac")
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return Probe(content_type="audio/wav")
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] in (b"\xfb", b"\xf3", b"\xf2")):
        return Probe(content_type="audio/mpeg")
    if head[:5] == b"%PDF-":
        return Probe(content_type="application/pdf")
    return None


def _sized(content_type: str, width: int, height: int) -> Probe:
    if 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE:
        return Probe(content_type=content_type, width=width, height=height)
    return Probe(content_type=content_type)


def _png(head: bytes) -> Probe | None:
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    if head[12:16] != b"IHDR" or len(head) < 24:
        return Probe(content_type="image/png")
    return _sized("image/png", *struct.unpack(">II", head[16:24]))


def _gif(head: bytes) -> Probe | None:
    if head[:6] not in (b"GIF87a", b"GIF89a"):
        return None
    if len(head) < 10:
        return Probe(content_type="image/gif")
    return _sized("image/gif", *struct.unpack("<HH", head[6:10]))


def _webp(head: bytes) -> Probe | None:
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    kind, body = head[12:16], head[20:30]
    if len(body) < 10:
        return Probe(content_type="image/webp")
    if kind == b"VP8X":
        width = 1 + int.from_bytes(body[4:7], "little")
        height = 1 + int.from_bytes(body[7:10], "little")
        return _sized("image/webp", width, height)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", body[6:10])
        return _sized("image/webp", width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L" and body[:1] == b"\x2f":
        bits = int.from_bytes(body[1:5], "little")
        return _sized("image/webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    return Probe(content_type="image/webp")


def _jpeg(head: bytes) -> Probe | None:
    if head[:3] != b"\xff\xd8\xff":
        return None
    at, turned = 2, False
    for _ in range(_MAX_SEGMENTS):
        while head[at : at + 2] == b"\xff\xff":
            at += 1
        marker, length = head[at + 1 : at + 2], head[at + 2 : at + 4]
        if head[at : at + 1] != b"\xff" or len(length) < 2:
            break
        body = head[at + 4 : at + 2 + int.from_bytes(length, "big")]
        if marker[0] in _SOF and len(body) >= 5:
            height, width = struct.unpack(">HH", body[1:5])
            return _sized("image/jpeg", *((height, width) if turned else (width, height)))
        if marker == b"\xe1" and body[:6] == b"Exif\0\0":
            turned = _is_turned(body[6:])
        at += 2 + max(2, int.from_bytes(length, "big"))
    return Probe(content_type="image/jpeg")


def _is_turned(tiff: bytes) -> bool:
    """Whether the camera was held upright: the image is shown with its sides exchanged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return False
    at = int(struct.unpack(f"{order}I", tiff[4:8])[0])
    if at + 2 > len(tiff):
        return False
    count = int(struct.unpack(f"{order}H", tiff[at : at + 2])[0])
    for number in range(min(count, _MAX_SEGMENTS)):
        entry = tiff[at + 2 + 12 * number : at + 14 + 12 * number]
        if len(entry) < 12:
            return False
        tag, kind = struct.unpack(f"{order}HH", entry[:4])
        if tag == 0x0112 and kind == 3:
            return 5 <= int(struct.unpack(f"{order}H", entry[8:10])[0]) <= 8
    return False


def _iso_media(head: bytes) -> Probe | None:
    brand = head[8:12]
    if brand in (b"avif", b"avis"):
        return Probe(content_type="image/avif")
    if brand in (b"M4A ", b"M4B "):
        return Probe(content_type="audio/mp4")
    if brand == b"qt  ":
        return Probe(content_type="video/quicktime")
    return Probe(content_type="video/mp4") if brand in _VIDEO_BRANDS else None
