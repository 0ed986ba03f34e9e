"""Which chat is which room: found, bound, opened, closed.

A direct chat is one address and one Matrix user. Its room is opened when the first message needs
it, and opened anew when either has left. Rooms that people of the chat side enter are *served*:
whatever happens in them goes to the adapter.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bridge.clock import Clock
from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import RoomId, TraceId, UserId
from bridge.portals.ghosts import Ghosts
from bridge.ports.matrix import MatrixBackend
from bridge.storage import portals
from bridge.storage.database import Database
from bridge.storage.portals import DIRECT, ENCRYPTED, MANAGEMENT, SERVED, Portal
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
MAX_DEAD_ROOMS = 8
MAX_MANAGEMENT = 1_000


def direct_lane(adapter: str, address: str, user_id: UserId) -> str:
    """One lane per direct chat and direction keeps its order."""
    return f"{adapter}:direct:{address}|{user_id}"


def room_lane(adapter: str, room_id: RoomId) -> str:
    return f"{adapter}:room:{room_id}"


def chat_lane(adapter: str, chat: str) -> str:
    """Of a foreign chat, in both queues."""
    return f"{adapter}:chat:{chat}"


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
        self._adopting: Counter[tuple[str, UserId]] = Counter()

    async def of_room(self, room_id: RoomId) -> Sequence[Portal]:
        return await self._database.read(lambda tx: portals.of_room(tx, room_id))

    async def chats_with_bot(self, user_id: UserId | None = None) -> Sequence[Portal]:
        """Of a user, or of everybody; of these at most `MAX_MANAGEMENT`."""
        return await self._database.read(
            lambda tx: portals.management(
                tx, adapter=self._adapter, user_id=user_id, limit=MAX_MANAGEMENT
            )
        )

    async def bind_direct(self, *, address: str, user_id: UserId, room_id: RoomId) -> None:
        await self._bind(DIRECT, address, user_id, room_id)

    async def bind_encrypted(self, *, address: str, user_id: UserId, room_id: RoomId) -> None:
        await self._bind(ENCRYPTED, address, user_id, room_id)

    async def bind_management(self, *, user_id: UserId, room_id: RoomId) -> None:
        await self._bind(MANAGEMENT, room_id, user_id, room_id)

    async def serve(self, room_id: RoomId) -> None:
        """From now on whatever happens in the room goes to the adapter."""
        await self._bind(SERVED, room_id, UserId(""), room_id)

    async def leave(self, *, user_id: UserId, room_id: RoomId, reason: str | None = None) -> None:
        """One of ours leaves, or refuses an invite; as far as the room lets them."""
        try:
            await self._backend.leave(user_id=user_id, room_id=room_id, reason=reason)
        except (Refused, NotFound) as exc:
            log.info("not left", room_id=room_id, user_id=user_id, reason=exc.reason)

    async def close(self, portal: Portal, *, refused: bool = False) -> None:
        now_ms = self._clock.now_ms()
        await self._database.write(
            lambda tx: portals.close(tx, portal.portal_id, refused=refused, now_ms=now_ms)
        )

    @contextmanager
    def adopting(self, *, address: str, user_id: UserId) -> Iterator[None]:
        """Around the time in which a room that the user has made becomes the chat's: they see that
        it is accepted before we have bound it, and no other room is opened meanwhile."""
        self._adopting[address, user_id] += 1
        try:
            yield
        finally:
            self._adopting[address, user_id] -= 1
            self._adopting += Counter()  # drops what is 0

    async def open_direct(
        self, *, address: str, user_id: UserId, trace: TraceId, written_ms: int | None = None
    ) -> RoomId:
        """The room of a direct chat; made, with the Matrix user invited, where there is none.

        Raises Refused when the user or their server will not have us, or turned down the
        invitation after the message was written (`written_ms`); Unavailable for later.
        """
        ghost = await self._ghosts.ensure(address)
        if self._adopting[address, user_id]:
            raise Unavailable(f"an invitation by {user_id} is being accepted")
        found = await self.find_direct(address=address, user_id=user_id)
        if found is not None and found.room_id is not None:
            if found.status == "open" and await self._is_usable(found.room_id, ghost, user_id):
                return found.room_id
            if _is_refused(found, written_ms):
                raise _refusal(user_id)
        other = await self._find_other(address, ghost, user_id)
        if other is not None:
            return other
        await self._check_exists(user_id)
        previous = RoomId("") if found is None or found.room_id is None else found.room_id
        for _ in range(MAX_DEAD_ROOMS):
            room_id = await self._open(address, ghost, user_id, previous, trace)
            previous = room_id
            if await self._standing(room_id, ghost, user_id) == "dead":
                continue  # One of long ago, given up since: the next has another name.
            await self.bind_direct(address=address, user_id=user_id, room_id=room_id)
            if await self._is_usable(room_id, ghost, user_id):
                return room_id
        raise Unavailable(f"no room for {user_id} could be opened")

    async def find_direct(self, *, address: str, user_id: UserId) -> Portal | None:
        """The portal of a direct chat, whatever its status."""
        return await self._database.read(
            lambda tx: portals.find(
                tx, adapter=self._adapter, kind=DIRECT, chat=address, user_id=user_id
            )
        )

    async def _find_other(self, address: str, ghost: UserId, user_id: UserId) -> RoomId | None:
        """Another direct room of the two in which both still are; the chat's room from now on."""
        rows = await self._database.read(
            lambda tx: portals.former(tx, adapter=self._adapter, chat=address, user_id=user_id)
        )
        for portal in rows:
            if portal.room_id is None:
                continue
            if await self._standing(portal.room_id, ghost, user_id) == "alive":
                await self.bind_direct(address=address, user_id=user_id, room_id=portal.room_id)
                return portal.room_id
        return None

    async def _open(
        self, address: str, ghost: UserId, user_id: UserId, previous: RoomId, trace: TraceId
    ) -> RoomId:
        key = hashlib.sha256(f"{address}|{user_id}|{previous}".encode()).hexdigest()[:32]
        return await self._backend.open_direct(
            creator=ghost,
            target=user_id,
            txn=f"{self._database.epoch}.direct.{self._adapter}.{key}",
            trace=trace,
        )

    async def _is_usable(self, room_id: RoomId, ghost: UserId, user_id: UserId) -> bool:
        """False: the chat needs another room. Raises Refused where the invitation was turned down
        before this was bound to the chat, so that nobody has heard of it."""
        standing = await self._standing(room_id, ghost, user_id)
        if standing != "refused":
            return standing == "alive"
        await self.leave(user_id=ghost, room_id=room_id)
        for portal in await self.of_room(room_id):
            if portal.kind == DIRECT and portal.user_id == user_id:
                await self.close(portal, refused=True)
        raise _refusal(user_id)

    async def _standing(self, room_id: RoomId, ghost: UserId, user_id: UserId) -> str:
        """alive: both are there, or invited; refused: they said no; dead: anything else."""
        try:
            own = await self._backend.member(room_id, ghost)
            other = await self._backend.member(room_id, user_id)
            if own is None or own.membership != "join" or other is None:
                return "dead"
            if other.membership in ("join", "invite"):
                return "alive"
            for event in reversed(await self._backend.timeline(room_id, limit=20)):
                if event.type == "m.room.member" and event.state_key == user_id:
                    by_them = event.sender == user_id and event.previous_membership == "invite"
                    return "refused" if by_them else "dead"
        except NotFound:
            pass
        return "dead"

    async def _check_exists(self, user_id: UserId) -> None:
        """Some servers take invites of users whom they do not have, and nobody ever comes."""
        try:
            await self._backend.profile(user_id)
        except NotFound as exc:
            raise NotFound(f"there is no {user_id}") from exc
        except Refused:
            return  # Profiles are not shown to strangers there.

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


def _is_refused(portal: Portal, written_ms: int | None) -> bool:
    return (
        portal.status == "refused"
        and portal.closed_ms is not None
        and written_ms is not None
        and written_ms <= portal.closed_ms
    )


def _refusal(user_id: UserId) -> Refused:
    return Refused(f"{user_id} has refused the invitation", rule="invite-refused")
