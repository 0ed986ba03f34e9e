"""Nicknames of a room as rows and their copy in memory, changed together.

The caller holds the room's lock. If a write fails, the copy is read again before its next use.
"""

from __future__ import annotations

from bridge.adapters.xmpp.nicknames import nickname_key
from bridge.adapters.xmpp.roomservice.occupants import ServedRoom, choose_nickname
from bridge.ids import RoomId, UserId
from bridge.storage import nicknames
from bridge.storage.database import Database, Transaction


class Names:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, room: ServedRoom) -> None:
        if not room.is_loaded:
            room.load(await self._database.read(lambda tx: nicknames.of_room(tx, room.room_id)))

    async def give(self, room: ServedRoom, changes: list[tuple[UserId, str]]) -> None:
        """In this order: who takes a name that another had stands before the other's new one."""
        if not changes:
            return
        room_id = room.room_id
        room.is_loaded = False
        await self._database.write(lambda tx: _put(tx, room_id, changes))
        for user_id, nickname in changes:
            room.hold(user_id, nickname)
        room.is_loaded = True

    async def of(self, room: ServedRoom, user_id: UserId, display_name: str | None) -> str:
        """The member's nickname, given now if there is none."""
        current = room.nicknames.get(user_id)
        if current is not None:
            return current
        nickname = choose_nickname(room, user_id, display_name)
        await self.give(room, [(user_id, nickname)])
        return nickname

    async def forget(self, room: ServedRoom, user_id: UserId) -> None:
        """Who is no member any more keeps no name."""
        room_id = room.room_id
        await self._database.write(lambda tx: nicknames.remove(tx, room_id, user_id))
        room.release(user_id)


def _put(tx: Transaction, room_id: RoomId, changes: list[tuple[UserId, str]]) -> None:
    for user_id, nickname in changes:
        nicknames.put(
            tx,
            room_id=room_id,
            user_id=user_id,
            nickname=nickname,
            folded=nickname_key(nickname),
        )
