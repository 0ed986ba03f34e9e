"""Group messages of a foreign chat as values: live ones, and those of its archive or history.

Who wrote a message of the past is told by the message itself; the present holder of the nickname
may be somebody else. Spec: XEP-0045, 7.2.14 and 7.4; XEP-0421, 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound
from bridge.adapters.xmpp.occupant.chat import VisitedChat
from bridge.adapters.xmpp.occupant.presences import (
    ids_of,
    occupant_id_of,
    shown_address,
)
from bridge.errors import BadInput
from bridge.ids import TraceId
from bridge.ports.chat import ChatMessage, Occupant
from bridge.ports.ephemeral import ChatRead, ChatTyping

Source = Literal["live", "archive", "history"]
_ANY_OWN_ID = re.compile(r"[A-Za-z0-9_-]+\.out\.[0-9]{1,18}")
"""An id that a gateway like ours gave; ours under an older epoch, if a guest of ours wrote it."""
_NAME_CHARACTERS = 255


class Reading:
    def __init__(self, *, adapter: str, new_trace: Callable[[], TraceId]) -> None:
        self._adapter = adapter
        self._new_trace = new_trace

    def see_own(
        self, chat: VisitedChat, xml: ET.Element, nickname: str, archive_id: str | None
    ) -> bool:
        """Whether a message of the past is one of ours; then it proves a post.

        Anybody may write under an id of ours: it proves nothing under another's nickname.
        """
        names = ids_of(xml)
        if chat.has_had(nickname):
            chat.reflections.see(names, archive_id)
            return any(_ANY_OWN_ID.fullmatch(name) for name in names)
        return any(chat.reflections.is_own_id(name) for name in names)

    def author_of(
        self, chat: VisitedChat, xml: ET.Element, nickname: str, source: Source
    ) -> Occupant:
        seen = chat.table.get(nickname)
        if seen is not None and source == "live":
            return seen.occupant
        # A live message may bear an address that its author made up; the archive adds its own.
        is_shown = source == "archive" and chat.identity == "address"
        address = chat.address_of(
            nickname,
            occupant_id=occupant_id_of(xml),
            real=shown_address(xml) if is_shown else None,
        )
        return Occupant(address=address, nickname=nickname)

    def to_states(
        self, chat: VisitedChat, xml: ET.Element, nickname: str
    ) -> list[ChatTyping | ChatRead]:
        """What a live message says of its author beside its words. Spec: XEP-0085; XEP-0333."""
        seen = chat.table.get(nickname)
        if seen is None:
            return []
        sender, states = seen.occupant.address, list[ChatTyping | ChatRead]()
        state, read = inbound.chat_state(xml), inbound.displayed(xml)
        if state is not None:
            typing = state == "composing"
            states.append(ChatTyping(sender=sender, typing=typing, to_chat=chat.name))
        if read is not None:
            states.append(ChatRead(sender=sender, message_id=read, to_chat=chat.name))
        return states

    def to_message(
        self,
        chat: VisitedChat,
        xml: ET.Element,
        nickname: str,
        *,
        archive_id: str | None,
        at_ms: int | None,
        source: Source,
    ) -> ChatMessage | None:
        """None: it says nothing that can be carried."""
        try:
            stanza = inbound.read_stanza(xml)
            message = inbound.to_message(stanza)
        except BadInput:
            return None
        if message is None:
            return None
        author = self.author_of(chat, xml, nickname, source)
        trace = self._new_trace()
        past_id = None if at_ms is None else f"at.{at_ms}"
        return ChatMessage(
            adapter=self._adapter,
            sender=author.address,
            session=f"{chat.name}/{nickname}",
            to_user=None,
            to_room=None,
            sent_to=chat.name,
            stanza_id=stanza.id or archive_id or past_id or str(trace),
            origin_id=inbound.origin_id(stanza),
            fingerprint=inbound.fingerprint(stanza),
            wants_receipt=False,
            message=message,
            trace=trace,
            to_chat=chat.name,
            sender_name=nickname[:_NAME_CHARACTERS],
            archive_id=archive_id,
            at_ms=at_ms,
        )
