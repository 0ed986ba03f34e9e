"""Which chat is which room: found, bound, opened, closed.

A direct chat is one address and one Matrix user. Its room is opened when the first message needs
it, and opened anew when either has left. Rooms that people of the chat side enter are *served*:
whatever happens in them goes to the adapter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from bridge.clock import Clock
from bridge.errors import NotFound, Refused
from bridge.ids import RoomId, TraceId, UserId
from bridge.portals.ghosts import Ghosts
from bridge.ports.matrix import MatrixBackend
from bridge.storage import portals
from bridge.storage.database import Database
from bridge.storage.portals import DIRECT, ENCRYPTED, MANAGEMENT, SERVED, Portal


def direct_lane(adapter: str, address: str, user_id: UserId) -> str:
    """One lane per direct chat and direction keeps its order."""
    return f"{adapter}:direct:{address}|{user_id}"


def room_lane(adapter: str, room_id: RoomId) -> str:
    return f"{adapter}:room:{room_id}"


class Directory:
    def __init__(
        self,
        *,
        database: Database,
        backend: MatrixBackend,
        ghosts: Ghosts,
        adapter: str,
        clock: Clock,
    ) -> None:
        self._database = database
        self._backend = backend
        self._ghosts = ghosts
        self._adapter = adapter
        self._clock = clock

    async def of_room(self, room_id: RoomId) -> Sequence[Portal]:
        return await self._database.read(lambda tx: portals.of_room(tx, room_id))

    async def bind_direct(self, *, address: str, user_id: UserId, room_id: RoomId) -> None:
        await self._bind(DIRECT, address, user_id, room_id)

    async def bind_encrypted(self, *, address: str, user_id: UserId, room_id: RoomId) -> None:
        await self._bind(ENCRYPTED, address, user_id, room_id)

    async def bind_management(self, *, user_id: UserId, room_id: RoomId) -> None:
        await self._bind(MANAGEMENT, room_id, user_id, room_id)

    async def serve(self, room_id: RoomId) -> None:
        """From now on whatever happens in the room goes to the adapter."""
        await self._bind(SERVED, room_id, UserId(""), room_id)

    async def close(self, portal: Portal, *, refused: bool = False) -> None:
        now_ms = self._clock.now_ms()
        await self._database.write(
            lambda tx: portals.close(tx, portal.portal_id, refused=refused, now_ms=now_ms)
        )

    async def open_direct(
        self, *, address: str, user_id: UserId, trace: TraceId, written_ms: int | None = None
    ) -> RoomId:
        """The room of a direct chat; made, with the Matrix user invited, where there is none.

        Raises Refused when the user or their server will not have us, or turned down the
        invitation after the message was written (`written_ms`); Unavailable for later.
        """
        ghost = await self._ghosts.ensure(address)
        found = await self._database.read(
            lambda tx: portals.find(
                tx, adapter=self._adapter, kind=DIRECT, chat=address, user_id=user_id
            )
        )
        if found is not None and found.status == "open" and found.room_id is not None:
            alive = await self._is_alive(found.room_id, ghost, user_id)
            if alive:
                return found.room_id
        if (
            found is not None
            and found.status == "refused"
            and found.closed_ms is not None
            and written_ms is not None
            and written_ms <= found.closed_ms
        ):
            raise Refused(f"{user_id} has refused the invitation", rule="invite-refused")
        await self._check_exists(user_id)
        previous = "" if found is None else found.room_id or ""
        key = hashlib.sha256(f"{address}|{user_id}|{previous}".encode()).hexdigest()[:32]
        room_id = await self._backend.open_direct(
            creator=ghost,
            target=user_id,
            txn=f"{self._database.epoch}.direct.{self._adapter}.{key}",
            trace=trace,
        )
        await self.bind_direct(address=address, user_id=user_id, room_id=room_id)
        return room_id

    async def _check_exists(self, user_id: UserId) -> None:
        """Some servers take invites of users whom they do not have, and nobody ever comes."""
        try:
            await self._backend.profile(user_id)
        except NotFound as exc:
            raise NotFound(f"there is no {user_id}") from exc
        except Refused:
            return  # Profiles are not shown to strangers there.

    async def _is_alive(self, room_id: RoomId, ghost: UserId, user_id: UserId) -> bool:
        try:
            own = await self._backend.member(room_id, ghost)
            other = await self._backend.member(room_id, user_id)
        except NotFound:
            return False
        return (
            own is not None
            and own.membership == "join"
            and other is not None
            and other.membership in ("join", "invite")
        )

    async def _bind(self, kind: str, chat: str, user_id: UserId, room_id: RoomId) -> None:
        await self._database.write(
            lambda tx: portals.bind(
                tx,
                adapter=self._adapter,
                kind=kind,
                chat=chat,
                user_id=user_id,
                room_id=room_id,
                now_ms=self._clock.now_ms(),
            )
        )
