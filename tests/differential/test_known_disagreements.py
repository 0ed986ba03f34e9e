"""What the vectors say about Synapse is still so: a disagreement that is gone has no vector."""

from __future__ import annotations

from tests.differential.synapse import running_synapse
from tests.engine.disagreements import disagreements


def test_known_disagreements_are_still_the_same() -> None:
    with running_synapse() as synapse:
        for case in disagreements():
            synapse.ask(case.question)
            answer = synapse.answer()
            last = answer["ids"][-1]
            assert answer["refused"].keys() == ({last} if case.synapse else set()), case.name
            assert answer["refused"].get(last, "").startswith(case.synapse), case.name
