"""Posts and subjects: sent under the id of their outbox row, done when the chat shows them.

1. the author is in, and nothing of the past is missing: a post of an earlier try may be there;
2. seen already: done, nothing is sent;
3. sent, and awaited; an author whom the room does not know enters once more;
4. not shown in time: in doubt; the next try looks into the archive first.

Spec: XEP-0045, 7.4 and 8.1; XEP-0359, 4.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.namespaces import COMPONENT, STANZA_ERRORS, STANZA_ID, add
from bridge.adapters.xmpp.occupant.chat import Guest, VisitedChat
from bridge.adapters.xmpp.occupant.questions import NOT_NOW
from bridge.adapters.xmpp.styling import Body, to_body
from bridge.adapters.xmpp.xmltext import xml_text
from bridge.content.model import Message
from bridge.errors import IsthmusError, Refused, Unavailable

_ME = "/me "
_DOUBTS_KEPT = 1000
_TEXT_CHARACTERS = 300
_NOT_IN = frozenset({"not-acceptable", "item-not-found"})
_NO_VOICE = "they may not speak there: the room gives them no voice"


class NotInside(Unavailable):
    """The room does not know the author: they were put out, unseen by us."""


class Posting:
    def __init__(self, *, wire: Wire, limits: XmppLimits) -> None:
        self._wire = wire
        self._timeout_s = limits.guest_timeout_s

    async def post(
        self, chat: VisitedChat, guest: Guest, message: Message, *, name: str | None, own_id: str
    ) -> str | None:
        """The chat's own ID of it, if it gave one. `name`: who is spoken for."""
        xml = outbound.stanza("message", sender=guest.jid, to=chat.jid, type="groupchat", id=own_id)
        outbound.add_body(xml, _body(message, name))
        add(xml, STANZA_ID, "origin-id").set("id", own_id)
        outbound.add_said(xml)
        return await self._send(chat, xml, own_id)

    async def change_subject(
        self, chat: VisitedChat, guest: Guest, text: str, *, own_id: str
    ) -> None:
        xml = outbound.stanza("message", sender=guest.jid, to=chat.jid, type="groupchat", id=own_id)
        subject = xml_text(text)
        add(xml, COMPONENT, "subject", subject)
        chat.subject_asked = (own_id, subject)
        try:
            await self._send(chat, xml, own_id)
        finally:
            chat.subject_asked = None

    async def _send(self, chat: VisitedChat, xml: ET.Element, own_id: str) -> str | None:
        shown = chat.reflections.expect(own_id)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._wire.send([xml])
                archive_id = await shown
        except TimeoutError as exc:
            self._doubt(chat, own_id)
            raise Unavailable("the room has not shown it in time") from exc
        except NotInside:
            raise
        except Unavailable:
            self._doubt(chat, own_id)
            raise
        finally:
            chat.reflections.forget(own_id)
        chat.doubts.discard(own_id)
        return archive_id

    def _doubt(self, chat: VisitedChat, own_id: str) -> None:
        if len(chat.doubts) >= _DOUBTS_KEPT:
            chat.doubts.pop()
        chat.doubts.add(own_id)


def error_from(xml: ET.Element) -> IsthmusError:
    """Why the room did not take a message. Spec: XEP-0045, 7.4 and 7.9."""
    condition = inbound.condition_of(xml)
    error = xml.find(f"{{{COMPONENT}}}error")
    said = xml.findtext(f"{{{COMPONENT}}}error/{{{STANZA_ERRORS}}}text") or ""
    said = " ".join(said.split())[:_TEXT_CHARACTERS]
    if condition in _NOT_IN:
        return NotInside(said or "the room does not know them any more")
    if condition in NOT_NOW or (error is not None and error.get("type") == "wait"):
        return Unavailable(said or NOT_NOW.get(condition, condition))
    if condition == "forbidden":
        return Refused(f"{_NO_VOICE} ({said})" if said else _NO_VOICE, rule=condition)
    return Refused(f"the room does not take it: {said or condition}", rule=condition)


def _body(message: Message, name: str | None) -> Body:
    body = to_body(message)
    if name is None:
        return body
    name = " ".join(xml_text(name).split())
    if message.kind == "emote":
        return replace(body, text=f"* {name} {body.text.removeprefix(_ME)}")
    is_block = body.text.startswith((">", "```"))
    return replace(body, text=f"{name}:{chr(10) if is_block else ' '}{body.text}")
