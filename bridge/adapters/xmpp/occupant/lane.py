"""What happens in a chat is told to the bridge in its order, one after the other.

While something is missing (after a reconnect, or when too much waited) nothing is told: first the
archive is read from where the bridge stands (`catchup`), then what has waited meanwhile. So the
stored position never passes a hole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bridge.adapters.xmpp.occupant.chat import VisitedChat
from bridge.clock import Clock
from bridge.errors import IsthmusError, Unavailable
from bridge.ports.chat import ChatChange, ChatListener, ChatMessage
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.guests")

CatchUp = Callable[[VisitedChat], Awaitable[None]]
_PAUSE_MAX_S = 30.0


class Telling:
    """`catch_up` returns when nothing is missing any more, as far as anybody can know."""

    def __init__(
        self,
        *,
        listener: ChatListener,
        clock: Clock,
        catch_up: CatchUp,
        on_idle: Callable[[VisitedChat], None],
    ) -> None:
        self._listener = listener
        self._clock = clock
        self._catch_up = catch_up
        self._on_idle = on_idle
        self._group: asyncio.TaskGroup | None = None
        self._working = 0
        self._rested = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None

    def spawn(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Runs beside everything else; what it raises is logged."""
        if self._group is None:
            return False
        self._group.create_task(_guarded(work))
        return True

    async def wait_idle(self) -> None:
        while self._working:
            self._rested.clear()
            await self._rested.wait()

    def wake(self, chat: VisitedChat) -> None:
        """Something waits, or may be caught up on now."""
        if chat.is_worked or not (chat.waiting or chat.is_behind):
            return
        chat.is_worked = self.spawn(lambda: self._work(chat))

    async def _work(self, chat: VisitedChat) -> None:
        self._working += 1
        try:
            while True:
                if chat.is_behind:
                    if not any(guest.is_stored for guest in chat.guests.values()):
                        chat.catch_up_to(chat.gaps)  # nobody is to be in any more
                        continue
                    if chat.listener is None or not chat.listener.is_in:
                        return  # woken when somebody is in
                    await self._catch_up(chat)
                elif chat.waiting:
                    await self.accept(chat, chat.waiting.popleft())
                elif chat.needs_roll:
                    log.warning("too much waited", chat=chat.name)
                    chat.needs_roll = False
                    chat.tell_roll()
                else:
                    chat.fetched.clear()
                    return
        finally:
            chat.is_worked = False
            self._working -= 1
            self._rested.set()
            self._on_idle(chat)

    async def accept(self, chat: VisitedChat, item: ChatMessage | ChatChange) -> None:
        """Returns when it is stored, or can never be."""
        pause_s = 1.0
        while True:
            try:
                if not isinstance(item, ChatMessage):
                    await self._listener.accept_change(item)
                elif item.archive_id is None or item.archive_id not in chat.fetched:
                    await self._listener.accept(item)
                return
            except Unavailable as exc:
                log.info("chat waits", chat=chat.name, reason=exc.reason)
            except IsthmusError as exc:
                log.info("not told", chat=chat.name, reason=exc.reason)
                return
            except Exception:  # the border of one item
                log.exception("not told", chat=chat.name)
                return
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)


async def _guarded(work: Callable[[], Awaitable[None]]) -> None:
    """The border of one chat: nothing that it meets ends the adapter."""
    try:
        await work()
    except IsthmusError as exc:
        log.info("gave up", reason=exc.reason)
    except Exception:
        log.exception("failed beside the lanes")
