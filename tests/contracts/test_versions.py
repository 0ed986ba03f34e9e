"""Every room version: worked events in the vectors, and rules that name it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.engine.versions import VERSIONS, get_version

FOLDER = Path(__file__).parents[1] / "vectors"
EVENTS = {
    **json.loads((FOLDER / "room-versions.json").read_text("utf-8"))["versions"],
    "I.1": json.loads((FOLDER / "I.1-vectors.json").read_text("utf-8"))["events"],
}


@pytest.mark.parametrize("version_id", VERSIONS)
def test_a_version_has_vectors_and_its_own_name(version_id: str) -> None:
    assert get_version(version_id).id == version_id
    assert len(EVENTS[version_id]) >= 3
    kinds = {event["pdu"]["type"] for event in EVENTS[version_id]}
    assert "m.room.create" in kinds
