"""How many messages a second, and how much CPU for one, in each direction.

Our side is the whole way, from the author's socket to the reader's. Beside it, turn by turn:
Prosody alone carrying as many messages from one client to another (a chat, a MUC), and Synapse
alone taking as many events in. So both are asked for less than we are.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from bridge.demo.people import XmppPerson
from bridge.demo.servers import Prosody, Synapse
from tests.bench.measure import Rate, load, measure, middle, until
from tests.bench.scene import PDUS, make_direct_chat, make_public_room, send_all, write
from tests.support.gateway import Gateway
from tests.support.peer import FakePeer, PeerRoom, path
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

MESSAGES = 100
ROUNDS = 3
PINGS = 30


def bodies(count: int) -> list[str]:
    label = secrets.token_hex(4)
    return [f"{label} {number}" for number in range(count)]


def has_all(person: XmppPerson, wanted: list[str]) -> Callable[[], bool]:
    """Whether every one of them has been heard from now on."""
    position, missing = person.position, set(wanted)

    def look() -> bool:
        nonlocal position
        stanzas = person.transcript.since(position)
        position += len(stanzas)
        missing.difference_update(s.body for s in stanzas if s.body is not None)
        return not missing

    return look


def has_received(peer: FakePeer, wanted: list[str]) -> Callable[[], bool]:
    position, missing = len(peer.received), set(wanted)

    def look() -> bool:
        nonlocal position
        new = peer.received[position:]
        position += len(new)
        missing.difference_update(str(pdu["content"].get("body")) for pdu in new)
        return not missing

    return look


async def to_matrix(peer: FakePeer, person: XmppPerson, to: str, kind: str, count: int) -> None:
    texts = bodies(count)
    is_done = has_received(peer, texts)
    for text in texts:
        person.say(to, text, receipt=kind == "chat", type=kind)
    await until(is_done, what=f"{count} messages from XMPP on Matrix")


async def between_clients(
    author: XmppPerson, reader: XmppPerson, to: str, kind: str, count: int
) -> None:
    texts = bodies(count)
    is_done = has_all(reader, texts)
    for text in texts:
        author.say(to, text, receipt=kind == "chat", type=kind)
    await until(is_done, what=f"{count} messages through Prosody alone")


async def from_matrix(
    peer: FakePeer, gateway: Gateway, room: PeerRoom, person: XmppPerson, count: int
) -> Rate:
    texts = bodies(count)
    pdus = write(peer, room, texts)
    is_done = has_all(person, texts)

    async def run() -> None:
        await send_all(peer, gateway.server_name, pdus)
        await until(is_done, what=f"{count} messages from Matrix on XMPP")

    return await measure(gateway.pid, count, run)


async def into_synapse(peer: FakePeer, synapse: Synapse, room: PeerRoom, count: int) -> Rate:
    """Until it shows the last event of each transaction: it answers before it digests."""
    pdus = write(peer, room, bodies(count))

    async def run() -> None:
        for start in range(0, count, PDUS):
            part = pdus[start : start + PDUS]
            await peer.send(synapse.server_name, *(pdu.wire() for pdu in part))
            target = "/_matrix/federation/v1/event" + path(part[-1].event_id)
            while (await peer.ask(synapse.server_name, "GET", target))[0] != 200:
                await asyncio.sleep(0.02)

    return await measure(synapse.pid, count, run)


def row(name: str, ours: list[Rate], other: str, others: list[Rate]) -> str:
    our_rate, our_cpu = middle(ours)
    their_rate, their_cpu = middle(others)
    return (
        f"| {name} | {our_rate:.0f} | {our_cpu:.1f} | {other} | {their_rate:.0f} | {their_cpu:.1f}"
        f" | {our_rate / their_rate:.2f} | {our_cpu / their_cpu:.1f} |"
    )


@pytest.mark.bench
@pytest.mark.timeout(900)
async def test_messages_a_second(
    gateway: Gateway,
    prosody: Prosody,
    synapse: Synapse,
    peer: FakePeer,
    xmpp_person: MakeXmppPerson,
    matrix_person: MakeMatrixPerson,
) -> None:
    juliet = await xmpp_person(prosody, "juliet")
    romeo = await xmpp_person(prosody, "romeo")
    muc = f"garden@{prosody.muc_domain}"
    await juliet.enter(muc, "Juliet")
    await romeo.enter(muc, "Romeo")
    direct = await make_direct_chat(gateway, peer, juliet)
    eve = gateway.address(peer.user("eve"))
    room, alias = make_public_room(peer)
    address = gateway.address(alias)
    await juliet.enter(address, "Juliet", timeout_s=60)
    theirs, _ = make_public_room(peer)
    alice = await matrix_person(synapse, "alice")
    await alice.join(theirs.room_id, via=[peer.name])

    ours: dict[str, list[Rate]] = {}
    others: dict[str, list[Rate]] = {}

    def keep(table: dict[str, list[Rate]], name: str, rate: Rate, number: int) -> None:
        if number:  # the first round warms up
            table.setdefault(name, []).append(rate)

    for number in range(ROUNDS + 1):
        for name, to, kind in (("chat", eve, "chat"), ("room", address, "groupchat")):
            rate = await measure(
                gateway.pid,
                MESSAGES,
                partial(to_matrix, peer, juliet, to, kind, MESSAGES),
            )
            keep(ours, f"{name} to Matrix", rate, number)
        for name, to, kind in (("chat", romeo.address, "chat"), ("room", muc, "groupchat")):
            rate = await measure(
                prosody.pid,
                MESSAGES,
                partial(between_clients, juliet, romeo, to, kind, MESSAGES),
            )
            keep(others, name, rate, number)
        for name, one in (("chat", direct), ("room", room)):
            rate = await from_matrix(peer, gateway, one, juliet, MESSAGES)
            keep(ours, f"{name} to XMPP", rate, number)
        keep(others, "Synapse", await into_synapse(peer, synapse, theirs, MESSAGES), number)

    print(f"\nmessages ({load()}; {MESSAGES} at once, median of {ROUNDS} rounds)")
    print("| way | /s | CPU ms | beside | /s | CPU ms | ratio of rates | ratio of CPU |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("chat", "room"):
        print(row(f"{name}, XMPP to Matrix", ours[f"{name} to Matrix"], "Prosody", others[name]))
    for name in ("chat", "room"):
        print(row(f"{name}, Matrix to XMPP", ours[f"{name} to XMPP"], "Synapse", others["Synapse"]))


@pytest.mark.bench
@pytest.mark.timeout(300)
async def test_one_message_at_a_time(
    gateway: Gateway, prosody: Prosody, peer: FakePeer, xmpp_person: MakeXmppPerson
) -> None:
    juliet = await xmpp_person(prosody, "juliet-slow")
    romeo = await xmpp_person(prosody, "romeo-slow")
    muc = f"quiet@{prosody.muc_domain}"
    await juliet.enter(muc, "Juliet")
    await romeo.enter(muc, "Romeo")
    direct = await make_direct_chat(gateway, peer, juliet)
    eve = gateway.address(peer.user("eve"))
    took: dict[str, list[float]] = {}
    for number in range(PINGS + 3):
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "XMPP to Matrix": partial(to_matrix, peer, juliet, eve, "chat", 1),
            "Matrix to XMPP": partial(from_matrix, peer, gateway, direct, juliet, 1),
            "Prosody alone, MUC": partial(between_clients, juliet, romeo, muc, "groupchat", 1),
        }
        for name, run in ways.items():
            begin = time.perf_counter()
            await run()
            if number >= 3:
                took.setdefault(name, []).append(1000 * (time.perf_counter() - begin))
            await asyncio.sleep(0.05)
    print(f"\none message at a time ({load()}; milliseconds, of {PINGS})")
    for name, times in took.items():
        print(f"  {name}: median {statistics.median(times):.0f}, most {max(times):.0f}")
