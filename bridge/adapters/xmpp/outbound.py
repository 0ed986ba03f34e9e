"""Chat values to stanzas: pure builders of trees. Text is made legal here, once (`xml_text`).

Ids that we give carry the outbox row and the database's epoch, so that a bounce finds its cause
and a restored backup does not mistake old bounces for its own.
Spec: RFC 6120, 8.3; XEP-0045; XEP-0184; XEP-0203; XEP-0249; XEP-0359; XEP-0393.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import (
    CHAT_MARKERS,
    CHAT_STATES,
    COMPONENT,
    DELAY,
    DIRECT_INVITE,
    HINTS,
    IDLE,
    MUC_USER,
    NICK,
    OCCUPANT_ID,
    OOB,
    RECEIPTS,
    SPOILER,
    STANZA_ERRORS,
    STANZA_ID,
    STYLING,
    add,
    element,
)
from bridge.adapters.xmpp.styling import Body, to_body
from bridge.adapters.xmpp.xmltext import xml_text
from bridge.content.model import Message
from bridge.ids import RoomId, UserId
from bridge.ports.ephemeral import ShowPresence, ShowRead, ShowTyping

ErrorType = Literal["auth", "cancel", "continue", "modify", "wait"]

_ERROR_TYPES: dict[str, ErrorType] = {
    "bad-request": "modify",
    "conflict": "cancel",
    "feature-not-implemented": "cancel",
    "forbidden": "auth",
    "gone": "cancel",
    "internal-server-error": "cancel",
    "item-not-found": "cancel",
    "jid-malformed": "modify",
    "not-acceptable": "cancel",
    "not-allowed": "cancel",
    "policy-violation": "modify",
    "redirect": "modify",
    "registration-required": "auth",
    "remote-server-timeout": "wait",
    "resource-constraint": "wait",
    "service-unavailable": "cancel",
    "undefined-condition": "cancel",
}
_CONDITIONS = {
    "M_BAD_JSON": "bad-request",
    "M_CONNECTION_TIMEOUT": "remote-server-timeout",
    "M_FORBIDDEN": "forbidden",
    "M_LIMIT_EXCEEDED": "resource-constraint",
    "M_NOT_FOUND": "item-not-found",
    "M_TOO_LARGE": "policy-violation",
    "M_UNKNOWN_USER": "item-not-found",
}
_OWN_ID = re.compile(r"([A-Za-z0-9_-]+)\.out\.([0-9]{1,18})")


def outgoing_id(epoch: str, outbox_id: int) -> str:
    """The stanza id of a delivery, the same each time it is tried."""
    return f"{epoch}.out.{outbox_id}"


def find_outbox_id(epoch: str, stanza_id: str) -> int | None:
    """The outbox row of an id that we gave under this epoch."""
    match = _OWN_ID.fullmatch(stanza_id)
    return int(match[2]) if match is not None and match[1] == epoch else None


def condition_for(errcode: str) -> str:
    """The stanza error that says the same as a Matrix error code."""
    return _CONDITIONS.get(errcode, "undefined-condition")


# --- all kinds of stanza ----------------------------------------------------------------------


def stanza(kind: str, *, sender: Jid, to: Jid, type: str = "", id: str = "") -> ET.Element:
    xml = element(COMPONENT, kind)
    xml.set("from", str(sender))
    xml.set("to", str(to))
    if type:
        xml.set("type", type)
    if id:
        xml.set("id", xml_text(id))
    return xml


def result_of(request: Stanza) -> ET.Element:
    """The empty answer to an iq."""
    return stanza("iq", sender=request.to, to=request.sender, type="result", id=request.id)


def error_for(
    request: Stanza,
    condition: str,
    text: str = "",
    *,
    uri: str = "",
    type: ErrorType | None = None,
    by: Jid | None = None,
) -> ET.Element:
    """The error on a stanza, from where it was sent to. `uri` goes into gone and redirect."""
    # A name that we may not send as ours (an emoji) is answered from the room itself.
    sender = request.to if request.to.is_prepared(strict=True) else request.to.bare
    xml = stanza(request.kind, sender=sender, to=request.sender, type="error", id=request.id)
    _add_error(xml, condition, text, uri=uri, type=type, by=by)
    return xml


def _add_error(
    xml: ET.Element,
    condition: str,
    text: str,
    *,
    uri: str = "",
    type: ErrorType | None = None,
    by: Jid | None = None,
) -> None:
    error = add(xml, COMPONENT, "error")
    error.set("type", type or _ERROR_TYPES.get(condition, "cancel"))
    if by is not None:
        error.set("by", str(by))
    add(error, STANZA_ERRORS, condition, uri or None)
    if text:
        add(error, STANZA_ERRORS, "text", xml_text(text))


def failure(*, to: Jid, sender: Jid, id: str, condition: str, text: str) -> ET.Element:
    """An error on a message of the past: it will not arrive after all."""
    xml = stanza("message", sender=sender, to=to, type="error", id=id)
    _add_error(xml, condition, text)
    return xml


# --- messages ---------------------------------------------------------------------------------


def add_body(xml: ET.Element, body: Body) -> None:
    """Body, `<unstyled/>` where nothing in it is meant as formatting, and the file that it shares.
    Spec: XEP-0393, 6; XEP-0066, 3."""
    add(xml, COMPONENT, "body", body.text)
    if body.unstyled:
        add(xml, STYLING, "unstyled")
    if body.spoiler is not None:
        add(xml, SPOILER, "spoiler", body.spoiler or None)
    if body.url is not None:
        add(add(xml, OOB, "x"), OOB, "url", body.url)


def add_said(xml: ET.Element) -> None:
    """Its reader may say so, and its author types no more. Spec: XEP-0333; XEP-0085."""
    add(xml, CHAT_MARKERS, "markable")
    add(xml, CHAT_STATES, "active")


def direct_message(
    *, sender: Jid, to: Jid, id: str, message: Message, delayed_ms: int | None = None
) -> ET.Element:
    xml = stanza("message", sender=sender, to=to, type="chat", id=id)
    add_body(xml, to_body(message))
    add(xml, STANZA_ID, "origin-id").set("id", id)
    add(xml, RECEIPTS, "request")
    add_said(xml)
    if delayed_ms is not None:
        add_delay(xml, sender.domain, delayed_ms)
    return xml


def notice(*, sender: Jid, to: Jid, text: str, id: str = "") -> ET.Element:
    """A line of the bot."""
    xml = stanza("message", sender=sender, to=to, type="chat", id=id)
    add(xml, COMPONENT, "body", xml_text(text))
    add(xml, STYLING, "unstyled")
    return xml


def receipt(*, sender: Jid, to: Jid, received: str, id: str) -> ET.Element:
    """Spec: XEP-0184, 5.4: no receipt is asked for a receipt."""
    xml = stanza("message", sender=sender, to=to, type="chat", id=id)
    add(xml, RECEIPTS, "received").set("id", received)
    return xml


def state(shown: ShowTyping | ShowRead, sender: Jid, to: Jid, *, type: str) -> ET.Element:
    """Who types is not kept for whoever is away; what was read is, for a person's other clients.
    Spec: XEP-0085; XEP-0333; XEP-0334."""
    xml = stanza("message", sender=sender, to=to, type=type)
    if isinstance(shown, ShowTyping):
        add(xml, CHAT_STATES, "composing" if shown.typing else "paused")
        add(xml, HINTS, "no-store")
    else:
        add(xml, CHAT_MARKERS, "displayed").set("id", xml_text(shown.message_id))
        add(xml, HINTS, "store")
    return xml


def add_delay(xml: ET.Element, sender: str, at_ms: int) -> None:
    """Spec: XEP-0203; XEP-0082."""
    delay = add(xml, DELAY, "delay")
    delay.set("from", sender)
    delay.set("stamp", _stamp(at_ms))


def _stamp(at_ms: int) -> str:
    """Spec: XEP-0082."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def person_presence(*, sender: Jid, to: Jid, shown: ShowPresence | None) -> ET.Element:
    """None: nothing is known, so they are available. Spec: RFC 6121, 4.7; XEP-0319."""
    is_gone = shown is not None and shown.availability == "unavailable"
    xml = stanza("presence", sender=sender, to=to, type="unavailable" if is_gone else "")
    if shown is None:
        return xml
    if shown.availability in ("away", "xa", "dnd"):
        add(xml, COMPONENT, "show", shown.availability)
    if shown.status_text is not None:
        add(xml, COMPONENT, "status", xml_text(shown.status_text))
    if shown.idle_since_ms is not None and not is_gone:
        add(xml, IDLE, "idle").set("since", _stamp(shown.idle_since_ms))
    return xml


# --- rooms ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """Somebody in a room, as the others see them."""

    nickname: str
    jid: Jid
    affiliation: str
    role: str
    id: str
    """XEP-0421."""


def occupant_id(room_id: RoomId, user_id: UserId) -> str:
    """Stable in the room, different in every other one. Spec: XEP-0421, 3."""
    return hashlib.sha256(f"{room_id}|{user_id}".encode()).hexdigest()[:40]


def groupchat(
    *,
    sender: Jid,
    to: Jid,
    id: str,
    body: Body,
    stanza_id: str,
    occupant: str,
    origin_id: str | None = None,
    delayed_ms: int | None = None,
) -> ET.Element:
    """`sender` is the room with the author's nickname, as this session knows the room; `body` is
    made once for all sessions."""
    xml = stanza("message", sender=sender, to=to, type="groupchat", id=id)
    add_body(xml, body)
    if origin_id is not None:
        add(xml, STANZA_ID, "origin-id").set("id", xml_text(origin_id))
    add_ids(xml, room=sender.bare, stanza_id=stanza_id, occupant=occupant)
    add_said(xml)
    if delayed_ms is not None:
        add_delay(xml, str(sender.bare), delayed_ms)
    return xml


def add_ids(xml: ET.Element, *, room: Jid, stanza_id: str, occupant: str) -> None:
    mark = add(xml, STANZA_ID, "stanza-id")
    mark.set("id", stanza_id)
    mark.set("by", str(room))
    add(xml, OCCUPANT_ID, "occupant-id").set("id", occupant)


def subject(*, sender: Jid, to: Jid, text: str, at_ms: int | None, id: str = "") -> ET.Element:
    """Ends what somebody who enters is sent, the empty subject too. Spec: XEP-0045, 7.2.15."""
    xml = stanza("message", sender=sender, to=to, type="groupchat", id=id)
    add(xml, COMPONENT, "subject", xml_text(text))
    if at_ms is not None:
        add_delay(xml, str(sender.bare), at_ms)
    return xml


def room_notice(*, room: Jid, to: Jid, text: str, id: str) -> ET.Element:
    """A line of the room itself."""
    xml = stanza("message", sender=room, to=to, type="groupchat", id=id)
    add(xml, COMPONENT, "body", xml_text(text))
    add(xml, STYLING, "unstyled")
    return xml


def room_changed(*, room: Jid, to: Jid) -> ET.Element:
    """The room is not what it was: ask again what it can do. Spec: XEP-0045, 10.2.1."""
    xml = stanza("message", sender=room, to=to, type="groupchat")
    add(add(xml, MUC_USER, "x"), MUC_USER, "status").set("code", "104")
    return xml


def presence(
    *,
    room: Jid,
    to: Jid,
    occupant: Occupant,
    is_gone: bool = False,
    statuses: Sequence[int] = (),
    new_nickname: str | None = None,
    actor: Jid | None = None,
    actor_nickname: str | None = None,
    reason: str | None = None,
    display_name: str | None = None,
) -> ET.Element:
    """Spec: XEP-0045, 7.2.2, 7.6, 8.2, 9.1."""
    xml = stanza(
        "presence",
        sender=room.with_resource(occupant.nickname),
        to=to,
        type="unavailable" if is_gone else "",
    )
    if display_name is not None and display_name != occupant.nickname:
        add(xml, NICK, "nick", xml_text(display_name))
    add(xml, OCCUPANT_ID, "occupant-id").set("id", occupant.id)
    extra = add(xml, MUC_USER, "x")
    item = add(extra, MUC_USER, "item")
    item.set("affiliation", occupant.affiliation)
    item.set("role", "none" if is_gone and new_nickname is None else occupant.role)
    item.set("jid", str(occupant.jid))
    if new_nickname is not None:
        item.set("nick", new_nickname)
    if actor is not None:
        by = add(item, MUC_USER, "actor")
        by.set("jid", str(actor))
        if actor_nickname is not None:
            by.set("nick", actor_nickname)
    if reason:
        add(item, MUC_USER, "reason", xml_text(reason))
    for status in statuses:
        add(extra, MUC_USER, "status").set("code", str(status))
    return xml


def invitation(
    *, room: Jid, to: Jid, id: str, inviter: Jid, name: str | None, reason: str | None
) -> ET.Element:
    """Mediated, with the direct form beside it. Spec: XEP-0045, 7.8.2; XEP-0249."""
    xml = stanza("message", sender=room, to=to, id=id)
    where = f"{name} ({room})" if name else str(room)
    add(xml, COMPONENT, "body", xml_text(f"{inviter} invites you to the room {where}."))
    invite = add(add(xml, MUC_USER, "x"), MUC_USER, "invite")
    invite.set("from", str(inviter))
    if reason:
        add(invite, MUC_USER, "reason", xml_text(reason))
    direct = add(xml, DIRECT_INVITE, "x")
    direct.set("jid", str(room))
    if reason:
        direct.set("reason", xml_text(reason))
    return xml
