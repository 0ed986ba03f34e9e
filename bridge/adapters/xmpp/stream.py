"""slixmpp's component stream with every opinion taken out: bytes in, raw elements out.

`ComponentXMPP` gives the stream header, the digest of the handshake and the serialiser. What it
would do beyond that never runs: `data_received` is ours, so no stanza object is built, no handler
or event of the library fires (its roster would answer probes with `unsubscribed`), and nothing
passes through its unbounded send queue, which outlives a connection. One `Stream` lives as long as
one TCP connection. Spec: XEP-0114, 3.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast
from xml.etree import ElementTree as ET

from slixmpp.componentxmpp import ComponentXMPP
from slixmpp.xmlstream import tostring

from bridge.adapters.xmpp.namespaces import CLIENT, COMPONENT, STREAM_ERRORS, STREAMS

Flaw = Literal["too-big", "too-deep"]

_READ_BYTES = 2**18
"""What asyncio reads at once."""
_STANZAS = frozenset({"message", "presence", "iq"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A stanza as it came, in the component's namespace. With a flaw its content is gone."""

    element: ET.Element
    flaw: Flaw | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Why a stream ended. `condition` is that of the stream error, empty where there was none.

    `is_polite`: the server ended its stream before it closed, as it does when it shuts down.
    """

    condition: str
    text: str
    is_polite: bool = False


class Stream(ComponentXMPP):
    """One connection. `authenticated` and `closed` are set once each."""

    def __init__(
        self,
        *,
        domain: str,
        secret: str,
        max_bytes: int,
        max_depth: int,
        on_stanza: Callable[[Received], None],
    ) -> None:
        initialise: Any = super().__init__  # not annotated there
        initialise(domain, secret)
        loop = asyncio.get_running_loop()
        self.authenticated: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[Closed] = loop.create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        self._max_bytes = max_bytes
        self._max_depth = max_depth
        self._on_stanza = on_stanza
        self._error = Closed(condition="", text="")
        self._wire: asyncio.Transport | None = None
        self._pull: ET.XMLPullParser[ET.Element] | None = None
        self._root: ET.Element | None = None
        self._depth = 0
        self._flaw: Flaw | None = None
        # An upper bound of what the stanza in hand weighs; reads do not end where stanzas do.
        self._pending_bytes = 0
        self._has_ended = False

    # --- asyncio's protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport, send_event: bool = True) -> None:
        self._wire = cast(asyncio.Transport, transport)
        self._pull = ET.XMLPullParser(("start", "end"))
        self._wire.write(str(self.stream_header).encode())

    def connection_lost(self, exception: BaseException | None) -> None:
        self._wire = None
        self.writable.set()
        if not self.closed.done():
            if exception is not None and not self._error.text:
                self._error = Closed(condition=self._error.condition, text=str(exception))
            self.closed.set_result(self._error)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def eof_received(self) -> None:
        """None: the transport closes itself."""

    def data_received(self, data: bytes | str) -> None:
        if self._pull is None:
            return
        self._pending_bytes += len(data)
        self._has_ended = False
        try:
            self._pull.feed(data)
            for event, xml in cast(Iterator[tuple[str, ET.Element]], self._pull.read_events()):
                if event == "start":
                    self._on_start(xml)
                else:
                    self._on_end(xml)
                if self.is_closed:
                    return
        except ET.ParseError as exc:
            self._close(Closed(condition="not-well-formed", text=f"what the server sent: {exc}"))
            return
        if self._has_ended:
            self._pending_bytes = len(data) if self._depth > 1 else 0

    # --- the XML stream -------------------------------------------------------------------------

    def _on_start(self, xml: ET.Element) -> None:
        if self._depth == 0:
            self._root = xml
            digest = hashlib.sha1(f"{xml.get('id', '')}{self.secret}".encode())
            self.write(f"<handshake>{digest.hexdigest()}</handshake>")
        self._depth += 1
        if self._depth > self._max_depth + 1:
            self._flaw = "too-deep"

    def _on_end(self, xml: ET.Element) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._close(replace(self._error, is_polite=True))
        elif self._depth == 1:
            self._has_ended = True
            flaw, self._flaw = self._flaw, None
            self._on_child(xml, flaw)
            if self._root is not None:
                self._root.clear()
        elif self._depth > self._max_depth:
            xml.clear()
        elif self._pending_bytes > 2 * self._max_bytes + _READ_BYTES:
            self._flaw = self._flaw or "too-big"
            xml.clear()

    def _on_child(self, xml: ET.Element, flaw: Flaw | None) -> None:
        namespace, _, name = xml.tag.removeprefix("{").rpartition("}")
        if namespace in (COMPONENT, CLIENT) and name in _STANZAS:
            xml.tag = f"{{{COMPONENT}}}{name}"
            if flaw is None and self._pending_bytes > self._max_bytes:
                flaw = "too-big" if _size(xml) > self._max_bytes else None
            if flaw is not None:
                for child in list(xml):
                    xml.remove(child)
            self._on_stanza(Received(element=xml, flaw=flaw))
        elif namespace == COMPONENT and name == "handshake":
            if not self.authenticated.done():
                self.authenticated.set_result(None)
        elif namespace == STREAMS and name == "error":
            conditions = [
                c.tag.rpartition("}")[2] for c in xml if c.tag.rpartition("}")[2] != "text"
            ]
            text = xml.findtext(f"{{{STREAM_ERRORS}}}text") or ""
            self._error = Closed(condition=conditions[0] if conditions else "", text=text)

    def _close(self, why: Closed) -> None:
        self._error = why
        self._pull = None
        if self._wire is not None:
            self._wire.close()

    @property
    def is_closed(self) -> bool:
        return self._pull is None

    # --- what the connection does with it -------------------------------------------------------

    def write(self, text: str) -> bool:
        """False: the connection is gone."""
        if self._wire is None or self._wire.is_closing():
            return False
        self._wire.write(text.encode())
        return True

    def pause_reading(self) -> None:
        if self._wire is not None and self._wire.is_reading():
            self._wire.pause_reading()

    def resume_reading(self) -> None:
        if self._wire is not None and not self._wire.is_closing():
            self._wire.resume_reading()

    def end(self) -> None:
        """Closes politely; the server's own end is not awaited."""
        if self.write(str(self.stream_footer)) and self._wire is not None:
            self._wire.close()

    def kill(self) -> None:
        if self._wire is not None:
            self._wire.abort()


def serialise(element: ET.Element) -> str:
    """A stanza as text for the stream, namespaces declared where they change."""
    return str(tostring(element, xmlns=COMPONENT))


def _size(xml: ET.Element) -> int:
    """UTF-8 size of names, attributes and text: what a stanza weighs without its punctuation."""
    total = 0
    for node in xml.iter():
        total += 2 * len(node.tag.rpartition("}")[2]) + 5
        total += sum(len(k) + len(v.encode()) + 4 for k, v in node.attrib.items())
        total += len((node.text or "").encode()) + len((node.tail or "").encode())
    return total
