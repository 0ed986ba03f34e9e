"""Stanzas to chat values: pure tables over raw elements.

Only what is named here is taken from a stanza. So `<stanza-id/>`, `<occupant-id/>`, `<x/>` of
muc#user and `<delay/>` that a client wrote itself never go any further (spoofing), and `xml:lang`
of the stanza, which servers stamp, is not the language of a text: that stands on `<body/>`.
Spec: RFC 6121, 5; XEP-0045; XEP-0184; XEP-0359.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import (
    CHAT_MARKERS,
    CHAT_STATES,
    COMPONENT,
    CORRECT,
    DELAY,
    DIRECT_INVITE,
    FASTEN,
    FILE_SHARING,
    JINGLE_MESSAGE,
    MARKUP,
    MUC,
    MUC_USER,
    OLD_PGP,
    OMEMO,
    OOB,
    OPENPGP,
    REACTIONS,
    RECEIPTS,
    RETRACT,
    SPOILER,
    STANZA_ERRORS,
    STANZA_ID,
    STYLING,
    XML,
)
from bridge.adapters.xmpp.styling import MAX_MARKUP, Markup, from_body
from bridge.content.model import File, Message
from bridge.errors import BadInput
from bridge.ports.ephemeral import Availability

_CORRECTED = "* "
_MARKER_CHARACTERS = 1024
MAX_URL_CHARACTERS = 4_000
_SHOWS: dict[str, Availability] = {"away": "away", "dnd": "dnd", "xa": "xa"}
_ENCRYPTED = (
    *(f"{{{omemo}}}encrypted/{{{omemo}}}payload" for omemo in OMEMO),
    f"{{{OPENPGP}}}openpgp",
    f"{{{OLD_PGP}}}x",
)
"""Without a payload OMEMO only exchanges keys. Spec: XEP-0384, 4.5."""
_UNKNOWN = (
    (DIRECT_INVITE, "x"),
    (FASTEN, "apply-to"),
    (FILE_SHARING, "file-sharing"),
    (JINGLE_MESSAGE, "propose"),
    (REACTIONS, "reactions"),
    *((retract, "retract") for retract in RETRACT),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stanza:
    """A message, presence or iq with its addresses read. `id` is empty where there is none."""

    kind: str
    type: str
    id: str
    sender: Jid
    to: Jid
    xml: ET.Element

    def has(self, namespace: str, name: str) -> bool:
        return self.find(namespace, name) is not None

    def find(self, namespace: str, name: str) -> ET.Element | None:
        return self.xml.find(f"{{{namespace}}}{name}")


def read_stanza(xml: ET.Element) -> Stanza:
    """BadInput where an address cannot be read: nobody could be answered."""
    return Stanza(
        kind=xml.tag.rpartition("}")[2],
        type=xml.get("type", ""),
        id=xml.get("id", ""),
        sender=Jid.parse(xml.get("from")),
        to=Jid.parse(xml.get("to")),
        xml=xml,
    )


def to_message(stanza: Stanza) -> Message | None:
    """What the person said; None where nothing is readable (chat states, receipts)."""
    body = _body(stanza)
    if body is None:
        return None
    text = body.text or ""
    markup = _markup(stanza)
    subject = (stanza.xml.findtext(f"{{{COMPONENT}}}subject") or "").strip()
    if subject and text.strip() and stanza.type != "groupchat":
        head = f"Subject: {subject}\n"
        text = head + text
        markup = None if markup is None else [_moved(m, len(head)) for m in markup]
    url = file_url(stanza)
    if url is not None:
        return Message(text=url, file=File(url=url))
    spoiler = stanza.find(SPOILER, "spoiler")
    message = from_body(
        text,
        markup=markup,
        unstyled=stanza.has(STYLING, "unstyled"),
        spoiler=None if spoiler is None else spoiler.text or "",
        language=body.get(f"{{{XML}}}lang") or None,
        is_notice=stanza.type == "headline",
    )
    if message is None or not stanza.has(CORRECT, "replace"):
        return message
    # Until edits are carried a correction is a new message that says what it is.
    html = None if message.html is None else _CORRECTED + message.html
    return replace(message, text=_CORRECTED + message.text, html=html)


def file_url(stanza: Stanza) -> str | None:
    """The file that a message shares: its body is exactly the URL. Spec: XEP-0066, 3."""
    url = (stanza.xml.findtext(f"{{{OOB}}}x/{{{OOB}}}url") or "").strip()
    body = _body(stanza)
    said = "" if body is None else (body.text or "").strip()
    is_link = url.lower().startswith(("https://", "http://")) and len(url) <= MAX_URL_CHARACTERS
    return url if is_link and said == url else None


def unreadable(stanza: Stanza) -> str | None:
    """What its author is told about a message that says something and cannot be carried.

    Nothing is lost in silence but what says nothing: chat states, markers, receipts.
    """
    if any(stanza.xml.find(path) is not None for path in _ENCRYPTED):
        return "This gateway cannot read encrypted messages. Please send it without encryption."
    if stanza.xml.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}invite") is not None:
        return "This gateway does not carry invitations yet."
    if _body(stanza) is None and any(stanza.has(*name) for name in _UNKNOWN):
        return "This gateway does not carry messages of this kind yet."
    return None


def _markup(stanza: Stanza) -> list[Markup] | None:
    """XEP-0394; None where the stanza has none. Elements without usable offsets are left out."""
    found = stanza.find(MARKUP, "markup")
    if found is None:
        return None
    read: list[Markup] = []
    for child in found[:MAX_MARKUP]:
        start, end = _number(child.get("start")), _number(child.get("end"))
        if start is None or end is None or end <= start:
            continue
        read.append(
            Markup(
                name=child.tag.rpartition("}")[2],
                start=start,
                end=end,
                styles=tuple(style.tag.rpartition("}")[2] for style in child),
                language=child.get("language", ""),
                ordered=child.get("ordered") in ("true", "1"),
                items=tuple(
                    at
                    for item in child.findall(f"{{{MARKUP}}}li")
                    if (at := _number(item.get("start"))) is not None
                ),
            )
        )
    return read


def _moved(markup: Markup, by: int) -> Markup:
    return markup._replace(
        start=markup.start + by, end=markup.end + by, items=tuple(i + by for i in markup.items)
    )


def _body(stanza: Stanza) -> ET.Element | None:
    """The one without a language first: it is what the author wrote, the others translate it."""
    bodies = stanza.xml.findall(f"{{{COMPONENT}}}body")
    lang = f"{{{XML}}}lang"
    return next((b for b in bodies if b.get(lang) is None), bodies[0] if bodies else None)


def to_subject(stanza: Stanza) -> str | None:
    """The new subject of a room: an element `subject` and no body. Spec: XEP-0045, 8.1."""
    subject = stanza.find(COMPONENT, "subject")
    if subject is None or _body(stanza) is not None or stanza.has(COMPONENT, "thread"):
        return None
    return subject.text or ""


def origin_id(stanza: Stanza) -> str | None:
    found = stanza.find(STANZA_ID, "origin-id")
    return (found.get("id") or None) if found is not None else None


def fingerprint(stanza: Stanza) -> str:
    """Tells a message that was sent again from another one under the same id."""
    digest = hashlib.sha256(stanza.type.encode())
    for name in ("subject", "body"):
        for node in stanza.xml.findall(f"{{{COMPONENT}}}{name}"):
            lang = node.get(f"{{{XML}}}lang", "")
            digest.update(f"\0{name}\0{lang}\0{node.text or ''}".encode("utf-8", "replace"))
    return digest.hexdigest()[:32]


def wants_receipt(stanza: Stanza) -> bool:
    """Spec: XEP-0184, 5.3: never for groupchat, never for an error, only with an id."""
    is_person = stanza.type in ("", "normal", "chat", "headline")
    return is_person and bool(stanza.id) and stanza.has(RECEIPTS, "request")


def wants_marker(stanza: Stanza) -> bool:
    """Spec: XEP-0333."""
    return bool(stanza.id) and stanza.has(CHAT_MARKERS, "markable")


def chat_state(xml: ET.Element) -> str | None:
    """`composing` or another state of now; None: it says none. Spec: XEP-0085."""
    if xml.get("type") in ("error", "headline") or xml.find(f"{{{DELAY}}}delay") is not None:
        return None
    head = f"{{{CHAT_STATES}}}"
    return next((c.tag.removeprefix(head) for c in xml if c.tag.startswith(head)), None)


def displayed(xml: ET.Element) -> str | None:
    """The id of the newest message that was read. Spec: XEP-0333."""
    found = xml.find(f"{{{CHAT_MARKERS}}}displayed")
    if found is None or xml.get("type") == "error":
        return None
    name = found.get("id", "")
    return name if 0 < len(name) <= _MARKER_CHARACTERS else None


def availability(stanza: Stanza) -> Availability:
    """Of a presence without a type. Spec: RFC 6121, 4.7.2.1."""
    show = (stanza.xml.findtext(f"{{{COMPONENT}}}show") or "").strip()
    return _SHOWS.get(show, "available")


def priority(stanza: Stanza) -> int:
    """Spec: RFC 6121, 4.7.2.3."""
    text = (stanza.xml.findtext(f"{{{COMPONENT}}}priority") or "").strip()
    value = _number(text.removeprefix("-"))
    if value is None or value > 128:
        return 0
    return -value if text.startswith("-") else value


def status_text(stanza: Stanza) -> str | None:
    found = stanza.xml.findtext(f"{{{COMPONENT}}}status")
    return (found or "").strip() or None


def error_of(stanza: Stanza) -> tuple[str, str | None]:
    """Condition and text of a stanza of type error."""
    text = stanza.xml.findtext(f"{{{COMPONENT}}}error/{{{STANZA_ERRORS}}}text")
    return condition_of(stanza.xml), text


def condition_of(xml: ET.Element) -> str:
    """The condition of a raw stanza of type error."""
    for child in xml.iterfind(f"{{{COMPONENT}}}error/*"):
        namespace, _, name = child.tag.removeprefix("{").rpartition("}")
        if namespace == STANZA_ERRORS and name != "text":
            return name
    return "undefined-condition"


def history_limit(stanza: Stanza, *, default: int, maximum: int) -> int:
    """How many messages of the past are asked for. Spec: XEP-0045, 7.2.13 (`maxstanzas`; no
    characters at all means no messages)."""
    history = stanza.xml.find(f"{{{MUC}}}x/{{{MUC}}}history")
    if history is None:
        return min(default, maximum)
    if _number(history.get("maxchars")) == 0 or _number(history.get("seconds")) == 0:
        return 0
    asked = _number(history.get("maxstanzas"))
    return min(default if asked is None else asked, maximum)


def history_seconds(stanza: Stanza) -> int | None:
    """No message of the past older than this is wanted."""
    history = stanza.xml.find(f"{{{MUC}}}x/{{{MUC}}}history")
    return None if history is None else _number(history.get("seconds"))


def declined_reason(stanza: Stanza) -> str | None:
    """The reason (perhaps empty) of a declined mediated invitation; None: it is none."""
    decline = stanza.xml.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}decline")
    if decline is None:
        return None
    return decline.findtext(f"{{{MUC_USER}}}reason") or ""


def payload_of(stanza: Stanza) -> tuple[str, str]:
    """Namespace and name of an iq's payload. BadInput unless there is exactly one."""
    children = [c for c in stanza.xml if not c.tag.startswith(f"{{{COMPONENT}}}error")]
    if len(children) != 1:
        raise BadInput("an iq has exactly one payload")
    namespace, _, name = children[0].tag.removeprefix("{").rpartition("}")
    return namespace, name


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None
