"""Stanza in, chat value out."""

from __future__ import annotations

import pytest

from bridge.adapters.xmpp import inbound
from bridge.content.model import File, Message
from bridge.errors import BadInput
from tests.support.wire import incoming

HEAD = "<message from='romeo@a.test/x' to='alice%m.example@gw.test'"


def read(rest: str) -> Message | None:
    return inbound.to_message(incoming(f"{HEAD} {rest}"))


def test_a_body_is_the_text() -> None:
    assert read("type='chat'><body>hello</body></message>") == Message(text="hello")


def test_the_language_is_that_of_the_body_not_of_the_stanza() -> None:
    stamped = read("xml:lang='fr' type='chat'><body>hello</body></message>")
    assert stamped == Message(text="hello")
    written = read("type='chat'><body xml:lang='de'>hallo</body></message>")
    assert written == Message(text="hallo", language="de")


def test_the_body_without_a_language_comes_first() -> None:
    message = read("type='chat'><body xml:lang='de'>hallo</body><body>hello</body></message>")
    assert message == Message(text="hello")


@pytest.mark.parametrize(
    "rest",
    [
        "type='chat'><active xmlns='http://jabber.org/protocol/chatstates'/></message>",
        "type='chat'><body/></message>",
        "type='chat'><body>  \n</body></message>",
    ],
)
def test_without_a_readable_body_there_is_no_message(rest: str) -> None:
    assert read(rest) is None


def test_styling_becomes_html_unless_the_author_says_unstyled() -> None:
    styled = read("type='chat'><body>*x*</body></message>")
    assert styled is not None
    assert styled.html == "<strong>x</strong>"
    plain = read("type='chat'><body>*x*</body><unstyled xmlns='urn:xmpp:styling:0'/></message>")
    assert plain == Message(text="*x*")


def test_markup_beside_the_text_wins_over_styling_in_it() -> None:
    message = read(
        "type='chat'><body>a *b*</body><markup xmlns='urn:xmpp:markup:0'>"
        "<span start='0' end='1'><emphasis/></span><span start='x' end='9'/></markup></message>"
    )
    assert message is not None
    assert message.html == "<em>a</em> *b*"


def test_offsets_of_markup_still_fit_behind_a_subject() -> None:
    message = read(
        "type='normal'><subject>Tea</subject><body>now</body>"
        "<markup xmlns='urn:xmpp:markup:0'><span start='0' end='3'><strong/></span></markup>"
        "</message>"
    )
    assert message is not None
    assert message.text == "Subject: Tea\nnow"
    assert message.html is not None
    assert message.html.endswith("<strong>now</strong>")


def test_me_is_an_emote_and_a_headline_a_notice() -> None:
    assert read("type='chat'><body>/me waves</body></message>") == Message(
        text="waves", kind="emote"
    )
    assert read("type='headline'><body>news</body></message>") == Message(
        text="news", kind="notice"
    )


def test_a_correction_is_a_new_message_that_says_so() -> None:
    corrected = "<replace xmlns='urn:xmpp:message-correct:0' id='1'/></message>"
    assert read(f"type='chat'><body>tea</body>{corrected}") == Message(text="* tea")
    assert read(f"type='chat'><body>*tea*</body>{corrected}") == Message(
        text="* *tea*", html="* <strong>tea</strong>"
    )
    assert read(f"type='chat'>{corrected}") is None


def test_a_fallback_for_what_we_do_not_know_is_the_text() -> None:
    message = read(
        "type='chat'><body>&gt; tea?\nyes</body>"
        "<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'/></message>"
    )
    assert message is not None
    assert message.text == "> tea?\nyes"


@pytest.mark.parametrize("type", ["", "type='normal'", "type='chat'", "type='odd'"])
def test_a_message_to_a_person_may_have_any_type(type: str) -> None:
    assert read(f"{type}><body>hello</body></message>") == Message(text="hello")


def test_a_subject_alone_changes_the_topic() -> None:
    assert inbound.to_subject(incoming(f"{HEAD}><subject>Roses</subject></message>")) == "Roses"
    assert inbound.to_subject(incoming(f"{HEAD}><subject/></message>")) == ""
    both = incoming(f"{HEAD}><subject>Roses</subject><body>b</body></message>")
    assert inbound.to_subject(both) is None


def test_a_message_sent_again_has_the_same_fingerprint_and_another_text_has_not() -> None:
    first = incoming(f"{HEAD} id='1'><body>a</body></message>")
    again = incoming(f"{HEAD} id='1'><body>a</body><delay xmlns='urn:xmpp:delay'/></message>")
    other = incoming(f"{HEAD} id='1'><body>b</body></message>")
    assert inbound.fingerprint(first) == inbound.fingerprint(again)
    assert inbound.fingerprint(first) != inbound.fingerprint(other)


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [("id='1' type='chat'", True), ("type='chat'", False), ("id='1' type='groupchat'", False)],
)
def test_a_receipt_is_owed_only_to_a_person_who_gave_an_id(attributes: str, wanted: bool) -> None:
    request = "<request xmlns='urn:xmpp:receipts'/>"
    stanza = incoming(f"{HEAD} {attributes}><body>a</body>{request}</message>")
    assert inbound.wants_receipt(stanza) is wanted


@pytest.mark.parametrize(
    ("wish", "limit"),
    [
        ("", 20),
        ("<history maxstanzas='5'/>", 5),
        ("<history maxstanzas='5000'/>", 100),
        ("<history maxchars='0'/>", 0),
        ("<history maxstanzas='-1'/>", 20),
        ("<history maxstanzas='many'/>", 20),
    ],
)
def test_history_is_what_was_asked_for_within_bounds(wish: str, limit: int) -> None:
    stanza = incoming(
        "<presence from='a@b/c' to='r@gw/n'>"
        f"<x xmlns='http://jabber.org/protocol/muc'>{wish}</x></presence>"
    )
    assert inbound.history_limit(stanza, default=20, maximum=100) == limit


def test_an_error_has_a_condition_and_a_text() -> None:
    stanza = incoming(
        f"{HEAD} type='error'><error type='cancel'>"
        "<gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>xmpp:x@y</gone>"
        "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>moved</text></error></message>"
    )
    assert inbound.error_of(stanza) == ("gone", "moved")
    assert inbound.error_of(incoming(f"{HEAD} type='error'/>")) == ("undefined-condition", None)


def test_a_stanza_without_addresses_is_bad_input() -> None:
    with pytest.raises(BadInput):
        incoming("<message to='a@b'/>")


def read_shared(body: str, url: str) -> Message | None:
    oob = f"<x xmlns='jabber:x:oob'><url>{url}</url></x>"
    return read(f"type='chat'><body>{body}</body>{oob}</message>")


def test_a_body_that_is_the_url_of_a_file_shares_it() -> None:
    url = "https://x.example/a%20b.png"
    assert read_shared(f" {url}\n", url) == Message(text=url, file=File(url=url))


@pytest.mark.parametrize(
    ("body", "url"),
    [
        ("look: https://x.example/a", "https://x.example/a"),
        ("https://x.example/b", "https://x.example/a"),
        ("aesgcm://x.example/a#00", "aesgcm://x.example/a#00"),
        ("file:///etc/passwd", "file:///etc/passwd"),
        ("https://x.example/" + "a" * 5000, "https://x.example/" + "a" * 5000),
    ],
)
def test_any_other_url_is_text(body: str, url: str) -> None:
    message = read_shared(body, url)
    assert message is not None
    assert (message.text, message.file) == (body, None)
