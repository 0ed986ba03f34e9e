"""Events out: every event of ours reaches every server that was in the room before it.

Two steps, each with a durable position:

1. *marking*: the arrival order is read once, and for each outgoing event the servers that must
   hear of it get `(peer, room) -> newest position`;
2. *sending*: one lane per peer reads, room by room, from what was sent to what is newest, and
   moves the cursor in the same commit that notes the acceptance.

A peer's 200 means "received", not "digested": some servers throw staged events of a room away when
too many wait. So no more than `MAX_UNDIGESTED` events of one room are given to a peer without its
having shown, by answering for the last of them, that it has worked them off.

Nothing is given up: a peer that is down, or that refuses the whole transaction, is tried again,
with pauses that grow and survive a restart, and at once when it shows itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from bridge.clock import Clock
from bridge.delivery.backoff import Backoff
from bridge.delivery.lanes import Lanes
from bridge.engine.canonical import JsonObject, parse_json
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomId, ServerName
from bridge.storage import events, peers, streams
from bridge.storage.database import Database, Transaction
from bridge.storage.peers import Backlog
from bridge.storage.schema import stream_acceptances, stream_events
from bridge.telemetry.log import get_logger

log = get_logger("federation")

CURSOR = "federation"
MARK_BATCH = 200
MAX_PDUS = 50
MAX_ROOMS_PER_TRANSACTION = 20
MAX_UNDIGESTED = 40
"""Well under the 100 at which an established server drops what it has staged of a room."""
DIGEST_TIMEOUT_S = 60.0
DIGEST_PAUSE_S = 0.25
POLL_S = 30.0


class PeerTransactions(Protocol):
    """What is used of `client.requests.PeerRequests`."""

    async def send_transaction(
        self,
        peer: ServerName,
        txn_id: str,
        pdus: Sequence[JsonObject],
        edus: Sequence[JsonObject],
    ) -> Mapping[EventId, str]: ...

    async def event(self, peer: ServerName, event_id: EventId) -> JsonObject: ...


class Destinations(Protocol):
    """What is used of `rooms.query.RoomQueries`."""

    async def destinations(self, event_id: EventId) -> frozenset[ServerName]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """One transaction: events in order, and how far it brings each room."""

    pdus: Sequence[JsonObject]
    event_ids: Sequence[tuple[EventId, RoomId]]
    reached: Mapping[RoomId, int]

    def transaction_id(self, epoch: str) -> str:
        """The same contents have the same ID: a repetition is recognised by the peer."""
        digest = hashlib.sha256("".join(e for e, _ in self.event_ids).encode()).hexdigest()
        return f"{epoch}.{digest[:32]}"


@dataclass(slots=True)
class _Staged:
    """What a peer has been given of a room since it last showed that it follows."""

    count: int
    last: EventId


class Sender:
    def __init__(
        self,
        *,
        database: Database,
        destinations: Destinations,
        requests: PeerTransactions,
        clock: Clock,
        random: Random,
        backoff: Backoff | None = None,
        peers_at_once: int = 50,
    ) -> None:
        self._database = database
        self._destinations = destinations
        self._requests = requests
        self._clock = clock
        self._random = random
        self._backoff = backoff or Backoff(first_s=1.0, most_s=3600.0)
        self._lanes = Lanes(self._serve, workers=peers_at_once, name="peers")
        self._staged: dict[tuple[ServerName, RoomId], _Staged] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lanes.run())
            tasks.create_task(self._mark_forever())
            tasks.create_task(self._wake_forever())

    async def on_heard(self, server: ServerName) -> None:
        """The peer sent us something: if it was being waited for, the wait is over."""
        if await self._database.write(lambda tx: peers.hasten(tx, server)):
            self._lanes.wake(server)

    # --- marking ---------------------------------------------------------------------------

    async def _mark_forever(self) -> None:
        waker = self._database.waker(stream_events.name)
        while True:
            try:
                more = await self._mark_some()
            except Unavailable as exc:
                log.warning("marking what to send must wait", reason=exc.reason)
                await self._clock.sleep(1.0)
                continue
            if not more:
                await waker.wait(POLL_S)

    async def _mark_some(self) -> bool:
        """Marks the next events of the stream; False when there were none."""

        def unread(tx: Transaction) -> list[tuple[int, RoomId, EventId, bool]]:
            after = streams.cursor(tx, CURSOR)
            return [
                (row["position"], RoomId(row["room_id"]), EventId(row["event_id"]), row["outgoing"])
                for row in streams.read_since(tx, stream_events, after, MARK_BATCH)
            ]

        rows = await self._database.read(unread)
        if not rows:
            return False
        marks: list[tuple[int, RoomId, frozenset[ServerName]]] = []
        for position, room_id, event_id, outgoing in rows:
            if outgoing:
                marks.append((position, room_id, await self._servers_for(event_id)))

        def write(tx: Transaction) -> None:
            for position, room_id, servers in marks:
                peers.mark(tx, servers=servers, room_id=room_id, position=position)
            streams.advance(tx, CURSOR, rows[-1][0])

        await self._database.write(write)
        for server in frozenset().union(*(servers for _, _, servers in marks)):
            self._lanes.wake(server)
        return True

    async def _servers_for(self, event_id: EventId) -> frozenset[ServerName]:
        try:
            return await self._destinations.destinations(event_id)
        except NotFound:
            return frozenset()  # the room was purged meanwhile

    # --- sending ---------------------------------------------------------------------------

    async def _wake_forever(self) -> None:
        """Wakes peers whose pause is over, and after a start all that are behind."""
        waker = self._database.waker(peers.TOPIC)
        while True:
            try:
                for server in await self._database.read(peers.behind):
                    self._lanes.wake(server)
                due_ms = await self._database.read(peers.next_attempt_ms)
            except Unavailable:
                due_ms = None
            pause_s = POLL_S
            if due_ms is not None:
                pause_s = min(POLL_S, max(0.2, (due_ms - self._clock.now_ms()) / 1000))
            await waker.wait(pause_s)

    async def _serve(self, key: str) -> None:
        """Sends a peer what it lacks until there is nothing more, or it must be waited for."""
        server = ServerName(key)
        while True:
            state = await self._database.read(lambda tx: peers.state(tx, server))
            if state.next_attempt_ms > self._clock.now_ms():
                return
            backlogs = await self._database.read(
                lambda tx: peers.backlog(tx, server, MAX_ROOMS_PER_TRANSACTION)
            )
            if not backlogs:
                return
            try:
                await self._send_some(server, backlogs)
            except (Unavailable, Refused, NotFound, BadInput) as exc:
                await self._failed(server, state.failures, exc)
                return

    async def _send_some(self, server: ServerName, backlogs: Sequence[Backlog]) -> None:
        batch = await self._batch(server, backlogs)
        errors: Mapping[EventId, str] = {}
        if batch.pdus:
            errors = await self._requests.send_transaction(
                server, batch.transaction_id(self._database.epoch), batch.pdus, []
            )
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            for room_id, position in batch.reached.items():
                peers.sent(tx, server, room_id, position)
            for event_id, room_id in batch.event_ids:
                streams.append(
                    tx,
                    stream_acceptances,
                    {
                        "event_id": event_id,
                        "room_id": room_id,
                        "server": server,
                        "error": errors.get(event_id),
                    },
                )
            if batch.pdus:
                peers.succeeded(tx, server, now_ms=now_ms)

        await self._database.write(unit)
        for event_id, room_id in batch.event_ids:
            staged = self._staged.setdefault((server, room_id), _Staged(count=0, last=event_id))
            staged.count += 1
            staged.last = event_id
        for event_id, error in errors.items():
            log.warning("a peer refused an event", peer=server, event_id=event_id, error=error)

    async def _batch(self, server: ServerName, backlogs: Sequence[Backlog]) -> _Batch:
        pdus: list[tuple[int, EventId, RoomId, JsonObject]] = []
        reached: dict[RoomId, int] = {}
        for backlog in backlogs:
            free = MAX_PDUS - len(pdus)
            if free <= 0:
                break
            free = min(free, await self._room_left(server, backlog.room_id))
            taken = await self._take(server, backlog, free)
            pdus.extend(taken[0])
            reached[backlog.room_id] = taken[1]
        pdus.sort(key=lambda entry: entry[0])
        return _Batch(
            pdus=[pdu for _, _, _, pdu in pdus],
            event_ids=[(event_id, room_id) for _, event_id, room_id, _ in pdus],
            reached=reached,
        )

    async def _take(
        self, server: ServerName, backlog: Backlog, limit: int
    ) -> tuple[list[tuple[int, EventId, RoomId, JsonObject]], int]:
        """The next events of a room for this peer, and the position up to which that is all."""
        room_id = backlog.room_id

        def unread(tx: Transaction) -> list[tuple[int, EventId, str]]:
            rows = streams.read_since(
                tx,
                stream_events,
                backlog.sent_position,
                limit,
                (stream_events.c.room_id == room_id) & stream_events.c.outgoing,
            )
            found = events.find(tx, [EventId(row["event_id"]) for row in rows])
            return [
                (row["position"], EventId(row["event_id"]), found[row["event_id"]].json)
                for row in rows
                if row["event_id"] in found
            ]

        rows = await self._database.read(unread)
        if len(rows) < limit:
            reached = max(backlog.newest_position, rows[-1][0] if rows else 0)
        else:
            reached = rows[-1][0]
        wanted = [
            (position, event_id, room_id, _parse(text))
            for position, event_id, text in rows
            if server in await self._servers_for(event_id)
        ]
        return wanted, reached

    async def _room_left(self, server: ServerName, room_id: RoomId) -> int:
        """How many more events of the room the peer may be given now; at least one.

        Waits, within a bound, until the peer knows the last one that it was given.
        """
        staged = self._staged.get((server, room_id))
        if staged is None:
            return MAX_UNDIGESTED
        if staged.count >= MAX_UNDIGESTED:
            await self._await_digestion(server, staged.last)
            del self._staged[(server, room_id)]
            return MAX_UNDIGESTED
        return MAX_UNDIGESTED - staged.count

    async def _await_digestion(self, server: ServerName, event_id: EventId) -> None:
        give_up = self._clock.monotonic_s() + DIGEST_TIMEOUT_S
        while self._clock.monotonic_s() < give_up:
            try:
                await self._requests.event(server, event_id)
            except (NotFound, Refused, BadInput):
                await self._clock.sleep(DIGEST_PAUSE_S)
            else:
                return
        log.warning("a peer does not show that it follows", peer=server, event_id=event_id)

    async def _failed(self, server: ServerName, failures: int, error: IsthmusError) -> None:
        delay_s = self._backoff.delay_s(failures, self._random)
        if isinstance(error, Unavailable) and error.retry_after_s is not None:
            delay_s = max(delay_s, min(error.retry_after_s, self._backoff.most_s))
        next_attempt_ms = self._clock.now_ms() + int(delay_s * 1000)
        log.info("a peer cannot be reached", peer=server, reason=error.reason, retry_s=delay_s)
        await self._database.write(
            lambda tx: peers.failed(tx, server, next_attempt_ms=next_attempt_ms, error=error.reason)
        )


def _parse(text: str) -> JsonObject:
    """A stored PDU: it was checked when it came."""
    pdu: JsonObject = parse_json(text.encode(), max_bytes=len(text) * 4)
    return pdu
