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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast
from xml.etree import ElementTree as ET

from slixmpp.componentxmpp import ComponentXMPP
from slixmpp.xmlstream import tostring

from bridge.adapters.xmpp.namespaces import COMPONENT, STREAM_ERRORS, STREAMS
from bridge.adapters.xmpp.parser import Flaw, NotWellFormed, StreamEvents, StreamParser

_HANDSHAKE = f"{{{COMPONENT}}}handshake"
_ERROR = f"{{{STREAMS}}}error"
_STANZAS = frozenset(f"{{{COMPONENT}}}{kind}" for kind in ("message", "presence", "iq"))


def drop_none(kind: str, sender: str, to: str, type: str) -> bool:
    """Every stanza is wanted."""
    return False


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
        drops: Callable[[str, str, str, str], bool] = drop_none,
    ) -> None:
        """`drops`: as of `StreamEvents`."""
        initialise: Any = super().__init__  # not annotated there
        initialise(domain, secret)
        loop = asyncio.get_running_loop()
        self.authenticated: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[Closed] = loop.create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        events = StreamEvents(
            on_open=self._on_open, drops=drops, on_child=self._on_child, on_end=self._on_end
        )
        self._xml: StreamParser | None = None
        self._new_xml = partial(
            StreamParser, events=events, max_bytes=max_bytes, max_depth=max_depth
        )
        self._on_stanza = on_stanza
        self._error = Closed(condition="", text="")
        self._wire: asyncio.Transport | None = None

    # --- asyncio's protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport, send_event: bool = True) -> None:
        self._wire = cast(asyncio.Transport, transport)
        self._xml = self._new_xml()
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
        if self._xml is None:
            return
        try:
            self._xml.feed(data.encode() if isinstance(data, str) else data)
        except NotWellFormed as exc:
            if not self.is_closed:  # what follows the end of a stream is nobody's
                text = f"what the server sent: {exc.reason}"
                self._close(Closed(condition="not-well-formed", text=text))

    # --- the XML stream -------------------------------------------------------------------------

    def _on_open(self, attributes: Mapping[str, str]) -> None:
        digest = hashlib.sha1(f"{attributes.get('id', '')}{self.secret}".encode())
        self.write(f"<handshake>{digest.hexdigest()}</handshake>")

    def _on_end(self) -> None:
        self._close(replace(self._error, is_polite=True))

    def _on_child(self, xml: ET.Element, flaw: Flaw | None) -> None:
        if xml.tag in _STANZAS:
            self._on_stanza(Received(element=xml, flaw=flaw))
        elif xml.tag == _HANDSHAKE:
            if not self.authenticated.done():
                self.authenticated.set_result(None)
        elif xml.tag == _ERROR:
            conditions = [
                c.tag.rpartition("}")[2] for c in xml if c.tag.rpartition("}")[2] != "text"
            ]
            text = xml.findtext(f"{{{STREAM_ERRORS}}}text") or ""
            self._error = Closed(condition=conditions[0] if conditions else "", text=text)

    def _close(self, why: Closed) -> None:
        self._error = why
        if self._xml is not None:
            self._xml.stop()
            self._xml = None
        if self._wire is not None:
            self._wire.close()

    @property
    def is_closed(self) -> bool:
        return self._xml is None

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
