"""Where Synapse says otherwise, our verdict is the specification's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.engine.receipt import Verdict
from tests.engine.disagreements import FILES, Disagreement, disagreements, judge_in_turn


@pytest.mark.parametrize("case", disagreements(), ids=lambda case: case.name)
def test_our_verdict_is_the_specification_s(case: Disagreement) -> None:
    *before, last = judge_in_turn(case.version_id, case.events)
    assert all(decision.verdict is Verdict.ACCEPTED for decision in before)
    assert last.rule == case.isthmus
    assert last.verdict is (Verdict.REJECTED if case.isthmus else Verdict.ACCEPTED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_disagreement_is_settled_by_a_section(path: Path) -> None:
    vector = json.loads(path.read_text("utf-8"))
    assert vector["specification"].startswith("rooms/v")
    assert vector["about"]
    assert vector["decision"]
    assert all(case["isthmus"] != case["synapse"] for case in vector["cases"])
