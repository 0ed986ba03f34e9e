"""A guest enters, takes another nickname, or leaves: what is asked of the chat, and its answer.

`listener` reads the answers and resolves `Guest.answer`; nothing here reads stanzas.
Spec: XEP-0045, 7.2 (entering), 7.6 (nickname), 7.14 (leaving); XEP-0172.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.namespaces import (
    COMPONENT,
    MUC,
    NICK,
    STANZA_ERRORS,
    add,
    element,
)
from bridge.adapters.xmpp.nicknames import make_nickname, nickname_key
from bridge.adapters.xmpp.occupant.chat import Guest, VisitedChat
from bridge.adapters.xmpp.occupant.questions import NOT_NOW
from bridge.adapters.xmpp.xmltext import xml_text
from bridge.errors import IsthmusError, Refused, Unavailable
from bridge.ids import localpart_of, server_of

_CANDIDATES = 6
"""Nicknames that are tried before we give up."""
TAKEN: Final = "conflict"
_IN_WORDS: Final = {
    TAKEN: "the nickname is taken there",
    "forbidden": "they are banned there",
    "gone": "the room exists no more",
    "item-not-found": "there is no such room, or it is not open yet",
    "jid-malformed": "the room does not take the nickname",
    "not-acceptable": "the room takes reserved nicknames only",
    "not-allowed": "the room does not exist, and may not be created",
    "not-authorized": "the room wants a password",
    "policy-violation": "it breaks a rule of the room's server",
    "redirect": "the room has moved",
    "registration-required": "the room is for members only",
    "service-unavailable": "the room is full",
}
"""What an error at entering means for a Matrix person. Spec: XEP-0045, 7.2.5 to 7.2.12."""
_TEXT_CHARACTERS = 300


class Entering:
    def __init__(self, *, wire: Wire, limits: XmppLimits) -> None:
        self._wire = wire
        self._limits = limits

    async def enter(self, chat: VisitedChat, guest: Guest, displayname: str | None) -> None:
        """Returns when the chat has let them in. Refused: it will not have them, `rule` is the
        condition. Under the chat's `door`."""
        local, server = localpart_of(guest.user_id), server_of(guest.user_id)
        name = displayname or guest.nickname or None
        guest.wanted = guest.wanted or make_nickname(name, local, server, ())
        taken = chat.taken(guest)
        asked = guest.nickname or make_nickname(name, local, server, taken)
        for _ in range(_CANDIDATES):
            try:
                await self._ask_in(chat, guest, asked, displayname)
                return
            except Refused as exc:
                if exc.rule != TAKEN:
                    raise
            taken.add(nickname_key(asked))
            asked = make_nickname(name, local, server, taken)
        raise Refused("every nickname that was tried is taken there", rule=TAKEN)

    async def _ask_in(
        self, chat: VisitedChat, guest: Guest, nickname: str, displayname: str | None
    ) -> None:
        xml = outbound.stanza("presence", sender=guest.jid, to=chat.jid.with_resource(nickname))
        add(xml, MUC, "x").append(_history(chat))
        if displayname:
            add(xml, NICK, "nick", xml_text(displayname))
        if chat.listener is None:
            chat.listener = guest
            chat.coming.clear()
        guest.state, guest.asked = "entering", nickname
        try:
            await self._ask(guest, xml)
        finally:
            guest.asked = None
            if guest.state == "entering":
                chat.lose(guest)

    async def rename(self, chat: VisitedChat, guest: Guest, displayname: str | None) -> bool:
        """Asks for a nickname that shows the name. False: they have one that does, or keep the old
        one because there is no other."""
        local, server = localpart_of(guest.user_id), server_of(guest.user_id)
        guest.wanted = make_nickname(displayname, local, server, ())
        taken = chat.taken(guest)
        for _ in range(_CANDIDATES):
            asked = make_nickname(displayname, local, server, taken)
            if asked == guest.nickname:
                return False
            to = chat.jid.with_resource(asked)
            xml = outbound.stanza("presence", sender=guest.jid, to=to)
            if displayname:
                add(xml, NICK, "nick", xml_text(displayname))
            guest.asked = asked
            try:
                await self._ask(guest, xml)
                return True
            except Refused as exc:
                if exc.rule != TAKEN:
                    return False
            finally:
                guest.asked = None
            taken.add(nickname_key(asked))
        return False

    async def leave(self, chat: VisitedChat, guest: Guest, reason: str | None, *, key: str) -> None:
        """Returns when the chat has let them go, or the server has provably been told so."""
        if not guest.nickname:
            return
        to = chat.jid.with_resource(guest.nickname)
        xml = outbound.stanza("presence", sender=guest.jid, to=to, type="unavailable")
        if reason:
            add(xml, COMPONENT, "status", xml_text(reason))
        was_in = guest.is_in
        guest.state = "leaving" if was_in else guest.state
        guest.answer = asyncio.get_running_loop().create_future() if was_in else None
        try:
            await self._wire.fenced(key, lambda: self._wire.send([xml]))
            if guest.answer is not None:
                async with asyncio.timeout(self._limits.guest_timeout_s):
                    await guest.answer
        except TimeoutError:
            pass  # its server has been told, and says nothing
        except Unavailable:
            if guest.state == "leaving":
                guest.state = "in"
            raise
        finally:
            guest.answer = None

    async def _ask(self, guest: Guest, xml: ET.Element) -> None:
        answer = guest.answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._limits.guest_timeout_s):
                await self._wire.send([xml])
                await answer
        except TimeoutError as exc:
            raise Unavailable("the room does not answer") from exc
        finally:
            if guest.answer is answer:
                guest.answer = None


def error_from(xml: ET.Element) -> IsthmusError:
    """Why the chat did not do what was asked by a presence. `Refused.rule`: the condition."""
    condition = inbound.condition_of(xml)
    error = xml.find(f"{{{COMPONENT}}}error")
    said = xml.findtext(f"{{{COMPONENT}}}error/{{{STANZA_ERRORS}}}text") or ""
    said = " ".join(said.split())[:_TEXT_CHARACTERS]
    words = _IN_WORDS.get(condition) or said or condition
    is_passing = error is not None and error.get("type") == "wait"
    if condition in NOT_NOW or (is_passing and condition not in ("registration-required", TAKEN)):
        return Unavailable(said or NOT_NOW.get(condition, words))
    return Refused(f"{words} ({said})" if said and said != words else words, rule=condition)


def _history(chat: VisitedChat) -> ET.Element:
    """Nothing of the past, except where it was missed and there is no archive.

    Spec: XEP-0045, 7.2.13.
    """
    history = element(MUC, "history")
    is_listener = chat.listener is None
    wants = is_listener and chat.is_behind and not chat.has_archive and bool(chat.archive_ms)
    chat.wants_history = wants if is_listener else chat.wants_history
    if wants and chat.archive_ms:
        # Stamps are whole seconds on some servers: the last message known must not come again.
        since = datetime.fromtimestamp(-(-chat.archive_ms // 1000), UTC)
        history.set("since", since.strftime("%Y-%m-%dT%H:%M:%SZ"))
    else:
        history.set("maxstanzas", "0")
    return history
