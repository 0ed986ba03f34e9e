"""The component's connection: kept up, checked, and honest about what has arrived.

What comes in waits in a bounded queue, unless nobody wants it (`drops`, asked at its start tag) or
somebody takes it at once (`take`). Both are asked in the order of arrival, so what one stanza
changes is known when the next one begins; they never wait.

XEP-0114 has no acknowledgements, and writing to a socket proves nothing. A *fence* does: a stanza
from our domain to itself; when it is back, the server has taken everything before it. `fenced`
runs a delivery and waits for its fence; waiters of the same moment share one.

Nothing we send may close the stream. Each stanza is checked before it is written (size, addresses,
legal characters). If the server still closes the stream twice with the same delivery in flight,
that delivery goes alone the third time, and if the stream closes again it is refused for good.

This is one of the two places where a retry loop lives: `run` reconnects with growing pauses.
Spec: XEP-0114; XEP-0225 is not used.
"""

from __future__ import annotations

import asyncio
import random as random_module
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, Protocol
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp.config import XmppSettings
from bridge.adapters.xmpp.jid import Jid, check_receiver, check_sender
from bridge.adapters.xmpp.namespaces import COMPONENT, element
from bridge.adapters.xmpp.stream import Closed, Received, Stream, drop_none, serialise
from bridge.clock import Clock
from bridge.errors import BadInput, Refused, Unavailable
from bridge.telemetry.log import get_logger

log = get_logger("xmpp")

State = Literal["connecting", "connected", "unreachable", "refused"]

# Stream errors that say something about the server or the link, not about what we sent.
_INNOCENT = frozenset(
    {"system-shutdown", "reset", "conflict", "connection-timeout", "host-gone", "see-other-host"}
)
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_SUSPICIOUS = 2
"""Closed streams after which a delivery goes alone."""
_GUILTY = 3
"""Streams without any error that a lone delivery may see closing."""
_SUSPECTS_KEPT = 1000
_CONNECT_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `isthmus run` says about the XMPP server."""

    state: State
    text: str


class StreamClosed(Unavailable):
    """The stream ended before the fence was back. `accuses`: the server gave what we sent as
    the reason, or no reason."""

    def __init__(self, reason: str, *, accuses: bool, is_explicit: bool) -> None:
        super().__init__(reason)
        self.accuses = accuses
        self.is_explicit = is_explicit


class Wire(Protocol):
    """What the parts of the adapter see of the connection."""

    async def send(self, elements: Sequence[ET.Element]) -> None:
        """Writes, in order and without others in between. Unavailable: not connected."""
        ...

    async def fenced(self, key: str, write: Callable[[], Awaitable[None]]) -> None:
        """Runs `write`, and returns when the server has taken what it sent."""
        ...


class Connection:
    """`run` keeps it up; `receive` yields what comes in and is not taken at once; `send` and
    `fenced` write."""

    def __init__(
        self,
        *,
        settings: XmppSettings,
        clock: Clock,
        random: random_module.Random,
        on_connected: Callable[[], None] = lambda: None,
        on_status: Callable[[Status], None] = lambda _: None,
        drops: Callable[[str, str, str, str], bool] = drop_none,
        take: Callable[[ET.Element], bool] = lambda _: False,
    ) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._clock = clock
        self._random = random
        self._on_connected = on_connected
        self._on_status = on_status
        self._drops = drops
        self._take = take
        self._stream: Stream | None = None
        """Where we write."""
        self._reading: Stream | None = None
        """The same, until its end even when we have said that we stop."""
        self._inbox: deque[Received] = deque()
        self._arrival = asyncio.Event()
        # A fence that an earlier process wrote may still come back: it is not ours.
        self._nonce = f"{random.getrandbits(64):016x}"
        self._fence_number = 0
        self._fences: dict[str, asyncio.Future[None]] = {}
        self._next_fence: asyncio.Future[None] | None = None
        self._suspicion: dict[str, int] = {}
        self._stopping = asyncio.Event()
        self._alone = asyncio.Lock()
        self._writing = asyncio.Lock()
        self.status = Status(state="connecting", text="not yet connected")
        self.connected = asyncio.Event()

    # --- in -------------------------------------------------------------------------------------

    async def receive(self) -> Received:
        """The next stanza. Reading from the server resumes as the queue empties."""
        while not self._inbox:
            self._arrival.clear()
            await self._arrival.wait()
        received = self._inbox.popleft()
        if len(self._inbox) == self._limits.inbound_stanzas // 2 and self._reading is not None:
            self._reading.resume_reading()
        return received

    def _on_stanza(self, received: Received) -> None:
        xml = received.element
        if xml.get("from") == self._settings.domain and xml.get("to") == self._settings.domain:
            fence = self._fences.pop(xml.get("id", ""), None)
            if fence is not None and not fence.done():
                fence.set_result(None)
            return
        if self._take(xml):
            return
        self._inbox.append(received)
        self._arrival.set()
        if len(self._inbox) >= self._limits.inbound_stanzas and self._reading is not None:
            self._reading.pause_reading()

    # --- out ------------------------------------------------------------------------------------

    async def send(self, elements: Sequence[ET.Element]) -> None:
        """All are checked before the first is written: Refused names the guilty stanza."""
        texts = [self._checked(element) for element in elements]
        async with self._writing:
            for text in texts:
                stream = self._stream
                if stream is None:
                    raise Unavailable("the XMPP server is not connected")
                if not stream.writable.is_set():
                    await self._until_writable(stream)
                if not stream.write(text):
                    raise StreamClosed("the stream closed", accuses=False, is_explicit=False)

    async def fenced(self, key: str, write: Callable[[], Awaitable[None]]) -> None:
        """`key` is the same each time the same delivery is tried."""
        if self._suspicion.get(key, 0) >= _SUSPICIOUS:
            async with self._alone:
                await self._fence()
                await self._accounted(key, write)
            return
        if self._alone.locked():
            async with self._alone:
                pass
        await self._accounted(key, write)

    async def _accounted(self, key: str, write: Callable[[], Awaitable[None]]) -> None:
        stream = self._stream
        try:
            await write()
            if self._stream is not stream:  # a fence on the next stream proves nothing
                raise StreamClosed("the stream closed", accuses=False, is_explicit=False)
            await self._fence()
        except StreamClosed as exc:
            if exc.accuses:
                self._suspect(key, exc)
            raise
        self._suspicion.pop(key, None)

    def _suspect(self, key: str, exc: StreamClosed) -> None:
        if key not in self._suspicion and len(self._suspicion) >= _SUSPECTS_KEPT:
            self._suspicion.pop(next(iter(self._suspicion)))
        count = self._suspicion[key] = self._suspicion.get(key, 0) + 1
        alone = count - _SUSPICIOUS
        if alone > 0 and (exc.is_explicit or alone >= _GUILTY):
            self._suspicion.pop(key)
            raise Refused(
                f"the XMPP server closes the stream over it: {exc.reason}", rule="closes-stream"
            ) from exc

    async def _fence(self) -> None:
        """Returns when what was written before has been taken. Waiters of one tick share it."""
        if self._stream is None:
            raise Unavailable("the XMPP server is not connected")
        loop = asyncio.get_running_loop()
        fence = self._next_fence
        if fence is None:
            fence = self._next_fence = loop.create_future()
            loop.call_soon(self._write_fence)
        try:
            async with asyncio.timeout(self._limits.fence_timeout_s):
                await asyncio.shield(fence)
        except TimeoutError as exc:
            raise StreamClosed("no fence in time", accuses=False, is_explicit=False) from exc

    def _write_fence(self) -> None:
        fence, self._next_fence = self._next_fence, None
        if fence is None or fence.done():
            return
        self._fence_number += 1
        name = f"fence-{self._nonce}-{self._fence_number}"
        xml = element(COMPONENT, "iq")
        domain = self._settings.domain
        xml.attrib.update({"type": "result", "from": domain, "to": domain, "id": name})
        if self._stream is None or not self._stream.write(serialise(xml)):
            _fail(fence, StreamClosed("the stream closed", accuses=False, is_explicit=False))
            return
        self._fences[name] = fence

    async def _until_writable(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(self._limits.fence_timeout_s):
                await stream.writable.wait()
        except TimeoutError as exc:
            raise Unavailable("the XMPP server takes no more") from exc

    def _checked(self, xml: ET.Element) -> str:
        fault = _address_fault(xml.get("from", ""), xml.get("to", ""), self._settings.domain)
        if fault:
            raise Refused(f"not sent: {fault}", rule="stanza-address")
        text = serialise(xml)
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > self._limits.stanza_bytes:
            raise Refused(
                f"{size} bytes, and {self._limits.stanza_bytes} are allowed",
                errcode="M_TOO_LARGE",
                rule="stanza-size",
            )
        if _ILLEGAL.search(text):
            raise Refused("not sent: a character that XML cannot carry", rule="stanza-character")
        return text

    # --- keeping it up --------------------------------------------------------------------------

    async def run(self) -> None:
        """Connects, watches, and connects again, until cancelled or stopped."""
        failures = 0
        while not self._stopping.is_set():
            self._set_status("connecting", f"connecting to {self._where}")
            closed = await self._connect_once()
            if self.status.state == "connected":
                failures = 0
            if self._stopping.is_set():
                return
            self._set_status(*self._judge(closed))
            failures += 1
            pause = min(self._limits.reconnect_max_s, 0.25 * 2 ** min(failures, 10))
            if self.status.state == "refused":
                pause = self._limits.refused_retry_s
            await self._clock.sleep(pause * (0.75 + 0.5 * self._random.random()))

    async def stop(self) -> None:
        """Ends the stream, and takes in what the server had sent before it heard so.

        From its own end on it answers in our place that we are away; nothing is lost in between.
        """
        self._stopping.set()
        stream = self._stream
        if stream is None or not stream.write(str(stream.stream_footer)):
            return
        self._stream = None  # nothing may be written after the end
        self.connected.clear()
        await asyncio.wait({stream.closed}, timeout=_CLOSE_TIMEOUT_S)

    @property
    def has_unread(self) -> bool:
        """Whether stanzas wait for `receive`."""
        return bool(self._inbox)

    @property
    def _where(self) -> str:
        return f"the XMPP server at {self._settings.host}:{self._settings.port}"

    async def _connect_once(self) -> Closed:
        """One connection, from its first byte to its end."""
        stream = Stream(
            domain=self._settings.domain,
            secret=self._settings.secret.get_secret_value(),
            max_bytes=self._limits.stanza_bytes,
            max_depth=self._limits.stanza_depth,
            on_stanza=self._on_stanza,
            drops=self._drops,
        )
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await loop.create_connection(
                    lambda: stream, self._settings.host, self._settings.port
                )
                await asyncio.wait(
                    [_as_any(stream.authenticated), _as_any(stream.closed)],
                    return_when=asyncio.FIRST_COMPLETED,
                )
        except TimeoutError:
            stream.kill()
            return Closed(condition="connection-timeout", text="no answer in time")
        except (OSError, UnicodeError) as exc:
            return Closed(condition="", text=str(exc))
        except BaseException:
            stream.kill()
            raise
        if stream.closed.done():
            return stream.closed.result()
        if self._stopping.is_set():
            stream.end()
            return Closed(condition="", text="stopped")
        try:
            self._stream = self._reading = stream
            self._set_status("connected", f"connected to {self._where} as {self._settings.domain}")
            self.connected.set()
            self._on_connected()
            return await self._watch(stream)
        finally:
            self._stream = self._reading = None
            self.connected.clear()
            stream.end()
            self._fail_fences(stream.closed.result() if stream.closed.done() else None)

    async def _watch(self, stream: Stream) -> Closed:
        """A fence at each interval; a stream that does not return it is dead."""
        while True:
            await asyncio.wait({stream.closed}, timeout=self._limits.keepalive_s)
            if stream.closed.done():
                return stream.closed.result()
            try:
                await self._fence()
            except Unavailable as exc:
                if not stream.closed.done():
                    stream.kill()
                    return Closed(condition="connection-timeout", text=exc.reason)

    def _fail_fences(self, closed: Closed | None) -> None:
        if closed is None:  # we ended it
            closed = Closed(condition="", text="", is_polite=True)
        condition = closed.condition
        text = closed.text or condition or "no reason given"
        accuses = condition not in _INNOCENT and not (closed.is_polite and not condition)
        fences = [*self._fences.values()]
        if self._next_fence is not None:
            fences.append(self._next_fence)
        self._fences.clear()
        self._next_fence = None
        for fence in fences:
            _fail(
                fence,
                StreamClosed(
                    f"the stream closed: {text}",
                    accuses=accuses,
                    is_explicit=accuses and bool(condition),
                ),
            )

    def _judge(self, closed: Closed) -> tuple[State, str]:
        match closed.condition:
            case "not-authorized":
                return "refused", f"{self._where} refused the component secret"
            case "host-unknown":
                return "refused", f"{self._where} knows no component {self._settings.domain}"
            case "conflict":
                return "unreachable", f"{self._where} has another connection for this component"
        reason = closed.text or closed.condition or "the connection was closed"
        return "unreachable", f"{self._where} is not there: {reason}"

    def _set_status(self, state: State, text: str) -> None:
        if (state, text) == (self.status.state, self.status.text):
            return
        is_news = state != "connecting"
        self.status = Status(state=state, text=text)
        if is_news:
            say = log.info if state == "connected" else log.warning
            say("xmpp server", state=state, reason=text)
            self._on_status(self.status)


def _as_any(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    return future


def _fail(fence: asyncio.Future[None], exc: Exception) -> None:
    if not fence.done():
        fence.set_exception(exc)
        fence.exception()  # whoever waits sees it; nobody waiting is no news


def _address_fault(sender: str, to: str, component: str) -> str:
    return _sender_fault(sender, component) or _receiver_fault(to)


@lru_cache(maxsize=8192)
def _sender_fault(sender: str, component: str) -> str:
    return _fault(partial(check_sender, component=component), sender)


@lru_cache(maxsize=8192)
def _receiver_fault(to: str) -> str:
    return _fault(check_receiver, to)


def _fault(check: Callable[[Jid], None], address: str) -> str:
    try:
        check(Jid.parse(address))
    except BadInput as exc:
        return exc.reason
    return ""
