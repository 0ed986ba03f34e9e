"""EDUs in: what is read, what is left out, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from bridge.engine.edu import (
    MAX_RECEIPTS,
    OtherEdu,
    Presence,
    PresenceEdu,
    Receipt,
    ReceiptEdu,
    TypingEdu,
    belongs_to,
    parse_edu,
)
from bridge.errors import BadInput
from bridge.ids import EventId, RoomId, ServerName
from tests.engine.rooms import ALICE, BOB
from tests.engine.test_canonical import canonical_values

ROOM = RoomId("!r:a.example")


def edu(kind: str, content: Any) -> Any:
    return parse_edu({"edu_type": kind, "content": content})


def test_typing() -> None:
    content = {"room_id": ROOM, "user_id": ALICE, "typing": True}
    assert edu("m.typing", content) == TypingEdu(room_id=ROOM, user_id=ALICE, typing=True)


@pytest.mark.parametrize(
    "change", [{"typing": 1}, {"typing": None}, {"room_id": "r"}, {"user_id": "alice"}]
)
def test_malformed_typing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        edu("m.typing", {"room_id": ROOM, "user_id": ALICE, "typing": True, **change})


def receipt(event_id: str = "$e", **data: Any) -> dict[str, Any]:
    return {"event_ids": [event_id], "data": {"ts": 5, **data}}


def test_receipts() -> None:
    content = {ROOM: {"m.read": {ALICE: receipt(), BOB: receipt("$f", thread_id="main")}}}
    assert edu("m.receipt", content) == ReceiptEdu(
        receipts=(
            Receipt(room_id=ROOM, user_id=ALICE, event_id=EventId("$e"), ts_ms=5),
            Receipt(room_id=ROOM, user_id=BOB, event_id=EventId("$f"), ts_ms=5, thread_id="main"),
        )
    )


@pytest.mark.parametrize(
    "content",
    [
        {},
        {ROOM: 5},
        {ROOM: {"m.read": 5}},
        {ROOM: {"m.read.private": {ALICE: receipt()}}},
        {"r": {"m.read": {ALICE: receipt()}}},
        {ROOM: {"m.read": {"alice": receipt()}}},
        {ROOM: {"m.read": {ALICE: 5}}},
        {ROOM: {"m.read": {ALICE: {"event_ids": [], "data": {"ts": 5}}}}},
        {ROOM: {"m.read": {ALICE: {"event_ids": ["$e"], "data": {"ts": True}}}}},
        {ROOM: {"m.read": {ALICE: receipt("e")}}},
        {ROOM: {"m.read": {ALICE: receipt(thread_id=5)}}},
        {ROOM: {"m.read": {ALICE: receipt(ts=2**60)}}},
    ],
    ids=str,
)
def test_malformed_receipts_are_left_out(content: Any) -> None:
    good = {"!good:a.example": {"m.read": {ALICE: receipt()}}}
    read = edu("m.receipt", {**content, **good})
    assert [r.room_id for r in read.receipts] == ["!good:a.example"]


def test_receipts_are_bounded() -> None:
    many = {f"@u{number}:a.example": receipt() for number in range(MAX_RECEIPTS + 5)}
    assert len(edu("m.receipt", {ROOM: {"m.read": many}}).receipts) == MAX_RECEIPTS


def test_presence() -> None:
    good = {"user_id": ALICE, "presence": "online", "last_active_ago": 5, "status_msg": "hi"}
    bad: list[Any] = [
        5,
        {},
        {**good, "presence": []},
        {**good, "presence": "busy"},
        {**good, "user_id": "alice"},
    ]
    assert edu("m.presence", {"push": [*bad, good]}) == PresenceEdu(
        presences=(
            Presence(
                user_id=ALICE,
                presence="online",
                status="hi",
                last_active_ago_ms=5,
                currently_active=False,
            ),
        )
    )


def test_presence_without_a_list_is_refused() -> None:
    with pytest.raises(BadInput):
        edu("m.presence", {"push": {}})


def test_other_types_come_back_as_they_are() -> None:
    assert edu("m.direct_to_device", {"a": 1}) == OtherEdu(
        type="m.direct_to_device", content={"a": 1}
    )


@pytest.mark.parametrize(
    "json",
    [
        None,
        [],
        {},
        {"edu_type": 5, "content": {}},
        {"edu_type": "x", "content": []},
        {"edu_type": "", "content": {}},
        {"edu_type": "x" * 256, "content": {}},
    ],
)
def test_what_is_no_edu_is_refused(json: Any) -> None:
    with pytest.raises(BadInput):
        parse_edu(json)


@given(canonical_values)
def test_arbitrary_content_is_read_or_refused_but_never_breaks(value: Any) -> None:
    for kind in ("m.typing", "m.receipt", "m.presence", "x"):
        for content in (
            value,
            {"push": [value]},
            {ROOM: value},
            {ROOM: {"m.read": {ALICE: value}}},
        ):
            try:
                edu(kind, content)
            except BadInput:
                continue


def test_a_server_speaks_for_its_own_users_only() -> None:
    assert belongs_to(ALICE, ServerName("a.example"))
    assert not belongs_to(ALICE, ServerName("b.example"))
