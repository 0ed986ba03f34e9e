"""The state before any event can be had again, from the rows alone, and is what the graph says.

Spec: S2S, room state resolution; soft failure; rejection.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
from sqlalchemy import Table, func, select

from bridge.engine.stateres import resolve
from bridge.errors import IsthmusError
from bridge.ids import EventId, RoomId
from bridge.rooms.bounds import DEFAULTS
from bridge.rooms.load import KnownEvent, RoomStates, store_snapshot
from bridge.storage import events as event_rows
from bridge.storage import rooms as room_rows
from bridge.storage import snapshots as snapshot_rows
from bridge.storage.database import Transaction
from bridge.storage.schema import METADATA, event_edges, events, snapshots
from tests.support.network import Network, Server, trace
from tests.support.talk import forge, make_room, room_at, say, two_in_a_room

HOPS = 4
BOUNDS = replace(DEFAULTS, snapshot_hops=HOPS, extremities=4, prev_events=3)
NO_CACHE = replace(DEFAULTS, cached_rooms=1, cached_events=1, cached_snapshots=1)
USERS = ("maker", "one", "two")


class Wild:
    """Two servers that talk past each other: partitions, lost events, holes."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network = network
        self.random = Random(seed)
        self.seed = seed
        self.number = 0

    async def open(self, version: str) -> None:
        self.network.bounds = BOUNDS
        self.here = await self.network.add("here.example")
        self.there = await self.network.add("there.example")
        self.room_id = await make_room(self.here, version)
        for user in USERS[1:]:
            await self.here.backend.join(user_id=self.here.user(user), room_id=self.room_id, via=[])
        for user in USERS:
            await self.there.backend.join(
                user_id=self.there.user(user), room_id=self.room_id, via=[self.here.name]
            )
        await self.network.deliver()

    async def act(self) -> None:
        random, self.number = self.random, self.number + 1
        server = random.choice((self.here, self.there))
        user = server.user(random.choice(USERS))
        other = random.choice((self.here, self.there)).user(random.choice(USERS))
        kind, state_key, content = random.choice(
            [
                ("m.room.message", None, {"msgtype": "m.text", "body": f"{self.number}"}),
                ("m.room.topic", "", {"topic": f"{self.number}"}),
                ("m.room.member", user, {"membership": "join", "displayname": f"{self.number}"}),
                ("m.room.member", other, {"membership": random.choice(("ban", "leave"))}),
                ("m.room.member", user, {"membership": "join"}),
                ("m.room.power_levels", "", self.levels()),
                ("org.example.odd", random.choice("ab"), {"n": self.number}),
            ]
        )
        try:
            await server.backend.send(
                room_id=self.room_id,
                sender=user,
                type=kind,
                state_key=state_key,
                content=content,
                txn=f"{self.number}",
                trace=trace(),
            )
        except IsthmusError:
            return  # Not allowed just now: nothing was sent.

    def levels(self) -> dict[str, Any]:
        users = [server.user(user) for server in (self.here, self.there) for user in USERS[1:]]
        chosen = {user: self.random.choice((0, 50, 50, 99)) for user in users}
        return {"users": {**chosen, self.there.user("maker"): 100}, "state_default": 50}

    async def weather(self) -> None:
        random, network = self.random, self.network
        apart = random.random() < 0.5
        self.here.down = self.there.down = apart
        dice = Random(random.random())
        lossy = random.random() < 0.5
        network.lose_pdu = lambda peer, pdu: lossy and dice.random() < 0.4
        holes = random.random() < 0.3
        network.tamper = lambda endpoint, answer: (
            [] if holes and endpoint == "get_missing_events" else answer
        )
        await network.deliver()

    async def calm(self) -> None:
        self.here.down = self.there.down = False
        self.network.lose_pdu = lambda peer, pdu: False
        self.network.tamper = lambda endpoint, answer: answer
        for server, user in ((self.here, "maker"), (self.there, "maker")) * 2:
            try:
                await say(server, self.room_id, user, f"calm {self.number}")
            except IsthmusError:
                continue
            finally:
                self.number += 1
            await self.network.deliver()
            for _ in range(3):
                self.network.clock.shift(4000)
                for one in (self.here, self.there):
                    await one.rooms.receiver.work_off_due()


async def inside(server: Server, room_id: RoomId) -> dict[EventId, KnownEvent]:
    """All events of the graph, the lowest first."""
    states = RoomStates(database=server.database)

    def unit(tx: Transaction) -> list[EventId]:
        query = select(events.c.event_id).where(
            events.c.room_id == room_id, events.c.outlier.is_(False)
        )
        return [EventId(one) for one in tx.execute(query.order_by(events.c.depth)).scalars()]

    found = await states.events(await server.database.read(unit))
    return dict(sorted(found.items(), key=lambda item: item[1].pdu.depth))


async def check_states(server: Server, room_id: RoomId) -> int:
    """Every state before is the resolution of what its parents leave. How many were resolved."""
    graph = await inside(server, room_id)
    read = RoomStates(database=server.database, bounds=NO_CACHE)
    compute = RoomStates(database=server.database)
    after: dict[EventId, dict[tuple[str, str], EventId]] = {}
    resolved = 0
    for event_id, known in graph.items():
        before = dict((await read.before(known)).state.items())
        parents = list(dict.fromkeys(known.pdu.prev_events))
        if parents and all(one in after for one in parents):
            maps = [after[one] for one in parents]
            expected = await compute.drive(resolve(maps, known.pdu.version))
            assert before == expected, event_id
            resolved += any(one != maps[0] for one in maps)
        after[event_id] = before
        key = known.pdu.key
        if key is not None and not known.is_rejected:
            after[event_id] = {**before, key: event_id}
    room = await RoomStates(database=server.database, bounds=NO_CACHE).joined_room(room_id)
    maps = [after[one] for one in room.extremities]
    assert dict(room.state) == await compute.drive(resolve(maps, room.version))
    assert all(graph[one].verdict == event_rows.ACCEPTED for one in room.extremities)
    return resolved


async def check_hops(server: Server) -> None:
    def unit(tx: Transaction) -> list[int]:
        found = tx.execute(select(snapshots.c.snapshot_id)).scalars().all()
        return [len(snapshot_rows.load_chain(tx, one)) for one in found]

    lengths = await server.database.read(unit)
    assert lengths
    assert max(lengths) <= HOPS + 1


@pytest.mark.parametrize("version", ["3", "10", "12"])
@pytest.mark.parametrize("seed", range(3))
async def test_the_state_before_every_event_is_what_its_parents_leave(
    network: Network, version: str, seed: int
) -> None:
    wild = Wild(network, seed)
    await wild.open(version)
    for _ in range(25):
        for _ in range(wild.random.randrange(1, 8)):
            await wild.act()
        await wild.weather()
    await wild.calm()
    for server in (wild.here, wild.there):
        assert await check_states(server, wild.room_id)
        await check_hops(server)
    # What both have in the graph, both have with the same state.
    here, there = [await inside(one, wild.room_id) for one in (wild.here, wild.there)]
    readers = [RoomStates(database=one.database) for one in (wild.here, wild.there)]
    both = here.keys() & there.keys()
    assert len(both) > 40
    for event_id in both:
        one, two = here[event_id], there[event_id]
        states = [
            dict((await reader.before(known)).state.items())
            for reader, known in zip(readers, (one, two), strict=True)
        ]
        assert states[0] == states[1], event_id
        assert (one.verdict == event_rows.REJECTED) is (two.verdict == event_rows.REJECTED)


async def test_forks_are_among_them(network: Network) -> None:
    """The property above is about something: parents with different states."""
    here, there, room_id = await two_in_a_room(network)
    (end,) = (await room_at(here, room_id)).extremities.items()
    tips = []
    for number in range(3):
        guest = there.user("guest")
        pdu = await forge(
            network,
            there,
            room_id,
            guest,
            type="m.room.member",
            state_key=guest,
            content={"membership": "join", "displayname": f"{number}"},
            on=[end],
        )
        await network.hand_over(there.name, here.name, [pdu.wire()])
        tips.append((pdu.event_id, pdu.depth))
    await say(here, room_id, "maker", "merged")
    assert await check_states(here, room_id) == 1


async def test_a_soft_failed_event_is_no_extremity_and_counts_where_it_is_named(
    network: Network,
) -> None:
    """Spec: S2S, soft failure, the example: C goes around the ban B, D names both."""
    here, there, room_id = await two_in_a_room(network)
    third = await network.add("third.example")
    await third.backend.join(user_id=third.user("two"), room_id=room_id, via=[here.name])
    await network.deliver()
    (end,) = (await room_at(here, room_id)).extremities.items()
    guest = there.user("guest")
    around = await forge(
        network,
        there,
        room_id,
        guest,
        type="m.room.member",
        state_key=guest,
        content={"membership": "join", "displayname": "Around"},
        on=[end],
    )
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.member",
        state_key=guest,
        content={"membership": "ban"},
        txn="ban",
        trace=trace(),
    )
    (ban,) = (await room_at(here, room_id)).extremities.items()
    await network.hand_over(there.name, here.name, [around.wire()])
    assert (await room_at(here, room_id)).extremities.keys() == {ban[0]}
    last = await forge(
        network,
        third,
        room_id,
        third.user("two"),
        on=[ban, (around.event_id, around.depth)],
    )
    answer = await network.hand_over(third.name, here.name, [last.wire()])
    assert answer == {last.event_id: {}}
    graph = await inside(here, room_id)
    assert graph[around.event_id].verdict == event_rows.SOFT_FAILED
    assert (await room_at(here, room_id)).extremities.keys() == {last.event_id}
    await check_states(here, room_id)
    member = await here.backend.member(room_id, guest)
    assert member is not None
    assert member.membership == "ban"
    # It is given to whoever asks for it.
    event = await here.rooms.answers.event(third.name, around.event_id)
    assert event["content"]["displayname"] == "Around"


async def test_an_outlier_gets_its_place_and_its_state(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    state = (await room_at(here, room_id)).state
    third = await network.add("third.example")
    network.lose_answer = lambda endpoint, peer: endpoint == "backfill"
    await third.backend.join(user_id=third.user("two"), room_id=room_id, via=[here.name])
    network.lose_answer = lambda endpoint, peer: False
    guest = state["m.room.member", there.user("guest")]
    assert guest not in await inside(third, room_id)
    whole = await here.rooms.answers.event(third.name, guest)
    answer = await network.hand_over(here.name, third.name, [whole])
    assert answer == {guest: {}}
    placed = (await inside(third, room_id))[guest]
    theirs = (await inside(here, room_id))[guest]
    mine = await RoomStates(database=third.database).before(placed)
    assert dict(mine.state.items()) == dict(
        (await RoomStates(database=here.database).before(theirs)).state.items()
    )
    # Its place is behind us: neither head nor arrival order change.
    room = await room_at(third, room_id)
    assert guest not in room.extremities
    assert guest not in [one.pdu.event_id for one in await third.timeline(room_id)]
    await check_states(third, room_id)


async def test_a_state_is_stored_as_a_delta_only_where_that_is_shorter(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here)
    old = (await room_at(here, room_id)).snapshot
    few = {("a", ""): EventId("$a")}
    more = old.with_state({**dict(old.state.items()), **few})
    other = old.with_state(few)

    def store(tx: Transaction) -> list[tuple[int | None, int]]:
        found = []
        for snapshot in (more, other):
            row_id = store_snapshot(tx, room_id, snapshot, {}, max_hops=60)
            row = snapshot_rows.load_chain(tx, row_id)[0]
            found.append((row.parent_id, len(row.delta)))
        return found

    assert await here.database.write(store) == [(old.row_id, 1), (None, 1)]


async def test_a_purged_room_leaves_no_row(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    await say(here, room_id, "maker", "one")
    await here.backend.redact(
        room_id=room_id,
        sender=here.user("maker"),
        target=await say(here, room_id, "maker", "two"),
        txn="r",
        reason=None,
    )
    network.lose_pdu = lambda peer, pdu: True
    await say(there, room_id, "guest", "lost")
    await say(there, room_id, "guest", "lost, too")
    await network.deliver()
    network.lose_pdu = lambda peer, pdu: False
    network.tamper = lambda endpoint, answer: [] if endpoint == "get_missing_events" else answer
    await say(there, room_id, "guest", "on top")
    await network.deliver()
    of_room = [
        table
        for table in METADATA.tables.values()
        if "room_id" in table.c and table.name != "local_transactions"
    ]

    def count(tx: Transaction, table: Table) -> int:
        query = select(func.count()).select_from(table)
        return int(tx.execute(query).scalar_one())

    def counts(tx: Transaction) -> dict[str, int]:
        return {table.name: count(tx, table) for table in (*of_room, event_edges)}

    before = await here.database.read(counts)
    assert all(before[name] for name in ("events", "snapshots", "event_edges", "gaps"))
    await here.database.write(partial(room_rows.purge, room_id=room_id))
    assert {name for name, left in (await here.database.read(counts)).items() if left} == set()
