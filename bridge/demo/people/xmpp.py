"""A person on XMPP: logs in to a real server with a real client library and writes down what comes.

slixmpp carries the stream up to the session. From there on every stanza is ours: it goes raw into
the transcript, and nothing is prepared, answered or swallowed by the library, so a nickname that
its JID class refuses is seen like any other. As a usual client does, the person answers pings,
service discovery and requests for receipts; `answers` switches that off.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from slixmpp import ClientXMPP
from slixmpp.xmlstream.xmlstream import NotConnectedError

from bridge.demo.people.stanza import (
    COMMANDS,
    MUC,
    RECEIPTS,
    STANZAS,
    Stanza,
    client_tag,
    to_text,
)
from bridge.demo.people.transcript import Transcript
from bridge.errors import Refused, Unavailable

_DISCO_INFO = "http://jabber.org/protocol/disco#info"
_PING = "urn:xmpp:ping"
_DATA = "jabber:x:data"
_STANZA_TAGS = frozenset(client_tag(name) for name in ("message", "presence", "iq"))
_CLOSE_TIMEOUT_S = 5.0


class _Stream(ClientXMPP):
    """One connection. After the session has started, stanzas go to `on_stanza` and nowhere else."""

    def __init__(self, jid: str, password: str, on_stanza: Callable[[ET.Element], None]) -> None:
        super().__init__(jid, password)
        self.enable_direct_tls = False
        self.enable_starttls = False
        self.enable_plaintext = True
        self.plugin["feature_mechanisms"].unencrypted_plain = True
        self._on_stanza = on_stanza
        self._is_ours = False
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()
        self.add_event_handler("session_start", self._on_session)
        self.add_event_handler("failed_all_auth", self._on_refusal)
        self.add_event_handler("connection_failed", self._on_no_connection)
        self.add_event_handler("disconnected", self._on_disconnected)

    def _spawn_event(self, xml: ET.Element) -> None:
        if self._is_ours and xml.tag in _STANZA_TAGS:
            self._on_stanza(xml)
        else:
            super()._spawn_event(xml)

    def _on_session(self, _: Any) -> None:
        self._is_ours = True
        if not self.outcome.done():
            self.outcome.set_result(str(self.boundjid))

    def _fail(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)

    def _on_refusal(self, _: Any) -> None:
        self._fail(Refused("the server refuses the name or password", rule="not-authorized"))

    def _on_no_connection(self, cause: Any) -> None:
        self._fail(Unavailable(f"no connection to the server: {cause}"))

    def _on_disconnected(self, cause: Any) -> None:
        self._fail(Unavailable(f"the server closed the stream: {cause}"))
        self.lost.set()

    async def end(self) -> None:
        """Release what the library holds, whatever state the connection is in."""
        self.cancel_connection_attempt()
        if self.transport is not None:
            self.transport.abort()
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.lost.wait()
        filters = self._run_out_filters
        if filters is not None and not filters.done():
            filters.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await filters


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a room showed on entering: everything up to and with the subject, in order."""

    self_presence: Stanza
    occupants: dict[str, Stanza]
    history: tuple[Stanza, ...]
    subject: Stanza


class XmppPerson:
    """`address` is the bare JID; `port` the client port of a server on `host`."""

    def __init__(
        self,
        address: str,
        password: str,
        *,
        port: int,
        host: str = "127.0.0.1",
        resource: str = "",
        answers: bool = True,
    ) -> None:
        self.address = address
        self.full_address = address
        self.answers = answers
        self.transcript: Transcript[Stanza] = Transcript(address)
        self._password = password
        self._host = host
        self._port = port
        self._resource = resource
        self._stream: _Stream | None = None
        self._nicknames: dict[str, str] = {}

    @property
    def is_online(self) -> bool:
        return self._stream is not None and not self._stream.lost.is_set()

    async def login(self, *, available: bool = True, timeout_s: float = 15.0) -> None:
        """Connect and bind; `available` sends the initial presence.

        `Refused` for a wrong password, `Unavailable` without a server.
        """
        await self._release()
        jid = f"{self.address}/{self._resource}" if self._resource else self.address
        stream = _Stream(jid, self._password, self._receive)
        self._stream = stream
        try:
            async with asyncio.timeout(timeout_s):
                stream.connect(self._host, self._port)
                self.full_address = await stream.outcome
        except TimeoutError as exc:
            await self._release()
            raise Unavailable(f"{self.address}: no session within {timeout_s:g} s") from exc
        except BaseException:
            await self._release()
            raise
        if available:
            self.set_presence()

    async def logout(self) -> None:
        """Go offline as a client does: unavailable, then close the stream."""
        if self._stream is not None and self.is_online:
            self.set_presence(type="unavailable")
            self._stream.send_raw(self._stream.stream_footer)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._stream.lost.wait()
        await self._release()

    async def drop(self) -> None:
        """Lose the connection: abort TCP without a word."""
        await self._release()

    async def _release(self) -> None:
        stream, self._stream = self._stream, None
        self._nicknames.clear()
        if stream is not None:
            await stream.end()

    async def __aenter__(self) -> Self:
        await self.login()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.logout()

    @property
    def position(self) -> int:
        """For `since`: what comes after now."""
        return self.transcript.position

    def _receive(self, element: ET.Element) -> None:
        stanza = Stanza(element=element)
        self.transcript.add(stanza)
        if not self.answers:
            return
        if stanza.kind == "iq" and stanza.type in ("get", "set"):
            self.send(self._answer(stanza))
        elif stanza.wants_receipt and stanza.type not in ("error", "groupchat") and stanza.id:
            receipt = ET.Element(client_tag("message"), {"to": stanza.sender, "type": stanza.type})
            ET.SubElement(receipt, f"{{{RECEIPTS}}}received", {"id": stanza.id})
            self.send(receipt)

    @staticmethod
    def _answer(asked: Stanza) -> ET.Element:
        """To a ping and to disco#info; everything else is unknown here."""
        answer = ET.Element(client_tag("iq"), {"id": asked.id, "type": "result"})
        if asked.sender:
            answer.set("to", asked.sender)
        if asked.find(f"{{{_PING}}}ping") is not None:
            return answer
        if asked.find(f"{{{_DISCO_INFO}}}query") is not None:
            query = ET.SubElement(answer, f"{{{_DISCO_INFO}}}query")
            identity = {"category": "client", "type": "pc", "name": "scripted person"}
            ET.SubElement(query, f"{{{_DISCO_INFO}}}identity", identity)
            for feature in (_DISCO_INFO, _PING, RECEIPTS):
                ET.SubElement(query, f"{{{_DISCO_INFO}}}feature", {"var": feature})
            return answer
        answer.set("type", "error")
        error = ET.SubElement(answer, client_tag("error"), {"type": "cancel"})
        ET.SubElement(error, f"{{{STANZAS}}}service-unavailable")
        return answer

    async def wait_for(
        self,
        wanted: Callable[[Stanza], bool],
        *,
        what: str = "a stanza",
        timeout_s: float = 10.0,
        since: int = 0,
    ) -> Stanza:
        """The first stanza that is wanted, past (from `since` on) or coming."""
        return await self.transcript.wait_for(wanted, what=what, timeout_s=timeout_s, since=since)

    async def hear(
        self, body: str, *, sender: str | None = None, timeout_s: float = 10.0, since: int = 0
    ) -> Stanza:
        """A message with exactly this body; `sender` is a bare address (a room, in rooms)."""

        def wanted(stanza: Stanza) -> bool:
            return (
                stanza.kind == "message"
                and stanza.type != "error"
                and stanza.body == body
                and sender in (None, stanza.bare_sender)
            )

        source = "" if sender is None else f" from {sender}"
        return await self.wait_for(
            wanted, what=f"the message {body!r}{source}", timeout_s=timeout_s, since=since
        )

    async def receipt(self, message_id: str, *, timeout_s: float = 10.0) -> Stanza:
        """The receipt for a message that we sent. Spec: XEP-0184."""
        return await self.wait_for(
            lambda stanza: stanza.receipt_for == message_id,
            what=f"the receipt for {message_id}",
            timeout_s=timeout_s,
        )

    async def error(self, stanza_id: str, *, timeout_s: float = 10.0) -> Stanza:
        """The error that answers a stanza that we sent."""
        return await self.wait_for(
            lambda stanza: stanza.type == "error" and stanza.id == stanza_id,
            what=f"an error for {stanza_id}",
            timeout_s=timeout_s,
        )

    async def reflection(self, message_id: str, *, timeout_s: float = 10.0) -> Stanza:
        """Our own group message as the room sent it back."""
        return await self.wait_for(
            lambda stanza: stanza.type == "groupchat" and stanza.id == message_id,
            what=f"the reflection of {message_id}",
            timeout_s=timeout_s,
        )

    def send_raw(self, data: str | bytes) -> None:
        """Write these bytes to the stream, well-formed or not."""
        if self._stream is None or not self.is_online:
            raise Unavailable(f"{self.address} is not online")
        try:
            self._stream.send_raw(data)
        except NotConnectedError as exc:
            raise Unavailable(f"{self.address} has just lost the connection") from exc

    def send(self, element: ET.Element) -> str:
        """Send a stanza (names in the client namespace); gives its id, a new one if it had none."""
        stanza_id = element.get("id")
        if stanza_id is None:
            stanza_id = secrets.token_hex(8)
            element.set("id", stanza_id)
        self.send_raw(to_text(element))
        return stanza_id

    def say(
        self,
        to: str,
        body: str,
        *,
        message_id: str | None = None,
        receipt: bool = True,
        type: str = "chat",
    ) -> str:
        """A one-to-one message, asking for a receipt; its id."""
        attributes = {"to": to, "type": type, "id": message_id or secrets.token_hex(8)}
        message = ET.Element(client_tag("message"), attributes)
        ET.SubElement(message, client_tag("body")).text = body
        if receipt:
            ET.SubElement(message, f"{{{RECEIPTS}}}request")
        return self.send(message)

    def say_in(self, room: str, body: str, *, message_id: str | None = None) -> str:
        """A message to a room; its id."""
        return self.say(room, body, message_id=message_id, receipt=False, type="groupchat")

    def set_subject(self, room: str, subject: str) -> str:
        """Change a room's subject. Spec: XEP-0045, 8.1."""
        message = ET.Element(client_tag("message"), {"to": room, "type": "groupchat"})
        ET.SubElement(message, client_tag("subject")).text = subject
        return self.send(message)

    def set_presence(
        self,
        *,
        to: str | None = None,
        type: str | None = None,
        show: str | None = None,
        status: str | None = None,
    ) -> str:
        """Presence, broadcast or to somebody; `type` is absent for "available"."""
        presence = ET.Element(client_tag("presence"))
        if to is not None:
            presence.set("to", to)
        if type is not None:
            presence.set("type", type)
        for name, value in (("show", show), ("status", status)):
            if value is not None:
                ET.SubElement(presence, client_tag(name)).text = value
        return self.send(presence)

    async def ask(
        self, to: str | None, payload: ET.Element, *, type: str = "get", timeout_s: float = 10.0
    ) -> Stanza:
        """Send an iq and give the result; `Refused` (rule = condition) for an error."""
        iq = ET.Element(client_tag("iq"), {"type": type})
        if to is not None:
            iq.set("to", to)
        iq.append(payload)
        asked = self.send(iq)
        answer = await self.wait_for(
            lambda stanza: (
                stanza.kind == "iq" and stanza.id == asked and stanza.type in ("result", "error")
            ),
            what=f"the answer of {to or 'the server'} to {payload.tag}",
            timeout_s=timeout_s,
        )
        if answer.type == "error":
            raise _refusal(answer)
        return answer

    async def run_command(
        self,
        to: str,
        node: str,
        *,
        values: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Stanza:
        """Execute an ad-hoc command; `values` fill in the form that it shows. Spec: XEP-0050."""
        command = ET.Element(f"{{{COMMANDS}}}command", {"node": node, "action": "execute"})
        answer = await self.ask(to, command, type="set", timeout_s=timeout_s)
        if values is None:
            return answer
        shown = answer.find(f"{{{COMMANDS}}}command")
        session = "" if shown is None else shown.get("sessionid", "")
        attributes = {"node": node, "action": "complete", "sessionid": session}
        command = ET.Element(f"{{{COMMANDS}}}command", attributes)
        form = ET.SubElement(command, f"{{{_DATA}}}x", {"type": "submit"})
        for name, value in values.items():
            field = ET.SubElement(form, f"{{{_DATA}}}field", {"var": name})
            ET.SubElement(field, f"{{{_DATA}}}value").text = value
        return await self.ask(to, command, type="set", timeout_s=timeout_s)

    async def ping(self, to: str, *, timeout_s: float = 10.0) -> Stanza:
        """XEP-0199; to our own occupant it is the self-ping of XEP-0410."""
        return await self.ask(to, ET.Element(f"{{{_PING}}}ping"), timeout_s=timeout_s)

    async def enter(
        self,
        room: str,
        nickname: str,
        *,
        history: int | None = None,
        timeout_s: float = 20.0,
    ) -> Entry:
        """Enter a MUC and read up to its subject; `Refused` (rule = condition) if it says no.

        `history` is the most messages wanted, None for what the room gives. Spec: XEP-0045, 7.
        """
        start = self.position
        presence = ET.Element(client_tag("presence"), {"to": f"{room}/{nickname}"})
        wish = ET.SubElement(presence, f"{{{MUC}}}x")
        if history is not None:
            ET.SubElement(wish, f"{{{MUC}}}history", {"maxstanzas": str(history)})
        self.send(presence)

        def is_own(stanza: Stanza) -> bool:
            if stanza.kind != "presence" or stanza.bare_sender != room:
                return False
            return stanza.type == "error" or (stanza.type == "" and 110 in stanza.statuses)

        def is_subject(stanza: Stanza) -> bool:
            return stanza.bare_sender == room and stanza.is_subject_change

        own = await self.wait_for(
            is_own, what=f"our own presence in {room}", timeout_s=timeout_s, since=start
        )
        if own.type == "error":
            raise _refusal(own)
        self._nicknames[room] = own.nickname
        subject = await self.wait_for(
            is_subject, what=f"the subject of {room}", timeout_s=timeout_s, since=start
        )
        seen = [s for s in self.transcript.since(start) if s.bare_sender == room]
        seen = seen[: next(i for i, stanza in enumerate(seen) if stanza is subject)]
        return Entry(
            self_presence=own,
            occupants={s.nickname: s for s in seen if s.kind == "presence" and s.type == ""},
            history=tuple(s for s in seen if s.kind == "message" and s.body is not None),
            subject=subject,
        )

    def nickname_in(self, room: str) -> str:
        """The nickname that the room gave us."""
        try:
            return self._nicknames[room]
        except KeyError as exc:
            raise Unavailable(f"{self.address} is not in {room}") from exc

    async def change_nickname(self, room: str, nickname: str, *, timeout_s: float = 10.0) -> Stanza:
        """Our presence under the new one; `Refused` if somebody else has it."""
        start = self.position
        asked = self.set_presence(to=f"{room}/{nickname}")
        seen = await self.wait_for(
            lambda stanza: (
                stanza.kind == "presence"
                and stanza.bare_sender == room
                and (
                    (stanza.type == "error" and stanza.id == asked)
                    or (stanza.type == "" and 110 in stanza.statuses)
                )
            ),
            what=f"our new nickname in {room}",
            timeout_s=timeout_s,
            since=start,
        )
        if seen.type == "error":
            raise _refusal(seen)
        self._nicknames[room] = seen.nickname
        return seen

    async def exit(self, room: str, *, timeout_s: float = 10.0) -> Stanza:
        """Unavailable to the room; the room's own unavailable for us."""
        occupant = f"{room}/{self.nickname_in(room)}"
        start = self.position
        self.set_presence(to=occupant, type="unavailable")
        seen = await self.wait_for(
            lambda stanza: stanza.sender == occupant and stanza.type == "unavailable",
            what=f"our leaving of {room}",
            timeout_s=timeout_s,
            since=start,
        )
        self._nicknames.pop(room, None)
        return seen

    async def see_arrive(
        self, room: str, nickname: str, *, timeout_s: float = 10.0, since: int = 0
    ) -> Stanza:
        """The presence of an occupant."""
        return await self.wait_for(
            lambda stanza: (
                stanza.kind == "presence"
                and stanza.type == ""
                and stanza.sender == f"{room}/{nickname}"
            ),
            what=f"{nickname} in {room}",
            timeout_s=timeout_s,
            since=since,
        )

    async def see_go(
        self, room: str, nickname: str, *, timeout_s: float = 10.0, since: int = 0
    ) -> Stanza:
        """The unavailable presence of an occupant: statuses and reason tell why."""
        return await self.wait_for(
            lambda stanza: (
                stanza.kind == "presence"
                and stanza.type == "unavailable"
                and stanza.sender == f"{room}/{nickname}"
            ),
            what=f"{nickname} going from {room}",
            timeout_s=timeout_s,
            since=since,
        )


def _refusal(answer: Stanza) -> Refused:
    condition = answer.condition or "undefined-condition"
    words = answer.error_text or "no reason given"
    return Refused(f"{answer.sender}: {condition}: {words}", rule=condition)
