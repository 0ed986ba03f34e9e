"""Back into the chats: after a (re)connect, and when a chat lost somebody of ours.

While we were away the chat may have removed our guests, or not; they are not asked to leave and
Matrix sees nothing of it. Per chat: it describes itself, the first guest enters anew and listens
(what was missed is read then, `catchup`), the others ping themselves and enter where they are out,
a few each second. Whom the chat does not take back is removed, with its reason.

A retry loop lives here because this is a reconnect. Spec: XEP-0045, 7.2; XEP-0410.
"""

from __future__ import annotations

import asyncio
from functools import partial

from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import DATA_FORMS, MUC_OWNER, add, element
from bridge.adapters.xmpp.occupant.chat import Guest, VisitedChat
from bridge.adapters.xmpp.occupant.describe import describe
from bridge.adapters.xmpp.occupant.entering import Entering
from bridge.adapters.xmpp.occupant.lane import Telling
from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.adapters.xmpp.occupant.selfping import is_in
from bridge.adapters.xmpp.occupant.visits import Visits
from bridge.clock import Clock
from bridge.errors import IsthmusError, NotFound, Refused, Unavailable
from bridge.ports.chat import ChatRenamed, GuestEntered, GuestRemoved
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.guests")

_TRIES = 10
_PAUSE_MAX_S = 60.0
_WATCH_S = 60.0
_SILENCE_S = 300.0
"""A listener that heard nothing for so long asks whether it is still in."""
_HOW = {"forbidden": "banned", "registration-required": "not-a-member"}


class Pace:
    """So many turns a second; as many at once after a pause."""

    def __init__(self, clock: Clock, per_s: float) -> None:
        self._clock = clock
        self._interval_s = 1 / per_s
        self._next_s = clock.monotonic_s() - 1.0

    async def turn(self) -> None:
        now_s = self._clock.monotonic_s()
        self._next_s = max(self._next_s, now_s - 1.0) + self._interval_s
        if self._next_s > now_s:
            await self._clock.sleep(self._next_s - now_s)


class Returning:
    def __init__(
        self,
        *,
        visits: Visits,
        entering: Entering,
        questions: Questions,
        telling: Telling,
        bot: Jid,
        clock: Clock,
        limits: XmppLimits,
    ) -> None:
        self._visits = visits
        self._entering = entering
        self._questions = questions
        self._telling = telling
        self._bot = bot
        self._clock = clock
        self._limits = limits
        self._pace = Pace(clock, limits.guest_joins_per_s)
        self._reconnected = asyncio.Event()

    def on_connected(self) -> None:
        self._questions.on_disconnected()
        for chat in self._visits.all():
            chat.on_disconnected()
            chat.returned_s, chat.is_returning = None, False
        self._reconnected.set()

    async def run(self) -> None:
        while True:
            await self._reconnected.wait()
            self._reconnected.clear()
            for chat in self._visits.all():
                self.bring_back(chat)

    async def watch(self) -> None:
        """Who was removed while the room's server could not say so would never know."""
        while True:
            await self._clock.sleep(_WATCH_S)
            now_s = self._clock.monotonic_s()
            for chat in self._visits.all():
                self.bring_back(chat)
                listener = chat.listener
                is_silent = now_s - chat.heard_s > _SILENCE_S
                if listener is not None and listener.is_in and is_silent:
                    chat.heard_s = now_s
                    self._telling.spawn(partial(self._check, chat, listener))

    async def _check(self, chat: VisitedChat, listener: Guest) -> None:
        if await self._is_in(chat, listener) is False and chat.listener is listener:
            log.info("silently removed", chat=chat.name)
            self.on_outside(chat)

    def on_outside(self, chat: VisitedChat) -> None:
        """The room does not know us any more, all of us probably."""
        chat.on_disconnected()
        self.bring_back(chat)

    def bring_back(self, chat: VisitedChat) -> None:
        """Whoever is to be in and is not."""
        if chat.is_returning or all(guest.is_in for guest in chat.stored_guests):
            return
        chat.journey += 1
        chat.is_returning = self._telling.spawn(partial(self._bring_back, chat, chat.journey))

    async def _bring_back(self, chat: VisitedChat, journey: int) -> None:
        pause_s = 1.0
        try:
            await self._slow_down(chat)
            for _ in range(_TRIES):
                if chat.journey != journey:
                    return  # the connection is new, and so is the return
                try:
                    await self._return(chat)
                    if all(guest.is_in for guest in chat.stored_guests):
                        return
                except Unavailable as exc:
                    log.info("chat not reachable", chat=chat.name, reason=exc.reason)
                await self._clock.sleep(pause_s)
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)
        finally:
            if chat.journey == journey:
                chat.is_returning = False

    async def _slow_down(self, chat: VisitedChat) -> None:
        """A room that puts us out as soon as we are in is not entered without end."""
        now_s = self._clock.monotonic_s()
        is_again = chat.returned_s is not None and now_s - chat.returned_s < 2 * _PAUSE_MAX_S
        chat.return_pause_s = min(2 * chat.return_pause_s + 1, _PAUSE_MAX_S) if is_again else 0
        if chat.return_pause_s:
            await self._clock.sleep(chat.return_pause_s)
        chat.returned_s = self._clock.monotonic_s()

    async def _return(self, chat: VisitedChat) -> None:
        before = chat.info
        await self.look(chat)
        if chat.info is not None and (before is None or before.name != chat.info.name):
            chat.tell(ChatRenamed(chat=chat.name, name=chat.info.name))
        for guest in chat.stored_guests:
            if guest.is_in:
                continue
            await self._pace.turn()
            async with chat.door:
                if guest.is_stored and not guest.is_in:
                    await self._return_one(chat, guest)

    async def _return_one(self, chat: VisitedChat, guest: Guest) -> None:
        if chat.listener is None:
            await self._visits.refresh(chat)
        elif guest.may_be_in and await self._is_in(chat, guest):
            guest.state, guest.may_be_in = "in", False
            chat.undecided.pop(guest.nickname, None)
            return
        nickname = guest.nickname
        try:
            await self._entering.enter(chat, guest, None)
        except Refused as exc:
            await self._give_up(chat, guest, exc)
            return
        guest.may_be_in = False
        if guest.nickname != nickname:
            if guest.jid != self._bot:
                chat.tell(
                    GuestEntered(
                        chat=chat.name,
                        user_id=guest.user_id,
                        nickname=guest.nickname,
                        wanted=nickname,
                    )
                )
                self._telling.wake(chat)
            await self._visits.store(chat, guest)

    async def _give_up(self, chat: VisitedChat, guest: Guest, exc: Refused) -> None:
        log.info("not taken back", chat=chat.name, user_id=guest.user_id, reason=exc.reason)
        guest.is_stored = False
        chat.drop(guest)
        if guest.jid != self._bot:
            chat.tell(
                GuestRemoved(
                    chat=chat.name,
                    user_id=guest.user_id,
                    how=_HOW.get(exc.rule, "kicked"),
                    actor=None,
                    reason=exc.reason,
                )
            )
        await self._visits.remove(chat, guest.user_id)
        self._telling.wake(chat)

    async def _is_in(self, chat: VisitedChat, guest: Guest) -> bool | None:
        return await is_in(
            self._questions,
            session=guest.jid,
            occupant=chat.jid.with_resource(guest.nickname),
            timeout_s=self._limits.describe_timeout_s,
        )

    # --- what the chat says of itself -----------------------------------------------------------

    async def look(self, chat: VisitedChat) -> None:
        """Unavailable where it does not answer and never did. A room that is not there at the
        moment keeps what it has said before; one that says nothing can do nothing."""
        try:
            chat.info = await describe(
                self._questions,
                asker=self._bot,
                chat=chat.jid,
                timeout_s=self._limits.describe_timeout_s,
            )
        except Refused:
            return
        except (NotFound, Unavailable) as exc:
            is_new = chat.info is None and chat.identity is None
            if is_new or (chat.info is None and isinstance(exc, Unavailable)):
                raise

    async def look_again(self, chat: VisitedChat) -> None:
        """Its configuration has changed."""
        before = chat.info
        await self.look(chat)
        after = chat.info
        if after is None:
            return
        if before is None or before.name != after.name:
            chat.tell(ChatRenamed(chat=chat.name, name=after.name))
        is_less = chat.identity == "address" and not after.shows_addresses
        if is_less and chat.identify(shows_addresses=False):
            await self._visits.store_identity(chat)
            chat.tell_roll()
        self._telling.wake(chat)

    async def open_new(self, chat: VisitedChat, guest: Guest) -> None:
        """The room was not there (any more) and was made by our entering: it is opened to others
        as its service makes rooms. Spec: XEP-0045, 10.1.2."""
        query = element(MUC_OWNER, "query")
        add(query, DATA_FORMS, "x").set("type", "submit")
        try:
            await self._questions.ask(
                sender=guest.jid,
                to=chat.jid,
                type="set",
                payload=query,
                timeout_s=self._limits.guest_timeout_s,
            )
        except IsthmusError as exc:
            log.info("new room not opened", chat=chat.name, reason=exc.reason)
        await self.look_again(chat)
        chat.readdress()
        chat.tell_roll()
        self._telling.wake(chat)
