"""Foreign chats and their rooms: found, made when somebody looks for them, bound, let go.

A chat has at most one room: a *portal* room that the bot made, or a *plumbed* one that was there
before. One thing at a time happens to a chat (`holding`). Letting go begins with a row and ends
with another, so that a crash in between leaves nothing behind: `run` finishes it. It also gives up
rooms that nobody has ever joined. Spec: MSC2346.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from random import Random

from bridge.clock import Clock
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.identity.rebridged import Why, find_rebridged, has_address
from bridge.ids import RoomAlias, RoomId, RoomVersionId, ServerName, TraceId, UserId
from bridge.portals import bridge_info
from bridge.portals.access import ChatQuestions
from bridge.portals.directory import chat_lane
from bridge.portals.ghosts import Ghosts
from bridge.ports.chat import (
    AddressMap,
    ChatAbandon,
    ChatInfo,
    ChatPost,
    ChatSubject,
    GuestEnter,
    GuestLeave,
    GuestRename,
)
from bridge.ports.codec import to_tagged
from bridge.ports.matrix import MatrixBackend, Member
from bridge.storage import journal, messages, moves, occupants, portals, queues
from bridge.storage.database import Database, Transaction
from bridge.storage.portals import OF_CHAT, PLUMBED, PORTAL, Portal
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
ToChatDelivery = GuestEnter | GuestLeave | GuestRename | ChatPost | ChatSubject | ChatAbandon
MADE_PER_MINUTE = 30
MAX_ASKING = 50
"""Look-ups come from anybody: chats that are asked at one time because of them."""
FOUND_BY_ALIAS = ("public", "knock", "restricted", "knock_restricted")
"""Join rules of plumbed rooms that whoever knows the chat may find."""
HOLD_TIMEOUT_S = 30.0
PARTED = "the chat and its room have nothing to do with each other any more"
TIDY_S = 60.0
MAX_UPGRADES = 20
"""Of a chat's room that are looked back at."""


class Chats:
    def __init__(
        self,
        *,
        database: Database,
        backend: MatrixBackend,
        addresses: AddressMap,
        ghosts: Ghosts,
        access: ChatQuestions,
        clock: Clock,
        random: Random,
        on_demand: bool = True,
        listed: bool = False,
        version: RoomVersionId | None = None,
        unused_after_s: float = 900.0,
    ) -> None:
        """`on_demand`: whoever looks up a chat's alias gets a room of it. `listed`: those rooms
        stand in our list of rooms, but for chats that hide themselves."""
        self._database = database
        self._backend = backend
        self._addresses = addresses
        self._adapter = addresses.adapter
        self._ghosts = ghosts
        self._access = access
        self._clock = clock
        self._random = random
        self._on_demand = on_demand
        self._listed = listed
        self._version = version
        self._unused_after_ms = round(unused_after_s * 1000)
        self._asking = 0
        self._locks: dict[str, _Hold] = {}
        self._made_ms: deque[int] = deque(maxlen=MADE_PER_MINUTE)
        # Portal rooms: when they were first seen without anybody; None: somebody has been there.
        self._unused_since: dict[RoomId, int | None] = {}

    # --- finding ----------------------------------------------------------------------------

    async def find(self, chat: str) -> Portal | None:
        """The open portal of a chat."""
        return await self._database.read(
            lambda tx: portals.of_chat(tx, adapter=self._adapter, chat=chat)
        )

    async def of_room(self, room_id: RoomId) -> Portal | None:
        found = await self._database.read(lambda tx: portals.of_room(tx, room_id))
        return next((one for one in found if one.kind in OF_CHAT), None)

    async def all(self) -> Sequence[Portal]:
        return await self._database.read(lambda tx: portals.all_chats(tx, adapter=self._adapter))

    def is_own(self, chat: str) -> bool:
        """Whether this is an address of ours: a Matrix room, which needs no other room."""
        return self._ghosts.is_own_address(chat)

    @asynccontextmanager
    async def holding(self, chat: str) -> AsyncIterator[None]:
        """Nothing else is done to the chat meanwhile. Unavailable: it takes too long."""
        hold = self._locks.setdefault(chat, _Hold())
        hold.users += 1
        try:
            try:
                async with asyncio.timeout(HOLD_TIMEOUT_S):
                    await hold.lock.acquire()
            except TimeoutError as exc:
                raise Unavailable(f"{chat} is busy") from exc
            try:
                yield
            finally:
                hold.lock.release()
        finally:
            hold.users -= 1
            if not hold.users:
                del self._locks[chat]

    async def people_in(self, room_id: RoomId) -> Sequence[Member]:
        """Joined Matrix users: neither ghosts of ours nor the bot."""
        members = await self._backend.members(room_id)
        return [one for one in members if self._ghosts.is_person(one.user_id)]

    # --- made on demand ---------------------------------------------------------------------

    async def find_room(self, alias: RoomAlias) -> RoomId | None:
        """The room behind a chat's alias; made now if the chat exists and is open to everybody."""
        chat = self._addresses.chat_of(alias)
        if chat is None or self.is_own(chat) or not self._is_spelt(alias, chat):
            return None
        portal = await self.find(chat)
        if portal is None and not self._on_demand:
            return None
        if portal is not None and await self._is_there(portal):
            return await self._shown(portal)
        async with self.holding(chat):
            portal = await self.find(chat)
            if portal is not None and await self._is_there(portal):
                return await self._shown(portal)
            if portal is not None:
                await self.let_go(portal, reason="The room is gone.")
            if not self._on_demand:
                return None
            await self.finish_closing(chat)
            info = await self._describe(chat)
            return None if info is None else await self._make(chat, alias, info)

    async def _shown(self, portal: Portal) -> RoomId | None:
        """A plumbed room that takes invited people only is nobody's to find."""
        if portal.kind == PLUMBED and portal.room_id is not None:
            info = await self._backend.room(portal.room_id)
            return portal.room_id if info.join_rule in FOUND_BY_ALIAS else None
        return portal.room_id

    def _is_spelt(self, alias: RoomAlias, chat: str) -> bool:
        """Whether this is the chat's one alias: whoever asks first does not name its room."""
        try:
            return self._addresses.alias_of(chat) == alias
        except BadInput:
            return False

    async def _is_there(self, portal: Portal) -> bool:
        if portal.room_id is None:
            return False
        try:
            await self._backend.room(portal.room_id)
        except NotFound:
            return False
        return True

    async def _describe(self, chat: str) -> ChatInfo | None:
        if self._asking >= MAX_ASKING:
            raise Unavailable("too many chats are asked for at once", retry_after_s=10.0)
        self._asking += 1
        try:
            info = await self._access.describe(chat)
        except (NotFound, Refused) as exc:
            log.info("a chat gets no room", chat=chat, reason=exc.reason)
            return None
        finally:
            self._asking -= 1
        if not info.is_open:
            log.info("a chat gets no room", chat=chat, reason="not open: it may be plumbed")
            return None
        return info

    async def _make(self, chat: str, alias: RoomAlias, info: ChatInfo) -> RoomId:
        now_ms = self._clock.now_ms()
        if len(self._made_ms) == MADE_PER_MINUTE and now_ms - self._made_ms[0] < 60_000:
            raise Unavailable("too many rooms are made at once", retry_after_s=60.0)
        self._made_ms.append(now_ms)
        before = await self._database.read(
            lambda tx: portals.find(
                tx, adapter=self._adapter, kind=PORTAL, chat=chat, user_id=UserId("")
            )
        )
        # Its last room numbers the next one: after a crash it is the same.
        last = "" if before is None else before.room_id
        key = hashlib.sha256(f"{chat}|{last}".encode()).hexdigest()[:32]
        txn = f"{self._database.epoch}.portal.{self._adapter}.{key}"
        room_id = await self._backend.create_room(
            creator=self._backend.bot,
            txn=txn,
            name=info.name or chat,
            public=True,
            listed=self._listed and not info.is_hidden,
            version=self._version,
        )
        await self._backend.send(
            room_id=room_id,
            sender=self._backend.bot,
            type="m.room.canonical_alias",
            state_key="",
            content={"alias": alias},
            txn=f"{txn}.alias",
            trace=TraceId(key),
        )
        await self.show_bridge(room_id, chat=chat, name=info.name, creator=None)
        await self.bind(PORTAL, chat=chat, room_id=room_id)
        log.info("portal made", chat=chat, room_id=room_id)
        return room_id

    # --- bound and let go -------------------------------------------------------------------

    async def show_bridge(
        self, room_id: RoomId, *, chat: str, name: str | None, creator: UserId | None
    ) -> None:
        """Says in the room's state what it is bridged to."""
        await self._put_bridge(
            room_id,
            chat,
            bridge_info.content(
                adapter=self._adapter,
                chat=chat,
                name=name,
                link=self._addresses.link_of(chat),
                bot=self._backend.bot,
                creator=creator,
            ),
        )

    async def _put_bridge(self, room_id: RoomId, chat: str, content: dict[str, object]) -> None:
        key = bridge_info.state_key(self._adapter, chat)
        for kind in bridge_info.TYPES:
            said = [s for s in await self._backend.state(room_id, kind) if s.state_key == key]
            if (said[0].content if said else {}) == content:
                continue
            number = self.new_number()
            await self._backend.send(
                room_id=room_id,
                sender=self._backend.bot,
                type=kind,
                state_key=key,
                content=content,
                txn=f"{self._database.epoch}.bridge.{number}",
                trace=TraceId(number),
            )

    async def servers_bridging(self, room_id: RoomId, chat: str) -> frozenset[ServerName]:
        """Servers with another bridge between this room and this chat, as its state says."""
        said = [s for kind in bridge_info.TYPES for s in await self._backend.state(room_id, kind)]
        return bridge_info.servers_bridging(
            said, adapter=self._adapter, chat=chat, bot=self._backend.bot
        )

    async def find_rebridged(self, room_id: RoomId, chat: str, user_id: UserId) -> Why | None:
        """Why somebody in the room is another bridge's ghost whose words are not carried."""
        if not has_address(user_id):
            return None
        return find_rebridged(
            user_id,
            own_server=self._backend.server_name,
            is_own_address=self._ghosts.is_own_address,
            chat=chat,
            bridging=await self.servers_bridging(room_id, chat),
        )

    async def guests_in(self, room_id: RoomId, chat: str) -> dict[UserId, Member]:
        """Who in the room is to be in the chat."""
        return {
            one.user_id: one
            for one in await self.people_in(room_id)
            if await self.find_rebridged(room_id, chat, one.user_id) is None
        }

    async def bind(self, kind: str, *, chat: str, room_id: RoomId) -> None:
        """The room is the chat's from now on, and everybody in it enters the chat. What happened in
        a plumbed room before is not carried."""
        number = self.new_number()
        since = (await self._backend.room(room_id)).position if kind == PLUMBED else 0
        there = await self.guests_in(room_id, chat)

        def unit(tx: Transaction) -> None:
            now_ms = self._clock.now_ms()
            lane = chat_lane(self._adapter, chat)
            # What was set aside under an earlier room must not come back behind the new guests;
            # perhaps it was to take the earlier ones out.
            if queues.drop_lane(tx, queues.OUTBOX, lane, statuses=["parked"], reason=PARTED):
                self.put(
                    tx,
                    ChatAbandon(chat=chat, reason=None),
                    cause=f"abandon/{number}",
                    trace=TraceId(number),
                    now_ms=now_ms,
                )
            portals.bind(
                tx,
                adapter=self._adapter,
                kind=kind,
                chat=chat,
                user_id=UserId(""),
                room_id=room_id,
                now_ms=now_ms,
                since_position=since,
            )
            for one in there.values():
                self._put_guest(tx, _enter(chat, one), f"bind/{number}")
            journal.record(
                tx,
                trace_id=TraceId(number),
                step="bind",
                decision=kind,
                detail=f"{chat} {room_id}",
                now_ms=now_ms,
            )

        await self._database.write(unit)
        # Whoever came or went meanwhile was told of before there was a row.
        now = await self.guests_in(room_id, chat)

        def again(tx: Transaction) -> None:
            for user_id in sorted(now.keys() - there.keys()):
                self._put_guest(tx, _enter(chat, now[user_id]), f"bound/{number}")
            for user_id in sorted(there.keys() - now.keys()):
                gone = GuestLeave(chat=chat, user_id=user_id, reason=None)
                self._put_guest(tx, gone, f"bound/{number}")

        if now.keys() != there.keys():
            await self._database.write(again)

    def _put_guest(self, tx: Transaction, guest: GuestEnter | GuestLeave, cause: str) -> None:
        self.put(
            tx,
            guest,
            cause=f"{cause}/{guest.user_id}",
            trace=TraceId(cause),
            now_ms=self._clock.now_ms(),
        )

    def put(
        self, tx: Transaction, delivery: ToChatDelivery, *, cause: str, trace: TraceId, now_ms: int
    ) -> int | None:
        """One row of the chat's lane."""
        return queues.put_outbox(
            tx,
            lane=chat_lane(self._adapter, delivery.chat),
            adapter=self._adapter,
            cause=cause,
            payload=to_tagged(delivery),
            trace_id=trace,
            now_ms=now_ms,
        )

    async def let_go(self, portal: Portal, *, reason: str) -> None:
        """The chat and its room have nothing to do with each other any more: our guests leave the
        chat, its ghosts the room; a room that was made for it is given up. Hold the chat."""
        now_ms, number = self._clock.now_ms(), self.new_number()

        def unit(tx: Transaction) -> None:
            portals.begin_closing(tx, portal.portal_id)
            # What was said for this room is for no other one.
            lane = chat_lane(self._adapter, portal.chat)
            queues.drop_lane(tx, queues.INBOX, lane, statuses=queues.OPEN, reason=PARTED)
            if portal.room_id is not None:
                messages.forget_chat(
                    tx, adapter=self._adapter, room_id=portal.room_id, chat=portal.chat
                )
            self.put(
                tx,
                ChatAbandon(chat=portal.chat, reason=reason),
                cause=f"abandon/{number}",
                trace=TraceId(number),
                now_ms=now_ms,
            )

        await self._database.write(unit)
        await self._finish(portal, reason)
        log.info("portal closed", chat=portal.chat, room_id=portal.room_id, reason=reason)

    async def _finish(self, portal: Portal, reason: str | None) -> None:
        """What is left of a portal goes; idempotent."""
        room_id, chat = portal.room_id, portal.chat
        rows = await self._database.read(
            lambda tx: occupants.of_chat(tx, adapter=self._adapter, chat=chat)
        )
        if room_id is not None and await self._is_there(portal):
            try:
                await self._put_bridge(room_id, chat, {})
            except Refused as exc:
                log.info("bridge info stays", room_id=room_id, reason=exc.reason)
            for row in rows:
                if row.joined:
                    await self.leave(self._ghosts.user_of(row.address), room_id, reason)
            for old in await self._predecessors(room_id):
                for row in rows:
                    await self.leave(self._ghosts.user_of(row.address), old, reason)
                if portal.kind == PORTAL:
                    await self._backend.purge(old)
            if portal.kind == PORTAL:
                await self._backend.purge(room_id)
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            occupants.remove_all(tx, adapter=self._adapter, chat=chat)
            portals.close(tx, portal.portal_id, refused=False, now_ms=now_ms)

        await self._database.write(unit)
        if room_id is not None:
            self._unused_since.pop(room_id, None)

    async def leave(self, user_id: UserId, room_id: RoomId, reason: str | None) -> None:
        """One of ours leaves, as far as the room lets them."""
        try:
            await self._backend.leave(user_id=user_id, room_id=room_id, reason=reason)
        except (Refused, NotFound) as exc:
            log.info("not left", room_id=room_id, user_id=user_id, reason=exc.reason)

    async def finish_closing(self, chat: str) -> None:
        """What somebody began to let go is let go now. Hold the chat."""
        left = await self._database.read(lambda tx: portals.closing(tx, adapter=self._adapter))
        for portal in left:
            if portal.chat == chat:
                await self._finish(portal, None)

    def new_number(self) -> str:
        """One that nothing else has."""
        return f"{self._random.getrandbits(96):024x}"

    # --- now and then -----------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            try:
                await self.tidy()
            except Unavailable as exc:
                log.warning("portals must wait", reason=exc.reason)
            await self._clock.sleep(TIDY_S)

    async def tidy(self) -> None:
        """Finishes what was interrupted; gives up rooms that nobody has joined in time."""
        left = await self._database.read(lambda tx: portals.closing(tx, adapter=self._adapter))
        for chat in dict.fromkeys(portal.chat for portal in left):
            with _noted(chat):
                async with self.holding(chat):
                    await self.finish_closing(chat)
        for portal in await self.all():
            if portal.kind == PORTAL and portal.room_id is not None:
                with _noted(portal.chat):
                    await self._give_up_unused(portal, portal.room_id)

    async def _give_up_unused(self, portal: Portal, room_id: RoomId) -> None:
        now_ms = self._clock.now_ms()
        since = self._unused_since.setdefault(room_id, now_ms)
        if since is None or not (await self._is_unused(room_id)):
            self._unused_since[room_id] = None
            return
        if now_ms - since < self._unused_after_ms:
            return
        async with self.holding(portal.chat):
            current = await self.find(portal.chat)
            if current is None or current.room_id != room_id or not await self._is_unused(room_id):
                return
            await self.let_go(current, reason="Nobody has come.")

    async def _is_unused(self, room_id: RoomId) -> bool:
        """Nobody has ever been in the room, nor in those that it replaces; a room that is gone
        counts as such."""
        for one in (room_id, *await self._predecessors(room_id)):
            try:
                ever = await self._backend.members(one, ("join", "leave", "ban"))
            except NotFound:
                continue
            if any(self._ghosts.is_person(member.user_id) for member in ever):
                return False
        return True

    async def _predecessors(self, room_id: RoomId) -> Sequence[RoomId]:
        """The rooms that were the chat's before they were upgraded."""
        found = await self._database.read(
            lambda tx: moves.predecessors(
                tx, adapter=self._adapter, room_id=room_id, most=MAX_UPGRADES
            )
        )
        return [move.room_id for move in found]


@contextmanager
def _noted(chat: str) -> Iterator[None]:
    """What cannot be done for one chat is tried again at the next look, and stops no other."""
    try:
        yield
    except IsthmusError as exc:
        log.warning("a portal is not tidied", chat=chat, reason=exc.reason)


def _enter(chat: str, member: Member) -> GuestEnter:
    return GuestEnter(chat=chat, user_id=member.user_id, displayname=member.displayname)


class _Hold:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
