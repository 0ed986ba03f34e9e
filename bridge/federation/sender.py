"""Events out: every event of ours reaches every server that was in the room before it.

Two steps, each with a durable position:

1. *marking*: the arrival order is read once, and for each outgoing event the servers that must
   hear of it get `(peer, room) -> newest position`;
2. *sending*: one lane per peer reads, room by room, from what was sent to what is newest, and
   moves the cursor in the same commit that notes the acceptance.

A peer's 200 means "received", not "digested": some servers throw staged events of a room away when
too many wait. So no more than `MAX_UNDIGESTED` events of one room are given to a peer without its
having shown, by answering for one of them, that it has worked them off up to there.

A server that has just come into a room for the first time is given nothing of it before it shows
that it has worked off its own joining: until then some do not know the room, and throw away what
they are told of it.

Nothing is given up: a peer that is down, or that refuses the whole transaction, is tried again,
with pauses that grow and survive a restart, and at once when it shows itself. Until it answers it
is given the same transaction. Peers that failed last may take a part of the lanes only: however
many are down and dawdle, the others do not wait for them. After a start we show ourselves to every
peer that we share a room with, by an empty transaction where there is nothing to send: they may
have given us up meanwhile.

EDUs ride along with the events, or alone where there are none; they never wait for events that the
peer has still to work off. What is kept for a peer is sent until the peer has it; what is passing
is dropped when the peer is down.

Spec: S2S, transactions, EDUs. DESIGN of the house: sending.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Protocol

from bridge.clock import Clock
from bridge.delivery.backoff import Backoff
from bridge.delivery.lanes import Lanes
from bridge.engine.canonical import JsonObject, encode_canonical, parse_json
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.federation.edu_sources import EduSource
from bridge.ids import EventId, RoomId, ServerName
from bridge.storage import edus, events, peers, streams
from bridge.storage.database import Database, Transaction
from bridge.storage.peers import Backlog, Mark, PeerState
from bridge.storage.schema import stream_acceptances, stream_events
from bridge.telemetry import metrics
from bridge.telemetry.log import get_logger

log = get_logger("federation")

CURSOR = "federation"
MARK_BATCH = 200
MAX_REREAD = 500
"""Positions that are looked at again after a restart: those that ask for nothing are not noted one
by one."""
MAX_PDUS = 50
MAX_EDUS = 100
MAX_PASSING_MS = 60_000
"""What passes is repeated for so long, with the events that it rode along with."""
MAX_ROOMS_PER_TRANSACTION = 20
MAX_UNDIGESTED = 40
"""Well under the 100 at which an established server drops what it has staged of a room."""
DIGEST_TIMEOUT_S = 60.0
"""After this long what a peer was given counts as worked off, whatever it shows."""
DIGEST_PAUSE_S = 0.25
ARRIVAL_TIMEOUT_S = 15.0
"""After this long a server that came into a room is taken to be in, whatever it shows."""
MAX_ARRIVING = 10_000
POLL_S = 30.0
HASTEN_PAUSE_S = 5.0
"""A peer that talks to us but does not take what we send is hastened no more often than this."""
SHARE_OF_FAILING = 2
"""Peers whose last attempt failed are given this part of the lanes: each may take minutes."""
MAX_GREETING_FAILURES = 12
MAX_GREETINGS_WAITING = 1_000
SWEEP_S = 3600.0
KEEP_ACCEPTANCES_MS = 24 * 3600 * 1000


class PeerTransactions(Protocol):
    """What is used of `client.requests.PeerRequests`."""

    async def send_transaction(
        self,
        peer: ServerName,
        txn_id: str,
        pdus: Sequence[JsonObject],
        edus: Sequence[JsonObject],
        *,
        origin_server_ts: int | None = None,
    ) -> Mapping[EventId, str]: ...

    async def event(self, peer: ServerName, event_id: EventId) -> JsonObject: ...


class Destinations(Protocol):
    """What is used of `rooms.query.RoomQueries`."""

    async def destinations(self, event_id: EventId) -> frozenset[ServerName]: ...

    async def entered(self, event_id: EventId) -> tuple[ServerName, int] | None: ...

    async def neighbours(self) -> frozenset[ServerName]: ...

    async def entrance(self, room_id: RoomId, server: ServerName) -> EventId | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edus:
    """What the sources have for a peer now, and what each of them calls its own."""

    parts: Sequence[tuple[EduSource, Sequence[JsonObject], object]]

    @property
    def edus(self) -> list[JsonObject]:
        return [edu for _, some, _ in self.parts for edu in some]

    @property
    def has_passing(self) -> bool:
        return any(source.is_passing for source, _, _ in self.parts)

    def kept(self) -> _Edus:
        """Without what passes."""
        return _Edus(parts=[part for part in self.parts if not part[0].is_passing])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """One transaction: events in order, how far it brings each room, and EDUs."""

    transaction_id: str
    origin_server_ts: int
    event_ids: Sequence[tuple[EventId, RoomId]]
    reached: Mapping[RoomId, int]
    edus: _Edus
    greeting: bool = False

    @property
    def has_contents(self) -> bool:
        return bool(self.event_ids or self.edus.edus)

    @property
    def is_passing(self) -> bool:
        """Nothing would be missed if it never arrived."""
        return not self.event_ids and not self.edus.kept().parts


@dataclass(slots=True)
class _Staged:
    """What a peer has been given of a room and has not shown to have worked off, in order."""

    given_s: float
    event_ids: deque[EventId] = field(default_factory=deque)


class Sender:
    """`on_heard` is called for every peer that proves to be there. `acceptance_reader`: the cursor
    that must have passed an acceptance before it may be forgotten."""

    def __init__(
        self,
        *,
        database: Database,
        destinations: Destinations,
        requests: PeerTransactions,
        clock: Clock,
        random: Random,
        backoff: Backoff | None = None,
        peers_at_once: int = 100,
        greetings_per_s: float = 10.0,
        acceptance_reader: str = "bridge_acceptances",
        sources: Sequence[EduSource] = (),
    ) -> None:
        """`sources`: of EDUs, the most important first."""
        self._database = database
        self._destinations = destinations
        self._requests = requests
        self._clock = clock
        self._random = random
        self._backoff = backoff or Backoff(first_s=1.0, most_s=3600.0)
        self._greetings_per_s = greetings_per_s
        self._acceptance_reader = acceptance_reader
        self._sources = sources
        self._lanes = Lanes(self._serve, workers=peers_at_once, name="peers")
        self._waker = database.waker(peers.TOPIC)
        self._marked_to = 0
        self._staged: dict[tuple[ServerName, RoomId], _Staged] = {}
        self._unanswered: dict[ServerName, _Batch] = {}
        self._arriving: dict[tuple[ServerName, RoomId], float] = {}
        self._resting: frozenset[ServerName] = frozenset()
        self._heard: set[ServerName] = set()
        self._most_failing = max(1, peers_at_once // SHARE_OF_FAILING)
        self._failing = 0
        self._put_off: dict[ServerName, None] = {}
        self._hastened_s: dict[ServerName, float] = {}
        self._greetings: set[ServerName] = set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lanes.run())
            tasks.create_task(self._mark_forever())
            tasks.create_task(self._wake_forever())
            tasks.create_task(self._greet())
            tasks.create_task(self._sweep_forever())

    def on_heard(self, server: ServerName) -> None:
        """The peer sent us something: if it was being waited for, the wait is over. Cheap."""
        if server in self._heard:
            return
        if server not in self._resting and server not in self._put_off:
            return
        now_s = self._clock.monotonic_s()
        if now_s - self._hastened_s.get(server, -HASTEN_PAUSE_S) < HASTEN_PAUSE_S:
            return
        self._hastened_s[server] = now_s
        self._heard.add(server)
        self._waker.wake()

    def wake(self, server: ServerName) -> None:
        """A source of EDUs has something for the peer, committed if it is to be kept. Cheap."""
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
        """Marks the next events of the stream; False when there are no more by now."""

        def unread(tx: Transaction) -> list[tuple[int, RoomId, EventId, bool]]:
            after = max(streams.cursor(tx, CURSOR), self._marked_to)
            return [
                (row["position"], RoomId(row["room_id"]), EventId(row["event_id"]), row["outgoing"])
                for row in streams.read_since(tx, stream_events, after, MARK_BATCH)
            ]

        rows = await self._database.read(unread)
        if not rows:
            return False
        found: dict[tuple[ServerName, RoomId], tuple[int, int]] = {}
        for position, room_id, event_id, outgoing in rows:
            if not outgoing:
                continue
            for server in await self._servers_for(event_id):
                first, _ = found.get((server, room_id), (position, position))
                found[server, room_id] = (first, position)
            missed = await self._missed_by_newcomer(room_id, event_id, position)
            if missed is not None:
                server, after = missed
                first, _ = found.get((server, room_id), (position, position))
                found[server, room_id] = (min(first, after + 1), position)
        marks = [
            Mark(server=server, room_id=room_id, first=first, newest=newest)
            for (server, room_id), (first, newest) in sorted(found.items())
        ]
        newest = rows[-1][0]
        if not marks and newest // MAX_REREAD == self._marked_to // MAX_REREAD:
            self._marked_to = newest  # Nothing that must survive, and it comes often.
            return len(rows) == MARK_BATCH

        def write(tx: Transaction) -> frozenset[tuple[ServerName, RoomId]]:
            fresh = peers.mark(tx, marks)
            streams.advance(tx, CURSOR, newest)
            return fresh

        arrived = await self._database.write(write)
        self._marked_to = newest
        for one in sorted(arrived):
            if len(self._arriving) < MAX_ARRIVING:
                self._arriving[one] = self._clock.monotonic_s()
        for server in dict.fromkeys(one.server for one in marks):
            self._lanes.wake(server)
        return len(rows) == MARK_BATCH

    async def _servers_for(self, event_id: EventId) -> frozenset[ServerName]:
        try:
            return await self._destinations.destinations(event_id)
        except NotFound:
            return frozenset()  # the room was purged meanwhile

    async def _missed_by_newcomer(
        self, room_id: RoomId, event_id: EventId, position: int
    ) -> tuple[ServerName, int] | None:
        """Of a join that we let in, where other events of ours came between what it stands on and
        itself: the server, and after which position it lacks them."""
        entered = await self._entered(event_id)
        if entered is None:
            return None
        where = (stream_events.c.room_id == room_id) & stream_events.c.outgoing
        between = await self._database.read(
            lambda tx: streams.read_since(tx, stream_events, entered[1], 1, where)
        )
        return entered if between and between[0]["position"] < position else None

    async def _entered(self, event_id: EventId) -> tuple[ServerName, int] | None:
        try:
            return await self._destinations.entered(event_id)
        except NotFound:
            return None

    # --- whom to try, and when -------------------------------------------------------------

    async def _wake_forever(self) -> None:
        """Wakes peers that are behind and whose pause is over; after a start that is all."""
        while True:
            pause_s = POLL_S
            heard, self._heard = self._heard, set()
            try:
                if heard:
                    await self._database.write(partial(peers.hasten, servers=heard))
                due_ms = await self._wake_due()
            except Unavailable as exc:
                log.warning("looking for peers that are behind must wait", reason=exc.reason)
                self._heard |= heard
                pause_s = 1.0
            else:
                if due_ms is not None:
                    pause_s = min(POLL_S, max(0.0, (due_ms - self._clock.now_ms()) / 1000))
            await self._waker.wait(pause_s)

    async def _wake_due(self) -> int | None:
        """When the first of those that rest may be tried."""
        greeted = sorted(self._greetings)[:MAX_GREETINGS_WAITING]
        kept = {server for source in self._sources for server in await source.waiting()}

        def look(tx: Transaction) -> list[peers.Waiting]:
            return [*peers.behind(tx), *peers.failing(tx, greeted), *peers.waiting(tx, kept)]

        waiting = await self._database.read(look)
        now_ms = self._clock.now_ms()
        resting = {
            one.server: one.next_attempt_ms for one in waiting if one.next_attempt_ms > now_ms
        }
        self._resting = frozenset(resting)
        for one in waiting:
            if one.server not in resting:
                self._lanes.wake(one.server)
        return min(resting.values(), default=None)

    async def _greet(self) -> None:
        """After a start: nobody may go on believing that we are down."""
        try:
            self._greetings = set(await self._destinations.neighbours())
        except Unavailable as exc:
            log.warning("peers are not greeted", reason=exc.reason)
            return
        for server in sorted(self._greetings):
            if server in self._greetings:
                self._lanes.wake(server)
                await self._clock.sleep(1.0 / self._greetings_per_s)

    async def _sweep_forever(self) -> None:
        """Forgets what is no longer needed."""
        while True:
            try:
                await self._forget_acceptances()
            except Unavailable as exc:
                log.warning("old acceptances stay for now", reason=exc.reason)
            now_s = self._clock.monotonic_s()
            for key in [one for one, staged in self._staged.items() if self._is_old(staged)]:
                del self._staged[key]
            for server in [one for one, at_s in self._hastened_s.items() if now_s - at_s > SWEEP_S]:
                del self._hastened_s[server]
            await self._clock.sleep(SWEEP_S)

    async def _forget_acceptances(self) -> None:
        before_ms = self._clock.now_ms() - KEEP_ACCEPTANCES_MS
        unit = partial(
            peers.forget_acceptances, reader=self._acceptance_reader, before_ms=before_ms
        )
        while await self._database.write(unit):
            await self._clock.sleep(0.1)

    # --- sending ---------------------------------------------------------------------------

    async def _serve(self, key: str) -> None:
        """Sends a peer what it lacks until there is nothing more, or it must be waited for."""
        server = ServerName(key)

        def look(tx: Transaction) -> tuple[PeerState, Sequence[Backlog], bool]:
            return (
                peers.state(tx, server),
                peers.backlog(tx, server, MAX_ROOMS_PER_TRANSACTION),
                edus.has_waiting(tx, server),
            )

        while True:
            state, backlogs, has_kept = await self._database.read(look)
            if state.next_attempt_ms > self._clock.now_ms():
                self._drop_passing(server)
                return
            some = await self._edus(server, has_kept=has_kept)
            if not backlogs and not some.edus and server not in self._greetings:
                return
            # One that has shown itself is there again, as far as we know.
            failing = state.failures > 0 and server not in self._hastened_s
            if failing and self._failing >= self._most_failing:
                self._put_off[server] = None
                return
            try:
                with self._counted(failing=failing):
                    await self._send_some(server, backlogs, some)
            except (Unavailable, Refused, NotFound, BadInput) as exc:
                await self._failed(server, state.failures, exc)
                return

    @contextmanager
    def _counted(self, *, failing: bool) -> Iterator[None]:
        """While a peer that failed last is tried; then the next of them gets its turn."""
        self._failing += failing
        try:
            yield
        finally:
            self._failing -= failing
            if failing and self._put_off:
                server = next(iter(self._put_off))
                del self._put_off[server]
                self._lanes.wake(server)

    async def _edus(self, server: ServerName, *, has_kept: bool) -> _Edus:
        """Those of the unanswered transaction, or what there is now. `has_kept`: sources of what
        is kept need to be asked."""
        unanswered = self._unanswered.get(server)
        if unanswered is not None:
            return unanswered.edus
        parts: list[tuple[EduSource, Sequence[JsonObject], object]] = []
        left = MAX_EDUS
        for source in self._sources:
            if left == 0:
                break
            if not has_kept and not source.is_passing:
                continue
            some, token = await source.pending(server, left)
            if some:
                left -= len(some)
                parts.append((source, some, token))
        return _Edus(parts=parts)

    def _drop_passing(self, server: ServerName) -> None:
        for source in self._sources:
            source.dropped(server)

    async def _send_some(
        self, server: ServerName, backlogs: Sequence[Backlog], some: _Edus
    ) -> None:
        """One transaction; or a pause, where the peer has enough to work off."""
        batch = self._unanswered.get(server)
        if batch is not None:
            batch = self._without_old(batch)
        else:
            batch = await self._batch(server, backlogs, some)
        if batch is None:
            await self._clock.sleep(DIGEST_PAUSE_S)
            return
        errors: Mapping[EventId, str] = {}
        if batch.has_contents:
            self._unanswered[server] = batch
        if batch.has_contents or batch.greeting:
            errors = await self._requests.send_transaction(
                server,
                batch.transaction_id,
                await self._pdus(batch),
                batch.edus.edus,
                origin_server_ts=batch.origin_server_ts,
            )
            self._unanswered.pop(server, None)
        for source, _, token in batch.edus.parts:
            await source.sent(server, token)
        for edu in batch.edus.edus:
            metrics.EDUS_SENT.labels(edu["edu_type"]).inc()
        await self._database.write(self._note(server, batch, errors))
        if batch.has_contents or batch.greeting:
            self._greetings.discard(server)
        self._stage(server, batch, errors)

    def _note(
        self, server: ServerName, batch: _Batch, errors: Mapping[EventId, str]
    ) -> Callable[[Transaction], None]:
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
            if batch.has_contents or batch.greeting:
                peers.succeeded(tx, server, now_ms=now_ms)

        return unit

    async def _batch(
        self, server: ServerName, backlogs: Sequence[Backlog], some: _Edus
    ) -> _Batch | None:
        """The next transaction. None: there is no room of which the peer may be given more now, and
        nothing else."""
        entries: list[tuple[int, EventId, RoomId]] = []
        reached: dict[RoomId, int] = {}
        for backlog in backlogs:
            free = MAX_PDUS - len(entries)
            if free <= 0:
                break
            free = min(free, await self._room_left(server, backlog.room_id))
            if free <= 0 or not await self._has_arrived(server, backlog.room_id):
                continue
            taken, reached[backlog.room_id] = await self._take(server, backlog, free)
            entries.extend((position, event_id, backlog.room_id) for position, event_id in taken)
        if backlogs and not reached and not some.edus:
            return None
        entries.sort()
        now_ms = self._clock.now_ms()
        event_ids = [(event_id, room_id) for _, event_id, room_id in entries]
        return _Batch(
            transaction_id=self._transaction_id(event_ids, some, now_ms),
            origin_server_ts=now_ms,
            event_ids=event_ids,
            reached=reached,
            edus=some,
            greeting=not backlogs and not some.edus,
        )

    def _transaction_id(
        self, event_ids: Sequence[tuple[EventId, RoomId]], some: _Edus, now_ms: int
    ) -> str:
        """The same contents have the same ID: a repetition is recognised by the peer, also after a
        restart of ours."""
        text = "".join(event_id for event_id, _ in event_ids)
        text += "".join(encode_canonical(edu).decode() for edu in some.edus)
        # What is told again later (a key that comes back) is no repetition either: other rows.
        text += "".join(f" {token}" for source, _, token in some.parts if not source.is_passing)
        if not text or some.has_passing:
            # What passes is the same again and again (somebody types), and is no repetition.
            text += f" at {now_ms}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        return f"{self._database.epoch}.{digest}"

    def _without_old(self, batch: _Batch) -> _Batch:
        """After an outage nobody is told that somebody typed before it. If the peer has had the
        first transaction after all, it knows the rest of the second one as well."""
        age_ms = self._clock.now_ms() - batch.origin_server_ts
        if not batch.edus.has_passing or age_ms < MAX_PASSING_MS:
            return batch
        kept = batch.edus.kept()
        return replace(
            batch,
            edus=kept,
            transaction_id=self._transaction_id(batch.event_ids, kept, batch.origin_server_ts),
        )

    async def _take(
        self, server: ServerName, backlog: Backlog, limit: int
    ) -> tuple[list[tuple[int, EventId]], int]:
        """The next events of a room for this peer, and the position up to which that is all."""
        where = (stream_events.c.room_id == backlog.room_id) & stream_events.c.outgoing
        rows = await self._database.read(
            lambda tx: streams.read_since(tx, stream_events, backlog.sent_position, limit, where)
        )
        last: int = rows[-1]["position"] if rows else 0
        reached = last if len(rows) == limit else max(backlog.newest_position, last)
        wanted: list[tuple[int, EventId]] = []
        passed: list[tuple[int, EventId]] = []
        for row in rows:
            position, event_id = int(row["position"]), EventId(row["event_id"])
            entered = await self._entered(event_id)
            if entered is not None and entered[0] == server:
                # It was coming in meanwhile, and was not told of these.
                wanted += [one for one in passed if one[0] > entered[1]]
                passed = [one for one in passed if one[0] <= entered[1]]
            elif server in await self._servers_for(event_id):
                wanted.append((position, event_id))
            else:
                passed.append((position, event_id))
        return sorted(wanted), reached

    async def _pdus(self, batch: _Batch) -> list[JsonObject]:
        """As they are stored. Those of a room that was purged meanwhile are missing."""
        event_ids = [event_id for event_id, _ in batch.event_ids]
        found = await self._database.read(lambda tx: events.find(tx, event_ids))
        return [_parse(found[event_id].json) for event_id in event_ids if event_id in found]

    # --- what a peer has worked off ---------------------------------------------------------

    async def _room_left(self, server: ServerName, room_id: RoomId) -> int:
        """How many more events of the room the peer may be given now."""
        staged = self._staged.get((server, room_id))
        if staged is not None and self._is_old(staged):
            if len(staged.event_ids) >= MAX_UNDIGESTED:
                log.warning("a peer does not show that it follows", peer=server, room_id=room_id)
            del self._staged[server, room_id]
            staged = None
        if staged is None:
            return MAX_UNDIGESTED
        if len(staged.event_ids) >= MAX_UNDIGESTED:
            # One from the middle, so that it never runs dry while we ask.
            middle = len(staged.event_ids) // 2
            if await self._has_digested(server, staged.event_ids[middle]):
                for _ in range(middle + 1):
                    staged.event_ids.popleft()
        return MAX_UNDIGESTED - len(staged.event_ids)

    async def _has_arrived(self, server: ServerName, room_id: RoomId) -> bool:
        """Whether a server that is new in a room knows the room by now."""
        since_s = self._arriving.get((server, room_id))
        if since_s is None:
            return True
        entrance = await self._destinations.entrance(room_id, server)
        if self._clock.monotonic_s() - since_s > ARRIVAL_TIMEOUT_S:
            log.info("a peer does not show that it has come in", peer=server, room_id=room_id)
        elif entrance is not None and not await self._has_digested(server, entrance):
            return False
        self._arriving.pop((server, room_id), None)
        return True

    async def _has_digested(self, server: ServerName, event_id: EventId) -> bool:
        """A refusal is an answer as well: only what is known can be refused to somebody who is no
        longer in the room."""
        try:
            await self._requests.event(server, event_id)
        except NotFound:
            return False
        except (Refused, BadInput):
            return True
        return True

    def _stage(self, server: ServerName, batch: _Batch, errors: Mapping[EventId, str]) -> None:
        now_s = self._clock.monotonic_s()
        for event_id, room_id in batch.event_ids:
            if event_id in errors:
                log.warning(
                    "a peer refused an event",
                    peer=server,
                    event_id=event_id,
                    error=errors[event_id],
                )
                continue
            staged = self._staged.setdefault((server, room_id), _Staged(given_s=now_s))
            staged.given_s = now_s
            staged.event_ids.append(event_id)

    def _is_old(self, staged: _Staged) -> bool:
        return self._clock.monotonic_s() - staged.given_s > DIGEST_TIMEOUT_S

    # --- failures --------------------------------------------------------------------------

    async def _failed(self, server: ServerName, failures: int, error: IsthmusError) -> None:
        delay_s = self._backoff.delay_s(failures, self._random)
        if isinstance(error, Unavailable) and error.retry_after_s is not None:
            delay_s = max(delay_s, min(error.retry_after_s, self._backoff.most_s))
        next_attempt_ms = self._clock.now_ms() + int(delay_s * 1000)
        log.info("a peer cannot be reached", peer=server, reason=error.reason, retry_s=delay_s)
        unanswered = self._unanswered.get(server)
        if unanswered is not None and unanswered.is_passing:
            del self._unanswered[server]
        self._drop_passing(server)
        if failures >= MAX_GREETING_FAILURES:
            self._greetings.discard(server)
        await self._database.write(
            lambda tx: peers.failed(tx, server, next_attempt_ms=next_attempt_ms, error=error.reason)
        )


def _parse(text: str) -> JsonObject:
    """A stored PDU: it was checked when it came."""
    pdu: JsonObject = parse_json(text.encode(), max_bytes=len(text) * 4)
    return pdu
