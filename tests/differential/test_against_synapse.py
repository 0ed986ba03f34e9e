"""The engine and Synapse's own code say the same about random event graphs.

`ISTHMUS_DIFFERENTIAL_GRAPHS` is how many graphs are compared (2,200 without it), in equal parts
for every version, and `ISTHMUS_DIFFERENTIAL_SEED` the first seed. What a failure names, `grow`
makes again; fewer steps make the beginning of the same graph. Where the two are known to disagree,
and what the text says, is in `tests/vectors/disagreements`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from bridge.engine.receipt import Verdict
from bridge.engine.versions import get_version
from tests.differential.graphs import Graph, grow
from tests.differential.synapse import Synapse, running_synapse

GRAPHS = int(os.environ.get("ISTHMUS_DIFFERENTIAL_GRAPHS", "2200"))
FIRST_SEED = int(os.environ.get("ISTHMUS_DIFFERENTIAL_SEED", "0"))
STEPS = 40

VERSION_IDS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")
CASES: tuple[tuple[str, Literal["v1", "v2"]], ...] = (
    *((version_id, get_version(version_id).stateres.algorithm) for version_id in VERSION_IDS),
    ("3", "v1"),  # the algorithm of version 1, over events of which both sides compute the IDs
)
PER_CASE = -(-GRAPHS // len(CASES))

LEAST = {
    "events": 40,
    "rejected": 10,
    "forks": 10,
    "merges": 15,
    "merges in conflict": 12,
    "conflicted keys": 40,
    "joins": 5,
    "bans": 0.4,
    "kicks": 0.3,
    "power changes": 2,
    "join rules": 1.5,
    "topics": 1,
}
"""What a graph has at least, on the average of a case; with less there is little to compare."""


@pytest.fixture(scope="module")
def synapse() -> Iterator[Synapse]:
    with running_synapse() as running:
        yield running


@pytest.mark.parametrize(("version_id", "algorithm"), CASES)
@pytest.mark.timeout(max(120, GRAPHS))
def test_same_verdicts_and_same_resolved_states(
    synapse: Synapse, version_id: str, algorithm: Literal["v1", "v2"]
) -> None:
    differences: list[str] = []
    found: Counter[str] = Counter()
    asked: Graph | None = None
    for seed in range(FIRST_SEED, FIRST_SEED + PER_CASE):
        graph = grow(version_id, seed, steps=STEPS, algorithm=algorithm)
        if asked is not None:
            differences += compare(asked, synapse.answer())
        synapse.ask(graph.to_json)
        found += contents(graph)
        asked = graph
    assert asked is not None
    differences += compare(asked, synapse.answer())
    assert not differences, "\n".join(differences)
    too_few = {name: found[name] for name, least in LEAST.items() if found[name] < least * PER_CASE}
    assert not too_few, f"of {PER_CASE} graphs"


def contents(graph: Graph) -> Counter[str]:
    """What there is in a graph to disagree about."""
    found = Counter(events=len(graph.events), merges=len(graph.merges))
    followed: Counter[str] = Counter()
    for pdu in graph.events:
        followed.update(pdu.prev_events)
        if graph.decisions[pdu.event_id].verdict is not Verdict.ACCEPTED:
            found["rejected"] += 1
            continue
        found["joins"] += pdu.membership == "join"
        found["bans"] += pdu.membership == "ban"
        found["kicks"] += pdu.membership == "leave" and pdu.sender != pdu.state_key
        found["power changes"] += pdu.type == "m.room.power_levels"
        found["join rules"] += pdu.type == "m.room.join_rules"
        found["topics"] += pdu.type == "m.room.topic"
    found["forks"] = sum(count > 1 for count in followed.values())
    for event_ids in graph.merges:
        states = [graph.room.state_after[one] for one in event_ids]
        keys = {key for state in states for key in state}
        conflicted = sum(len({state.get(key) for state in states}) > 1 for key in keys)
        found["conflicted keys"] += conflicted
        found["merges in conflict"] += conflicted > 0
    return found


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
