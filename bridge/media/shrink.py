"""A process of its own that makes one thumbnail: whatever is wrong with an image stays in here.

Run as a script, by `thumbnails`; it imports nothing of Isthmus. What it may use of memory, time
and disk is bounded before the image is looked at. Exit status: 0 made (the media type is printed),
1 (an exception of the decoder, whatever it is) no image, 3 too large, 5 Pillow is not installed.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Any

NO_IMAGE, TOO_LARGE, NO_LIBRARY = 1, 3, 5
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
MAX_MEMORY_BYTES = 2 << 30
MAX_CPU_S = 20
MAX_RESULT_BYTES = 16 << 20
MAX_FRAMES = 150
MAX_FRAME_PIXELS = 100_000_000
"""Of all frames of an animation together."""


def main(arguments: list[str]) -> int:
    """source target width height method animated max_pixels"""
    source, target, width, height, method, animated, max_pixels = arguments
    _bound()
    try:
        from PIL import Image
    except ImportError:
        return NO_LIBRARY
    # Its own check comes with a warning first; ours comes before anything is decoded.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > int(max_pixels):
                return TOO_LARGE
            box = int(width), int(height)
            if animated == "1" and _frames(image) > 1:
                sys.stdout.write(_animated(image, target, box))
            else:
                sys.stdout.write(_still(image, target, box, method))
    except MemoryError:
        return TOO_LARGE
    return 0


def _bound() -> None:
    os.nice(10)
    for what, most in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, MAX_CPU_S),
        (resource.RLIMIT_FSIZE, MAX_RESULT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _frames(image: Any) -> int:
    return int(getattr(image, "n_frames", 1))


def _still(image: Any, target: str, box: tuple[int, int], method: str) -> str:
    from PIL import Image, ImageOps

    if image.format == "JPEG":
        image.draft("RGB", (box[0] * 2, box[1] * 2))
    picture = ImageOps.exif_transpose(image)
    is_clear = "A" in picture.mode or "transparency" in picture.info
    picture = picture.convert("RGBA" if is_clear else "RGB")
    if method == "crop":
        ratio = min(1.0, picture.width / box[0], picture.height / box[1])
        inside = max(1, round(box[0] * ratio)), max(1, round(box[1] * ratio))
        picture = ImageOps.fit(picture, inside, Image.Resampling.LANCZOS)
    else:
        picture.thumbnail(box, Image.Resampling.LANCZOS)
    if is_clear:
        picture.save(target, "PNG", optimize=True)
        return "image/png"
    picture.save(target, "JPEG", quality=82, optimize=True)
    return "image/jpeg"


def _animated(image: Any, target: str, box: tuple[int, int]) -> str:
    from PIL import Image, ImageSequence

    most = min(MAX_FRAMES, max(1, MAX_FRAME_PIXELS // (image.width * image.height)))
    frames, durations = [], []
    for frame in ImageSequence.Iterator(image):
        durations.append(max(20, int(frame.info.get("duration", 100))))
        picture = frame.convert("RGBA")
        picture.thumbnail(box, Image.Resampling.BILINEAR)
        frames.append(picture)
        if len(frames) >= most:
            break
    frames[0].save(
        target, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
    return "image/webp"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
