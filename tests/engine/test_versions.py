"""The registry: known versions, the grammar, and what every version must say."""

from __future__ import annotations

import pytest

from bridge.engine.versions import (
    VERSIONS,
    RoomVersion,
    get_creatable,
    get_version,
    is_valid_version_id,
)
from bridge.errors import BadInput


def test_the_known_versions() -> None:
    assert list(VERSIONS) == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "I.1"]
    assert all(version.id == version_id for version_id, version in VERSIONS.items())


@pytest.mark.parametrize(
    "version_id", ["i.1", "I.", "I.1a", "I.2", "0", "13", "", "10 ", "org.example"]
)
def test_other_versions_are_unknown_and_never_guessed(version_id: str) -> None:
    with pytest.raises(BadInput) as caught:
        get_version(version_id)
    assert caught.value.errcode == "M_UNSUPPORTED_ROOM_VERSION"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("10", True),
        ("I.1", True),
        ("I.2.0", True),
        ("org.matrix.msc1767.10", True),
        ("i.1", True),  # a legal name of an unknown version
        ("I.", False),
        ("I.1a", False),
        ("A.1", False),
        ("", False),
        ("1" * 33, False),
        ("I." + "1" * 30, True),
        ("I." + "1" * 31, False),
        ("10\n", False),
    ],
)
def test_the_grammar_is_matrix_s_or_the_mimi_family_s(text: str, valid: bool) -> None:
    assert is_valid_version_id(text) is valid


@pytest.mark.parametrize("version", VERSIONS.values(), ids=list(VERSIONS))
def test_redaction_keeps_in_every_version_what_the_rules_and_the_hash_need(
    version: RoomVersion,
) -> None:
    top_level = version.redaction.top_level
    assert {
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    } <= top_level
    assert not {"redacts", "unsigned"} & top_level


def test_versions_1_and_2_are_known_but_no_room_is_made_of_them() -> None:
    assert [v.id for v in VERSIONS.values() if not v.creatable] == ["1", "2"]
    assert get_creatable("3") is get_version("3")
    for version_id in ("1", "2", "13"):
        with pytest.raises(BadInput) as caught:
            get_creatable(version_id)
        assert caught.value.errcode == "M_UNSUPPORTED_ROOM_VERSION"


def test_version_1_alone_resolves_state_by_the_first_algorithm() -> None:
    assert [v.id for v in VERSIONS.values() if v.stateres.algorithm == "v1"] == ["1"]


def test_only_i_1_has_extensible_events() -> None:
    assert [v.id for v in VERSIONS.values() if v.extensible_events] == ["I.1"]
