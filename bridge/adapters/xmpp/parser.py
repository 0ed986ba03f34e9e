"""The XML of a stream: bytes in, one element out for each child of the root.

A big foreign chat sends each of its messages once for every guest of ours, so the way of a stanza
that nobody wants must be short: `drops` is asked at its start tag, and what stands inside is only
counted until it ends. So is the content of a child that is too deep or too big; it comes out empty
then, and the stream goes on. What is kept of an unfinished child is bounded, however it is made.
Comments and processing instructions are passed over, a DOCTYPE ends the stream.
Spec: RFC 6120, 11.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal
from xml.etree import ElementTree as ET
from xml.parsers import expat

from bridge.adapters.xmpp.namespaces import CLIENT, COMPONENT
from bridge.errors import BadInput

Flaw = Literal["too-big", "too-deep"]

READ_BYTES: Final = 2**18
"""What asyncio reads at once."""
_STANZAS: Final = {
    f"{namespace}}}{kind}": kind
    for namespace in (COMPONENT, CLIENT)
    for kind in ("message", "presence", "iq")
}


class NotWellFormed(BadInput):
    """What came is no XML, or XML that a stream may not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvents:
    """Called while bytes are fed, in the order of the stream."""

    on_open: Callable[[Mapping[str, str]], None]
    """With the attributes of the root."""
    drops: Callable[[str, str, str, str], bool]
    """Of a stanza: its kind, from, to and type, empty where it has none. True: it is unwanted."""
    on_child: Callable[[ET.Element, Flaw | None], None]
    """A stanza is in the component's namespace always. With a flaw it has attributes only."""
    on_end: Callable[[], None]


class StreamParser:
    """Of one stream. Its handlers are one of three sets: outside of a child, building one, or
    skipping the rest of one."""

    def __init__(self, *, events: StreamEvents, max_bytes: int, max_depth: int) -> None:
        self._events = events
        self._max_bytes = max_bytes
        self._max_depth = max_depth
        # Names come from outside, without end: the parser may not remember them for us.
        self._expat = expat.ParserCreate(None, "}", None)
        self._expat.StartDoctypeDeclHandler = _refuse_doctype
        self._fed = 0
        self._begin = 0
        """Where the child in hand begins, in bytes of the stream."""
        self._depth = 0
        self._builder = ET.TreeBuilder()
        self._child: ET.Element | None = None
        """The one in hand; None outside, and while a dropped one is skipped."""
        self._is_building = False
        self._flaw: Flaw | None = None
        self._listen_outside()

    def feed(self, data: bytes) -> None:
        """NotWellFormed: nothing more can be read."""
        self._fed += len(data)
        try:
            self._expat.Parse(data)
        except expat.ExpatError as exc:
            raise NotWellFormed(str(exc)) from exc
        # Its size is not known exactly before its end; far beyond what is allowed it is let go.
        if self._is_building and self._fed - self._begin > 2 * self._max_bytes + READ_BYTES:
            self._empty("too-big")

    def stop(self) -> None:
        """Nothing is called any more, in the middle of what is being fed either."""
        self._expat.StartElementHandler = None
        self._expat.EndElementHandler = None
        self._expat.CharacterDataHandler = None

    # --- outside --------------------------------------------------------------------------------

    def _listen_outside(self) -> None:
        self._expat.StartElementHandler = self._on_start
        self._expat.EndElementHandler = self._on_end
        self._expat.CharacterDataHandler = None

    def _on_start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self._events.on_open(attributes)
            return
        kind = _STANZAS.get(name)
        if kind is not None:
            get = attributes.get
            if self._events.drops(kind, get("from", ""), get("to", ""), get("type", "")):
                self._skip()
                return
            name = f"{COMPONENT}}}{kind}"
        self._begin = self._expat.CurrentByteIndex
        self._builder = ET.TreeBuilder()
        self._child = self._builder.start(_to_tag(name), _to_names(attributes))
        self._is_building = True
        self._expat.StartElementHandler = self._on_inner_start
        self._expat.EndElementHandler = self._on_inner_end
        self._expat.CharacterDataHandler = self._builder.data
        self._check_depth()

    def _on_end(self, name: str) -> None:
        self._depth -= 1
        self._events.on_end()

    # --- building -------------------------------------------------------------------------------

    def _on_inner_start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._builder.start(_to_tag(name), _to_names(attributes))
        self._check_depth()

    def _on_inner_end(self, name: str) -> None:
        self._depth -= 1
        self._builder.end(_to_tag(name))
        if self._depth == 1:
            size = self._expat.CurrentByteIndex - self._begin
            if self._child is not None and size > self._max_bytes < _size(self._child):
                self._empty("too-big")
            self._finish()

    def _check_depth(self) -> None:
        if self._depth > self._max_depth + 1:
            self._empty("too-deep")

    def _empty(self, flaw: Flaw) -> None:
        if self._child is not None:
            self._child = ET.Element(self._child.tag, self._child.attrib)
            self._flaw = flaw
        self._skip()

    # --- skipping -------------------------------------------------------------------------------

    def _skip(self) -> None:
        self._is_building = False
        self._builder = ET.TreeBuilder()
        self._expat.StartElementHandler = self._on_skipped_start
        self._expat.EndElementHandler = self._on_skipped_end
        self._expat.CharacterDataHandler = None

    def _on_skipped_start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1

    def _on_skipped_end(self, name: str) -> None:
        self._depth -= 1
        if self._depth == 1:
            self._finish()

    def _finish(self) -> None:
        child, flaw = self._child, self._flaw
        self._child = self._flaw = None
        self._is_building = False
        self._listen_outside()
        if child is not None:
            self._events.on_child(child, flaw)


def _refuse_doctype(name: str, system: str | None, public: str | None, internal: bool) -> None:
    raise NotWellFormed("a DOCTYPE in a stream")


@lru_cache(maxsize=1024)
def _to_tag(name: str) -> str:
    """As ElementTree writes a name in a namespace."""
    return "{" + name if "}" in name else name


def _to_names(attributes: dict[str, str]) -> dict[str, str]:
    if any("}" in name for name in attributes):
        return {_to_tag(name): value for name, value in attributes.items()}
    return attributes


def _size(xml: ET.Element) -> int:
    """UTF-8 size of names, attributes and text: what a stanza weighs without its punctuation."""
    total = 0
    for node in xml.iter():
        total += 2 * len(node.tag.rpartition("}")[2]) + 5
        total += sum(len(k) + len(v.encode()) + 4 for k, v in node.attrib.items())
        total += len((node.text or "").encode()) + len((node.tail or "").encode())
    return total
