"""How far people have read: told by other servers, kept, and told to them.

One receipt counts for each room, user and thread: the newest. Of one server's user that is the one
with the latest time; of ours, the event furthest on, where we can tell. Receipts that nobody else
may see never come here. Spec: S2S, receipts; C2S, receipts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from bridge.clock import Clock
from bridge.engine.edu import Receipt, ReceiptEdu, parse_edu
from bridge.errors import BadInput, Refused
from bridge.ids import EventId, RoomId, ServerName, UserId, parse_event_id, server_of
from bridge.rooms.network import Json
from bridge.rooms.passing import Door, Outlet
from bridge.rooms.query import RoomQueries
from bridge.storage import edus, receipts
from bridge.storage import events as event_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.edus import ReceiptRow

MAX_ROOMS = 100
"""In one EDU; what comes after is cut off."""
MANY_SERVERS = 50
"""In a room with more servers receipts are gathered before they are told."""
PAUSE_PER_SERVER_S = 0.02
MAX_GATHERED = 20_000


class Receipts:
    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        door: Door,
        queries: RoomQueries,
        outlet: Outlet,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._door = door
        self._queries = queries
        self._outlet = outlet
        self._clock = clock
        self._gathered: dict[RoomId, dict[tuple[UserId, str | None], ReceiptRow]] = {}
        self._due_s: dict[RoomId, float] = {}

    async def of_room(self, room_id: RoomId) -> list[ReceiptRow]:
        """The public ones, by user and thread."""
        return await self._database.read(partial(receipts.of_room, room_id=room_id))

    # --- in -----------------------------------------------------------------------------------

    async def take(self, origin: ServerName, content: Json) -> None:
        edu = parse_edu({"edu_type": "m.receipt", "content": content})
        if not isinstance(edu, ReceiptEdu):
            raise BadInput("no receipts")
        wanted = _first_rooms(edu.receipts)
        users: dict[RoomId, set[UserId]] = {}
        for one in wanted:
            users.setdefault(one.room_id, set()).add(one.user_id)
        there = await self._door.joined(origin, users)
        good = [one for one in wanted if (one.room_id, one.user_id) in there]
        if not good:
            if wanted:
                raise Refused("nobody's receipts", rule="edu")
            return
        now_ms = self._clock.now_ms()
        rows = [_to_row(one, now_ms) for one in good]
        for row in await self._database.write(partial(receipts.put_newer, rows=rows)):
            self._outlet.tell(
                Receipt(
                    room_id=row.room_id,
                    user_id=row.user_id,
                    event_id=row.event_id,
                    ts_ms=row.at_ms,
                    thread_id=row.thread_id,
                )
            )

    # --- out ----------------------------------------------------------------------------------

    async def read_up_to(
        self, room_id: RoomId, user_id: UserId, event_id: EventId, *, thread_id: str | None = None
    ) -> None:
        """One of our users, in the room, has read everything up to this event. Raises `Refused`,
        `BadInput`."""
        if server_of(user_id) != self._server_name:
            raise Refused(f"{user_id} is no user of ours", rule="sender")
        if thread_id is not None and thread_id != "main":
            parse_event_id(thread_id)
        await self._door.check_own(room_id, user_id)
        row = ReceiptRow(
            room_id=room_id,
            user_id=user_id,
            thread_id=thread_id,
            event_id=parse_event_id(event_id),
            at_ms=self._clock.now_ms(),
        )
        peers = self._outlet.peers(await self._queries.servers_now(room_id))
        gathers = len(peers) > MANY_SERVERS

        def unit(tx: Transaction) -> bool:
            if not _is_further(tx, row):
                return False
            receipts.put(tx, [row])
            # By sending an event one has read it, as everybody knows.
            if _is_own_event(tx, row):
                return False
            if not gathers:
                edus.put_receipt(tx, peers, row)
            return True

        if not await self._database.write(unit):
            return
        if gathers:
            self._gather(row, len(peers))
        else:
            self._wake(peers)

    async def tick(self) -> None:
        """Tells what was gathered in big rooms."""
        now_s = self._clock.monotonic_s()
        for room_id in [room_id for room_id, due_s in self._due_s.items() if due_s <= now_s]:
            rows = list(self._gathered[room_id].values())
            peers = self._outlet.peers(await self._queries.servers_now(room_id))
            for row in rows:
                # Each for itself, so that others get their turn between. The same again is one.
                await self._database.write(partial(edus.put_receipt, servers=peers, row=row))
            gathered = self._gathered[room_id]
            for row in rows:
                if gathered.get((row.user_id, row.thread_id)) is row:
                    del gathered[row.user_id, row.thread_id]
            del self._due_s[room_id]
            if gathered:
                self._due_s[room_id] = now_s + len(peers) * PAUSE_PER_SERVER_S
            else:
                del self._gathered[room_id]
            self._wake(peers)

    def _gather(self, row: ReceiptRow, peers: int) -> None:
        """A crash loses what waits here; what is read next tells it."""
        if sum(map(len, self._gathered.values())) >= MAX_GATHERED:
            return
        self._gathered.setdefault(row.room_id, {})[row.user_id, row.thread_id] = row
        self._due_s.setdefault(row.room_id, self._clock.monotonic_s() + peers * PAUSE_PER_SERVER_S)

    def _wake(self, peers: Collection[ServerName]) -> None:
        for peer in peers:
            self._outlet.wake(peer)


def _first_rooms(found: Sequence[Receipt]) -> list[Receipt]:
    rooms = dict.fromkeys(one.room_id for one in found)
    kept = set(list(rooms)[:MAX_ROOMS])
    return [one for one in found if one.room_id in kept]


def _to_row(one: Receipt, now_ms: int) -> ReceiptRow:
    """A clock that is ahead of ours must not win against all that comes later."""
    return ReceiptRow(
        room_id=one.room_id,
        user_id=one.user_id,
        thread_id=one.thread_id,
        event_id=one.event_id,
        at_ms=min(one.ts_ms, now_ms),
    )


def _is_further(tx: Transaction, row: ReceiptRow) -> bool:
    before = receipts.find(tx, row.room_id, row.user_id, row.thread_id)
    if before is None:
        return True
    if before.event_id == row.event_id:
        return False
    places = event_rows.positions(tx, [before.event_id, row.event_id])
    old, new = places.get(before.event_id), places.get(row.event_id)
    return old is None or new is None or new > old


def _is_own_event(tx: Transaction, row: ReceiptRow) -> bool:
    found = event_rows.find(tx, [row.event_id]).get(row.event_id)
    return found is not None and found.sender == row.user_id
