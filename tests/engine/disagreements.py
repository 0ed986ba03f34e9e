"""The vectors of `tests/vectors/disagreements`: what we say otherwise than Synapse, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.engine.pdu import Pdu
from bridge.engine.receipt import Decision, Verdict, judge
from bridge.engine.state import StateMap, state_after
from bridge.engine.stateres import resolve, run
from bridge.engine.versions import get_version
from bridge.ids import EventId

FOLDER = Path(__file__).parents[1] / "vectors" / "disagreements"
FILES = tuple(sorted(FOLDER.glob("*.json")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A room of which the two judge only the last event differently."""

    name: str
    version_id: str
    algorithm: str
    events: Sequence[dict[str, Any]]
    isthmus: str
    """The rule by which we refuse the last event; empty: we accept it."""
    synapse: str
    """The beginning of their reason; empty: they accept it."""

    @property
    def question(self) -> dict[str, Any]:
        """For Synapse's code."""
        return {
            "version": self.version_id,
            "algorithm": self.algorithm,
            "events": list(self.events),
            "resolve": [],
        }


def disagreements() -> list[Disagreement]:
    return [
        Disagreement(
            name=f"{path.stem} {number}, version {case['version']}",
            version_id=case["version"],
            algorithm=case["algorithm"],
            events=case["events"],
            isthmus=case["isthmus"],
            synapse=case["synapse"],
        )
        for path in FILES
        for number, case in enumerate(json.loads(path.read_text("utf-8"))["cases"], 1)
    ]


def judge_in_turn(version_id: str, events: Sequence[dict[str, Any]]) -> list[Decision]:
    """What we decide about each event of a whole room, the create event first."""
    version = get_version(version_id)
    known: dict[EventId, Pdu] = {}
    after: dict[EventId, StateMap] = {}
    decisions: list[Decision] = []
    create: Pdu | None = None
    for json_event in events:
        pdu = Pdu.parse(json_event, version)
        maps = [after[event_id] for event_id in pdu.prev_events]
        before: StateMap = run(resolve(maps, version), lambda ids: {i: known[i] for i in ids})
        decision = judge(
            pdu,
            create=create,
            auth_events={one: known[one] for one in pdu.auth_events},
            state_before={key: known[one] for key, one in before.items()},
            current_state=None,
        )
        accepted = decision.verdict is Verdict.ACCEPTED
        known[pdu.event_id] = Pdu.trusted(pdu.json, version, pdu.event_id, rejected=not accepted)
        after[pdu.event_id] = state_after(before, pdu) if accepted else before
        create = create or pdu
        decisions.append(decision)
    return decisions
