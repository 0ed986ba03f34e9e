"""Is this client still there? Asked after each connection, and when a stanza to it came back.

An error alone ends no session: it may be late, and its client may have entered anew since. So the
client is asked by two stanzas, a group message without content and a ping. What is not there
returns the message, and whatever is there does not: a client that does not know pings answers
them with the same `service-unavailable` as the server of a client that is gone, but it never
answers a message. Both answers come in order. Spec: RFC 6121, 8.5.3.2; XEP-0199, 4; XEP-0410, 3.2.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.namespaces import PING, add
from bridge.adapters.xmpp.roomservice.occupants import Session
from bridge.adapters.xmpp.roomservice.places import OnClient, Places, tell_nobody
from bridge.clock import Clock
from bridge.errors import Unavailable
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.rooms")

GONE = frozenset(
    {
        "gone",
        "item-not-found",
        "jid-malformed",
        "recipient-unavailable",
        "redirect",
        "remote-server-not-found",
        "remote-server-timeout",
        "service-unavailable",
    }
)
"""Errors that say that nobody is there any more. Spec: XEP-0045, 7.4; XEP-0410, 3.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    client: str
    answer: asyncio.Future[bool]


class Checking:
    """`end` is called for a session whose client is gone."""

    def __init__(
        self,
        *,
        wire: Wire,
        places: Places,
        clock: Clock,
        random: random_module.Random,
        limits: XmppLimits,
        spawn: Callable[[Callable[[], Awaitable[None]]], bool],
        end: Callable[[Session], Awaitable[None]],
        on_there: OnClient = tell_nobody,
    ) -> None:
        self._on_there = on_there
        self._wire = wire
        self._places = places
        self._clock = clock
        self._random = random
        self._limits = limits
        self._spawn = spawn
        self._end = end
        self._questions: dict[str, _Question] = {}
        self._asked: set[Session] = set()
        self._reconnected = asyncio.Event()
        self._connections = 0

    def on_connected(self) -> None:
        self._connections += 1
        self._reconnected.set()

    async def run(self) -> None:
        """After each connection every remembered session is asked, a few each second."""
        while True:
            await self._reconnected.wait()
            self._reconnected.clear()
            for session in self._places.present():
                while not self.suspect(session):
                    await self._clock.sleep(1)
                await self._clock.sleep(1 / self._limits.session_pings_per_s)
                if self._reconnected.is_set():
                    break

    def suspect(self, session: Session) -> bool:
        """Asks, unless that goes on already. False: too much goes on at the moment."""
        if session in self._asked:
            return True
        if not self._spawn(partial(self._check, session)):
            return False
        self._asked.add(session)
        return True

    async def _check(self, session: Session) -> None:
        try:
            is_there = await self._is_there(session)
        finally:
            self._asked.discard(session)
        if is_there:
            self._on_there(session.address, session.entered_by)
        else:
            log.info("session gone", room=str(session.entered_by), client=str(session.address))
            await self._end(session)

    async def _is_there(self, session: Session) -> bool:
        """Unavailable when we cannot ask."""
        connections = self._connections
        name = f"check.{self._random.getrandbits(64):016x}"
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._questions[name] = _Question(client=str(session.address), answer=answer)
        sender, to = session.entered_by, session.address
        message = outbound.stanza("message", sender=sender, to=to, type="groupchat", id=name)
        ping = outbound.stanza("iq", sender=sender, to=to, type="get", id=name)
        add(ping, PING, "ping")
        try:
            await self._wire.send([message, ping])
            async with asyncio.timeout(self._limits.session_ping_timeout_s):
                return await answer
        except TimeoutError:
            await self._wire.fenced(name, _write_nothing)
            if self._connections != connections:
                raise Unavailable("the answer may have been lost with the stream") from None
            return False
        finally:
            self._questions.pop(name, None)

    def take(self, xml: ET.Element) -> bool:
        """Whether the stanza answers a question of ours. Called in the order of arrival."""
        question = self._questions.get(xml.get("id", ""))
        kind, type = xml.tag.rpartition("}")[2], xml.get("type")
        if question is None or kind == "presence" or type not in ("result", "error"):
            return False
        if xml.get("from") != question.client:
            return False
        if not question.answer.done():
            condition = inbound.condition_of(xml) if type == "error" else ""
            nobody = condition in GONE
            # A living client may know no pings; the message before would have come back.
            is_client = kind == "iq" and condition == "service-unavailable"
            question.answer.set_result(not nobody or is_client)
        return True


async def _write_nothing() -> None:
    """For a fence alone: the server is there, and has sent what it had for us."""
