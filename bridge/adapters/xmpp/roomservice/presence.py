"""How occupants look to the sessions of a room: arrivals, departures, new names. Wire form only.

Rooms are non-anonymous: the address of every member can be read off their Matrix ID anyway.
Spec: XEP-0045, 7.2, 7.6, 8.2, 9.1, 15.6 (status codes).
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import MUC_USER, add
from bridge.adapters.xmpp.outbound import Occupant
from bridge.adapters.xmpp.roomservice.occupants import Session
from bridge.adapters.xmpp.xmltext import xml_text

NON_ANONYMOUS = 100
SELF = 110
NICK_ASSIGNED = 210
BANNED = 301
NEW_NICK = 303
KICKED = 307
SHUTDOWN = 332
UNREACHABLE = 333


def arrival(
    session: Session, occupant: Occupant, display_name: str | None = None, *, is_self: bool = False
) -> ET.Element:
    """Also says rights that have changed. Spec: XEP-0045, 9.6."""
    return outbound.presence(
        room=session.entered_by,
        to=session.address,
        occupant=occupant,
        statuses=[SELF] if is_self else [],
        display_name=display_name,
    )


def self_arrival(session: Session, occupant: Occupant, *, is_assigned: bool) -> ET.Element:
    """The last of the presences that somebody is sent who enters."""
    statuses = [NON_ANONYMOUS, SELF]
    if is_assigned:
        statuses.append(NICK_ASSIGNED)
    return outbound.presence(
        room=session.entered_by, to=session.address, occupant=occupant, statuses=statuses
    )


def departure(
    session: Session,
    occupant: Occupant,
    *,
    is_self: bool = False,
    status: int | None = None,
    actor: Jid | None = None,
    actor_nickname: str | None = None,
    reason: str | None = None,
) -> ET.Element:
    """`status`: 307 kicked, 301 banned, 332 the room is gone for them, 333 unreachable, None for
    who left by themselves."""
    statuses = [SELF] if is_self else []
    if status is not None:
        statuses.append(status)
    return outbound.presence(
        room=session.entered_by,
        to=session.address,
        occupant=occupant,
        is_gone=True,
        statuses=statuses,
        actor=actor,
        actor_nickname=actor_nickname,
        reason=reason,
    )


def destruction(
    session: Session, occupant: Occupant, *, alternative: Jid, reason: str
) -> ET.Element:
    """To the occupant itself: the room goes on elsewhere. Spec: XEP-0045, 10.9."""
    xml = departure(session, occupant, is_self=True)
    extra = xml.find(f"{{{MUC_USER}}}x")
    if extra is not None:
        destroy = add(extra, MUC_USER, "destroy")
        destroy.set("jid", str(alternative))
        add(destroy, MUC_USER, "reason", xml_text(reason))
    return xml


def renaming(
    session: Session, before: Occupant, after: Occupant, *, is_self: bool = False
) -> list[ET.Element]:
    """The old name goes with 303, the new one comes. Spec: XEP-0045, 7.6."""
    own = [SELF] if is_self else []
    return [
        outbound.presence(
            room=session.entered_by,
            to=session.address,
            occupant=before,
            is_gone=True,
            statuses=[NEW_NICK, *own],
            new_nickname=after.nickname,
        ),
        outbound.presence(
            room=session.entered_by, to=session.address, occupant=after, statuses=own
        ),
    ]
