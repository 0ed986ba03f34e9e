from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.content.events import (
    MAX_CONTENT_BYTES,
    from_event,
    split_message,
    split_text,
    to_event,
)
from bridge.content.html import from_html, sanitise
from bridge.content.kinds import KINDS
from bridge.content.model import Encrypted, Message, NotRendered

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80).filter(str.strip)
HTML = (
    st.text("<b>i</ &;a\"'=pre*", max_size=60)
    .map(sanitise)
    .map(str.strip)
    .filter(lambda html: bool(from_html(html)))
)
MESSAGES = st.builds(
    Message,
    text=TEXT,
    kind=st.sampled_from([kind.name for kind in KINDS if kind.name != "unknown"]),
    html=st.none() | HTML,
    language=st.none() | st.sampled_from(["en", "de-CH"]),
)


@given(MESSAGES)
def test_a_message_survives_the_extensible_form(message: Message) -> None:
    event_type, content = to_event(message, extensible=True)
    assert from_event(event_type, content, extensible=True) == message
    assert not {"msgtype", "body", "formatted_body", "format"} & content.keys()


@given(MESSAGES)
def test_a_message_survives_the_legacy_form_but_for_its_language(message: Message) -> None:
    event_type, content = to_event(message, extensible=False)
    assert event_type == "m.room.message"
    assert not {"m.text", "m.automated"} & content.keys()
    assert from_event(event_type, content, extensible=False) == replace(message, language=None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.name))
@pytest.mark.parametrize("extensible", [True, False])
def test_every_kind_keeps_its_text(kind: Any, extensible: bool) -> None:
    event_type, content = to_event(Message(text="tea", kind=kind.name), extensible=extensible)
    back = from_event(event_type, content, extensible=extensible)
    assert isinstance(back, Message)
    assert back.text == "tea"
    assert back.kind == ("text" if kind.name == "unknown" else kind.name)
    assert content["m.mentions"] == {}


def test_the_extensible_form_is_richest_first() -> None:
    message = Message(text="Hi", html="<i>Hi</i>", kind="notice", language="en")
    assert to_event(message, extensible=True) == (
        "m.message",
        {
            "m.text": [
                {"mimetype": "text/html", "body": "<i>Hi</i>", "lang": "en"},
                {"body": "Hi", "lang": "en"},
            ],
            "m.automated": True,
            "m.mentions": {},
        },
    )
    assert to_event(Message(text="waves", kind="emote"), extensible=True)[0] == "m.emote"


def test_the_legacy_form_has_msgtype_body_and_format() -> None:
    message = Message(text="Hi", html="<i>Hi</i>", kind="notice")
    assert to_event(message, extensible=False) == (
        "m.room.message",
        {
            "msgtype": "m.notice",
            "body": "Hi",
            "format": "org.matrix.custom.html",
            "formatted_body": "<i>Hi</i>",
            "m.mentions": {},
        },
    )


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ([{"body": "a"}], Message(text="a")),
        (
            [{"body": "<b>a</b>", "mimetype": "text/html"}, {"body": "a"}],
            Message(text="a", html="<b>a</b>"),
        ),
        ([{"body": "a"}, {"body": "b"}], Message(text="a")),
        (
            [7, {"body": 7}, {}, {"mimetype": 3, "body": "x"}, None, {"body": "a"}],
            Message(text="a"),
        ),
        (
            [{"body": "<p>a</p><p>b</p>", "mimetype": "text/html"}],
            Message(text="a\n\nb", html="<p>a</p><p>b</p>"),
        ),
        ([{"body": "*a*", "mimetype": "text/markdown"}], Message(text="*a*")),
        (
            [
                {"body": "{}", "mimetype": "application/json"},
                {"body": "a", "mimetype": "Text/Plain; charset=utf-8"},
            ],
            Message(text="a"),
        ),
        (
            [{"body": "<script>x</script>", "mimetype": "text/html"}, {"body": "a"}],
            Message(text="a"),
        ),
        ([{"body": "a", "org.matrix.msc3554.lang": "fr"}], Message(text="a", language="fr")),
    ],
)
def test_representations_are_read_in_order(block: object, expected: Message) -> None:
    assert from_event("m.message", {"m.text": block}, extensible=True) == expected


@pytest.mark.parametrize(
    "content",
    [
        {"m.text": []},
        {"m.text": "a"},
        {"m.text": {"body": "a"}},
        {"m.text": [{"body": "{}", "mimetype": "application/json"}]},
        {"body": "a", "msgtype": "m.text"},
    ],
)
def test_a_message_without_readable_text_is_said_to_be_unsupported(content: Any) -> None:
    outcome = from_event("m.message", content, extensible=True)
    assert isinstance(outcome, Message)
    assert (outcome.kind, outcome.text) == ("unknown", "[unsupported: m.message]")


def test_unstable_names_are_read_in_extensible_rooms() -> None:
    content = {"org.matrix.msc1767.text": [{"body": "a"}], "org.matrix.msc1767.automated": True}
    assert from_event("org.matrix.msc1767.message", content, extensible=True) == Message(
        text="a", kind="notice"
    )
    content = {"org.matrix.msc1767.text": "bare"}
    assert from_event("org.matrix.msc1767.emote", content, extensible=True) == Message(
        text="bare", kind="emote"
    )


@pytest.mark.parametrize("value", ["true", 1, None, {}])
def test_automated_is_a_boolean_or_nothing(value: object) -> None:
    content = {"m.text": [{"body": "a"}], "m.automated": value}
    assert from_event("m.message", content, extensible=True) == Message(text="a")


@pytest.mark.parametrize("banned", ["m.room.message", "m.sticker", "m.room.message.feedback"])
def test_the_deprecated_family_is_never_rendered_in_extensible_rooms(banned: str) -> None:
    content = {"msgtype": "m.text", "body": "a", "m.text": [{"body": "a"}]}
    assert isinstance(from_event(banned, content, extensible=True), NotRendered)


@pytest.mark.parametrize("extensible", [True, False])
@pytest.mark.parametrize(
    "signalling",
    [
        "m.reaction", "m.room.redaction", "m.call.invite", "m.call.candidates",
        "m.key.verification.start", "m.poll.response", "m.rtc.notification",
    ],
)  # fmt: skip
def test_signalling_is_nothing_to_show(signalling: str, extensible: bool) -> None:
    outcome = from_event(
        signalling, {"body": "x", "m.text": [{"body": "x"}]}, extensible=extensible
    )
    assert outcome == NotRendered(reason="signalling")


def test_a_request_for_verification_is_signalling() -> None:
    content = {"msgtype": "m.key.verification.request", "body": "please"}
    assert from_event("m.room.message", content, extensible=False) == NotRendered(
        reason="signalling"
    )


@pytest.mark.parametrize("extensible", [True, False])
def test_state_is_never_a_message(extensible: bool) -> None:
    outcome = from_event(
        "x.state", {"m.text": [{"body": "x"}]}, extensible=extensible, is_state=True
    )
    assert outcome == NotRendered(reason="state")


@pytest.mark.parametrize("extensible", [True, False])
def test_encrypted_events_are_their_own_outcome(extensible: bool) -> None:
    content = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"}
    assert from_event("m.room.encrypted", content, extensible=extensible) == Encrypted()
    assert from_event("m.room.encrypted", {}, extensible=extensible) == NotRendered(
        reason="no-content"
    )


@pytest.mark.parametrize(
    ("event_type", "content", "text"),
    [
        (
            "m.image",
            {"m.text": [{"body": "cat.png (12 KB)"}], "m.file": {"name": "c"}},
            "cat.png (12 KB)",
        ),
        ("m.image", {"m.file": {"name": "cat.png"}}, "[image: cat.png]"),
        ("org.example.temperature", {"m.text": [{"body": "22 degrees"}]}, "22 degrees"),
        ("org.example.probe", {"org.example.value": 22}, "[unsupported: org.example.probe]"),
        ("m.file", {"m.file": "wrong"}, "[unsupported: m.file]"),
    ],
)
def test_unknown_extensible_types_show_their_fallback(
    event_type: str, content: Any, text: str
) -> None:
    outcome = from_event(event_type, content, extensible=True)
    assert isinstance(outcome, Message)
    assert (outcome.kind, outcome.text, outcome.stands_for) == ("unknown", text, event_type)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"msgtype": "m.image", "body": "cat.png", "url": "mxc://x/y"}, "[image: cat.png]"),
        ({"msgtype": "m.file", "body": "look", "filename": "a.txt"}, "[file: a.txt] look"),
        ({"msgtype": "m.video", "body": "a.mp4", "filename": "a.mp4"}, "[video: a.mp4]"),
        ({"msgtype": "m.audio"}, "[audio]"),
        (
            {"msgtype": "m.location", "body": "Here", "geo_uri": "geo:1,2"},
            "[location: Here] geo:1,2",
        ),
        ({"msgtype": "org.example.x", "body": "fallback"}, "fallback"),
        ({"msgtype": "org.example.x"}, "[unsupported: org.example.x]"),
        ({"msgtype": 7, "body": "odd"}, "odd"),
        ({"body": 7}, "[unsupported: m.room.message]"),
        ({"msgtype": "m.text"}, "[unsupported: m.text]"),
    ],
)
def test_unknown_msgtypes_show_their_fallback(content: Any, text: str) -> None:
    outcome = from_event("m.room.message", content, extensible=False)
    assert isinstance(outcome, Message)
    assert (outcome.kind, outcome.text) == ("unknown", text)


@pytest.mark.parametrize(
    ("event_type", "content", "text"),
    [
        ("m.sticker", {"body": "wave", "url": "mxc://x/y"}, "[sticker: wave]"),
        ("org.matrix.msc3381.poll.start", {"org.matrix.msc1767.text": "1. tea"}, "1. tea"),
        ("org.example.note", {"body": "hm"}, "hm"),
        ("org.example.note", {"x": 1}, "[unsupported: org.example.note]"),
    ],
)
def test_unknown_types_in_legacy_rooms_show_their_fallback(
    event_type: str, content: Any, text: str
) -> None:
    outcome = from_event(event_type, content, extensible=False)
    assert isinstance(outcome, Message)
    assert outcome.text == text


def test_a_redacted_event_has_nothing_to_show() -> None:
    assert from_event("m.room.message", {}, extensible=False) == NotRendered(reason="no-content")


REPLY = {"m.relates_to": {"m.in_reply_to": {"event_id": "$x"}}}


def test_the_fallback_of_a_reply_is_cut_off() -> None:
    content = {
        "msgtype": "m.text",
        "body": "> <@alice:m.example> tea?\n> or coffee\n\nTea!",
        "format": "org.matrix.custom.html",
        "formatted_body": "<mx-reply><blockquote>tea?</blockquote></mx-reply><b>Tea!</b>",
        **REPLY,
    }
    assert from_event("m.room.message", content, extensible=False) == Message(
        text="Tea!", html="<b>Tea!</b>"
    )


@pytest.mark.parametrize("body", ["> <x> is a tag\nyes", "> a quote\n\nof my own"])
def test_a_quote_of_the_author_stays(body: str) -> None:
    content = {"msgtype": "m.text", "body": body, **REPLY}
    outcome = from_event("m.room.message", content, extensible=False)
    assert outcome == Message(text=body)
    content = {"msgtype": "m.text", "body": "> <@a:m> b\n\nc"}
    assert from_event("m.room.message", content, extensible=False) == Message(
        text="> <@a:m> b\n\nc"
    )


def test_html_is_taken_only_in_its_format_and_sanitised() -> None:
    content = {"msgtype": "m.text", "body": "a", "formatted_body": "<b>a</b>"}
    assert from_event("m.room.message", content, extensible=False) == Message(text="a")
    content |= {"format": "org.matrix.custom.html", "formatted_body": "<b onclick=x>a</b>"}
    assert from_event("m.room.message", content, extensible=False) == Message(
        text="a", html="<b>a</b>"
    )


def test_an_edit_does_not_look_like_a_new_line() -> None:
    content = {
        "m.text": [{"body": "tea"}],
        "m.new_content": {"m.text": [{"body": "tea"}]},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$x"},
    }
    assert from_event("m.message", content, extensible=True) == Message(text="* tea")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "m.text", "org.matrix.msc1767.text", "m.automated", "m.file", "body", "msgtype", "format",
        "formatted_body", "filename", "geo_uri", "m.relates_to", "mimetype", "lang",
    ]
)  # fmt: skip


@given(
    st.sampled_from(["m.message", "m.emote", "m.image", "m.room.message", "m.sticker", "x.y", ""]),
    st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON, max_size=3), max_size=3)),
    st.booleans(),
)
def test_no_content_breaks_the_reader(event_type: str, content: Any, extensible: bool) -> None:
    outcome = from_event(event_type, content, extensible=extensible)
    if isinstance(outcome, Message):
        assert outcome.text.strip()


def test_a_message_that_fits_is_one_part() -> None:
    message = Message(text="x" * 29_000, html="<b>" + "x" * 29_000 + "</b>")
    assert split_message(message, extensible=True) == (message,)


@pytest.mark.parametrize("extensible", [True, False])
def test_an_over_long_message_is_split_and_nothing_is_lost(extensible: bool) -> None:
    text = 'word \x01"\\ é\n' * 15_000
    message = Message(text=text, html=f"<p>{text}</p>", kind="notice")
    parts = split_message(message, extensible=extensible)
    assert "".join(part.text for part in parts) == text
    assert len(parts) > 1
    for part in parts:
        assert part.kind == "notice"
        assert part.text.endswith("\n")
        _, content = to_event(part, extensible=extensible)
        assert len(json.dumps(content, ensure_ascii=False).encode()) <= MAX_CONTENT_BYTES + 100


@given(st.text(max_size=200), st.integers(6, 40))
def test_parts_of_a_text_fit_and_join_to_it(text: str, limit: int) -> None:
    parts = split_text(text, limit)
    assert "".join(parts) == text
    for part in parts:
        size = len(json.dumps(part, ensure_ascii=False).encode("utf-8", "surrogatepass")) - 2
        assert size <= limit


def test_a_text_is_cut_at_the_best_border() -> None:
    assert split_text("one two\n\nthree four", 14) == ("one two\n\n", "three four")
    assert split_text("one two three", 8) == ("one two ", "three")
