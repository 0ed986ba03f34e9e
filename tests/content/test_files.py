"""Files inside events, in both forms."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.content.events import from_event, to_event
from bridge.content.files import in_words, look_of
from bridge.content.model import File, Message

MXC = "mxc://matrix.example/abc_-1"
PICTURE = File(
    look="image",
    mxc=MXC,
    name="summit.jpg",
    content_type="image/jpeg",
    size_bytes=3_032_449,
    width=4096,
    height=2160,
)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("caption", ["", "Look at the view"])
def test_a_picture_survives_both_forms(extensible: bool, caption: str) -> None:
    file = File(**{name: getattr(PICTURE, name) for name in File.__slots__} | {"caption": caption})
    event_type, content = to_event(Message(text="x", file=file), extensible=extensible)
    read = from_event(event_type, content, extensible=extensible)
    assert isinstance(read, Message)
    assert read.file == file


def test_the_legacy_form_is_that_of_the_specification() -> None:
    assert to_event(Message(text="x", file=PICTURE), extensible=False) == (
        "m.room.message",
        {
            "msgtype": "m.image",
            "body": "summit.jpg",
            "filename": "summit.jpg",
            "url": MXC,
            "info": {"mimetype": "image/jpeg", "size": 3_032_449, "w": 4096, "h": 2160},
            "m.mentions": {},
        },
    )


def test_the_extensible_form_has_a_line_for_who_knows_no_files() -> None:
    file = File(
        look="audio", mxc=MXC, url="https://gw.example/x", name="song.ogg", size_bytes=12345
    )
    assert to_event(Message(text="x", file=file), extensible=True) == (
        "m.audio",
        {
            "m.text": [{"body": "song.ogg (12.3 KB) https://gw.example/x"}],
            "m.file": {"url": MXC, "name": "song.ogg", "size": 12345},
            "m.mentions": {},
        },
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"body": "a.png", "file": {"url": MXC, "key": {}}}, "[image: a.png]"),
        ({"body": "a.png", "url": "https://x.example/a.png"}, "[image: a.png]"),
        ({"body": "a.png", "url": "mxc://x/../../y"}, "[image: a.png]"),
        ({"body": "a.png"}, "[image: a.png]"),
    ],
)
def test_what_has_no_place_on_matrix_stays_text(content: dict[str, Any], text: str) -> None:
    read = from_event("m.room.message", {"msgtype": "m.image", **content}, extensible=False)
    assert isinstance(read, Message)
    assert (read.text, read.file) == (text, None)


def test_an_encrypted_file_of_an_extensible_room_stays_text() -> None:
    block = {"url": MXC, "name": "a", "key": {}, "iv": "x", "hashes": {}, "v": "v2"}
    read = from_event("m.file", {"m.text": [{"body": "a"}], "m.file": block}, extensible=True)
    assert isinstance(read, Message)
    assert read.file is None


JUNK: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
)


@given(
    st.dictionaries(st.sampled_from(["url", "body", "filename", "info", "m.file"]), JUNK),
    st.dictionaries(st.sampled_from(["w", "h", "size", "mimetype"]), JUNK),
)
def test_no_content_breaks_a_reader(content: dict[str, Any], info: dict[str, Any]) -> None:
    for more in ({}, {"info": info, "url": MXC}):
        shown = {"msgtype": "m.image", "body": "x", **content, **more}
        read = from_event("m.room.message", shown, extensible=False)
        if isinstance(read, Message) and read.file is not None:
            sizes = (read.file.width, read.file.height, read.file.size_bytes)
            assert all(size is None or size >= 0 for size in sizes)


@pytest.mark.parametrize(
    ("content_type", "look"),
    [
        ("image/png", "image"),
        ("image/svg+xml", "file"),
        ("video/mp4", "video"),
        ("audio/ogg; codecs=opus", "audio"),
        ("application/pdf", "file"),
        ("", "file"),
    ],
)
def test_how_a_file_is_shown_goes_by_its_type(content_type: str, look: str) -> None:
    assert look_of(content_type) == look


def test_sizes_are_read_by_people() -> None:
    sizes = (0, 999, 1000, 12_345, 3_032_449, 5_000_000_000)
    assert [in_words(size) for size in sizes] == [
        *("0 B", "999 B", "1.0 KB", "12.3 KB", "3.0 MB", "5.0 GB")
    ]
