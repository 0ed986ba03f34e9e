"""A foreign MUC in which many of our people are: what one message there costs us.

The MUC sends each message once to every occupant. Beside us, in the same run and through the same
Prosody, a bare expat component with as many occupants in another MUC, which drops every copy; and
ourselves with a single guest, which is the price of bridging one message. Aim: at most 1.5 times
that reader plus one bridged message.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from bridge.demo.people import MatrixPerson, XmppPerson
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from bridge.demo.servers.process import Child, make_folder
from bridge.identity import localparts
from tests.bench.measure import Rate, load, measure, until
from tests.support.gateway import Gateway
from tests.support.servers import COMPONENT_SECRET, MakeMatrixPerson, MakeXmppPerson, make_prosody

GHOSTS = 500
MESSAGES = 100
PAUSE_S = 0.1
ROUNDS = 3
READER = "reader.a.test"
SETTINGS = {
    "log": {"level": "info"},
    "xmpp": {"limits": {"guests": 2 * GHOSTS, "guest_joins_per_s": 100}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crowded() -> AsyncIterator[Prosody]:
    """A Prosody with our component and the bare one."""
    components = {"gw.a.test": COMPONENT_SECRET, READER: COMPONENT_SECRET}
    async with make_prosody(components=components) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def visitor(crowded: Prosody, certificates: CertificateAuthority) -> AsyncIterator[Gateway]:
    async with Gateway(crowded, certificates, settings=SETTINGS) as server:
        yield server


async def visit(gateway: Gateway, alice: MatrixPerson, romeo: XmppPerson, muc: str) -> str:
    """Both in the MUC, and sure of each other; its room."""
    await romeo.enter(muc, "Romeo")
    room_id = await alice.join(localparts.alias_for(muc, gateway.server_name))
    await alice.say(room_id, f"alice is in {muc}")
    await romeo.hear(f"alice is in {muc}", sender=muc, timeout_s=30)
    return room_id


async def bring_crowd(gateway: Gateway, romeo: XmppPerson, muc: str, server: str) -> None:
    """As many more guests, as if they had come before the last start."""
    await gateway.stop()
    for number in range(1, GHOSTS):
        gateway.change(
            "INSERT INTO guests (adapter, chat, user_id, nickname, entered_ms) VALUES (?,?,?,?,?)",
            "xmpp",
            muc,
            f"@ghost{number}:{server}",
            f"ghost{number}",
            number,
        )
    position = romeo.position
    await gateway.start()
    there: set[str] = set()

    def all_there() -> bool:
        nonlocal position
        stanzas = romeo.transcript.since(position)
        position += len(stanzas)
        there.update(
            stanza.sender for stanza in stanzas if stanza.kind == "presence" and not stanza.type
        )
        return sum(one.startswith(f"{muc}/ghost") for one in there) >= GHOSTS - 1

    await until(all_there, what=f"{GHOSTS} guests in the MUC", timeout_s=300)


def has_reached(gateway: Gateway, texts: list[str]) -> Callable[[], bool]:
    """Whether the last of them is an event."""
    like = f'%"{texts[-1]}"%'
    return lambda: bool(gateway.query("SELECT 1 FROM events WHERE json LIKE ?", like))


async def say_all(romeo: XmppPerson, muc: str, texts: list[str]) -> None:
    """At a steady pace."""
    begin = time.perf_counter()
    for number, text in enumerate(texts):
        romeo.say_in(muc, text)
        await asyncio.sleep(max(0.0, begin + (number + 1) * PAUSE_S - time.perf_counter()))


async def bridged(gateway: Gateway, romeo: XmppPerson, muc: str) -> Rate:
    label = secrets.token_hex(4)
    texts = [f"{label} {number}" for number in range(MESSAGES)]

    async def run() -> None:
        await say_all(romeo, muc, texts)
        await asyncio.sleep(1.0)
        await until(has_reached(gateway, texts), what="the last message on Matrix")

    return await measure(gateway.pid, MESSAGES, run)


async def dropped(reader: Child, romeo: XmppPerson, muc: str) -> Rate:
    texts = [f"dropped {number}" for number in range(MESSAGES)]

    async def run() -> None:
        await say_all(romeo, muc, texts)
        await asyncio.sleep(1.0)

    return await measure(reader.pid, MESSAGES, run)


def start_reader(prosody: Prosody, muc: str, folder: Path) -> Child:
    program = Path(__file__).with_name("bare_reader.py")
    arguments = [READER, COMPONENT_SECRET, str(prosody.ports.component), muc, str(GHOSTS)]
    reader = Child(
        [sys.executable, program, *arguments],
        name="reader",
        folder=folder,
        log=folder / "reader.log",
    )
    reader.spawn()
    return reader


@pytest.mark.bench
@pytest.mark.timeout(1800)
async def test_many_guests_in_one_foreign_muc(
    visitor: Gateway,
    crowded: Prosody,
    synapse: Synapse,
    xmpp_person: MakeXmppPerson,
    matrix_person: MakeMatrixPerson,
) -> None:
    alice = await matrix_person(synapse, "alice")
    romeo = await xmpp_person(crowded, "romeo")
    small, crowd, theirs = (f"{name}@{crowded.muc_domain}" for name in ("small", "crowd", "theirs"))
    await visit(visitor, alice, romeo, small)
    await visit(visitor, alice, romeo, crowd)
    await bring_crowd(visitor, romeo, crowd, synapse.server_name)
    await romeo.enter(theirs, "Romeo")
    folder = make_folder("reader")
    reader = start_reader(crowded, theirs, folder)
    try:
        inside = folder / "reader.log"
        await until(
            lambda: inside.read_text("utf-8").startswith("in"),
            what="the reader's occupants",
            timeout_s=300,
        )
        ways: dict[str, Callable[[], Awaitable[Rate]]] = {
            "one guest": partial(bridged, visitor, romeo, small),
            "crowd": partial(bridged, visitor, romeo, crowd),
            "reader": partial(dropped, reader, romeo, theirs),
        }
        costs: dict[str, list[float]] = {}
        for number in range(ROUNDS + 1):
            for name, run in ways.items():
                rate = await run()
                if number:  # the first round warms up
                    costs.setdefault(name, []).append(rate.cpu_ms)
    finally:
        await reader.kill()
        shutil.rmtree(folder, ignore_errors=True)

    one, many, bare = (statistics.median(costs[name]) for name in ("one guest", "crowd", "reader"))
    print(f"\na foreign MUC with {GHOSTS} guests ({load()}; CPU ms for one message)")
    print(f"  one guest: {one:.1f}; {GHOSTS} guests: {many:.1f}; bare reader: {bare:.1f}")
    aim = 1.5 * bare + one
    print(f"  aim: 1.5 x reader + one message = {aim:.1f}; we need {many / aim:.2f} of that")
