"""What a chat says of somebody: their affiliation, or that one of its owners agrees to something.

Read from presence that the room itself makes, so that it holds where addresses are hidden, too.
What nobody tells us is None, which allows nothing. Where no guest of ours is in the chat the bot
goes in for a moment; nothing that happens meanwhile is told to anybody.
Spec: XEP-0045, 5.2, 9.5, 10.5 and 10.8.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from bridge.adapters.xmpp.addresses import AddressBook
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.occupant.admin import Affiliation, affiliated
from bridge.adapters.xmpp.occupant.chat import Guest, VisitedChat, Watch
from bridge.adapters.xmpp.occupant.entering import Entering
from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.adapters.xmpp.occupant.visits import Visits
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import UserId

_LISTS: Final[tuple[Affiliation, ...]] = ("owner", "admin", "outcast", "member")
_RANK = {"owner": 4, "admin": 3, "member": 2, "none": 1, "outcast": 0}
_NAME = "Matrix"
_WATCHES = 20


class Vouching:
    """`look` lets the chat describe itself."""

    def __init__(
        self,
        *,
        visits: Visits,
        entering: Entering,
        questions: Questions,
        book: AddressBook,
        limits: XmppLimits,
        look: Callable[[VisitedChat], Awaitable[None]],
    ) -> None:
        self._visits = visits
        self._entering = entering
        self._questions = questions
        self._book = book
        self._limits = limits
        self._look = look

    async def affiliation(self, name: str, user_id: UserId) -> str | None:
        chat = self._visits.get(name)
        async with self._inside(chat) as asker:
            guest = chat.guests.get(user_id)
            if guest is not None and guest.is_in and guest.affiliation is not None:
                return guest.affiliation
            person = self._address_of(user_id)
            shown = [
                seen.affiliation
                for seen in chat.table.values()
                if (person is not None and seen.real == person)
                or self._user_of(seen.occupant.address) == user_id
            ]
            if shown:
                return max(shown, key=lambda word: _RANK.get(word, -1))
            return None if person is None else await self._listed(chat, asker, person)

    async def _listed(self, chat: VisitedChat, asker: Guest, person: Jid) -> str | None:
        """As the lists say, where the room shows them to us. `none` only if all were shown."""
        is_whole = True
        for affiliation in _LISTS:
            try:
                people = await affiliated(
                    self._questions,
                    asker=asker.jid,
                    chat=chat.jid,
                    affiliation=affiliation,
                    timeout_s=self._limits.describe_timeout_s,
                )
            except (Refused, NotFound):
                is_whole = False
                continue
            if person in people:
                return affiliation
        return "none" if is_whole else None

    async def await_confirmation(self, name: str, code: str, *, timeout_s: float) -> str | None:
        chat = self._visits.get(name)
        if len(chat.watches) >= _WATCHES:
            raise Unavailable("too many confirmations are awaited there already")
        watch = Watch(code=code, found=asyncio.get_running_loop().create_future())
        chat.watches.append(watch)
        try:
            async with self._inside(chat), asyncio.timeout(timeout_s):
                return await watch.found
        except TimeoutError:
            return None
        finally:
            chat.watches.remove(watch)
            self._visits.tidy(chat)

    @asynccontextmanager
    async def _inside(self, chat: VisitedChat) -> AsyncIterator[Guest]:
        """Somebody of ours is in the chat and hears it: the listener, or the bot for a moment."""
        listener = chat.listener
        if listener is not None and listener.is_in and listener.is_stored:
            yield listener
            return
        bot: Guest | None = None
        chat.visitors += 1
        try:
            bot = await self._enter(chat)
            yield bot
        finally:
            chat.visitors -= 1
            if bot is not None and not chat.visitors and chat.guests.get(bot.user_id) is bot:
                await self._leave(chat, bot)
            self._visits.tidy(chat)

    async def _enter(self, chat: VisitedChat) -> Guest:
        if chat.info is None:
            await self._look(chat)
        async with chat.door:
            bot = self._visits.guest(chat, self._book.bot_id)
            try:
                if not bot.is_in:
                    await self._visits.refresh(chat)
                    await self._entering.enter(chat, bot, _NAME)
            except BaseException:
                if not bot.is_stored:
                    chat.drop(bot)
                raise
            return bot

    async def _leave(self, chat: VisitedChat, bot: Guest) -> None:
        async with chat.door:
            if bot.is_stored or chat.visitors:
                return
            with suppress(Unavailable):  # the room removes who is not reachable
                await self._entering.leave(chat, bot, None, key=f"{chat.name} visit")
            chat.drop(bot)
        self._visits.tidy(chat)

    def _address_of(self, user_id: UserId) -> Jid | None:
        try:
            return self._book.jid_of(user_id).bare
        except (NotFound, BadInput):
            return None  # an occupant whose address is hidden, from us as well

    def _user_of(self, address: str) -> UserId | None:
        try:
            return self._book.user_of_address(address)
        except (NotFound, BadInput):
            return None
