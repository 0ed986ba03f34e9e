"""Entering a room of a thousand, and what everybody else notices of it meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest

from bridge.demo.servers import Prosody
from tests.bench.measure import cpu_s, load, memory_mb
from tests.bench.scene import make_direct_chat, make_public_room, write
from tests.support.gateway import Gateway
from tests.support.peer import FakePeer
from tests.support.servers import MakeXmppPerson

MEMBERS = 1000
SHOWN = 500
"""As many occupants as the room service shows by default."""
EVERY_S = 0.2
BEFORE = 20


@pytest.mark.bench
@pytest.mark.timeout(300)
async def test_entering_a_room_of_a_thousand(
    gateway: Gateway, prosody: Prosody, peer: FakePeer, xmpp_person: MakeXmppPerson
) -> None:
    """Romeo's direct chat goes on from Matrix to XMPP while Juliet enters."""
    juliet = await xmpp_person(prosody, "juliet")
    romeo = await xmpp_person(prosody, "romeo")
    other = await make_direct_chat(gateway, peer, romeo)
    room, alias = make_public_room(peer, members=MEMBERS)
    address = gateway.address(alias)
    entered = asyncio.Event()
    times: dict[bool, list[float]] = {False: [], True: []}
    is_entering = asyncio.Event()

    async def converse() -> None:
        number = 0
        while not entered.is_set():
            meanwhile = is_entering.is_set()
            (pdu,) = write(peer, other, [f"meanwhile {number}"])
            begin = time.perf_counter()
            await peer.send(gateway.server_name, pdu.wire())
            await romeo.hear(f"meanwhile {number}", timeout_s=60)
            times[meanwhile].append(1000 * (time.perf_counter() - begin))
            number += 1
            await asyncio.sleep(EVERY_S)

    used_s = 0.0
    took_s: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(converse())
        while len(times[False]) < BEFORE:
            await asyncio.sleep(EVERY_S)
        memory = memory_mb(gateway.pid)
        used_s = cpu_s(gateway.pid)
        is_entering.set()
        begin = time.perf_counter()
        entry = await juliet.enter(address, "Juliet", timeout_s=200)
        took_s.append(time.perf_counter() - begin)
        used_s = cpu_s(gateway.pid) - used_s
        entered.set()
    assert len(entry.occupants) > SHOWN
    # Nothing is fetched any more when the second one comes.
    begin = time.perf_counter()
    await romeo.enter(address, "Romeo", timeout_s=200)
    took_s.append(time.perf_counter() - begin)
    after = memory_mb(gateway.pid)
    print(f"\na room of {len(room.state)} state events ({load()})")
    print(f"  presence to 110 and the subject: {took_s[0]:.2f} s, CPU {used_s:.2f} s")
    print(f"  the second to enter: {took_s[1]:.2f} s")
    print(f"  Rss {memory['Rss']:.1f} MB before, {after['Rss']:.1f} MB after")
    for meanwhile, name in ((False, "before"), (True, "meanwhile")):
        one = times[meanwhile]
        if one:
            print(
                f"  another chat {name}: median {statistics.median(one):.0f} ms,"
                f" most {max(one):.0f} ms, of {len(one)}"
            )
