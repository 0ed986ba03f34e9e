"""The foreign chats that we visit, in memory and as rows. A row of a guest says: to be in."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.adapters.xmpp.addresses import AddressBook
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.occupant.chat import Guest, Identity, VisitedChat
from bridge.clock import Clock
from bridge.errors import BadInput, NotFound
from bridge.ids import UserId
from bridge.storage import chats, guests
from bridge.storage.chats import StoredChat
from bridge.storage.database import Database, Transaction
from bridge.storage.guests import StoredGuest

_IDENTITIES: dict[str | None, Identity] = {
    "address": "address", "occupant-id": "occupant-id", "nickname": "nickname"
}  # fmt: skip


class Visits:
    def __init__(
        self,
        *,
        adapter: str,
        database: Database,
        book: AddressBook,
        clock: Clock,
        limits: XmppLimits,
    ) -> None:
        self._adapter = adapter
        self._database = database
        self._book = book
        self._clock = clock
        self._limits = limits
        self._chats: dict[str, VisitedChat] = {}

    async def load(self) -> None:
        """Who was to be in before a restart; nobody is until the chat says so."""

        def unit(tx: Transaction) -> tuple[Sequence[StoredGuest], dict[str, StoredChat]]:
            rows = guests.list_all(tx, adapter=self._adapter)
            names = {row.chat for row in rows}
            found = {n: chats.find(tx, adapter=self._adapter, chat=n) for n in names}
            return rows, found

        rows, found = await self._database.read(unit)
        for row in rows:
            chat = self._chats.get(row.chat)
            if chat is None:
                chat = self._new(Jid.parse(row.chat), found[row.chat])
                chat.is_silent = False
            guest = self._guest(row.user_id)
            guest.nickname, guest.entered_ms = row.nickname, row.entered_ms
            guest.is_stored = True
            chat.add(guest)
        for chat in self._chats.values():
            chat.fall_behind()

    def find(self, chat: str) -> VisitedChat | None:
        return self._chats.get(chat)

    def all(self) -> Sequence[VisitedChat]:
        """The most active first."""
        return sorted(self._chats.values(), key=lambda chat: -(chat.archive_ms or 0))

    def get(self, chat: str) -> VisitedChat:
        """Also one that is visited now for the first time."""
        found = self._chats.get(chat)
        if found is not None:
            return found
        jid = Jid.parse(chat)
        if jid.resource or not jid.local or jid.domain == self._book.component:
            raise BadInput(f"not the address of a foreign chat: {chat}")
        new = self._new(jid, StoredChat())
        new.is_scanned = True
        return new

    def _new(self, jid: Jid, stored: StoredChat) -> VisitedChat:
        chat = VisitedChat(jid, self._database.epoch, self._limits.lane_stanzas)
        chat.identity = _IDENTITIES.get(stored.identity)
        chat.archive_ms = stored.archive_ms
        self._chats[chat.name] = chat
        return chat

    def guest(self, chat: VisitedChat, user_id: UserId) -> Guest:
        """Theirs in the chat, perhaps new and out."""
        return chat.guests.get(user_id) or chat.add(self._guest(user_id))

    def _guest(self, user_id: UserId) -> Guest:
        return Guest(user_id=user_id, jid=self._book.jid_of(user_id), nickname="")

    def has_address(self, user_id: UserId) -> bool:
        """Whether they can be in a foreign chat themselves: a Matrix user, no ghost of ours."""
        try:
            return self._book.unwrap(user_id) is None
        except NotFound:
            return False

    # --- rows -----------------------------------------------------------------------------------

    async def refresh(self, chat: VisitedChat) -> None:
        """What an earlier visit left behind, and how far the chat has been read."""
        stored = await self._database.read(
            lambda tx: chats.find(tx, adapter=self._adapter, chat=chat.name)
        )
        chat.identity = chat.identity or _IDENTITIES.get(stored.identity)
        if chat.is_behind:
            entered = min((g.entered_ms for g in chat.stored_guests), default=None)
            chat.archive_ms = stored.archive_ms or entered

    async def store(self, chat: VisitedChat, guest: Guest) -> None:
        guest.entered_ms = guest.entered_ms or self._clock.now_ms()
        row = StoredGuest(
            adapter=self._adapter,
            chat=chat.name,
            user_id=guest.user_id,
            nickname=guest.nickname,
            entered_ms=guest.entered_ms,
        )
        await self._database.write(lambda tx: guests.put(tx, row))
        guest.is_stored = True

    async def begin(self, chat: VisitedChat) -> None:
        """Reading begins now: what was said before anybody of ours came in is not for us."""
        now_ms = self._clock.now_ms()
        await self._database.write(
            lambda tx: chats.move_position(
                tx, adapter=self._adapter, chat=chat.name, archive_id=None, archive_ms=now_ms
            )
        )

    async def move_on(self, chat: VisitedChat, archive_id: str) -> None:
        """Nothing but our own posts came after what was stored last."""
        now_ms = self._clock.now_ms()
        await self._database.write(
            lambda tx: chats.move_position(
                tx,
                adapter=self._adapter,
                chat=chat.name,
                archive_id=archive_id,
                archive_ms=now_ms,
            )
        )

    async def store_identity(self, chat: VisitedChat) -> None:
        identity = chat.identity
        if identity is not None:
            await self._database.write(
                lambda tx: chats.put_identity(
                    tx, adapter=self._adapter, chat=chat.name, identity=identity
                )
            )

    async def remove(self, chat: VisitedChat, user_id: UserId) -> None:
        await self._database.write(
            lambda tx: guests.remove(tx, adapter=self._adapter, chat=chat.name, user_id=user_id)
        )
        self.tidy(chat)

    def tidy(self, chat: VisitedChat) -> None:
        """A chat where nobody of ours is or is to be is forgotten, once all is told."""
        is_used = chat.guests or chat.waiting or chat.watches or chat.door.locked()
        if not is_used and self._chats.get(chat.name) is chat:
            del self._chats[chat.name]

    async def forget(
        self, chat: VisitedChat, user_ids: Sequence[UserId], *, with_row: bool
    ) -> None:
        def unit(tx: Transaction) -> None:
            for user_id in user_ids:
                guests.remove(tx, adapter=self._adapter, chat=chat.name, user_id=user_id)
            if with_row:
                chats.forget(tx, adapter=self._adapter, chat=chat.name)

        await self._database.write(unit)
        self.tidy(chat)
