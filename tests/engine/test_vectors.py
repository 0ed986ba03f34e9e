"""Every registered room version has worked events, and makes them again byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.engine.hashes import check_content_hash, content_hash
from bridge.engine.keys import SigningKey, decode_base64
from bridge.engine.pdu import Pdu
from bridge.engine.redaction import redact, redact_pdu
from bridge.engine.signing import check_pdu_signature, sign_event
from bridge.engine.versions import VERSIONS, get_version
from bridge.ids import ServerName

FOLDER = Path(__file__).parents[1] / "vectors"
MATRIX = json.loads((FOLDER / "room-versions.json").read_text("utf-8"))
MIMI = json.loads((FOLDER / "I.1-vectors.json").read_text("utf-8"))
EVENTS: dict[str, list[dict[str, Any]]] = {**MATRIX["versions"], "I.1": MIMI["events"]}
KEY = SigningKey.from_seed("1", decode_base64(MATRIX["signing_key_seed"]))
SERVER = ServerName(MATRIX["server_name"])

cases = pytest.mark.parametrize(
    ("version_id", "vector"),
    [(version_id, vector) for version_id, events in EVENTS.items() for vector in events],
    ids=lambda value: value if isinstance(value, str) else value["label"],
)


def test_every_version_has_vectors() -> None:
    assert EVENTS.keys() == set(VERSIONS)


@cases
def test_worked_events_are_read_as_written(version_id: str, vector: dict[str, Any]) -> None:
    version = get_version(version_id)
    pdu = Pdu.parse(vector["pdu"], version)
    assert pdu.event_id == vector["event_id"]
    assert pdu.room_id == vector.get("room_id", pdu.json.get("room_id"))
    assert redact(pdu.json, version) == vector["redacted"]
    assert Pdu.parse(vector["redacted"], version) == redact_pdu(pdu)
    assert check_content_hash(pdu.json)
    for copy in (pdu, redact_pdu(pdu)):
        assert check_pdu_signature(
            copy, server=SERVER, key_id=KEY.key_id, verify_key=KEY.verify_key_base64
        )


@cases
def test_worked_events_are_made_again(version_id: str, vector: dict[str, Any]) -> None:
    bare = {k: v for k, v in vector["pdu"].items() if k not in ("hashes", "signatures")}
    bare["hashes"] = {"sha256": content_hash(bare)}
    signed = sign_event(bare, get_version(version_id), server=SERVER, key=KEY)
    assert signed == vector["pdu"]
