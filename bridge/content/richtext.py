"""Formatted text as a value: blocks, and in them flat runs of text with their marks.

The middle of every conversion of markup: HTML (`content.html`) and each network's own syntax are
read into a `Document` and written from one. Flat runs need no nesting rules; `nest` finds the
nesting that a writer of tags or delimiters needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

MarkName = Literal["strong", "emphasis", "deleted", "code", "link", "spoiler"]


class Mark(NamedTuple):
    """`value`: the URL of a link, the reason of a spoiler."""

    name: MarkName
    value: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Text of one look. A line feed is a line break."""

    text: str
    marks: frozenset[Mark] = frozenset()


@dataclass(frozen=True, slots=True)
class Nested:
    """A mark over what it encloses."""

    mark: Mark
    children: tuple[str | Nested, ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Quote:
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Preformatted:
    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    items: tuple[tuple[Block, ...], ...]
    ordered: bool = False
    start: int = 1


Block = Paragraph | Quote | Preformatted | Listing
Document = tuple[Block, ...]


def merge(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Neighbours of one look joined, empty runs dropped."""
    out: list[Run] = []
    for run in runs:
        if out and out[-1].marks == run.marks:
            out[-1] = Run(out[-1].text + run.text, run.marks)
        elif run.text:
            out.append(run)
    return tuple(out)


def split_lines(runs: Sequence[Run]) -> tuple[tuple[Run, ...], ...]:
    """The runs of each line, without the line breaks."""
    lines: list[list[Run]] = [[]]
    for run in runs:
        first, *more = run.text.split("\n")
        lines[-1].append(replace(run, text=first))
        lines.extend([replace(run, text=text)] for text in more)
    return tuple(merge(line) for line in lines)


def nest(runs: Sequence[Run]) -> tuple[str | Nested, ...]:
    """Marks as a tree: at each place the one that reaches furthest stands outside."""
    out: list[str | Nested] = []
    at = 0
    while at < len(runs):
        if not runs[at].marks:
            out.append(runs[at].text)
            at += 1
            continue
        end, mark = max((_reach(runs, at, mark), mark) for mark in runs[at].marks)
        inner = tuple(replace(run, marks=run.marks - {mark}) for run in runs[at:end])
        out.append(Nested(mark, nest(inner)))
        at = end
    return tuple(out)


def _reach(runs: Sequence[Run], at: int, mark: Mark) -> int:
    while at < len(runs) and mark in runs[at].marks:
        at += 1
    return at


def iter_runs(document: Document) -> Iterator[Run]:
    """Every run of every paragraph, in order."""
    for block in document:
        match block:
            case Paragraph(runs):
                yield from runs
            case Quote(blocks):
                yield from iter_runs(blocks)
            case Listing(items):
                for item in items:
                    yield from iter_runs(item)
            case Preformatted():
                pass


def is_styled(document: Document) -> bool:
    """Whether there is more to it than the text."""
    return any(not isinstance(block, Paragraph) for block in document) or any(
        run.marks for run in iter_runs(document)
    )


def spoiler_reason(document: Document) -> str | None:
    """The reason of the first spoiler (perhaps empty); None: nothing is hidden."""
    for run in iter_runs(document):
        for mark in run.marks:
            if mark.name == "spoiler":
                return mark.value
    return None


def write_lines(
    document: Document, *, line: Callable[[tuple[Run, ...]], str], fence: str = ""
) -> str:
    """Plain lines with `> ` before quotes and markers before list items.

    `line` writes one line of a paragraph; `fence` goes around preformatted text.
    """
    out: list[str] = []
    before: Block | None = None
    for block in document:
        if (
            before is not None
            and (type(block) is type(before) or isinstance(block, Listing | Paragraph))
            and not (isinstance(before, Paragraph) and isinstance(block, Listing))
        ):
            out.append("")
        out.extend(_block_lines(block, line, fence))
        before = block
    return "\n".join(out)


def _block_lines(block: Block, line: Callable[[tuple[Run, ...]], str], fence: str) -> Iterator[str]:
    match block:
        case Paragraph(runs):
            yield from (line(part) for part in split_lines(runs))
        case Preformatted(text, language):
            lines = text.split("\n")
            fence = "" if fence in lines else fence
            if fence:
                yield fence + language
            yield from lines
            if fence:
                yield fence
        case Quote(blocks):
            text = write_lines(blocks, line=line, fence=fence)
            yield from (f"> {part}".rstrip(" ") for part in text.split("\n"))
        case Listing(items, ordered, start):
            for number, item in enumerate(items, start):
                marker = f"{number}. " if ordered else "- "
                text = write_lines(item, line=line, fence=fence)
                for at, part in enumerate(text.split("\n")):
                    yield (marker if at == 0 else " " * len(marker)) + part


def link_text(text: str, url: str) -> str:
    """How a link reads where there are no links: `text (url)`, or the URL alone."""
    bare = url.partition("://")[2] or url.partition(":")[2]
    if text.strip() in ("", url, bare, bare.rstrip("/")):
        return url
    return f"{text} ({url})"


def to_plain(document: Document) -> str:
    """The text without any markup; what a spoiler hides stays hidden."""
    return write_lines(document, line=lambda runs: _plain(nest(runs)))


def _plain(nodes: Sequence[str | Nested]) -> str:
    out: list[str] = []
    for node in nodes:
        if isinstance(node, str):
            out.append(node)
        elif node.mark.name == "spoiler":
            out.append(f"[Spoiler: {node.mark.value}]" if node.mark.value else "[Spoiler]")
        elif node.mark.name == "link":
            out.append(link_text(_plain(node.children), node.mark.value))
        else:
            out.append(_plain(node.children))
    return "".join(out)
