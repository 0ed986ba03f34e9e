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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge.demo.servers.synapse import find_synapse_python
from bridge.engine.receipt import Verdict
from tests.differential.graphs import Graph, Grower, grow
from tests.engine.rooms import ALICE, CAROL, RoomBuilder

ORACLE = Path(__file__).with_name("oracle.py")
GRAPHS = int(os.environ.get("ISTHMUS_DIFFERENTIAL_GRAPHS", "40"))
FIRST_SEED = int(os.environ.get("ISTHMUS_DIFFERENTIAL_SEED", "0"))
STEPS = 40
BATCH = 100
"""Graphs that one process of Synapse's code is given."""

VERSION_IDS = ("10", "11", "12")


@pytest.mark.parametrize("version_id", VERSION_IDS)
@pytest.mark.timeout(max(120, GRAPHS))
def test_same_verdicts_and_same_resolved_states(version_id: str) -> None:
    seeds = range(FIRST_SEED, FIRST_SEED + -(-GRAPHS // len(VERSION_IDS)))
    differences: list[str] = []
    for start in range(0, len(seeds), BATCH):
        graphs = [grow(version_id, seed, steps=STEPS) for seed in seeds[start : start + BATCH]]
        for graph, answer in zip(graphs, ask_synapse(graphs), strict=True):
            differences += compare(graph, answer)
    assert not differences, "\n".join(differences)


@pytest.mark.parametrize("version_id", VERSION_IDS)
def test_the_graphs_are_worth_comparing(version_id: str) -> None:
    graphs = [grow(version_id, seed, steps=STEPS) for seed in range(6)]
    rules = {decision.rule for graph in graphs for decision in graph.decisions.values()}
    verdicts = [d.verdict for graph in graphs for d in graph.decisions.values()]
    assert len(rules) > 10
    assert 0.5 < verdicts.count(Verdict.ACCEPTED) / len(verdicts) < 0.9
    states = [[graph.state([one]) for one in ids] for graph in graphs for ids in graph.merges]
    assert sum(any(state != maps[0] for state in maps) for maps in states) > 30


# Known disagreements. The text supports our side in each: rule 3 (4 from version 12) looks at the
# sender's server only, and only at the value `false`.


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Alice does this to Carol, who is on another server; refused there and accepted here."""

    federate: object
    membership: str
    theirs: str


DISAGREEMENTS = (
    Disagreement(federate=False, membership="invite", theirs="marked as unfederatable"),
    Disagreement(federate=False, membership="ban", theirs="marked as unfederatable"),
    Disagreement(federate="no", membership="ban", theirs="marked as unfederatable"),
)


@pytest.mark.parametrize("version_id", VERSION_IDS)
@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_known_disagreements_are_still_the_same(version_id: str, case: Disagreement) -> None:
    room = RoomBuilder(version_id, create_content={"m.federate": case.federate})
    graph = Graph(version_id=version_id, seed=-1, room=room)
    grower = Grower(graph=graph, rng=random.Random(0))
    grower.begin()
    grower.send("m.room.member", ALICE, {"membership": "join"}, ALICE)
    grower.send("m.room.member", ALICE, {"membership": case.membership}, CAROL)
    (answer,) = ask_synapse([graph])
    last = graph.events[-1].event_id
    assert all(decision.verdict is Verdict.ACCEPTED for decision in graph.decisions.values())
    assert answer["refused"].keys() == {last}
    assert case.theirs in answer["refused"][last]


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
