"""What federation costs us and Synapse, turn by turn in one run, each a process of its own.

PDUs and joins come to both from the same fake server, byte for byte the same kind of room; latency
and throughput are those between us and a Synapse, and between two Synapses. CPU is that of the
process asked (`/proc/PID/stat`), its threads included; both keep their data in SQLite. Aims, which
are told and never asserted: a twentieth of Synapse's CPU for an inbound PDU, a fifteenth for a
join at 2,000 state events, at most half of its memory.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from bridge.demo.people import MatrixPerson, XmppPerson
from bridge.demo.servers import Prosody, Synapse
from bridge.engine.pdu import Pdu
from bridge.errors import IsthmusError
from tests.bench.long_room import BODY
from tests.bench.measure import Rate, cpu_s, load, measure, memory_mb, middle, until
from tests.bench.scene import PDUS, make_public_room
from tests.support.gateway import Gateway
from tests.support.peer import FakePeer, PeerRoom, path
from tests.support.room_client import RoomClient
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

ROUNDS = 3
MANY, SINGLE = 500, 100
"""PDUs of a round: in full transactions, and one in each."""
FILLING = 3 * BODY
JOINS = ((50, 3), (500, 3), (2_000, 2), (10_000, 1))
"""State events of the room, and how often it is entered anew."""
PINGS = 100
BURST = 200
AT_ONCE = 10
"""Requests of a burst's author at a time."""
LOOK_S = 0.02
IDLE_S = 1.0
IDLE_SHARE = 0.1
LONGEST_S = 400.0


# --- inbound --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Taker:
    """A server in a room of the fake one. `read` waits until its person has read all of these;
    None: nobody reads there."""

    name: str
    pid: int
    room: PeerRoom
    read: Callable[[Sequence[str]], Awaitable[object]] | None = None


def build(peer: FakePeer, room: PeerRoom, count: int) -> list[Pdu]:
    eve = peer.user("eve")
    # No HTML: what is read on XMPP would be made of that.
    contents = [
        {"msgtype": "m.text", "body": f"{secrets.token_hex(8)} {FILLING}", "m.mentions": {}}
        for _ in range(count)
    ]
    return [peer.extend(room, eve, "m.room.message", content) for content in contents]


async def take_in(peer: FakePeer, taker: Taker, count: int, size: int) -> Rate:
    """Until it shows the last event of each `PDUS`, since it may answer before it digests, and
    until all are read."""
    pdus = build(peer, taker.room, count)

    async def run() -> None:
        for start in range(0, count, size):
            part = pdus[start : start + size]
            await peer.send(taker.name, *(pdu.wire() for pdu in part))
            if (start + size) % PDUS == 0:
                await until_shown(peer, taker, part[-1])
        if taker.read is not None:
            await taker.read([str(pdu.content["body"]) for pdu in pdus])

    used = cpu_s(taker.pid)
    rate = await measure(taker.pid, count, run)
    await until_idle(taker.pid)  # What it does later with these events is their cost as well.
    return replace(rate, cpu_s=cpu_s(taker.pid) - used)


async def until_shown(peer: FakePeer, taker: Taker, pdu: Pdu) -> None:
    target = "/_matrix/federation/v1/event" + path(pdu.event_id)
    while (await peer.ask(taker.name, "GET", target))[0] != 200:
        await asyncio.sleep(LOOK_S)


def compare(what: str, ours: list[Rate], theirs: list[Rate]) -> str:
    (our_rate, our_ms), (their_rate, their_ms) = middle(ours), middle(theirs)
    return (
        f"| {what} | {our_ms:.2f} | {1000 / our_ms:.0f} | {our_rate:.0f} | {their_ms:.1f}"
        f" | {1000 / their_ms:.0f} | {their_rate:.0f} | {their_ms / our_ms:.1f} |"
    )


async def measure_inbound(peer: FakePeer, takers: Sequence[Taker], what: str) -> None:
    """Prints a line for each size of transaction."""
    found: list[list[list[Rate]]] = [[[] for _ in takers] for _ in range(2)]
    for number in range(ROUNDS + 1):
        for row, (count, size) in zip(found, ((MANY, PDUS), (SINGLE, 1)), strict=True):
            for rates, taker in zip(row, takers, strict=True):
                rate = await take_in(peer, taker, count, size)
                if number:  # the first round warms up
                    rates.append(rate)
    for name, row in zip((f"{PDUS} at a time", "one at a time"), found, strict=True):
        print(compare(f"{what}, {name}", *row), flush=True)


async def read_on_xmpp(person: XmppPerson, bodies: Sequence[str]) -> None:
    """Whether now or before."""
    missing, looked = set(bodies), max(0, person.position - 3 * len(bodies))

    def has_all() -> bool:
        nonlocal looked
        new = person.transcript.since(looked)
        looked += len(new)
        missing.difference_update(stanza.body for stanza in new if stanza.body is not None)
        return not missing

    await until(has_all, what="the messages on XMPP", timeout_s=LONGEST_S)


# --- joins ----------------------------------------------------------------------------------------


async def until_idle(pid: int) -> None:
    """Until it uses little CPU; what a join leaves to do later belongs to it."""
    deadline = time.perf_counter() + 60.0
    while time.perf_counter() < deadline:
        before = cpu_s(pid)
        await asyncio.sleep(IDLE_S)
        if cpu_s(pid) - before < IDLE_SHARE * IDLE_S:
            return


async def join_cost(pid: int, join: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Seconds until it is in, and CPU seconds until it has come to rest."""
    await until_idle(pid)
    used, begin = cpu_s(pid), time.perf_counter()
    await join()
    took_s = time.perf_counter() - begin
    await until_idle(pid)
    return took_s, cpu_s(pid) - used


def full_room(peer: FakePeer, size: int) -> tuple[PeerRoom, str]:
    room, alias = make_public_room(peer)
    number = 0
    while len(room.state) < size:
        user = peer.user(f"member{number}")
        content = {"membership": "join", "displayname": f"Member {number}"}
        peer.extend(room, user, "m.room.member", content, state_key=user)
        number += 1
    return room, alias


async def join_us(peer: FakePeer, gateway: Gateway, person: XmppPerson, room: PeerRoom) -> None:
    """By an invite of the kind that a ghost takes at once: nobody waits on XMPP."""
    ghost = gateway.ghost(person.address)
    content = {"membership": "invite", "is_direct": True}
    invite = peer.build(room, peer.user("eve"), "m.room.member", content, state_key=ghost)
    status, answer = await peer.invite(gateway.server_name, room, invite)
    assert status == 200, answer
    await gateway.see_membership(ghost, room.room_id, "join", timeout_s=LONGEST_S)


async def join_synapse(peer: FakePeer, person: MatrixPerson, room: PeerRoom) -> None:
    try:
        await person.join(room.room_id, via=[peer.name])
    except IsthmusError:
        # Longer than clients wait: it goes on.
        async with asyncio.timeout(LONGEST_S):
            while room.room_id not in await person.joined_rooms():
                await asyncio.sleep(0.2)


@pytest.mark.bench
@pytest.mark.timeout(1800)
async def test_inbound_pdus_joins_and_memory(
    gateway: Gateway,
    prosody: Prosody,
    synapse: Synapse,
    peer: FakePeer,
    xmpp_person: MakeXmppPerson,
    matrix_person: MakeMatrixPerson,
) -> None:
    juliet = await xmpp_person(prosody, "juliet")
    alice = await matrix_person(synapse, "alice")
    memory: list[tuple[str, float, float]] = []

    def note(when: str) -> None:
        ours, theirs = (memory_mb(one.pid)["Rss"] for one in (gateway, synapse))
        memory.append((when, ours, theirs))

    note("before")
    silent = [make_public_room(peer)[0] for _ in range(2)]
    bob = peer.user("bob")
    for room in silent:
        # With a third member no room is a direct chat.
        peer.extend(room, bob, "m.room.member", {"membership": "join"}, state_key=bob)
    await join_us(peer, gateway, juliet, silent[0])
    await join_synapse(peer, alice, silent[1])
    read, alias = make_public_room(peer)
    await juliet.enter(gateway.address(alias), "Juliet", timeout_s=60)
    their_read, _ = make_public_room(peer)
    await join_synapse(peer, alice, their_read)
    client = RoomClient(alice, their_read.room_id, pause_s=0.2)
    us = partial(Taker, name=gateway.server_name, pid=gateway.pid)
    them = partial(Taker, name=synapse.server_name, pid=synapse.pid)

    print(f"\ninbound PDUs ({load()}; SQLite; median of {ROUNDS} rounds)")
    print("| what | our CPU ms | per CPU s | per s | Synapse ms | per CPU s | per s | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    await measure_inbound(peer, [us(room=silent[0]), them(room=silent[1])], "nobody reads")
    note("after these inbound PDUs")
    await client.sync()
    reading = [
        us(room=read, read=partial(read_on_xmpp, juliet)),
        them(room=their_read, read=client.read),
    ]
    await measure_inbound(peer, reading, "read by one client")
    note("after those that are read")

    print(f"\njoins ({load()})")
    print("| state events | our s | our CPU s | Synapse s | Synapse CPU s | ratio of CPU |")
    print("|---|---|---|---|---|---|")
    for size, times in JOINS:
        ours: list[tuple[float, float]] = []
        theirs: list[tuple[float, float]] = []
        for _ in range(times):
            room, _ = full_room(peer, size)
            enter = partial(join_us, peer, gateway, juliet, room)
            ours.append(await join_cost(gateway.pid, enter))
            room, _ = full_room(peer, size)
            theirs.append(await join_cost(synapse.pid, partial(join_synapse, peer, alice, room)))
        (our_s, our_cpu), (their_s, their_cpu) = (
            [statistics.median(column) for column in zip(*costs, strict=True)]
            for costs in (ours, theirs)
        )
        print(
            f"| {size} | {our_s:.2f} | {our_cpu:.2f} | {their_s:.2f} | {their_cpu:.2f}"
            f" | {their_cpu / our_cpu:.1f} |",
            flush=True,
        )
        note(f"after {times} joins at {size} state events")

    print(f"\nresident memory (Rss, MB; {load()})")
    print("| when | ours | Synapse | ratio |")
    print("|---|---|---|---|")
    for when, our_mb, their_mb in memory:
        print(f"| {when} | {our_mb:.0f} | {their_mb:.0f} | {our_mb / their_mb:.2f} |")


# --- between two servers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Somebody on a Synapse, and its process."""

    person: MatrixPerson
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """From an author on one server to a reader on another."""

    name: str
    say: Callable[[str], Awaitable[None]]
    hear: Callable[[str], Coroutine[Any, Any, None]]
    hear_all: Callable[[Sequence[str]], Coroutine[Any, Any, None]]
    """No bodies: only get up to date."""
    pids: tuple[int, int]
    """Of the sending and of the receiving server."""


async def ping(way: Way) -> float:
    """Milliseconds."""
    body = secrets.token_hex(8)
    async with asyncio.TaskGroup() as tasks:
        hearing = tasks.create_task(way.hear(body))
        await asyncio.sleep(0.05)  # Until the reader waits.
        begin = time.perf_counter()
        await way.say(body)
        await hearing
        return 1000 * (time.perf_counter() - begin)


async def burst(way: Way) -> tuple[float, float, float]:
    """Messages a second, and CPU milliseconds for one of sender and receiver."""
    bodies = [f"{secrets.token_hex(8)} {number}" for number in range(BURST)]
    await way.hear_all([])
    for pid in way.pids:
        await until_idle(pid)
    used, begin = [cpu_s(pid) for pid in way.pids], time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(way.hear_all(bodies))
        for first in range(AT_ONCE):
            tasks.create_task(_say_all(way, bodies[first::AT_ONCE]))
    took_s = time.perf_counter() - begin
    spent = [cpu_s(pid) - one for pid, one in zip(way.pids, used, strict=True)]
    return BURST / took_s, 1000 * spent[0] / BURST, 1000 * spent[1] / BURST


async def _say_all(way: Way, bodies: Sequence[str]) -> None:
    for body in bodies:
        await way.say(body)


def percentile(values: Sequence[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def between_synapses(name: str, author: Side, reader: Side, room_id: str) -> Way:
    client = RoomClient(reader.person, room_id, pause_s=0.1)

    async def say(body: str) -> None:
        await author.person.say(room_id, body)

    async def hear(body: str) -> None:
        await reader.person.hear(body, since=reader.person.position, timeout_s=60)

    async def hear_all(bodies: Sequence[str]) -> None:
        await (client.read(bodies) if bodies else client.sync())

    return Way(name=name, say=say, hear=hear, hear_all=hear_all, pids=(author.pid, reader.pid))


def from_xmpp(person: XmppPerson, room: str, to: Way, pid: int) -> Way:
    """Read where `to` is read."""

    async def say(body: str) -> None:
        person.say_in(room, body)

    return replace(to, name="XMPP to Synapse", say=say, pids=(pid, to.pids[1]))


def to_xmpp(person: XmppPerson, source: Way, pid: int) -> Way:
    """Said where `source` is said."""

    async def hear(body: str) -> None:
        await person.hear(body, since=person.position, timeout_s=60)

    async def hear_all(bodies: Sequence[str]) -> None:
        await read_on_xmpp(person, bodies)

    return replace(
        source, name="Synapse to XMPP", hear=hear, hear_all=hear_all, pids=(source.pids[0], pid)
    )


@pytest.mark.bench
@pytest.mark.timeout(1200)
async def test_latency_and_throughput_beside_two_synapses(
    gateway: Gateway,
    prosody: Prosody,
    synapse: Synapse,
    other_synapse: Synapse,
    xmpp_person: MakeXmppPerson,
    matrix_person: MakeMatrixPerson,
) -> None:
    """One reader on the first Synapse; who writes is with us or on the second, and vice versa."""
    alice = Side(person=await matrix_person(synapse, "alice-reads"), pid=synapse.pid)
    bob = Side(person=await matrix_person(other_synapse, "bob-writes"), pid=other_synapse.pid)
    juliet = await xmpp_person(prosody, "juliet-writes")
    theirs = await alice.person.create_room(alias="between", preset="public_chat")
    await bob.person.join(f"#between:{synapse.server_name}")
    ours = await alice.person.create_room(alias="beside", preset="public_chat")
    address = gateway.address(f"#beside:{synapse.server_name}")
    await juliet.enter(address, "Juliet", timeout_s=60)

    inwards = between_synapses("", alice, alice, ours)
    pairs = (
        (
            from_xmpp(juliet, address, inwards, gateway.pid),
            between_synapses("Synapse to Synapse", bob, alice, theirs),
        ),
        (
            to_xmpp(juliet, inwards, gateway.pid),
            between_synapses("Synapse to Synapse, back", alice, bob, theirs),
        ),
    )
    ways = [way for pair in pairs for way in pair]
    took: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(PINGS + 5):
        for way in ways:
            one = await ping(way)
            if number >= 5:
                took[way.name].append(one)
    print(f"\nlatency ({load()}; milliseconds, {PINGS} messages one at a time)")
    print("| way | p50 | p95 | p99 |")
    print("|---|---|---|---|")
    for name, times in took.items():
        print(
            f"| {name} | " + " | ".join(f"{percentile(times, s):.0f}" for s in (50, 95, 99)) + " |"
        )

    rates: dict[str, list[tuple[float, float, float]]] = {way.name: [] for way in ways}
    for number in range(ROUNDS + 1):
        for way in ways:
            found = await burst(way)
            if number:
                rates[way.name].append(found)
    print(f"\nthroughput ({load()}; {BURST} messages at once, median of {ROUNDS} rounds)")
    print("| way | messages a second | CPU ms of the sender | CPU ms of the receiver |")
    print("|---|---|---|---|")
    for name, rounds in rates.items():
        per_s, sender, receiver = (statistics.median(one) for one in zip(*rounds, strict=True))
        print(f"| {name} | {per_s:.0f} | {sender:.1f} | {receiver:.1f} |")
