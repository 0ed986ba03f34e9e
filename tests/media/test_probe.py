"""What a file is, by its bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bridge.media.probe import Probe, probe
from tests.support.media import moving_picture, picture


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (3000, 17)])
def test_images_tell_their_size(form: str, size: tuple[int, int]) -> None:
    found = probe(picture(*size, form=form))
    assert found == Probe(content_type=f"image/{form.lower()}", width=size[0], height=size[1])


def test_webp_without_loss_and_with_animation() -> None:
    assert probe(picture(301, 77, form="WEBP", lossless=True)) == Probe(
        content_type="image/webp", width=301, height=77
    )
    assert probe(moving_picture(90, 70, form="WEBP")) == Probe(
        content_type="image/webp", width=90, height=70
    )


def test_a_photo_taken_upright_has_its_sides_exchanged() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = probe(picture(640, 480, form="JPEG", exif=exif.tobytes()))
    assert found == Probe(content_type="image/jpeg", width=480, height=640)


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        (b"\0\0\0\x20ftypisom\0\0", "video/mp4"),
        (b"\0\0\0\x20ftypM4A \0\0", "audio/mp4"),
        (b"\0\0\0\x20ftypqt  \0\0", "video/quicktime"),
        (b"OggS\0\2" + b"\0" * 22 + b"\1\x13OpusHead", "audio/ogg"),
        (b"OggS\0\2" + b"\0" * 22 + b"\x80theora", "video/ogg"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\x82\x84webm", "video/webm"),
        (b"fLaC\0\0", "audio/flac"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
        (b"ID3\4\0", "audio/mpeg"),
        (b"%PDF-1.7", "application/pdf"),
    ],
)
def test_other_media_are_known_by_their_first_bytes(head: bytes, content_type: str) -> None:
    assert probe(head) == Probe(content_type=content_type)


@pytest.mark.parametrize(
    "head", [b"", b"hello", b"<html><script>", b"PK\3\4", b"\0\0\0\x20ftypXXXX"]
)
def test_what_is_not_known_is_not_guessed(head: bytes) -> None:
    assert probe(head) is None


@given(st.binary(max_size=300), st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]), st.integers(0, 90))
def test_broken_headers_end_in_an_answer(junk: bytes, form: str, kept: int) -> None:
    head = picture(9, 9, form=form)[:kept] + junk
    found = probe(head)
    assert found is None or found.width is None or 0 < found.width <= 65_535


def test_a_picture_cut_off_at_any_byte_is_no_fault() -> None:
    for form in ("PNG", "JPEG", "GIF", "WEBP"):
        whole = picture(33, 44, form=form)
        sizes = {probe(whole[:end]) for end in range(len(whole))}
        known = {one for one in sizes if one is not None and one.width is not None}
        assert known == {Probe(content_type=f"image/{form.lower()}", width=33, height=44)}
