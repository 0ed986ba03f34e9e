"""Which client is in which room, by which of its addresses: the sessions as rows and in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.roomservice.occupants import ServedRoom, Session, stored
from bridge.ids import RoomId
from bridge.storage import sessions
from bridge.storage.database import Database, Transaction

OnClient = Callable[[Jid, Jid], None]
"""A client, and the address of a room."""


def tell_nobody(client: Jid, entered_by: Jid) -> None:
    """For who does not want to know."""


_SWEEP_AT = 1000
"""Rooms in memory before those without sessions are looked for."""


class Places:
    def __init__(self, database: Database, *, on_gone: OnClient = tell_nobody) -> None:
        self._database = database
        self._on_gone = on_gone
        self._rooms: dict[RoomId, ServedRoom] = {}
        self._places: dict[tuple[Jid, Jid], ServedRoom] = {}
        self._sweep_at = _SWEEP_AT

    async def load(self) -> None:
        """The sessions that were there before a restart."""
        for row in await self._database.read(sessions.list_all):
            session = Session(
                address=Jid.parse(row.address),
                entered_by=Jid.parse(row.entered_by),
                nickname=row.nickname,
                since_position=row.since_position,
                is_in=True,
            )
            self.register(self.room(row.room_id), session)

    def room(self, room_id: RoomId) -> ServedRoom:
        """Whoever waits for its lock looks again whether it is still the room."""
        room = self._rooms.get(room_id)
        if room is None:
            if len(self._rooms) >= self._sweep_at:
                self._sweep()
            room = self._rooms[room_id] = ServedRoom(room_id=room_id)
        return room

    def _sweep(self) -> None:
        """Lets go of the rooms that nobody is in: many are asked for, few are entered."""
        empty = [r for r in self._rooms.values() if not r.sessions and not r.lock.locked()]
        for room in empty:
            del self._rooms[room.room_id]
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._rooms))

    def find_room(self, room_id: RoomId) -> ServedRoom | None:
        return self._rooms.get(room_id)

    def present(self) -> Sequence[Session]:
        """Every client that is in a room."""
        return [session for room in self._rooms.values() for session in room.present()]

    def others(self, entered_by: Jid, room_id: RoomId) -> Sequence[Session]:
        """Clients that are under this address in another room."""
        return [
            session
            for room in {id(one): one for one in self._places.values()}.values()
            if room.room_id != room_id
            for session in room.present()
            if session.entered_by == entered_by
        ]

    def at(self, client: Jid, entered_by: Jid) -> ServedRoom | None:
        """The room that the client is in or entering under this address."""
        return self._places.get((client, entered_by))

    def find(self, client: Jid, entered_by: Jid) -> tuple[ServedRoom, Session] | None:
        """The client's session, if it is in the room under this address."""
        room = self.at(client, entered_by)
        session = None if room is None else room.find_session(client, entered_by)
        return None if room is None or session is None else (room, session)

    def register(self, room: ServedRoom, session: Session) -> None:
        """A client has one session in a room, under the address by which it entered last."""
        before = room.sessions.get(session.address)
        if before is not None:
            self._places.pop((before.address, before.entered_by), None)
        room.sessions[session.address] = session
        self._places[session.address, session.entered_by] = room

    def unregister(self, room: ServedRoom, session: Session) -> None:
        if room.sessions.get(session.address) is session:
            del room.sessions[session.address]
            self._places.pop((session.address, session.entered_by), None)
        if not room.sessions:
            room.unload()

    async def remove(self, room: ServedRoom, session: Session) -> None:
        self.unregister(room, session)
        room_id, address = room.room_id, str(session.address)
        await self._database.write(lambda tx: sessions.remove(tx, room_id=room_id, address=address))
        if self.at(session.address, session.entered_by) is None:
            self._on_gone(session.address, session.entered_by)

    async def store(self, room: ServedRoom, session: Session, now_ms: int) -> None:
        row = stored(room.room_id, session, now_ms)
        await self._database.write(lambda tx: sessions.put(tx, row))

    async def transfer(
        self, old: ServedRoom, new: ServedRoom, session: Session, now_ms: int
    ) -> None:
        """The client is in the other room now, under the same address; everything that is
        delivered there from now on is for it."""
        session.since_position = 0
        session.removal = None
        row, gone = stored(new.room_id, session, now_ms), old.room_id

        def unit(tx: Transaction) -> None:
            sessions.remove(tx, room_id=gone, address=row.address)
            sessions.put(tx, row)

        await self._database.write(unit)
        self.unregister(old, session)
        self.register(new, session)

    async def rename(self, room: ServedRoom, renamed: Sequence[Session], nickname: str) -> None:
        room_id = room.room_id

        def unit(tx: Transaction) -> None:
            for session in renamed:
                address = str(session.address)
                sessions.rename(tx, room_id=room_id, address=address, nickname=nickname)

        for session in renamed:
            session.nickname = nickname
        await self._database.write(unit)
