"""What was missed in a chat is read from its archive.

1. Once after our start: posts of an earlier process from the time before the stored position, so
   that none is sent twice. (A post may be shown by the chat, and a later message be stored, while
   the row of the post was not finished yet.)
2. Everything after the stored position; where the archive does not know it, from its time on.

Without an archive the history at entering has brought what there is. Spec: XEP-0313, 4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.occupant import archive
from bridge.adapters.xmpp.occupant.archive import ArchivedMessage
from bridge.adapters.xmpp.occupant.chat import VisitedChat
from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.adapters.xmpp.occupant.reading import Reading
from bridge.clock import Clock
from bridge.errors import NotFound, Refused, Unavailable
from bridge.ports.chat import ChatMessage
from bridge.storage import chats
from bridge.storage.chats import StoredChat
from bridge.storage.database import Database
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.guests")

_SCAN_BACK_MS = 60_000
_SCANNED = 500
_TRIES = 5


class CatchUp:
    """`accept` stores one message, however long it takes."""

    def __init__(
        self,
        *,
        adapter: str,
        questions: Questions,
        database: Database,
        reading: Reading,
        clock: Clock,
        limits: XmppLimits,
        accept: Callable[[VisitedChat, ChatMessage], Awaitable[None]],
    ) -> None:
        self._adapter = adapter
        self._questions = questions
        self._database = database
        self._reading = reading
        self._clock = clock
        self._limits = limits
        self._accept = accept

    async def catch_up(self, chat: VisitedChat) -> None:
        """Nothing is missing afterwards, or whoever listened has gone."""
        gaps, listener = chat.gaps, chat.listener
        if listener is None:
            return
        for tried in range(_TRIES):
            try:
                if chat.has_archive:
                    await self._read(chat, listener.jid)
                break
            except Unavailable as exc:
                log.info("archive not readable", chat=chat.name, reason=exc.reason)
            except (NotFound, Refused) as exc:
                log.warning("archive refused", chat=chat.name, reason=exc.reason)
                break
            await self._clock.sleep(2**tried)
            if chat.listener is not listener or not listener.is_in:
                return
        else:
            log.warning("archive given up", chat=chat.name)
        chat.catch_up_to(gaps)

    async def _read(self, chat: VisitedChat, asker: Jid) -> None:
        stored = await self._database.read(
            lambda tx: chats.find(tx, adapter=self._adapter, chat=chat.name)
        )
        entered_ms = min((g.entered_ms for g in chat.stored_guests), default=0)
        since_ms = stored.archive_ms or entered_ms
        if not chat.is_scanned:
            start_ms = max(since_ms - _SCAN_BACK_MS, 1)
            async for archived in self._pages(chat, asker, None, start_ms, _SCANNED):
                self._reading.see_own(
                    chat, archived.element, _nickname(archived), archived.archive_id
                )
            chat.is_scanned = True
        count = 0
        async for archived in self._missed(chat, asker, stored, since_ms):
            count += 1
            await self._take(chat, archived)
        if count:
            log.info("caught up", chat=chat.name, messages=count)
        if count >= self._limits.catchup_messages:
            log.warning("too much was missed: the rest is given up", chat=chat.name)

    async def _missed(
        self, chat: VisitedChat, asker: Jid, stored: StoredChat, since_ms: int
    ) -> AsyncIterator[ArchivedMessage]:
        limit = self._limits.catchup_messages
        if stored.archive_id is not None:
            try:
                async for archived in self._pages(
                    chat, asker, stored.archive_id, stored.archive_ms, limit
                ):
                    yield archived
                return
            except NotFound:
                log.info("archive lost our place", chat=chat.name)
        async for archived in self._pages(chat, asker, None, since_ms, limit):
            yield archived

    def _pages(
        self, chat: VisitedChat, asker: Jid, after: str | None, start_ms: int | None, limit: int
    ) -> AsyncIterator[ArchivedMessage]:
        return archive.read(
            self._questions,
            asker=asker,
            chat=chat.jid,
            after=after,
            start_ms=start_ms,
            limit=limit,
            timeout_s=self._limits.guest_timeout_s,
        )

    async def _take(self, chat: VisitedChat, archived: ArchivedMessage) -> None:
        nickname = _nickname(archived)
        if not nickname or archived.archive_id in chat.fetched:
            return
        if self._reading.see_own(chat, archived.element, nickname, archived.archive_id):
            return
        message = self._reading.to_message(
            chat,
            archived.element,
            nickname,
            archive_id=archived.archive_id,
            at_ms=archived.at_ms,
            source="archive",
        )
        if message is not None:
            await self._accept(chat, message)
            chat.fetched.add(archived.archive_id)


def _nickname(archived: ArchivedMessage) -> str:
    return archived.element.get("from", "").partition("/")[2]
