from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.content.html import from_html, sanitise, to_html
from bridge.content.richtext import (
    Block,
    Document,
    Listing,
    Mark,
    Paragraph,
    Preformatted,
    Quote,
    Run,
    merge,
    to_plain,
)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("<script>alert(1)</script>hi", "hi"),
        ("<style>*{}</style>hi", "hi"),
        ('<b onclick="x()">hi</b>', "<b>hi</b>"),
        ('<img src="https://x/y" onerror="x()">', "<img>"),
        ('<img src="mxc://x/y" alt="z">', '<img src="mxc://x/y" alt="z">'),
        ('<a href="javascript:x()">hi</a>', "<a>hi</a>"),
        ('<a href=" JAVA\tSCRIPT:x()">hi</a>', "<a>hi</a>"),
        ('<a href="data:text/html,x">hi</a>', "<a>hi</a>"),
        ('<a href="/relative">hi</a>', "<a>hi</a>"),
        ('<a href="//evil">hi</a>', "<a>hi</a>"),
        ('<a href="mxc://x/y">hi</a>', "<a>hi</a>"),
        ('<a href="https://x">hi</a>', '<a href="https://x">hi</a>'),
        ('<p style="position:fixed" class="x">hi</p>', "<p>hi</p>"),
        ('<code class="language-py evil">x</code>', '<code class="language-py">x</code>'),
        ("<iframe src='https://x'></iframe><video>v</video>hi", "vhi"),
        ("<mx-reply><blockquote>old</blockquote></mx-reply>new", "new"),
        ("<svg><script>x</script></svg>hi", "hi"),
        ("<!-- c -->hi", "hi"),
        ("<b>open", "<b>open</b>"),
        ("1 < 2 & 3", "1 &lt; 2 &amp; 3"),
    ],
)
def test_only_the_allow_list_survives(dirty: str, clean: str) -> None:
    assert sanitise(dirty) == clean


@given(st.text("<>/ab=\"' script onclick javascript:&;!-", max_size=60))
def test_sanitising_twice_changes_nothing(text: str) -> None:
    once = sanitise(text)
    assert sanitise(once) == once
    assert "<script" not in once.lower()


@pytest.mark.parametrize(
    ("html", "plain"),
    [
        ("There is <em>really</em> no <strong>reason</strong>.", "There is really no reason."),
        ("<p>one</p>\n<p>two</p>", "one\n\ntwo"),
        ("a  b\n c<br>d<br/> e", "a b c\nd\ne"),
        ("<h1>Title</h1><p>text</p>", "Title\n\ntext"),
        ("<blockquote><p>said</p></blockquote>reply", "> said\n\nreply"),
        ("<blockquote>a<blockquote>b</blockquote></blockquote>", "> a\n> > b"),
        ("<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>", "- a\n- b\n  - c"),
        ('<p>x</p><ol start="9"><li>a</li><li>b</li></ol>', "x\n9. a\n10. b"),
        ("<pre><code class='language-py'>a  b\n c</code></pre>", "a  b\n c"),
        ('<a href="https://x.example/y">here</a>', "here (https://x.example/y)"),
        ('<a href="https://x.example/">x.example</a>', "https://x.example/"),
        ('<a href="mailto:a@x">a@x</a>', "mailto:a@x"),
        ('<a href="https://matrix.to/#/@alice:m.example">Alice</a>: hi', "Alice: hi"),
        ('Look: <span data-mx-spoiler="end">they die</span>!', "Look: [Spoiler: end]!"),
        ("<span data-mx-spoiler>they <b>die</b></span>", "[Spoiler]"),
        (
            "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>",
            "a | b\n1 | 2",
        ),
        ("<details><summary>s</summary>t</details>", "s\nt"),
        ('<img src="mxc://x/y" alt=":cat:"> meow', ":cat: meow"),
        ('<span data-mx-maths="\\frac12"><code>1/2</code></span>', "\\frac12"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("a<hr>b", "a\n\n---\n\nb"),
        ("1 &lt; 2 &amp;&nbsp;3", "1 < 2 &\xa03"),
        ("<u>a</u><sup>2</sup><font color='#fff'>c</font>", "a2c"),
    ],
)
def test_html_reads_as_plain_text(html: str, plain: str) -> None:
    assert to_plain(from_html(sanitise(html))) == plain


def test_a_thousand_levels_are_flattened_and_keep_their_text() -> None:
    html = "<blockquote>" * 1000 + "deep" + "</blockquote>" * 1000
    assert "deep" in to_plain(from_html(sanitise(html)))
    html = "<b><i>" * 5000 + "deep" + "</i></b>" * 5000 + " end"
    assert to_plain(from_html(sanitise(html))) == "deep end"


WORDS = st.from_regex(r"[a-zé*_<&\"'>](?:[a-z ]?[a-z<&])*", fullmatch=True)
MARKS = st.frozensets(
    st.sampled_from(
        [
            Mark("strong"),
            Mark("emphasis"),
            Mark("deleted"),
            Mark("code"),
            Mark("link", "https://x.example/?a=1&b=2"),
            Mark("spoiler", 'a "reason"'),
        ]
    )
)
PARAGRAPHS: st.SearchStrategy[Block] = st.lists(
    st.builds(Run, WORDS, MARKS), min_size=1, max_size=5
).map(lambda runs: Paragraph(merge(runs)))
PRE: st.SearchStrategy[Block] = st.builds(
    Preformatted,
    st.from_regex(r"[a-z<& \n]{0,20}[a-z]", fullmatch=True),
    st.sampled_from(["", "c++"]),
)
BLOCKS = st.recursive(
    PARAGRAPHS | PRE,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda b: Quote(tuple(b)))
        | st.builds(
            lambda items, ordered: Listing(tuple(tuple(i) for i in items), ordered, 1),
            st.lists(st.lists(inner, min_size=1, max_size=2), min_size=1, max_size=3),
            st.booleans(),
        )
    ),
    max_leaves=6,
)
DOCUMENTS: st.SearchStrategy[Document] = st.lists(BLOCKS, min_size=1, max_size=4).map(tuple)


@given(DOCUMENTS)
def test_what_we_write_is_clean_and_reads_back(document: Document) -> None:
    html = to_html(document)
    assert from_html(html) == document
    assert from_html(sanitise(html)) == document


def test_a_single_paragraph_stands_without_its_tag() -> None:
    assert to_html((Paragraph((Run("a\nb", frozenset({Mark("strong")})),)),)) == (
        "<strong>a<br>b</strong>"
    )
