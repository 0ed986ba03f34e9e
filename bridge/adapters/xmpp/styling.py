"""XMPP's text markup and the neutral message, both ways.

Out: the body with XEP-0393 delimiters, which today's clients show. Each line is parsed again by our
own parser; where delimiters would not give back what was meant (in the middle of a word, around
the same character), literal ones get a word joiner before them, or the line goes without.
In: XEP-0394 where the stanza has it, nothing with `<unstyled/>`, else XEP-0393. The plain text
keeps the delimiters. `/me` is XEP-0245, hiding XEP-0382.
Spec: XEP-0393, 5; XEP-0394, 4; CONTENT 2, 3, 11 to 13.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from bridge.adapters.xmpp.xmltext import xml_text
from bridge.content.html import from_html, to_html
from bridge.content.model import Message
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
    is_styled,
    link_text,
    merge,
    nest,
    spoiler_reason,
    write_lines,
)

MAX_QUOTE_DEPTH = 20
MAX_MARKUP = 500
MAX_SPANS = 500
"""Of a body that may begin; with more it is a plain text. Reading and writing cost 0.2 ms each."""
MAX_TAGS = 2000
"""The same for HTML on its way out."""
_FENCE = "```"
_JOINER = "\u2060"
_ME = "/me "
_DIRECTIVES: dict[str, MarkName] = {
    "*": "strong",
    "_": "emphasis",
    "~": "deleted",
    "`": "code",
}
_DELIMITERS: dict[MarkName, str] = {name: char for char, name in _DIRECTIVES.items()}
_SPAN_STYLES: dict[str, MarkName] = {
    "strong": "strong",
    "emphasis": "emphasis",
    "deleted": "deleted",
    "code": "code",
}
_LANGUAGE = re.compile(r"[\w+#.-]{1,40}")
_CAN_OPEN = re.compile(r"(?:(?<=^)|(?<=[\s*_~`]))([*_~`])")
_ITEM_MARK = re.compile(r"[ \t]*(?:[-*+•‣]|[0-9]{1,9}[.)])[ \t]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The text of `<body/>`, whether `<unstyled/>` goes with it, and the hint of `<spoiler/>`."""

    text: str
    unstyled: bool
    spoiler: str | None = None
    url: str | None = None
    """Of a file that the message shares."""


class Markup(NamedTuple):
    """One child of XEP-0394's `<markup/>`: span, bcode, bquote or list. Offsets are code points."""

    name: str
    start: int
    end: int
    styles: tuple[str, ...] = ()
    language: str = ""
    ordered: bool = False
    items: tuple[int, ...] = ()


def to_body(message: Message) -> Body:
    """The stanza's side of a message; never empty, only characters that XML can carry."""
    text, unstyled, spoiler = message.text, True, None
    if message.html is not None and message.html.count("<") > MAX_TAGS:
        spoiler = "" if "data-mx-spoiler" in message.html else None
    elif message.html is not None:
        document = from_html(message.html)
        spoiler = spoiler_reason(document)
        if from_html(to_html(parse(text))) == document:
            unstyled = False  # written on this side: the body as it was
        elif written := write(document):
            text, unstyled = written, not _is_expressible(document)
    if message.kind == "emote":
        text = _ME + text
    elif text.startswith(_ME):
        text = _JOINER + text
    url = None if message.file is None or message.file.url is None else xml_text(message.file.url)
    return Body(text=xml_text(text), unstyled=unstyled, spoiler=spoiler, url=url)


def from_body(
    body: str,
    *,
    markup: Sequence[Markup] | None = None,
    unstyled: bool = False,
    spoiler: str | None = None,
    language: str | None = None,
    is_notice: bool = False,
) -> Message | None:
    """The message in a body whose fallback ranges are cut out already; None for a blank one."""
    if not body.strip():
        return None
    shift = 0
    is_emote = body.startswith(_ME) and bool(body[len(_ME) :].strip())
    if is_emote:
        shift = len(_ME)
    elif body.startswith(_JOINER + _ME):
        shift = len(_JOINER)
    text = body[shift:]
    if markup is not None:
        moved = (
            m._replace(
                start=max(m.start - shift, 0),
                end=m.end - shift,
                items=tuple(max(item - shift, 0) for item in m.items),
            )
            for m in markup
        )
        document = from_markup(text, tuple(moved))
    else:
        is_plain = unstyled or _is_overloaded(text)
        document = (Paragraph((Run(text),)),) if is_plain else parse(text)
    if spoiler is not None:
        document = _hide(document, text, spoiler)
        text = f"[Spoiler: {spoiler}]" if spoiler else "[Spoiler]"
    return Message(
        kind="emote" if is_emote else "notice" if is_notice else "text",
        text=text,
        html=to_html(document) if is_styled(document) else None,
        language=language,
    )


def _is_overloaded(text: str) -> bool:
    return next(islice(_CAN_OPEN.finditer(text), MAX_SPANS, None), None) is not None


def _hide(document: Document, text: str, reason: str) -> Document:
    mark = Mark("spoiler", reason)
    runs: list[Run] = []
    for block in document:
        if not isinstance(block, Paragraph):
            return (Paragraph((Run(text, frozenset({mark})),)),)
        runs.extend(Run(run.text, run.marks | {mark}) for run in block.runs)
    return (Paragraph(tuple(runs)),)


# --- XEP-0393, reading -----------------------------------------------------------------------


def parse(body: str) -> Document:
    """Blocks and spans of message styling. Spec: XEP-0393, 5."""
    return _parse_blocks(body.replace("\r\n", "\n").split("\n"), depth=0)


def _parse_blocks(lines: Sequence[str], *, depth: int) -> Document:
    blocks: list[Block] = []
    plain: list[Run] = []

    def end_plain() -> None:
        if plain:
            blocks.append(Paragraph(merge(plain[:-1])))  # without the last line's break
            plain.clear()

    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith(_FENCE):
            end_plain()
            end = next((n for n in range(at + 1, len(lines)) if lines[n] == _FENCE), len(lines))
            named = line.removeprefix(_FENCE).strip()
            language = named if _LANGUAGE.fullmatch(named) else ""
            blocks.append(Preformatted("\n".join(lines[at + 1 : end]), language))
            at = end + 1
        elif line.startswith(">") and depth < MAX_QUOTE_DEPTH:
            end_plain()
            end = at
            while end < len(lines) and lines[end].startswith(">"):
                end += 1
            inner = [_trim_quoted(quoted) for quoted in lines[at:end]]
            blocks.append(Quote(_parse_blocks(inner, depth=depth + 1)))
            at = end
        else:
            plain.extend((*_parse_spans(line), Run("\n")))
            at += 1
    end_plain()
    return tuple(block for block in blocks if block not in (Paragraph(()), Quote(())))


def _trim_quoted(line: str) -> str:
    rest = line[1:]
    return rest[1:] if rest[:1].isspace() else rest


def _parse_spans(line: str) -> tuple[Run, ...]:
    return merge(tuple(_spans(line, frozenset())))


def _spans(text: str, marks: frozenset[Mark]) -> Iterator[Run]:
    """Lazily matched from the start. What holds no closing directive once holds none later."""
    hopeless: set[str] = set()
    plain = at = 0
    while at < len(text):
        char = text[at]
        if (
            char not in _DIRECTIVES
            or char in hopeless
            or not (at == 0 or text[at - 1].isspace())
            or at + 1 >= len(text)
            or text[at + 1].isspace()
        ):
            at += 1
            continue
        end = text.find(char, at + 1)
        if end == at + 1:  # nothing between: neither is valid
            at = end + 1
            continue
        while end > 0 and text[end - 1].isspace():
            end = text.find(char, end + 1)
        if end < 0:
            hopeless.add(char)
            at += 1
            continue
        yield Run(text[plain:at], marks)
        inner, style = text[at + 1 : end], marks | {Mark(_DIRECTIVES[char])}
        if char == "`":
            yield Run(inner, style)
        else:
            yield from _spans(inner, style)
        plain = at = end + 1
    yield Run(text[plain:], marks)


# --- XEP-0393, writing -----------------------------------------------------------------------


def write(document: Document) -> str:
    """The body with delimiters where they say anything, for `<unstyled/>` where they do not.

    A spoiler's text stands open: XEP-0382 hides the whole.
    """
    if not _is_expressible(document):
        return write_lines(document, line=lambda runs: "".join(r.text for r in _visible(runs)))
    return write_lines(document, line=_write_line, fence=_FENCE)


def _is_expressible(document: Document) -> bool:
    """Whether anything in it has a form in XEP-0393."""
    for block in document:
        match block:
            case Quote() | Preformatted():
                return True
            case Listing(items) if any(_is_expressible(item) for item in items):
                return True
            case Paragraph(runs) if any(m.name in _DELIMITERS for r in runs for m in r.marks):
                return True
    return False


def _write_line(runs: tuple[Run, ...]) -> str:
    wanted = _visible(runs)
    plain = "".join(run.text for run in wanted)
    for look in (wanted, _reachable(wanted), merge([Run(plain)])):
        for joiner in ("", _JOINER):
            written = _joined(_delimited(nest(_hoisted(_guarded(look, joiner)))), joiner)
            if not _starts_block(written) and _same_look(_parse_spans(written), look):
                return written
    return _JOINER + plain  # cannot be reached: guarded plain text opens nothing


def _visible(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Links spelt out, and only the marks that XEP-0393 has; inside code nothing else."""
    out: list[Run] = []
    at = 0
    while at < len(runs):
        link = next((mark for mark in runs[at].marks if mark.name == "link"), None)
        end = at + 1
        while link and end < len(runs) and link in runs[end].marks:
            end += 1
        part = list(runs[at:end])
        if link:
            text = "".join(run.text for run in part)
            shown = link_text(text, link.value)
            if shown.startswith(text):
                part.append(Run(shown[len(text) :]))
            else:
                part = [Run(shown)]
        out.extend(
            Run(run.text, frozenset(m for m in run.marks if m.name in _DELIMITERS)) for run in part
        )
        at = end
    return merge(out)


def _reachable(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Without the marks that begin inside a word, where no directive can open."""
    out: list[Run] = []
    for at, run in enumerate(runs):
        inside = at > 0 and not runs[at - 1].text[-1:].isspace() and not run.text[:1].isspace()
        out.append(Run(run.text, run.marks & out[-1].marks) if inside else run)
    return merge(out)


def _guarded(runs: tuple[Run, ...], joiner: str) -> tuple[Run, ...]:
    """Literal characters that could open a span, kept from it by a joiner before them."""
    if not joiner:
        return runs
    return tuple(
        run
        if Mark("code") in run.marks
        else Run(_CAN_OPEN.sub(joiner + r"\1", run.text), run.marks)
        for run in runs
    )


def _joined(written: str, joiner: str) -> str:
    return joiner + written if _starts_block(written) else written


def _starts_block(line: str) -> bool:
    return line.startswith((">", _FENCE))


def _hoisted(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """White space at the ends of each run loses its marks unless its neighbour shares them."""
    out: list[Run] = []
    for at, run in enumerate(runs):
        before = runs[at - 1].marks if at else frozenset()
        after = runs[at + 1].marks if at + 1 < len(runs) else frozenset()
        core = run.text.strip()
        if not core:
            out.append(Run(run.text, run.marks & before & after))
            continue
        lead = run.text[: len(run.text) - len(run.text.lstrip())]
        tail = run.text[len(run.text.rstrip()) :]
        out.extend(
            (
                Run(lead, run.marks & before),
                Run(core, run.marks),
                Run(tail, run.marks & after),
            )
        )
    return merge(out)


def _delimited(nodes: Sequence[str | Nested]) -> str:
    out: list[str] = []
    for node in nodes:
        if isinstance(node, str):
            out.append(node)
        else:
            char = _DELIMITERS[node.mark.name]
            out.append(char + _delimited(node.children) + char)
    return "".join(out)


def _same_look(parsed: Sequence[Run], wanted: Sequence[Run]) -> bool:
    """The same characters in the same look, joiners and the look of white space aside."""

    def looks(runs: Sequence[Run]) -> list[tuple[str, frozenset[Mark]]]:
        return [
            (char, run.marks)
            for run in runs
            for char in run.text
            if char != _JOINER and not char.isspace()
        ]

    return looks(parsed) == looks(wanted)


# --- XEP-0394, reading -----------------------------------------------------------------------


def from_markup(body: str, markup: Sequence[Markup]) -> Document:
    """Stand-off markup over a body. What is out of bounds or overlaps is ignored."""
    valid = [m for m in markup[:MAX_MARKUP] if 0 <= m.start < m.end <= len(body)]
    spans: list[Markup] = []
    blocks: list[Markup] = []
    for m in sorted(valid, key=lambda m: (m.start, -m.end)):
        if m.name == "span":
            if not spans or m.start >= spans[-1].end:
                spans.append(m)
        elif m.name in ("bcode", "bquote", "list") and not any(
            (b.start < m.start < b.end < m.end) or (b.start, b.end) == (m.start, m.end)
            for b in blocks
        ):
            blocks.append(m)
    return _Marked(body, spans).build(0, len(body), blocks, depth=0)


@dataclass(frozen=True, slots=True)
class _Marked:
    """A body with its spans; ranges of it become blocks."""

    body: str
    spans: Sequence[Markup]

    def build(self, start: int, end: int, blocks: Sequence[Markup], *, depth: int) -> Document:
        """`blocks` lie in the range, outer ones first; `depth` quotes surround it."""
        out: list[Block] = []
        at = start
        rest = list(blocks)
        while rest:
            block = rest.pop(0)
            inner = [b for b in rest if b.start < block.end]
            rest = rest[len(inner) :]
            out.extend(self._paragraph(at, block.start, depth))
            out.extend(self._block(block, inner, depth))
            at = block.end
        out.extend(self._paragraph(at, end, depth))
        return tuple(out)

    def _block(self, block: Markup, inner: Sequence[Markup], depth: int) -> Iterator[Block]:
        if block.name == "bcode":
            language = block.language if _LANGUAGE.fullmatch(block.language) else ""
            text = self.body[block.start : block.end].removesuffix("\n")
            if text:
                yield Preformatted(text, language)
        elif block.name == "bquote":
            deeper = min(depth + 1, MAX_QUOTE_DEPTH)
            if depth == MAX_QUOTE_DEPTH:
                yield from self._paragraph(block.start, block.end, depth)
            elif blocks := self.build(block.start, block.end, inner, depth=deeper):
                yield Quote(blocks)
        else:
            starts = sorted({block.start, *(i for i in block.items if block.start < i < block.end)})
            items: list[Document] = []
            for start, end in zip(starts, [*starts[1:], block.end], strict=True):
                marker = _ITEM_MARK.match(self.body, start, end)
                within = [b for b in inner if start <= b.start and b.end <= end]
                first = marker.end() if marker else start
                if item := self.build(
                    first, end, [b for b in within if b.start >= first], depth=depth
                ):
                    items.append(item)
            if items:
                yield Listing(tuple(items), block.ordered)

    def _paragraph(self, start: int, end: int, depth: int) -> Iterator[Block]:
        """The text of a range without quotation marks and without line ends at its borders."""
        runs: list[Run] = []
        at = start
        for line in self.body[start:end].splitlines(keepends=True):
            skipped = 0
            if depth and (at == start or self.body[at - 1] == "\n"):
                skipped = _quote_mark(line, depth)
            runs.extend(self._runs(at + skipped, at + len(line)))
            at += len(line)
        while runs and not runs[0].text.strip("\n"):
            del runs[0]
        while runs and not runs[-1].text.strip("\n"):
            del runs[-1]
        if runs:
            runs[0] = Run(runs[0].text.lstrip("\n"), runs[0].marks)
            runs[-1] = Run(runs[-1].text.rstrip("\n"), runs[-1].marks)
            yield Paragraph(merge(runs))

    def _runs(self, start: int, end: int) -> Iterator[Run]:
        at = start
        for span in self.spans:
            if span.end <= at or span.start >= end:
                continue
            yield Run(self.body[at : max(span.start, at)])
            marks = frozenset(Mark(_SPAN_STYLES[s]) for s in span.styles if s in _SPAN_STYLES)
            stop = min(span.end, end)
            yield Run(self.body[max(span.start, at) : stop], marks)
            at = stop
        yield Run(self.body[at:end])


def _quote_mark(line: str, depth: int) -> int:
    """How much of the line is quotation marks, at most one per level."""
    at = 0
    for _ in range(depth):
        if not line.startswith(">", at):
            break
        at += 1
        if line[at : at + 1] in (" ", "\t"):
            at += 1
    return at
