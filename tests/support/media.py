"""Files of tests: images made by Pillow, streams, and a store on a folder of its own."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image

from bridge.media.store import Blob


def picture(
    width: int = 640, height: int = 480, *, form: str = "PNG", mode: str = "RGB", **more: Any
) -> bytes:
    """An image that is not of one colour."""
    gradient = Image.linear_gradient("L").resize((width, height))
    made = gradient if mode == "L" else Image.merge("RGB", (gradient, gradient, gradient))
    if mode == "RGBA":
        made = made.convert("RGBA")
        made.putalpha(gradient)
    out = io.BytesIO()
    made.save(out, form, **more)
    return out.getvalue()


def moving_picture(width: int = 900, height: int = 700, *, form: str = "GIF") -> bytes:
    """Of three frames."""
    frames = [Image.new("RGB", (width, height), colour) for colour in ("red", "green", "blue")]
    out = io.BytesIO()
    frames[0].save(out, form, save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


def opened(data: bytes) -> Any:
    """As Pillow sees it."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


async def stream(data: bytes, *, piece: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), piece):
        yield data[start : start + piece]


async def read(blob: Blob) -> bytes:
    """All of it, and closed."""
    try:
        return b"".join([chunk async for chunk in blob])
    finally:
        await blob.close()
