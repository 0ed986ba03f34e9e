"""Servers of one room that lose and find each other at random, and what is left of their quarrels.

Two of our servers and a Synapse (in I.1 rooms three of ours), each link in each direction cut and
healed by itself, people who ban, demote and contradict each other on both sides. After healing
every server says something until one forward extremity is left. Then:

* the state at the same event is the same everywhere, by its own word and by `/state_ids`;
* every event is with every server; what one shows and another hides is soft-failed there, by a
  rule that our log names, and still served by ID. So it is with a redaction by somebody who lost
  the power to it: a server that heard of the loss first does not apply it, and says so.

`ISTHMUS_PARTITION_SEED` repeats a run as far as timing allows; `ISTHMUS_PARTITION_ROUNDS` and
`-m soak` make it longer. Spec: S2S, soft failure; rooms, state resolution.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio
import structlog

from bridge.demo.people import MatrixPerson
from bridge.demo.servers import CertificateAuthority, Synapse
from bridge.ids import EventId, RoomId, ServerName, UserId
from tests.support.partition import (
    HIDDEN,
    PASSWORD,
    REJECTED,
    SHOWN,
    SOFT_FAILED,
    SYNAPSE_SETTINGS,
    WITHHELD,
    OurMember,
    Party,
    View,
    party,
)
from tests.support.quarrel import ANCHOR, NAMES, POWER_LEVELS, Quarrel, shapes

ROUNDS = 12
LONG_ROUNDS, LONG_SEEDS = 40, 5
SEED = 1
KNOW_S = 4.0
LOOK_S = 0.05
MOST_SAYINGS = 12
GAPS = ("gap found", "gap not filled", "gap closed by state", "gap event left out", "pdu put off")
DUMMY = "org.matrix.dummy_event"
"""What a Synapse sends to join its forward extremities; it shows them to nobody."""
Lines = Sequence[MutableMapping[str, Any]]


def rounds(default: int = ROUNDS) -> int:
    return int(os.environ.get("ISTHMUS_PARTITION_ROUNDS", default))


def seed(default: int = SEED) -> int:
    return int(os.environ.get("ISTHMUS_PARTITION_SEED", default))


async def make_room(those: Party, quarrel: Quarrel, version: str, maker: int) -> None:
    """Public, with everybody in it, at the levels of `quarrel`."""
    member = those.members[maker]
    creator = quarrel.user(member, ANCHOR)
    if isinstance(member, OurMember):
        room_id = await member.side.create_room(creator, version=version, public=True)
    else:
        assert those.synapse is not None
        person = those.synapse.person(creator)
        room_id = RoomId(await person.create_room(preset="public_chat", version=version))
    those.enter_room(room_id)
    for one in those.members:
        for name in NAMES:
            user = quarrel.user(one, name)
            if user != creator:
                await one.enter(user, None if one is member else member.name)
    above = creator if version == "12" else None
    await member.act(creator, POWER_LEVELS[0], quarrel.first_levels(above), state_key="")


async def all_know(those: Party, wanted: Iterable[EventId]) -> bool:
    """Whether each server comes to have these events inside its graph, in `KNOW_S`."""
    missing = {member.name: set(wanted) for member in those.members}
    deadline = time.monotonic() + KNOW_S
    while True:
        for member in those.members:
            if missing[member.name]:
                missing[member.name] -= await member.known()
        if not any(missing.values()):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_S)


async def quarrel_on(those: Party, quarrel: Quarrel, count: int) -> None:
    dice = Random(f"{quarrel.seed} partitions")
    for _ in range(count):
        await those.links.cut(shapes(those, dice))
        one, other = dice.sample(those.members, 2)
        await quarrel.clash(one, other, dice)
        async with asyncio.TaskGroup() as tasks:
            for member in those.members:
                tasks.create_task(quarrel.go_on(member, dice.randint(2, 6)))
        if dice.random() < 0.5:
            await those.links.heal()
            async with asyncio.TaskGroup() as tasks:
                for member in those.members:
                    tasks.create_task(quarrel.go_on(member, dice.randint(0, 2)))
            if dice.random() < 0.5:
                await settle(those, quarrel)


async def settle(those: Party, quarrel: Quarrel) -> None:
    """Everybody says something until all know all: that shows that the links are back.

    Once is not always enough: where a request of Synapse was under way while the link healed, it
    learns of its failure after it heard from the peer, and waits for the next thing to send.
    """
    await those.links.heal()
    begin = time.monotonic()
    for _ in range(MOST_SAYINGS):
        for member in those.members:
            await quarrel.say(member)
        if await all_know(those, quarrel.done):
            quarrel.settled_s.append(time.monotonic() - begin)
            return
    known = {member.name: await member.known() for member in those.members}
    missing = {name: set(quarrel.done) - ids for name, ids in known.items()}
    raise AssertionError(f"seed {quarrel.seed}: after {MOST_SAYINGS} sayings {missing} are missing")


async def unite(those: Party, quarrel: Quarrel) -> EventId:
    """Each says something in turn until everybody's one forward extremity is the same event."""
    await settle(those, quarrel)
    for number in range(MOST_SAYINGS):
        said = await quarrel.say(those.members[number % len(those.members)])
        known = await all_know(those, [said])
        ends = [await member.extremities() for member in those.members]
        if known and number + 1 >= len(those.members) and set(ends) == {frozenset({said})}:
            return said
    raise AssertionError(f"no single forward extremity after {MOST_SAYINGS} sayings: {ends}")


# --- what must be true then -----------------------------------------------------------------


@dataclass(slots=True)
class Findings:
    """What is wrong, and what was seen."""

    wrong: list[str] = field(default_factory=list)
    hidden: Counter[str] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        self.wrong.append(text)


async def compare(those: Party, last: EventId, log: Lines) -> Findings:
    found = Findings()
    await compare_states(those, last, found)
    views = {member.name: await member.views() for member in those.members}
    everything = sorted({event_id for view in views.values() for event_id in view})
    rules = {
        (line["event_id"], line["rule"])
        for line in log
        if (line["event"] == "pdu not accepted" and line["verdict"] == "soft-failed")
        or line["event"] == "redaction not applied"
    }
    for event_id in everything:
        seen = {name: view[event_id] for name, view in views.items() if event_id in view}
        for name in views.keys() - seen.keys():
            found.add(f"{event_id} is not with {name}: {seen}")
        await compare_views(those, event_id, seen, rules, found)
    for name, view in views.items():
        is_ours = isinstance(those.member(name), OurMember)
        compare_redactions(view, found, name=name, is_ours=is_ours)
    return found


def compare_redactions(
    views: Mapping[EventId, View], found: Findings, *, name: ServerName, is_ours: bool
) -> None:
    """On each server an event is redacted if, and only if, a redaction of it is shown there.

    A Synapse also applies redactions that it soft-failed, and shows them to nobody.
    """
    applied = {SHOWN} if is_ours else {SHOWN, SOFT_FAILED}
    wanted = {view.redacts for view in views.values() if view.verdict == SHOWN}
    allowed = {view.redacts for view in views.values() if view.verdict in applied}
    for event_id, view in views.items():
        if view.verdict != SHOWN:
            continue
        if view.redacted and event_id not in allowed:
            by = {key: one for key, one in views.items() if one.redacts == event_id}
            found.add(f"{event_id} is redacted on {name} and that is not shown: {by}")
        if event_id in wanted and not view.redacted:
            found.add(f"{event_id} is not redacted on {name}, its redaction is shown")


async def compare_states(those: Party, last: EventId, found: Findings) -> None:
    maps = {member.name: await member.state_ids() for member in those.members}
    (first, expected), *others = maps.items()
    for name, state in others:
        for key in sorted(expected.keys() | state.keys()):
            if expected.get(key) != state.get(key):
                found.add(f"{key}: {expected.get(key)} on {first}, {state.get(key)} on {name}")
    told = {member.name: await those.state_ids_at(member.name, last) for member in those.members}
    for name, ids in told.items():
        # The last event is a message: the state before it is the state after it.
        if ids != set(maps[name].values()):
            found.add(f"{name} tells another state at {last} than it has")


async def compare_views(
    those: Party,
    event_id: EventId,
    seen: Mapping[ServerName, View],
    rules: set[tuple[str, str]],
    found: Findings,
) -> None:
    shown = [name for name, view in seen.items() if view.verdict == SHOWN]
    for name, view in seen.items():
        if view.verdict == SHOWN:
            continue
        found.hidden[f"{view.verdict} {view.rule}".strip()] += 1
        is_ours = isinstance(those.member(name), OurMember)
        if view.verdict in (SOFT_FAILED, WITHHELD):
            if is_ours and (event_id, view.rule) not in rules:
                found.add(f"{event_id}: the log of {name} does not say {view.rule!r}")
            if not await those.served(name, event_id):
                found.add(f"{event_id} is {view.verdict} on {name} and not served")
        if shown and view.verdict in (REJECTED, HIDDEN) and view.type != DUMMY:
            found.add(f"{event_id} is {view} on {name} and shown by {shown}")


async def run(
    those: Party, *, version: str, number: int, count: int, maker: int, log: Lines
) -> None:
    begin = time.monotonic()
    quarrel = Quarrel(those, number, extensible=version == "I.1")
    await make_room(those, quarrel, version, maker)
    await quarrel_on(those, quarrel, count)
    last = await unite(those, quarrel)
    found = await compare(those, last, log)
    gaps = Counter(line["event"] for line in log if line["event"] in GAPS)
    print(
        f"\nversion {version}, seed {number}, {count} rounds: {len(quarrel.done)} events,"
        f" {quarrel.refused.total()} of {quarrel.tried.total()} tries refused at home,"
        f" not shown: {dict(found.hidden)}, gaps: {dict(gaps)};"
        f" all knew all {max(quarrel.settled_s):.1f} s after a healing at most;"
        f" {time.monotonic() - begin:.1f} s"
    )
    assert not found.wrong, "\n".join(
        [f"version {version}, seed {number}, {count} rounds", *found.wrong]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """A Synapse that tries again soon, and its people."""

    synapse: Synapse
    people: dict[UserId, MatrixPerson]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crowd(certificates: CertificateAuthority) -> AsyncIterator[Crowd]:
    async with (
        Synapse(certificates, overrides=SYNAPSE_SETTINGS) as synapse,
        AsyncExitStack() as stack,
    ):
        people: dict[UserId, MatrixPerson] = {}
        for name in NAMES:
            await synapse.create_user(name, PASSWORD)
            person = await MatrixPerson.login(synapse.client_url, name, PASSWORD)
            people[UserId(person.user_id)] = person
            await stack.enter_async_context(person)
        yield Crowd(synapse=synapse, people=people)


Run = Callable[..., Awaitable[None]]


@pytest.fixture
def among_us(certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path) -> Run:
    """A whole run, once or more often."""

    async def start(
        version: str, *, ours: int, number: int, count: int, crowd: Crowd | None = None
    ) -> None:
        folder = tmp_path / f"{version}-{number}"
        folder.mkdir()
        with structlog.testing.capture_logs() as log:
            async with party(
                certificates,
                folder,
                sqlite_template,
                ours=ours,
                synapse=None if crowd is None else crowd.synapse,
                people=None if crowd is None else crowd.people,
            ) as those:
                # Every third room is made by the last server: the Synapse, where there is one.
                maker = 0 if number % 3 else len(those.members) - 1
                await run(those, version=version, number=number, count=count, maker=maker, log=log)

    return start


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_two_of_ours_and_a_synapse_agree_after_every_partition(
    version: str, among_us: Run, crowd: Crowd
) -> None:
    await among_us(version, ours=2, crowd=crowd, number=seed(), count=rounds())


@pytest.mark.timeout(240)
async def test_three_of_ours_agree_after_every_partition_of_an_extensible_room(
    among_us: Run,
) -> None:
    await among_us("I.1", ours=3, number=seed(), count=rounds())


@pytest.mark.soak
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_two_of_ours_and_a_synapse_agree_after_long_quarrels(
    version: str, among_us: Run, crowd: Crowd
) -> None:
    """Each seed is a room of some hundreds of events."""
    for number in range(seed(), seed() + LONG_SEEDS):
        await among_us(version, ours=2, crowd=crowd, number=number, count=rounds(LONG_ROUNDS))


@pytest.mark.soak
@pytest.mark.timeout(24 * 3600)
async def test_three_of_ours_agree_after_long_quarrels(among_us: Run) -> None:
    for number in range(seed(), seed() + LONG_SEEDS):
        await among_us("I.1", ours=3, number=number, count=rounds(LONG_ROUNDS))
