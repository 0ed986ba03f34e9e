"""The sender with peers that do what a test tells them: order, cursors, pace, pauses."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import func, select

from bridge.delivery.backoff import Backoff
from bridge.engine.canonical import JsonObject
from bridge.errors import NotFound, Refused, Unavailable
from bridge.federation.edu_sources import StoredEdus
from bridge.federation.sender import (
    HASTEN_PAUSE_S,
    KEEP_ACCEPTANCES_MS,
    MAX_UNDIGESTED,
    SWEEP_S,
    Sender,
)
from bridge.ids import EventId, RoomId, ServerName, TraceId, UserId
from bridge.storage import edus, peers, streams
from bridge.storage import events as event_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.schema import peer_rooms, stream_acceptances, stream_events
from tests.support.clock import FakeClock
from tests.support.matrix_side import until

A, B, C = ServerName("a.example"), ServerName("b.example"), ServerName("c.example")
ROOM, OTHER = RoomId("!room:us.example"), RoomId("!other:us.example")
READER = "reader"


@dataclass
class Sent:
    peer: ServerName
    txn_id: str
    event_ids: list[str]
    origin_server_ts: int | None
    edus: list[JsonObject]


@dataclass
class Passing:
    """A source of what may be lost: one EDU for each peer, in memory."""

    is_passing = True
    held: dict[ServerName, str] = field(default_factory=dict)

    async def pending(self, server: ServerName, limit: int) -> tuple[list[JsonObject], object]:
        text = self.held.get(server)
        if text is None or limit <= 0:
            return [], None
        return [{"edu_type": "passing", "content": {"text": text}}], text

    async def sent(self, server: ServerName, token: object) -> None:
        if self.held.get(server) == token:
            del self.held[server]

    async def waiting(self) -> set[ServerName]:
        return set()

    def dropped(self, server: ServerName) -> None:
        self.held.pop(server, None)


@dataclass
class World:
    """Fits `Destinations` and `PeerTransactions`: rooms that know who is in, peers that listen."""

    database: Database
    clock: FakeClock
    members: dict[RoomId, set[ServerName]] = field(default_factory=dict)
    servers: dict[EventId, frozenset[ServerName]] = field(default_factory=dict)
    looked_at: list[EventId] = field(default_factory=list)
    shared: frozenset[ServerName] = frozenset()
    entrances: dict[tuple[RoomId, ServerName], EventId] = field(default_factory=dict)
    entered_after: dict[EventId, tuple[ServerName, int]] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    asked: list[EventId] = field(default_factory=list)
    digested: set[EventId] = field(default_factory=set)
    digests_at_once: bool = True
    fault: Callable[[ServerName], Exception | None] = lambda _: None
    lost_answer: Callable[[ServerName], bool] = lambda _: False
    errors: dict[EventId, str] = field(default_factory=dict)
    count: int = 0
    dawdling: frozenset[ServerName] = frozenset()
    held: list[ServerName] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    passing: Passing = field(default_factory=Passing)
    sender: Sender | None = None

    async def destinations(self, event_id: EventId) -> frozenset[ServerName]:
        self.looked_at.append(event_id)
        if event_id not in self.servers:
            raise NotFound("gone")
        return self.servers[event_id]

    async def entered(self, event_id: EventId) -> tuple[ServerName, int] | None:
        return self.entered_after.get(event_id)

    async def neighbours(self) -> frozenset[ServerName]:
        return self.shared

    async def entrance(self, room_id: RoomId, server: ServerName) -> EventId | None:
        return self.entrances.get((room_id, server))

    async def send_transaction(
        self,
        peer: ServerName,
        txn_id: str,
        pdus: Sequence[JsonObject],
        edus: Sequence[JsonObject],
        *,
        origin_server_ts: int | None = None,
    ) -> Mapping[EventId, str]:
        if peer in self.dawdling:
            self.held.append(peer)
            await self.released.wait()
        problem = self.fault(peer)
        if problem is not None:
            raise problem
        event_ids = [pdu["event_id"] for pdu in pdus]
        self.sent.append(Sent(peer, txn_id, event_ids, origin_server_ts, list(edus)))
        if self.digests_at_once:
            self.digested |= set(event_ids)
        if self.lost_answer(peer):
            raise Unavailable("the connection broke")
        return {
            event_id: self.errors[event_id] for event_id in event_ids if event_id in self.errors
        }

    async def event(self, peer: ServerName, event_id: EventId) -> JsonObject:
        self.asked.append(event_id)
        if event_id in self.digested:
            return {}
        raise NotFound("not yet")

    # --- what a test does -------------------------------------------------------------------

    async def append(
        self,
        count: int = 1,
        *,
        room: RoomId = ROOM,
        to: set[ServerName] | None = None,
        outgoing: bool = True,
    ) -> list[EventId]:
        """Events of ours, for the members of the room or for these servers."""
        servers = frozenset(self.members.get(room, set()) if to is None else to)
        made = [EventId(f"${self.count + number:04}") for number in range(count)]
        self.count += count
        self.servers |= dict.fromkeys(made, servers)
        received_ms = self.clock.now_ms()

        def unit(tx: Transaction) -> None:
            for event_id in made:
                event_rows.insert_events(tx, [(_row(event_id, room, received_ms), [])])
                values = {
                    "room_id": room,
                    "event_id": event_id,
                    "outgoing": outgoing,
                    "historic": False,
                }
                streams.append(tx, stream_events, values)

        await self.database.write(unit)
        return made

    async def put_edus(self, *edu_ids: str, to: ServerName = A) -> None:
        def unit(tx: Transaction) -> None:
            for edu_id in edu_ids:
                edus.put(
                    tx,
                    server=to,
                    edu_type="durable",
                    edu_id=edu_id,
                    content_json=json.dumps({"text": edu_id}),
                    now_ms=1,
                )

        await self.database.write(unit)

    def heard(self, peer: ServerName) -> list[str]:
        """Texts of the EDUs that arrived."""
        arrived = [edu for sent in self.sent if sent.peer == peer for edu in sent.edus]
        return [str(edu["content"]["text"]) for edu in arrived]

    async def wait_until_heard(self, peer: ServerName, wanted: Sequence[str]) -> None:
        async def look() -> bool:
            return len(self.heard(peer)) >= len(wanted)

        await until(look)
        assert self.heard(peer) == list(wanted)

    def received(self, peer: ServerName) -> list[str]:
        return [one for sent in self.sent if sent.peer == peer for one in sent.event_ids]

    async def wait_until_received(self, peer: ServerName, wanted: Sequence[str]) -> None:
        async def look() -> bool:
            return len(self.received(peer)) >= len(wanted)

        await until(look)
        assert self.received(peer) == list(wanted)

    async def wait_until_idle(self) -> None:
        """Everything is with everybody, and noted."""

        async def look() -> bool:
            def unit(tx: Transaction) -> bool:
                seen = 0 if self.sender is None else self.sender._marked_to
                marked = max(streams.cursor(tx, "federation"), seen)
                return marked >= streams.head(tx, stream_events) and not peers.behind(tx)

            return await self.database.read(unit)

        await until(look)

    async def wait_for_failures(self, peer: ServerName, count: int) -> peers.PeerState:
        async def look() -> peers.PeerState | None:
            state = await self.database.read(lambda tx: peers.state(tx, peer))
            return state if state.failures >= count else None

        found = await until(look)
        assert found is not None
        assert found.failures == count
        return found

    async def acceptances(self) -> list[tuple[str, str, str | None]]:
        def unit(tx: Transaction) -> list[tuple[str, str, str | None]]:
            rows = streams.read_since(tx, stream_acceptances, 0, 10_000)
            return [(row["event_id"], row["server"], row["error"]) for row in rows]

        return await self.database.read(unit)

    @asynccontextmanager
    async def sending(self, **more: Any) -> AsyncIterator[Sender]:
        """A sender that runs; leaving is a crash, entering again a restart."""
        self.passing = Passing()
        sender = Sender(
            database=self.database,
            sources=[StoredEdus(database=self.database), self.passing],
            destinations=self,
            requests=self,
            clock=self.clock,
            random=random.Random(7),
            backoff=Backoff(first_s=10.0, most_s=100.0),
            acceptance_reader=READER,
            **more,
        )
        self.sender = sender
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(sender.run())
            try:
                yield sender
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


def _row(event_id: EventId, room: RoomId, received_ms: int) -> event_rows.EventRow:
    return event_rows.EventRow(
        event_id=event_id,
        room_id=room,
        type="m.room.message",
        state_key=None,
        sender=UserId("@alice:us.example"),
        depth=1,
        origin_server_ts=1,
        json=json.dumps({"event_id": event_id}),
        verdict="accepted",
        rule=None,
        outlier=False,
        snapshot_before=None,
        redacted_by=None,
        received_ms=received_ms,
        trace_id=TraceId("t"),
    )


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> World:
    """On SQLite and on PostgreSQL."""
    return World(database=database, clock=clock, members={ROOM: {A, B}, OTHER: {A}})


async def waiting_clock(
    clock: FakeClock, seconds: float, done: Callable[[], Awaitable[bool]]
) -> None:
    """Let time pass in steps until it is done: between them other threads get their turn."""

    async def look() -> bool:
        await clock.advance(seconds)
        return await done()

    await until(look)


async def test_a_newcomer_is_told_what_was_said_while_it_was_coming_in(world: World) -> None:
    """Neither in the state it was given, nor in the past of its join."""
    (before,) = await world.append(to={B})
    place = (await world.database.read(lambda tx: event_rows.positions(tx, [before])))[before]
    (meanwhile,) = await world.append(to={B})
    (join,) = await world.append(to={B})
    world.entered_after[join] = (A, place)
    async with world.sending():
        await world.wait_until_received(A, [meanwhile])
        await world.wait_until_received(B, [before, meanwhile, join])
        (after,) = await world.append(to={A, B})
        await world.wait_until_received(A, [meanwhile, after])
        await world.wait_until_idle()


async def test_a_newcomer_whom_nobody_crossed_is_told_nothing_of_before(world: World) -> None:
    (before,) = await world.append(to={B})
    place = (await world.database.read(lambda tx: event_rows.positions(tx, [before])))[before]
    (join,) = await world.append(to={B})
    world.entered_after[join] = (A, place)
    async with world.sending():
        await world.wait_until_received(B, [before, join])
        await world.wait_until_idle()
        assert world.received(A) == []


async def test_every_peer_gets_every_event_in_order_once(world: World) -> None:
    async with world.sending():
        first = await world.append(3)
        second = await world.append(2, room=OTHER)
        third = await world.append(70)
        await world.wait_until_idle()
    in_room = [one for one in world.received(A) if one not in second]
    assert in_room == world.received(B) == [*first, *third]
    assert [one for one in world.received(A) if one in second] == second
    assert all(len(one.event_ids) <= 50 for one in world.sent)
    accepted = await world.acceptances()
    assert sorted(accepted) == sorted(
        [(one, A, None) for one in first + second + third]
        + [(one, B, None) for one in first + third]
    )


async def test_what_is_not_ours_to_send_is_not_sent(world: World) -> None:
    async with world.sending():
        await world.append(2, outgoing=False)
        ours = await world.append(1)
        await world.append(1, to=set())
        await world.wait_until_idle()
    assert world.received(A) == ours


async def test_what_others_say_is_not_noted_one_by_one(world: World) -> None:
    async def noted() -> int:
        return await world.database.read(lambda tx: streams.cursor(tx, "federation"))

    async with world.sending():
        ours = await world.append(1)
        await world.wait_until_idle()
        before = await noted()
        await world.append(3, outgoing=False)
        await world.wait_until_idle()
        assert await noted() == before
    async with world.sending():
        ours += await world.append(1)
        await world.wait_until_idle()
    assert world.received(A) == ours
    assert await noted() == await world.database.read(lambda tx: streams.head(tx, stream_events))


async def test_a_server_hears_what_was_said_while_it_was_in_the_room(world: World) -> None:
    world.members[ROOM] = {A}
    async with world.sending():
        await world.append(3)
        entered = await world.append(2, to={A, C})
        await world.append(60, to={A})
        back = await world.append(2, to={A, C})
        await world.wait_until_idle()
        looked_at = len(world.looked_at)
        again = await world.append(1, to={A, C})
        await world.wait_until_idle()
    assert world.received(C) == [*entered, *back, *again]
    # One look for the mark and one for each of the two peers, however old the room is.
    assert len(world.looked_at) - looked_at == 3


async def test_a_peer_that_had_everything_starts_where_it_is_back(world: World) -> None:
    async with world.sending():
        entered = await world.append(1, to={C})
        await world.wait_until_idle()
        await world.append(200, to=set())
        back = await world.append(1, to={C})
        await world.wait_until_idle()
    assert world.received(C) == [*entered, *back]
    assert len([one for one in world.looked_at if one not in {*entered, *back}]) == 200


async def test_a_peer_that_is_down_holds_up_nobody_and_misses_nothing(
    world: World, clock: FakeClock
) -> None:
    world.fault = lambda peer: Unavailable("down") if peer == A else None
    async with world.sending():
        events = await world.append(5)
        await world.wait_until_received(B, events)
        state = await world.wait_for_failures(A, 1)
        assert clock.now_ms() + 5_000 <= state.next_attempt_ms <= clock.now_ms() + 10_000
        assert state.last_error == "down"

        # Nothing before its time; then once more, with a longer pause.
        events += await world.append(5)
        await world.wait_until_received(B, events)
        state = await world.wait_for_failures(A, 1)
        await clock.advance((state.next_attempt_ms - clock.now_ms()) / 1000)
        state = await world.wait_for_failures(A, 2)
        assert state.next_attempt_ms - clock.now_ms() >= 9_000

        world.fault = lambda _: None
        await waiting_clock(clock, 1.0, lambda: _true(world.received(A) == events))
        await world.wait_until_idle()
        state = await world.wait_for_failures(A, 0)
        assert state.last_success_ms is not None
    assert world.received(A) == events


async def test_many_peers_that_are_down_and_dawdle_hold_up_nobody(
    world: World, clock: FakeClock
) -> None:
    """More than there are lanes; each is known to have failed, from before the restart."""
    down = frozenset(ServerName(f"down{number}.example") for number in range(9))
    world.members[ROOM] = {A, *down}
    world.fault = lambda peer: Unavailable("down") if peer in down else None
    async with world.sending():
        events = await world.append(1)
        await world.wait_until_received(A, events)
        for server in down:
            await world.wait_for_failures(server, 1)
    clock.shift(3600)
    world.dawdling = down
    async with world.sending(peers_at_once=4) as sender:

        async def two_are_tried() -> bool:
            return len(world.held) == 2

        await until(two_are_tried)
        for _ in range(3):
            events += await world.append(1)
            await world.wait_until_received(A, events)
        assert len(world.held) == 2
        # One that shows itself meanwhile need not wait for the others.
        back = min(down - set(world.held))
        world.dawdling, world.fault = down - {back}, lambda _: None
        sender.on_heard(back)
        await world.wait_until_received(back, events)
        assert len(world.held) == 2
        world.fault = lambda peer: Unavailable("down")
        # When these are done, it is the turn of the others, of each once.
        world.released.set()
        for server in down - {back}:
            await world.wait_for_failures(server, 2)
        assert sorted(world.held) == sorted(down - {back})


async def _true(value: bool) -> bool:
    return value


async def test_the_pause_survives_a_restart(world: World, clock: FakeClock) -> None:
    world.members[ROOM] = {A}
    world.fault = lambda _: Unavailable("down")
    async with world.sending():
        events = await world.append(3)
        state = await world.wait_for_failures(A, 1)
    world.fault = lambda _: None
    async with world.sending():
        events += await world.append(1)

        async def marked() -> bool:
            return await world.database.read(lambda tx: streams.cursor(tx, "federation")) >= 4

        await until(marked)
        assert world.sent == []
        await clock.advance((state.next_attempt_ms - clock.now_ms()) / 1000)
        await world.wait_until_received(A, events)


async def test_a_restart_sends_what_was_left_and_nothing_twice(world: World) -> None:
    world.members[ROOM] = {A}
    async with world.sending():
        first = await world.append(7)
        await world.wait_until_idle()
    second = await world.append(120)
    async with world.sending():
        await world.wait_until_idle()
    assert world.received(A) == first + second


async def test_a_lost_answer_is_repeated_as_the_same_transaction(
    world: World, clock: FakeClock
) -> None:
    world.members[ROOM] = {A}
    world.lost_answer = lambda _: True
    async with world.sending():
        events = await world.append(3)
        await world.wait_for_failures(A, 1)
        later = await world.append(2)
        world.lost_answer = lambda _: False
        await clock.advance(10.0)
        await world.wait_until_idle()
    first, repeated, rest = world.sent
    assert first.event_ids == repeated.event_ids == events
    assert first.txn_id == repeated.txn_id
    assert first.origin_server_ts == repeated.origin_server_ts
    assert rest.event_ids == later
    assert rest.txn_id != first.txn_id
    assert first.txn_id.startswith(world.database.epoch)
    assert [one for one, _, _ in await world.acceptances()] == [*events, *later]


async def test_the_same_contents_have_the_same_id_after_a_crash(
    world: World, clock: FakeClock
) -> None:
    world.members[ROOM] = {A}
    world.lost_answer = lambda _: True
    async with world.sending():
        await world.append(3)
        await world.wait_for_failures(A, 1)
    world.lost_answer = lambda _: False
    await clock.advance(10.0)
    async with world.sending():
        await world.wait_until_idle()
    first, repeated = world.sent
    assert (first.txn_id, first.event_ids) == (repeated.txn_id, repeated.event_ids)


async def test_an_event_that_a_peer_refuses_is_noted_with_the_reason(world: World) -> None:
    world.members[ROOM] = {A}
    bad, good = await world.append(2)
    world.errors[bad] = "not allowed"
    async with world.sending():
        await world.wait_until_idle()
    assert await world.acceptances() == [(bad, A, "not allowed"), (good, A, None)]
    assert len(world.sent) == 1


async def test_a_peer_that_refuses_the_transaction_is_tried_again(
    world: World, clock: FakeClock
) -> None:
    world.members[ROOM] = {A}
    world.fault = lambda _: Refused("go away", rule="peer")
    async with world.sending():
        events = await world.append(2)
        await world.wait_for_failures(A, 1)
        assert await world.acceptances() == []
        world.fault = lambda _: None
        await clock.advance(10.0)
        await world.wait_until_received(A, events)


async def test_a_peer_that_names_a_time_is_given_it(world: World, clock: FakeClock) -> None:
    world.members[ROOM] = {A}
    world.fault = lambda _: Unavailable("too much", retry_after_s=60.0)
    async with world.sending():
        await world.append(1)
        state = await world.wait_for_failures(A, 1)
        assert state.next_attempt_ms == clock.now_ms() + 60_000


async def test_a_peer_that_shows_itself_is_tried_at_once(world: World, clock: FakeClock) -> None:
    world.members[ROOM] = {A}
    world.fault = lambda _: Unavailable("down", retry_after_s=90.0)
    async with world.sending() as sender:
        events = await world.append(2)
        await world.wait_for_failures(A, 1)
        await until(lambda: _true(A in sender._resting))
        world.fault = lambda _: None
        sender.on_heard(B)
        sender.on_heard(A)
        await world.wait_until_received(A, events)


async def test_a_peer_that_talks_but_does_not_listen_is_not_hastened_all_the_time(
    world: World, clock: FakeClock
) -> None:
    world.members[ROOM] = {A}
    world.fault = lambda _: Refused("go away", rule="peer")
    async with world.sending() as sender:
        await world.append(1)
        for count in (1, 2):
            await world.wait_for_failures(A, count)
            await until(lambda: _true(A in sender._resting and not sender._heard))
            for _ in range(20):
                sender.on_heard(A)
        await clock.advance(0.0)
        assert not sender._heard
        clock.shift(HASTEN_PAUSE_S)
        sender.on_heard(A)
        await world.wait_for_failures(A, 3)


async def test_no_more_than_a_bound_waits_undigested_at_a_peer(
    world: World, clock: FakeClock
) -> None:
    world.members[ROOM] = {A}
    world.digests_at_once = False
    events = await world.append(300)
    most = 0

    async def work() -> bool:
        """The peer digests a few events at a time."""
        nonlocal most
        got = world.received(A)
        most = max(most, len(got) - len(world.digested))
        world.digested |= {EventId(one) for one in got[: len(world.digested) + 7]}
        return got == events

    async with world.sending():
        await waiting_clock(clock, 0.3, work)
        await world.wait_until_idle()
    assert 0 < most <= MAX_UNDIGESTED
    assert len(world.asked) < 150


async def test_a_room_that_waits_for_digestion_holds_up_no_other_room(
    world: World, clock: FakeClock
) -> None:
    world.digests_at_once = False
    async with world.sending():
        await world.append(300, to={A})
        await until(lambda: _true(len(world.received(A)) == MAX_UNDIGESTED))
        other = await world.append(1, room=OTHER)
        await waiting_clock(clock, 0.3, lambda: _true(other[0] in world.received(A)))
        assert len(world.received(A)) == MAX_UNDIGESTED + 1


async def test_a_peer_that_never_shows_that_it_follows_gets_the_rest_all_the_same(
    world: World, clock: FakeClock
) -> None:
    world.digests_at_once = False
    events = await world.append(100, to={A})
    async with world.sending():
        await waiting_clock(clock, 5.0, lambda: _true(world.received(A) == events))


async def test_a_server_that_comes_into_a_room_is_told_nothing_before_it_knows_the_room(
    world: World, clock: FakeClock
) -> None:
    joining = EventId("$joining")
    world.entrances[ROOM, A] = joining
    async with world.sending():
        events = await world.append(2, to={A})
        other = await world.append(1, room=OTHER, to={A})
        await waiting_clock(clock, 0.3, lambda: _true(len(world.asked) > 3))
        assert world.received(A) == other
        world.digested.add(joining)
        await waiting_clock(clock, 0.3, lambda: _true(len(world.received(A)) == 3))
        assert world.received(A) == [*other, *events]
        asked = len(world.asked)
        last = await world.append(1, to={A})
        await world.wait_until_received(A, [*other, *events, *last])
        assert len(world.asked) == asked


async def test_a_server_that_does_not_show_that_it_came_in_is_told_all_the_same_in_the_end(
    world: World, clock: FakeClock
) -> None:
    world.entrances[ROOM, A] = EventId("$joining")
    events = await world.append(2, to={A})
    async with world.sending():
        await waiting_clock(clock, 1.0, lambda: _true(world.received(A) == events))
    assert len(world.asked) > 10


async def test_after_a_start_every_peer_is_shown_that_we_are_there(
    world: World, clock: FakeClock
) -> None:
    world.shared = frozenset({A, B, C})
    behind = await world.append(1, to={B})
    world.fault = lambda peer: Unavailable("down") if peer == C else None
    async with world.sending(greetings_per_s=2.0):
        await world.wait_until_received(B, behind)
        await until(lambda: _true([one.peer for one in world.sent if one.peer == A] == [A]))
        await waiting_clock(clock, 0.5, lambda: _failed(world, C))
        world.fault = lambda _: None
        await waiting_clock(
            clock, 1.0, lambda: _true([one for one in world.sent if one.peer == C] != [])
        )
        await clock.advance(200.0)
    assert sorted(one.peer for one in world.sent) == [A, B, C]
    assert [one.event_ids for one in world.sent if one.peer != B] == [[], []]
    assert len({one.txn_id for one in world.sent}) >= 2


async def _failed(world: World, peer: ServerName) -> bool:
    return (await world.database.read(lambda tx: peers.state(tx, peer))).failures > 0


async def test_old_acceptances_are_forgotten_once_they_were_read(
    world: World, clock: FakeClock
) -> None:
    world.members[ROOM] = {A}
    async with world.sending():
        old = await world.append(3)
        await world.wait_until_idle()
        clock.shift(KEEP_ACCEPTANCES_MS / 1000 + 1)
        new = await world.append(2)
        await world.wait_until_idle()
        await clock.advance(SWEEP_S)
        assert [one for one, _, _ in await world.acceptances()] == [*old, *new]

        def read_some(tx: Transaction) -> None:
            positions = tx.execute(
                select(stream_acceptances.c.position).order_by(stream_acceptances.c.position)
            ).scalars()
            streams.advance(tx, READER, list(positions)[1])

        await world.database.write(read_some)

        async def left() -> bool:
            return [one for one, _, _ in await world.acceptances()] == [old[2], *new]

        await waiting_clock(clock, SWEEP_S, left)
        await world.database.write(lambda tx: streams.advance(tx, READER, 1_000))

        async def young() -> bool:
            return [one for one, _, _ in await world.acceptances()] == new

        await waiting_clock(clock, 60.0, young)


async def test_a_room_that_was_purged_is_passed_over(world: World) -> None:
    world.members[ROOM] = {A}
    gone = await world.append(60, to={A})
    for event_id in gone[:55]:
        del world.servers[event_id]
    async with world.sending():
        await world.wait_until_idle()
    assert world.received(A) == gone[55:]


async def test_marking_writes_one_row_for_each_peer_and_room(world: World) -> None:
    async with world.sending():
        await world.append(150)
        await world.wait_until_idle()

    def count(tx: Transaction) -> int:
        return int(tx.execute(select(func.count()).select_from(peer_rooms)).scalar_one())

    assert await world.database.read(count) == 2


# --- EDUs ----------------------------------------------------------------------------------------


async def test_edus_go_alone_in_order_and_at_most_a_hundred_at_once(world: World) -> None:
    wanted = [f"{number:03}" for number in range(150)]
    await world.put_edus(*wanted)
    async with world.sending() as sender:
        sender.wake(A)
        await world.wait_until_heard(A, wanted)
        await until(lambda: _nothing_waits(world))
    assert [len(one.edus) for one in world.sent] == [100, 50]
    assert all(one.event_ids == [] for one in world.sent)
    assert world.sent[0].txn_id != world.sent[1].txn_id


async def test_edus_ride_along_with_events(world: World) -> None:
    world.members[ROOM] = {A}
    world.fault = lambda _: Unavailable("down")
    async with world.sending():
        made = await world.append(2)
        await world.wait_for_failures(A, 1)
        await world.put_edus("one")
    world.fault = lambda _: None
    world.clock.shift(100.0)
    async with world.sending():
        await world.wait_until_received(A, made)
        await world.wait_until_heard(A, ["one"])
    (sent,) = world.sent
    assert (sent.event_ids, len(sent.edus)) == (made, 1)


async def test_what_waits_for_a_peer_is_found_after_a_start(world: World) -> None:
    await world.put_edus("before")
    async with world.sending():
        await world.wait_until_heard(A, ["before"])


async def test_an_unanswered_transaction_comes_again_with_the_same_edus(
    world: World, clock: FakeClock
) -> None:
    answers = iter([True, False, False])
    world.lost_answer = lambda _: next(answers)
    await world.put_edus("one")
    async with world.sending() as sender:
        sender.wake(A)
        await world.wait_for_failures(A, 1)
        await world.put_edus("two")
        world.passing.held[A] = "typing"
        await waiting_clock(clock, 1.0, lambda: _true("two" in world.heard(A)))
    assert [[edu["content"]["text"] for edu in one.edus] for one in world.sent[:2]] == [
        ["one"],
        ["one"],
    ]
    assert world.sent[0].txn_id == world.sent[1].txn_id
    assert world.sent[0].origin_server_ts == world.sent[1].origin_server_ts


async def test_a_repetition_is_recognised_after_a_crash(world: World, clock: FakeClock) -> None:
    answers = iter([True, False])
    world.lost_answer = lambda _: next(answers)
    await world.put_edus("one")
    async with world.sending() as sender:
        sender.wake(A)
        await world.wait_for_failures(A, 1)
    clock.shift(100.0)
    async with world.sending():
        await world.wait_until_heard(A, ["one", "one"])
        await until(lambda: _nothing_waits(world))
    assert world.sent[0].txn_id == world.sent[1].txn_id


async def test_other_contents_have_another_id(world: World) -> None:
    async with world.sending() as sender:
        for number, text in enumerate(("a", "b", "a"), 1):
            world.passing.held[A] = text
            sender.wake(A)
            await world.wait_until_heard(A, ["a", "b", "a"][:number])
            world.clock.shift(0.5)
    first, second, third = (one.txn_id for one in world.sent)
    assert first != second
    assert first != third  # the peer would take it for a repetition


async def test_what_is_passing_is_dropped_when_the_peer_is_down_and_what_counts_is_not(
    world: World, clock: FakeClock
) -> None:
    world.fault = lambda _: Unavailable("down")
    async with world.sending() as sender:
        world.passing.held[A] = "typing"
        sender.wake(A)
        await world.wait_for_failures(A, 1)
        assert world.passing.held == {}
        world.passing.held[A] = "while it rests"
        await world.put_edus("kept")
        sender.wake(A)
        await until(lambda: _true(world.passing.held == {}))
        world.fault = lambda _: None
        await waiting_clock(clock, 1.0, lambda: _true(bool(world.heard(A))))
    assert world.heard(A) == ["kept"]


async def test_edus_do_not_wait_for_events_that_wait(world: World, clock: FakeClock) -> None:
    world.members[ROOM] = {A}
    world.digests_at_once = False
    async with world.sending() as sender:
        made = await world.append(MAX_UNDIGESTED + 10)
        await world.wait_until_received(A, made[:MAX_UNDIGESTED])
        world.passing.held[A] = "typing"
        sender.wake(A)
        await waiting_clock(clock, 0.1, lambda: _true(bool(world.heard(A))))
        assert world.heard(A) == ["typing"]
        assert world.received(A) == made[:MAX_UNDIGESTED]


async def _nothing_waits(world: World) -> bool:
    return not await world.database.read(edus.servers_with_edus)


async def test_an_unanswered_transaction_goes_on_without_what_has_passed(
    world: World, clock: FakeClock
) -> None:
    world.members[ROOM] = {A}
    world.fault = lambda _: Unavailable("down")
    async with world.sending():
        made = await world.append(1)
        await world.wait_for_failures(A, 1)
    world.fault = lambda _: None
    world.lost_answer = lambda _: True
    clock.shift(100.0)
    async with world.sending():
        world.passing.held[A] = "typing"
        await world.wait_until_received(A, made)
        await world.wait_for_failures(A, 2)
        (first,) = world.sent
        assert len(first.edus) == 1
        clock.shift(30.0)  # soon after, it is a repetition
        await waiting_clock(clock, 1.0, lambda: _true(len(world.sent) == 2))
        await world.wait_for_failures(A, 3)
        clock.shift(100.0)
        world.lost_answer = lambda _: False
        await waiting_clock(clock, 1.0, lambda: _true(len(world.sent) == 3))
        await world.wait_until_idle()
    again, last = world.sent[1:]
    assert (again.txn_id, again.edus, again.event_ids) == (first.txn_id, first.edus, made)
    assert (last.edus, last.event_ids) == ([], made)
    assert last.txn_id != first.txn_id
