"""What is written to a row comes back as it was; other rows are refused, never half read."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.content.model import Message
from bridge.errors import BadInput
from bridge.ids import EventId, RoomId, UserId
from bridge.ports.chat import (
    DELIVERIES,
    ChatMessage,
    DirectMessage,
    Receipt,
)
from bridge.ports.codec import from_json, from_tagged, to_json, to_tagged

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MESSAGES = st.builds(
    Message,
    text=TEXT,
    kind=st.sampled_from(["text", "notice", "emote", "unknown"]),
    html=st.none() | TEXT,
    language=st.none() | TEXT,
    stands_for=st.none() | TEXT,
)


def values_of(cls: type) -> st.SearchStrategy[Any]:
    """Any value of a class of the ports, its strings from what JSON can carry."""
    by_type = {"str": TEXT, "int": st.integers(-(2**53), 2**53), "bool": st.booleans()}
    fields = {}
    for field in dataclasses.fields(cls):
        spelt = str(field.type)
        name, _, rest = spelt.partition(" | ")
        strategy = MESSAGES if name == "Message" else by_type.get(name, TEXT)
        fields[field.name] = st.none() | strategy if rest == "None" else strategy
    return st.builds(cls, **fields)


@pytest.mark.parametrize("cls", DELIVERIES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_every_delivery_comes_back_from_its_row(cls: type, data: st.DataObject) -> None:
    value = data.draw(values_of(cls))
    stored = orjson.loads(orjson.dumps(to_tagged(value)))
    assert from_tagged(DELIVERIES, stored) == value


@given(values_of(ChatMessage))
def test_every_chat_message_comes_back_from_its_row(message: ChatMessage) -> None:
    assert from_json(ChatMessage, orjson.loads(orjson.dumps(to_json(message)))) == message


def test_no_delivery_has_a_field_of_the_tags_name() -> None:
    for cls in DELIVERIES:
        assert "kind" not in {field.name for field in dataclasses.fields(cls)}


def test_a_row_of_the_version_before_or_after_is_read() -> None:
    value = DirectMessage(
        to="a@b",
        sender=UserId("@a:b"),
        event_id=EventId("$e"),
        at_ms=1,
        message=Message(text="x"),
        room_id=RoomId("!r:b"),
    )
    stored = to_tagged(value)
    del stored["room_id"]
    stored["of_later"] = {"any": "thing"}
    assert from_tagged(DELIVERIES, stored) == dataclasses.replace(value, room_id=None)


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"kind": "Nothing"},
        {"kind": "Receipt"},
        {"kind": "Receipt", "to": "a", "sent_from": "b"},
        {"kind": "DirectMessage", "message": "no object"},
        {"kind": ["Receipt"]},
    ],
)
def test_other_rows_are_bad_input(stored: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        from_tagged(DELIVERIES, stored)


@pytest.mark.parametrize("stored", [None, [], "text", 5])
def test_what_is_no_object_is_bad_input(stored: object) -> None:
    with pytest.raises(BadInput):
        from_json(Receipt, stored)
