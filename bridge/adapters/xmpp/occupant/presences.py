"""What stanzas of a foreign chat say, read from raw elements.

Marks are believed only from who may make them: `<stanza-id/>` and `<delay/>` of the chat itself.
Spec: XEP-0045, 7 to 10 and 15.6 (status codes); XEP-0203; XEP-0359, 3; XEP-0421, 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import (
    COMPONENT,
    DELAY,
    MUC_USER,
    OCCUPANT_ID,
    STANZA_ID,
)
from bridge.adapters.xmpp.occupant.archive import stamp_ms
from bridge.errors import BadInput

SHOWS_ADDRESSES: Final = 100
CONFIGURED: Final = 104
SELF: Final = 110
SEMI_ANONYMOUS: Final = frozenset({173, 174})
CREATED: Final = 201
BANNED: Final = 301
RENAMED: Final = 303
KICKED: Final = 307
NO_MEMBER: Final = frozenset({321, 322})
TECHNICAL: Final = frozenset({332, 333})
"""The service ends, or lost the occupant: nobody decided it."""

_CODE = re.compile(r"[0-9]{3}")
_TEXT_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroyed:
    alternative: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MucPresence:
    """One presence from an occupant's address. `address` is the real one, without resource."""

    nickname: str
    is_gone: bool
    statuses: frozenset[int]
    affiliation: str = "none"
    role: str = "none"
    address: Jid | None = None
    occupant_id: str | None = None
    new_nickname: str | None = None
    actor: str | None = None
    reason: str | None = None
    destroyed: Destroyed | None = None

    @property
    def how(self) -> str:
        """In which way somebody went. A lost connection may be called a kick, too (307, 333)."""
        if self.statuses & TECHNICAL:
            return "left"
        if BANNED in self.statuses:
            return "banned"
        is_kick = KICKED in self.statuses or bool(self.statuses & NO_MEMBER)
        return "kicked" if is_kick else "left"


def read_presence(xml: ET.Element, nickname: str) -> MucPresence:
    extra = xml.find(f"{{{MUC_USER}}}x")
    mark = xml.find(f"{{{OCCUPANT_ID}}}occupant-id")
    is_gone = xml.get("type") == "unavailable"
    occupant_id = (mark.get("id") or None) if mark is not None else None
    if extra is None:
        return MucPresence(
            nickname=nickname, is_gone=is_gone, statuses=frozenset(), occupant_id=occupant_id
        )
    item = extra.find(f"{{{MUC_USER}}}item")
    if item is None:
        item = ET.Element("item")
    actor = item.find(f"{{{MUC_USER}}}actor")
    return MucPresence(
        nickname=nickname,
        is_gone=is_gone,
        statuses=read_statuses(extra),
        affiliation=item.get("affiliation", "none"),
        role=item.get("role", "none"),
        address=_bare(item.get("jid")),
        occupant_id=occupant_id,
        new_nickname=item.get("nick"),
        actor=None if actor is None else actor.get("nick"),
        reason=_text(item.findtext(f"{{{MUC_USER}}}reason")),
        destroyed=_destroyed(extra),
    )


def read_statuses(extra: ET.Element) -> frozenset[int]:
    codes = (status.get("code", "") for status in extra.iterfind(f"{{{MUC_USER}}}status"))
    return frozenset(int(code) for code in codes if _CODE.fullmatch(code))


def message_statuses(xml: ET.Element) -> frozenset[int]:
    """What the chat tells about itself in a message. Spec: XEP-0045, 10.2.1."""
    extra = xml.find(f"{{{MUC_USER}}}x")
    return frozenset() if extra is None else read_statuses(extra)


def archive_id(xml: ET.Element, chat: str) -> str | None:
    """The ID that the chat itself gave. Spec: XEP-0359, 3: `by` is checked."""
    for mark in xml.iterfind(f"{{{STANZA_ID}}}stanza-id"):
        if mark.get("by") == chat and mark.get("id"):
            return mark.get("id")
    return None


def delayed_ms(xml: ET.Element, chat: str) -> int | None:
    """When it was said, if the chat shows its past. A client may not say so for itself."""
    for delay in xml.iterfind(f"{{{DELAY}}}delay"):
        sender = delay.get("from")
        if sender is None or sender.partition("/")[0] == chat:
            return stamp_ms(delay.get("stamp"))
    return None


def ids_of(xml: ET.Element) -> tuple[str, ...]:
    """By which its author knows it: some rooms change one of the two."""
    origin = xml.find(f"{{{STANZA_ID}}}origin-id")
    found = (xml.get("id"), None if origin is None else origin.get("id"))
    return tuple(name for name in found if name)


def shown_address(xml: ET.Element) -> Jid | None:
    """The author's real address on a message of the past, where the chat shows addresses."""
    item = xml.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}item")
    return None if item is None else _bare(item.get("jid"))


def occupant_id_of(xml: ET.Element) -> str | None:
    mark = xml.find(f"{{{OCCUPANT_ID}}}occupant-id")
    return None if mark is None else mark.get("id") or None


def body_of(xml: ET.Element) -> str:
    return xml.findtext(f"{{{COMPONENT}}}body") or ""


def _destroyed(extra: ET.Element) -> Destroyed | None:
    found = extra.find(f"{{{MUC_USER}}}destroy")
    if found is None:
        return None
    where = _bare(found.get("jid"))
    return Destroyed(
        alternative=None if where is None else str(where),
        reason=_text(found.findtext(f"{{{MUC_USER}}}reason")),
    )


def _bare(text: str | None) -> Jid | None:
    if text is None:
        return None
    try:
        return Jid.parse(text).bare
    except BadInput:
        return None


def _text(text: str | None) -> str | None:
    return " ".join((text or "").split())[:_TEXT_CHARACTERS] or None
