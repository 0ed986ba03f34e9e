from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.adapters.xmpp.styling import (
    MAX_SPANS,
    MAX_TAGS,
    Body,
    Markup,
    from_body,
    from_markup,
    parse,
    to_body,
    write,
)
from bridge.content.html import from_html, sanitise, to_html
from bridge.content.model import Message
from bridge.content.richtext import is_styled, to_plain


@pytest.mark.parametrize(
    ("body", "html"),
    [
        ("plain span", "plain span"),
        ("*strong span*", "<strong>strong span</strong>"),
        ("plain _emphasis_ plain", "plain <em>emphasis</em> plain"),
        ("`pre` plain *strong*", "<code>pre</code> plain <strong>strong</strong>"),
        ("*strong*plain*", "<strong>strong</strong>plain*"),
        ("* plain *strong*", "* plain <strong>strong</strong>"),
        ("Everyone ~dis~likes cake.", "Everyone <del>dis</del>likes cake."),
        ("`*monospace*`", "<code>*monospace*</code>"),
        ("*`monospace and bold`*", "<strong><code>monospace and bold</code></strong>"),
        ("_*x*_", "<strong><em>x</em></strong>"),
        ("*a _b* c_", "<strong>a _b</strong> c_"),
        ("a*b*", "a*b*"),
        ("*not\nstrong*", "*not<br>strong*"),
        ("> a\n> *b*\nc", "<blockquote>a<br><strong>b</strong></blockquote><p>c</p>"),
        (">> a\n> b", "<blockquote><blockquote>a</blockquote><p>b</p></blockquote>"),
        (
            "```ignored\n(x *y*)\n```\n\n*z*",
            '<pre><code class="language-ignored">(x *y*)</code></pre><p><br><strong>z</strong></p>',
        ),
        ("> ```\n> (x)\n\ny", "<blockquote><pre><code>(x)</code></pre></blockquote><p><br>y</p>"),
        ("``` odd name\nx", "<pre><code>x</code></pre>"),
        ("1 < 2 & *3*", "1 &lt; 2 &amp; <strong>3</strong>"),
    ],
)
def test_message_styling_becomes_html(body: str, html: str) -> None:
    assert to_html(parse(body)) == html


@pytest.mark.parametrize(
    "body",
    ["not strong*", "*not strong", "*not \n strong*", "*not *strong", "**", "***", "****", "* a*",
     "*a *", "**a**", "2*3*4", "snake_case_name", "`` ", "~ ~", "> "],
)  # fmt: skip
def test_nothing_is_styled_without_valid_directives(body: str) -> None:
    assert not is_styled(parse(body))


@pytest.mark.parametrize(
    ("html", "body"),
    [
        ("<b>a</b> <i>b</i> <del>c</del> <code>d</code>", "*a* _b_ ~c~ `d`"),
        ("<i><b>x</b></i>", "*_x_*"),
        ("<b>a <i>b</i></b>", "*a _b_*"),
        ("<b>a<br>b</b>", "*a*\n*b*"),
        ("<b> a </b>b", "*a* b"),
        ("un<b>believ</b>able <i>yes</i>", "unbelievable _yes_"),
        ("<code>a*b</code> <b>c</b>", "`a*b` *c*"),
        ("<b>2*3</b> <i>x</i>", "2*3 x"),
        ("*lit* <b>x</b>", "\u2060*lit* *x*"),
        ("<h2>Title</h2><p>text</p>", "*Title*\n\ntext"),
        ("<blockquote><b>a</b></blockquote>b", "> *a*\n\nb"),
        ("<pre><code class='language-py'>x = 1\n</code></pre>", "```py\nx = 1\n```"),
        ("<ul><li><b>a</b></li><li>b</li></ul>", "- *a*\n- b"),
        (
            '<b>see</b> <a href="https://x.example/_a_">this</a>',
            "*see* this (https://x.example/_a_)",
        ),
        ("<b>&gt; no quote</b>", "*> no quote*"),
        ("<p>&gt; no quote</p><p><b>x</b></p>", "\u2060> no quote\n\n*x*"),
    ],
)
def test_html_becomes_message_styling(html: str, body: str) -> None:
    assert write(from_html(sanitise(html))) == body


@given(st.text("ab *_~`>\n", max_size=40))
@settings(max_examples=400)
def test_what_is_styled_here_comes_back_as_it_was(body: str) -> None:
    message = from_body(body)
    if message is None:
        assert not body.strip()
        return
    assert message.text == body
    sent = to_body(message)
    assert sent.spoiler is None
    if message.html is None:
        assert sent == Body(text=body, unstyled=True)
    else:
        assert message.html == sanitise(message.html)
        again = from_body(sent.text, unstyled=sent.unstyled)
        assert again is not None
        assert again.html is not None


@given(st.text("ab *_~`<>/bi&;", max_size=60).map(lambda t: sanitise(f"<b>{t}</b> <i>x</i>{t}")))
@settings(max_examples=400)
def test_our_delimiters_say_what_was_meant_or_less(html: str) -> None:
    document = from_html(html)
    written = write(document)
    kept = written.replace("\u2060", "")
    for text in (run.text.strip() for block in document for run in getattr(block, "runs", ())):
        assert all(word in kept for word in text.split())
    looks = {(c, r.marks) for b in document for r in getattr(b, "runs", ()) for c in r.text}
    for block in parse(written):
        for run in getattr(block, "runs", ()):
            for char in run.text.replace("\u2060", ""):
                if not char.isspace():
                    assert any(char == c and run.marks <= marks for c, marks in looks)


def test_a_plain_text_goes_out_unstyled() -> None:
    assert to_body(Message(text="*a* _b_")) == Body(text="*a* _b_", unstyled=True)


def test_html_that_has_no_styling_goes_out_unstyled_with_its_links() -> None:
    message = Message(text="x", html='*a* <a href="https://x.example/y">here</a>')
    assert to_body(message) == Body(text="*a* here (https://x.example/y)", unstyled=True)


def test_formatting_goes_out_as_delimiters() -> None:
    message = Message(text="There is really", html="There is <em>really</em>")
    assert to_body(message) == Body(text="There is _really_", unstyled=False)


def test_emotes_start_with_me_and_other_texts_do_not() -> None:
    assert to_body(Message(text="waves", kind="emote")).text == "/me waves"
    assert to_body(Message(text="waves", html="<b>waves</b>", kind="emote")).text == "/me *waves*"
    quoted = to_body(Message(text="/me waves")).text
    assert quoted == "\u2060/me waves"
    assert from_body(quoted) == Message(text="/me waves")


def test_a_spoiler_hides_the_whole_message() -> None:
    message = Message(
        text="Look: [Spoiler: end]", html='Look: <span data-mx-spoiler="end">they <b>die</b></span>'
    )
    assert to_body(message) == Body(text="Look: they *die*", unstyled=False, spoiler="end")


def test_illegal_characters_are_replaced_on_the_way_out() -> None:
    assert to_body(Message(text="a\x00b\ufffe")).text == "a�b�"


def test_bodies_become_messages() -> None:
    assert from_body("*hi*", language="en") == Message(
        text="*hi*", html="<strong>hi</strong>", language="en"
    )
    assert from_body("*hi*", unstyled=True) == Message(text="*hi*")
    assert from_body("hi", is_notice=True) == Message(text="hi", kind="notice")
    assert from_body("/me *waves*") == Message(
        text="*waves*", html="<strong>waves</strong>", kind="emote"
    )
    assert from_body("/me ") == Message(text="/me ")
    assert from_body("/meow") == Message(text="/meow")
    assert from_body(" \n") is None


def test_a_hidden_body_does_not_leak_into_the_plain_text() -> None:
    assert from_body("they *die*", spoiler="end") == Message(
        text="[Spoiler: end]",
        html='<span data-mx-spoiler="end">they <strong>die</strong></span>',
    )
    assert from_body("> x", spoiler="") == Message(
        text="[Spoiler]", html='<span data-mx-spoiler="">&gt; x</span>'
    )


REASON = "There is really no reason to worry."


@pytest.mark.parametrize(
    ("body", "markup", "html"),
    [
        (
            REASON,
            [Markup("span", 9, 15, ("emphasis",)), Markup("span", 29, 34, ("strong",))],
            "There is <em>really</em> no reason to <strong>worry</strong>.",
        ),
        (
            REASON,
            [Markup("span", 0, 5, ("strong", "deleted"))],
            "<strong><del>There</del></strong> is really no reason to worry.",
        ),
        (
            "Run:\n$ cowsay *x*",
            [Markup("bcode", 5, 17, language="bash")],
            '<p>Run:</p><pre><code class="language-bash">$ cowsay *x*</code></pre>',
        ),
        (
            "He said:\n> Not *pass*!\nand went.",
            [Markup("bquote", 9, 23)],
            "<p>He said:</p><blockquote>Not *pass*!</blockquote><p>and went.</p>",
        ),
        (
            "> He:\n>> Not!\n> went.\n\nx",
            [Markup("bquote", 0, 22), Markup("bquote", 6, 14)],
            "<blockquote><p>He:</p><blockquote>Not!</blockquote><p>went.</p></blockquote><p>x</p>",
        ),
        (
            "Many:\n* one\n* two",
            [Markup("list", 6, 17, items=(6, 12)), Markup("span", 14, 17, ("code",))],
            "<p>Many:</p><ul><li>one</li><li><code>two</code></li></ul>",
        ),
        (
            "1. a\n2. b",
            [Markup("list", 0, 9, ordered=True, items=(0, 5))],
            "<ol><li>a</li><li>b</li></ol>",
        ),
        ("🦊 fox", [Markup("span", 2, 5, ("strong",))], "🦊 <strong>fox</strong>"),
        (
            "abc",
            [
                Markup("span", 0, 9, ("strong",)),
                Markup("span", 2, 1, ("strong",)),
                Markup("x", 0, 3),
            ],
            "abc",
        ),
        (
            "abc",
            [Markup("span", 0, 2, ("strong",)), Markup("span", 1, 3, ("code",))],
            "<strong>ab</strong>c",
        ),
    ],
)
def test_stand_off_markup_becomes_html(body: str, markup: list[Markup], html: str) -> None:
    assert to_html(from_markup(body, markup)) == html


def test_offsets_count_the_four_characters_of_me() -> None:
    message = from_body("/me waves back", markup=[Markup("span", 10, 14, ("strong",))])
    assert message == Message(text="waves back", html="waves <strong>back</strong>", kind="emote")


@given(
    st.text("ab>\n* 1.", max_size=30),
    st.lists(
        st.builds(
            Markup,
            st.sampled_from(["span", "bcode", "bquote", "list"]),
            st.integers(-3, 33),
            st.integers(-3, 33),
            st.just(("strong",)),
            items=st.lists(st.integers(-3, 33), max_size=4).map(tuple),
        ),
        max_size=8,
    ),
)
def test_no_markup_breaks_the_reader(body: str, markup: list[Markup]) -> None:
    document = from_markup(body, markup)
    html = to_html(document)
    assert sanitise(html) == html
    written = to_plain(document)
    assert [c for c in written if c in "ab"] == [c for c in body if c in "ab"]
    message = from_body(body, markup=markup)
    assert message is None or message.text == body


@pytest.mark.parametrize(
    "body",
    [">" * 60_000, "*a " * 20_000, "*a* " * 15_000, "`" * 60_000, "_*" * 30_000, "```\n" * 15_000],
)
@pytest.mark.timeout(5)
def test_hostile_bodies_are_read_in_reasonable_time(body: str) -> None:
    message = from_body(body)
    assert message is not None
    assert to_body(message).text


def test_a_body_of_very_many_spans_is_a_plain_text() -> None:
    crowded = "*a* " * (MAX_SPANS + 1)
    assert from_body(crowded) == Message(text=crowded)
    fitting = from_body("*a* " * (MAX_SPANS - 1))
    assert fitting is not None
    assert fitting.html is not None


def test_html_of_very_many_tags_goes_out_as_its_text_and_still_hidden() -> None:
    html = "<em>a</em> " * MAX_TAGS
    crowded = Message(text="a " * MAX_TAGS, html=html)
    assert to_body(crowded) == Body(text=crowded.text, unstyled=True)
    hidden = Message(text="a", html=f"<span data-mx-spoiler>{html}</span>")
    assert to_body(hidden).spoiler == ""
