"""What somebody who enters is shown of the past, and the subject that ends it.

Spec: XEP-0045, 7.2.13 to 7.2.15; XEP-0203; XEP-0359.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.roomservice.occupants import ServedRoom, Session
from bridge.adapters.xmpp.styling import to_body
from bridge.ids import UserId
from bridge.ports.chat import RoomView


def past(
    room: ServedRoom, session: Session, view: RoomView, *, not_before_ms: int | None
) -> list[ET.Element]:
    """Oldest first. Who has no nickname here any more speaks under their Matrix ID."""
    return [
        outbound.groupchat(
            sender=_speaker(room, session, message.sender),
            to=session.address,
            id=message.event_id,
            body=to_body(message.message),
            stanza_id=message.event_id,
            occupant=room.occupant_id(message.sender),
            delayed_ms=message.at_ms,
        )
        for message in view.history
        if not_before_ms is None or message.at_ms >= not_before_ms
    ]


def _speaker(room: ServedRoom, session: Session, user_id: UserId) -> Jid:
    """A Matrix ID that cannot be part of an address speaks as the room itself."""
    speaker = session.entered_by.with_resource(room.nicknames.get(user_id, user_id))
    return speaker if speaker.is_prepared(strict=True) else session.entered_by


def subject(room: ServedRoom, session: Session, view: RoomView) -> ET.Element:
    """Sent even when there is none: it says that the room's past is over."""
    sender = session.entered_by
    if view.info.topic_sender is not None and view.info.topic_sender in room.nicknames:
        sender = sender.with_resource(room.nicknames[view.info.topic_sender])
    return outbound.subject(
        sender=sender,
        to=session.address,
        text=view.info.topic or "",
        at_ms=view.info.topic_ts if view.info.topic else None,
    )
