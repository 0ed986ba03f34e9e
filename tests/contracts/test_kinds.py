"""Every kind of message, in both Matrix forms: written, read, the same."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.content.events import from_event, to_event
from bridge.content.kinds import KINDS
from bridge.content.kinds.kind import ContentKind
from bridge.content.model import KindName, Message

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda one: one.name)
forms = pytest.mark.parametrize("extensible", [False, True], ids=["legacy", "extensible"])
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200).filter(
    lambda text: bool(text.strip())
)


def test_every_name_has_one_entry_and_no_type_two() -> None:
    assert sorted(kind.name for kind in KINDS) == sorted(get_args(KindName))
    msgtypes = [one for kind in KINDS for one in kind.msgtypes]
    event_types = [one for kind in KINDS for one in kind.event_types]
    assert len(set(msgtypes)) == len(msgtypes)
    assert len(set(event_types)) == len(event_types)


@kinds
@forms
@given(text=TEXTS)
def test_what_is_written_is_read_again(kind: ContentKind, extensible: bool, text: str) -> None:
    event_type, content = to_event(Message(text=text, kind=kind.name), extensible=extensible)
    read = from_event(event_type, content, extensible=extensible)
    assert isinstance(read, Message)
    assert read.text == text
    # What stood for something unknown is an ordinary text once it is written on.
    assert read.kind == ("text" if kind.name == "unknown" else kind.name)


@kinds
@forms
def test_formatting_survives(kind: ContentKind, extensible: bool) -> None:
    message = Message(text="fair is foul", html="<b>fair</b> is <i>foul</i>", kind=kind.name)
    event_type, content = to_event(message, extensible=extensible)
    read = from_event(event_type, content, extensible=extensible)
    assert isinstance(read, Message)
    assert (read.text, read.html) == (message.text, message.html)


@kinds
@forms
@given(
    content=st.dictionaries(
        st.sampled_from(["body", "m.text", "m.file", "format", "x"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=5)
        | st.lists(st.text(max_size=3))
        | st.lists(
            st.dictionaries(st.sampled_from(["body", "mimetype"]), st.integers() | st.text())
        ),
    )
)
def test_no_content_breaks_a_reader(
    kind: ContentKind, extensible: bool, content: dict[str, object]
) -> None:
    for event_type in (*kind.event_types, "m.room.message"):
        for msgtype in kind.msgtypes or ("x",):
            from_event(event_type, {**content, "msgtype": msgtype}, extensible=extensible)
