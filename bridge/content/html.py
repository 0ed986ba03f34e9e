"""Matrix' HTML: sanitised, read into a `Document`, written from one.

HTML from Matrix is untrusted (G6): `sanitise` comes before any other use. nh3 keeps the allow-list
of the specification; nesting over 100 levels is flattened when reading. Reading collapses white
space as a browser does. Tables become lines, headings strong lines, an image its description;
colours, underline and the like lose their look and keep their text.
Spec: client-server, m.room.message msgtypes (HTML); spoiler messages; MSC2191.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser

import nh3

from bridge.content.richtext import (
    Block,
    Document,
    Listing,
    Mark,
    MarkName,
    Nested,
    Paragraph,
    Preformatted,
    Quote,
    Run,
    merge,
    nest,
)

MAX_DEPTH = 100
_TAGS = frozenset(
    [
        *(
            "del",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "blockquote",
            "p",
            "a",
            "ul",
            "ol",
            "sup",
            "sub",
        ),
        *("li", "b", "i", "u", "strong", "em", "s", "code", "hr", "br", "div", "table", "thead"),
        *("tbody", "tr", "th", "td", "caption", "pre", "span", "img", "details", "summary", "font"),
    ]
)
_ATTRIBUTES = {
    "span": {"data-mx-bg-color", "data-mx-color", "data-mx-spoiler", "data-mx-maths"},
    "font": {"data-mx-bg-color", "data-mx-color", "color"},
    "a": {"target", "href"},
    "img": {"width", "height", "alt", "title", "src"},
    "ol": {"start"},
    "code": {"class"},
    "div": {"data-mx-maths"},
}
_LINK_SCHEMES = frozenset({"https", "http", "ftp", "mailto", "magnet"})
_DROPPED_WHOLE = frozenset({"script", "style", "mx-reply", "title", "template"})

_VOID = frozenset({"br", "hr", "img"})
_MARKS: dict[str, MarkName] = {
    "b": "strong", "strong": "strong", "i": "emphasis", "em": "emphasis", "s": "deleted",
    "del": "deleted", "code": "code",
    "h1": "strong", "h2": "strong", "h3": "strong", "h4": "strong", "h5": "strong", "h6": "strong",
}  # fmt: skip
_TAG_OF: dict[MarkName, str] = {
    "strong": "strong",
    "emphasis": "em",
    "deleted": "del",
    "code": "code",
}
_PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "table", "details"})
_LINES = frozenset({"div", "tr", "caption", "summary", "thead", "tbody", "li"})
_SPACE = re.compile("[ \t\r\n\f]+")
_PILL = re.compile(r"https?://matrix\.to/", re.IGNORECASE)
_LANGUAGE = re.compile(r"language-([\w+#.-]{1,40})")


def sanitise(html: str) -> str:
    """What is left of untrusted HTML by the allow-list of the specification."""
    return nh3.clean(
        html,
        tags=set(_TAGS),
        clean_content_tags=set(_DROPPED_WHOLE),
        attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        attribute_filter=_keep_attribute,
        url_schemes=set(_LINK_SCHEMES) | {"mxc"},
        url_relative="deny",
        link_rel=None,
    )


def _keep_attribute(tag: str, name: str, value: str) -> str | None:
    if (tag, name) == ("img", "src"):
        return value if value.startswith("mxc://") else None
    if (tag, name) == ("a", "href"):
        return None if value.strip().lower().startswith("mxc:") else value
    if name == "class":
        return " ".join(c for c in value.split() if _LANGUAGE.fullmatch(c)) or None
    return value


def from_html(html: str) -> Document:
    """Reads sanitised HTML."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return _Builder().build(reader.root.children, frozenset())


def to_html(document: Document) -> str:
    """Writes HTML that `sanitise` leaves alone; a single paragraph stands without `<p>`."""
    if len(document) == 1 and isinstance(document[0], Paragraph):
        return _inline(nest(document[0].runs))
    return "".join(_block(block) for block in document)


def _block(block: Block) -> str:
    match block:
        case Paragraph(runs):
            return f"<p>{_inline(nest(runs))}</p>"
        case Quote(blocks):
            return f"<blockquote>{to_html(blocks)}</blockquote>"
        case Preformatted(text, language):
            attribute = f' class="language-{escape(language)}"' if language else ""
            return f"<pre><code{attribute}>{escape(text, quote=False)}</code></pre>"
        case Listing(items, ordered, start):
            inner = "".join(f"<li>{to_html(item)}</li>" for item in items)
            if not ordered:
                return f"<ul>{inner}</ul>"
            return f'<ol start="{start}">{inner}</ol>' if start != 1 else f"<ol>{inner}</ol>"


def _inline(nodes: Sequence[str | Nested]) -> str:
    out: list[str] = []
    for node in nodes:
        if isinstance(node, str):
            out.append(escape(node, quote=False).replace("\n", "<br>"))
            continue
        inner = _inline(node.children)
        match node.mark:
            case Mark("link", url):
                out.append(f'<a href="{escape(url)}">{inner}</a>')
            case Mark("spoiler", reason):
                out.append(f'<span data-mx-spoiler="{escape(reason)}">{inner}</span>')
            case Mark(name, _):
                out.append(f"<{_TAG_OF[name]}>{inner}</{_TAG_OF[name]}>")
    return "".join(out)


@dataclass(slots=True)
class _Node:
    tag: str
    attributes: dict[str, str]
    children: list[str | _Node] = field(default_factory=list)

    def text(self) -> str:
        return "".join(
            c if isinstance(c, str) else "\n" if c.tag == "br" else c.text() for c in self.children
        )


class _Reader(HTMLParser):
    """Tags to a tree. The input is balanced, nh3 wrote it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = _Node("", {})
        self._open = [self.root]
        self._too_deep: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._too_deep or len(self._open) > MAX_DEPTH:
            if tag not in _VOID:
                self._too_deep.append(tag)
            return
        node = _Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(node)
        if tag not in _VOID:
            self._open.append(node)

    def handle_endtag(self, tag: str) -> None:
        if self._too_deep:
            if self._too_deep[-1] == tag:
                self._too_deep.pop()
        elif self._open[-1].tag == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


class _Builder:
    """One level of blocks: its finished blocks and the runs of the paragraph at hand."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._runs: list[Run] = []

    def build(self, children: Sequence[str | _Node], marks: frozenset[Mark]) -> Document:
        self._walk(children, marks)
        self._end_paragraph()
        return tuple(self._blocks)

    def _walk(self, children: Sequence[str | _Node], marks: frozenset[Mark]) -> None:
        for child in children:
            if isinstance(child, str):
                self._runs.append(Run(_SPACE.sub(" ", child), marks))
            elif child.tag in ("blockquote", "pre", "ul", "ol", "hr"):
                self._end_paragraph()
                self._add_block(child, marks)
            elif child.tag in _PARAGRAPHS:
                self._end_paragraph()
                self._walk_marked(child, marks)
                self._end_paragraph()
            elif child.tag in _LINES:
                self._end_line()
                self._walk_marked(child, marks)
                self._end_line()
            elif child.tag in ("td", "th"):
                if self._runs and not self._runs[-1].text.endswith("\n"):
                    self._runs.append(Run(" | "))
                self._walk(child.children, marks)
            elif child.tag == "br":
                self._runs.append(Run("\n"))
            elif child.tag == "img":
                about = child.attributes.get("alt") or child.attributes.get("title") or "[image]"
                self._runs.append(Run(_SPACE.sub(" ", about), marks))
            else:
                self._walk_marked(child, marks)

    def _walk_marked(self, node: _Node, marks: frozenset[Mark]) -> None:
        """What only changes the look. Inside a link or spoiler the outer one rules."""
        maths = node.attributes.get("data-mx-maths")
        if maths:
            self._runs.append(Run(maths, marks))
            return
        mark: Mark | None = None
        href = node.attributes.get("href", "")
        if node.tag in _MARKS:
            mark = Mark(_MARKS[node.tag])
        elif node.tag == "a" and href and not _PILL.match(href):
            mark = Mark("link", href)
        elif node.tag == "span" and "data-mx-spoiler" in node.attributes:
            mark = Mark("spoiler", node.attributes["data-mx-spoiler"])
        if mark and not any(mark.name == other.name for other in marks):
            marks |= {mark}
        self._walk(node.children, marks)

    def _add_block(self, node: _Node, marks: frozenset[Mark]) -> None:
        if node.tag == "hr":
            self._blocks.append(Paragraph((Run("---"),)))
        elif node.tag == "pre":
            text = node.text().removesuffix("\n")
            classes = [c.attributes.get("class", "") for c in node.children if isinstance(c, _Node)]
            language = next((m[1] for c in classes if (m := _LANGUAGE.match(c))), "")
            if text:
                self._blocks.append(Preformatted(text, language))
        elif node.tag == "blockquote":
            if inner := _Builder().build(node.children, marks):
                self._blocks.append(Quote(inner))
        else:
            built = (
                _Builder().build(child.children if child.tag == "li" else [child], marks)
                for child in node.children
                if isinstance(child, _Node)
            )
            if items := tuple(item for item in built if item):
                start = node.attributes.get("start", "1")
                number = int(start) if re.fullmatch("[0-9]{1,9}", start) else 1
                ordered = node.tag == "ol"
                self._blocks.append(Listing(items, ordered, number if ordered else 1))

    def _end_line(self) -> None:
        if self._runs and not self._runs[-1].text.endswith("\n"):
            self._runs.append(Run("\n"))

    def _end_paragraph(self) -> None:
        if runs := _tidy(self._runs):
            self._blocks.append(Paragraph(runs))
        self._runs = []


def _tidy(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Spaces collapsed over borders of runs, none beside a line break, no empty lines outside."""
    out: list[Run] = []
    last = "\n"
    for run in runs:
        text = run.text[1:] if run.text.startswith(" ") and last in " \n" else run.text
        if not text:
            continue
        if text.startswith("\n"):
            _strip_end(out, " ")
        out.append(Run(text, run.marks))
        last = text[-1]
    _strip_end(out, " \n")
    while out and not out[0].text.lstrip("\n"):
        del out[0]
    if out:
        out[0] = Run(out[0].text.lstrip("\n"), out[0].marks)
    return merge(out)


def _strip_end(runs: list[Run], chars: str) -> None:
    while runs:
        text = runs[-1].text.rstrip(chars)
        if text:
            runs[-1] = Run(text, runs[-1].marks)
            return
        del runs[-1]
