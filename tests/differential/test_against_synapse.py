"""The engine and Synapse's own code say the same about random event graphs.

`ISTHMUS_DIFFERENTIAL_GRAPHS` is how many graphs are compared (40 without it), in equal parts for
every version, and `ISTHMUS_DIFFERENTIAL_SEED` the first seed. What a failure names, `grow` makes
again; fewer steps make the beginning of the same graph.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from bridge.demo.servers.synapse import find_synapse_python
from bridge.engine.receipt import Verdict
from bridge.engine.versions import get_version
from tests.differential.graphs import Graph, Grower, grow
from tests.engine.rooms import ALICE, BOB, CAROL, RoomBuilder

ORACLE = Path(__file__).with_name("oracle.py")
GRAPHS = int(os.environ.get("ISTHMUS_DIFFERENTIAL_GRAPHS", "40"))
FIRST_SEED = int(os.environ.get("ISTHMUS_DIFFERENTIAL_SEED", "0"))
STEPS = 40
BATCH = 100
"""Graphs that one process of Synapse's code is given."""

VERSION_IDS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")
CASES: tuple[tuple[str, Literal["v1", "v2"]], ...] = (
    *((version_id, get_version(version_id).stateres.algorithm) for version_id in VERSION_IDS),
    ("3", "v1"),  # the algorithm of version 1, over events of which both sides compute the IDs
)


@pytest.mark.parametrize(("version_id", "algorithm"), CASES)
@pytest.mark.timeout(max(120, GRAPHS))
def test_same_verdicts_and_same_resolved_states(
    version_id: str, algorithm: Literal["v1", "v2"]
) -> None:
    seeds = range(FIRST_SEED, FIRST_SEED + -(-GRAPHS // len(CASES)))
    differences: list[str] = []
    for start in range(0, len(seeds), BATCH):
        graphs = [
            grow(version_id, seed, steps=STEPS, algorithm=algorithm)
            for seed in seeds[start : start + BATCH]
        ]
        for graph, answer in zip(graphs, ask_synapse(graphs), strict=True):
            differences += compare(graph, answer)
    assert not differences, "\n".join(differences)


@pytest.mark.parametrize("version_id", ["3", "10", "12"])
def test_the_graphs_are_worth_comparing(version_id: str) -> None:
    graphs = [grow(version_id, seed, steps=STEPS) for seed in range(6)]
    rules = {decision.rule for graph in graphs for decision in graph.decisions.values()}
    verdicts = [d.verdict for graph in graphs for d in graph.decisions.values()]
    assert len(rules) > 10
    assert 0.4 < verdicts.count(Verdict.ACCEPTED) / len(verdicts) < 0.9
    states = [[graph.state([one]) for one in ids] for graph in graphs for ids in graph.merges]
    assert sum(any(state != maps[0] for state in maps) for maps in states) > 30


# Known disagreements. The text supports our side in each: the rule about `m.federate` looks at the
# sender's server only and at the value `false` only; before version 10 only `users` must hold
# integers (elsewhere what is no number counts here as not set); `true` is no integer.


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """The last event of a room of Alice's, which only one side accepts."""

    create: Mapping[str, Any] = field(default_factory=dict)
    event: tuple[str, Mapping[str, Any], str]
    theirs: str | None
    """A part of their reason; None where they accept and we do not."""
    until: int = 12


NOT_NUMBERS: tuple[Any, ...] = ([], {}, None, "x")
FEDERATE = "marked as unfederatable"
INVITE = ("m.room.member", {"membership": "invite"}, CAROL)
BAN = ("m.room.member", {"membership": "ban"}, CAROL)
DISAGREEMENTS = (
    Disagreement(create={"m.federate": False}, event=INVITE, theirs=FEDERATE),
    Disagreement(create={"m.federate": False}, event=BAN, theirs=FEDERATE),
    Disagreement(create={"m.federate": "no"}, event=BAN, theirs=FEDERATE),
    *(
        Disagreement(event=("m.room.power_levels", {"ban": odd}, ""), theirs="fails: ", until=9)
        for odd in NOT_NUMBERS
    ),
    Disagreement(event=("m.room.power_levels", {"users": {BOB: True}}, ""), theirs=None, until=9),
)


@pytest.mark.parametrize("version_id", VERSION_IDS)
def test_known_disagreements_are_still_the_same(version_id: str) -> None:
    cases = [case for case in DISAGREEMENTS if int(version_id) <= case.until]
    graphs = [disagreement(version_id, case) for case in cases]
    for case, graph, answer in zip(cases, graphs, ask_synapse(graphs), strict=True):
        last = graph.events[-1].event_id
        refused = {
            event_id
            for event_id, decision in graph.decisions.items()
            if decision.verdict is not Verdict.ACCEPTED
        }
        assert refused == (set() if case.theirs else {last}), case
        assert answer["refused"].keys() == ({last} if case.theirs else set()), case
        assert (case.theirs or "") in answer["refused"].get(last, ""), case


def disagreement(version_id: str, case: Disagreement) -> Graph:
    room = RoomBuilder(version_id, create_content=case.create)
    graph = Graph(version_id=version_id, seed=-1, room=room)
    grower = Grower(graph=graph, rng=random.Random(0))
    grower.begin()
    grower.send("m.room.member", ALICE, {"membership": "join"}, ALICE)
    kind, content, state_key = case.event
    if kind == "m.room.power_levels":
        # Only a change is looked at closely.
        grower.send(kind, ALICE, room.levels(), "")
        content = {**room.levels(), **content}
        content["users"] = {**room.levels()["users"], **content["users"]}
    grower.send(kind, ALICE, content, state_key)
    return graph


def ask_synapse(graphs: list[Graph]) -> list[dict[str, Any]]:
    lines = "".join(json.dumps(graph.to_json) + "\n" for graph in graphs)
    done = subprocess.run(
        [find_synapse_python(), "-I", ORACLE],
        input=lines,
        capture_output=True,
        text=True,
        timeout=60 + 5 * len(graphs),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(graph: Graph, answer: dict[str, Any]) -> list[str]:
    """The first thing that the two say differently about the graph, if any."""
    where = f"version {graph.version_id}, seed {graph.seed}"
    for pdu, event_id in zip(graph.events, answer["ids"], strict=True):
        if pdu.event_id != event_id:
            return [f"{where}: {pdu.json} is {event_id} there and {pdu.event_id} here"]
        decision = graph.decisions[pdu.event_id]
        theirs = answer["refused"].get(event_id)
        if (decision.verdict is Verdict.ACCEPTED) != (theirs is None):
            ours = decision.rule or "accepted"
            return [f"{where}: {pdu.event_id} is {ours!r} here and {theirs!r} there: {pdu.json}"]
    for event_ids, entries in zip(graph.merges, answer["states"], strict=True):
        here = {(*key, one) for key, one in graph.state(event_ids).items()}
        there = {(kind, state_key, one) for kind, state_key, one in entries}
        if here != there:
            return [
                f"{where}: after {event_ids} only here {here - there}, only there {there - here}"
            ]
    return []
