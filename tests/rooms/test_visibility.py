"""Server ACLs. Spec: client-server API, m.room.server_acl; S2S, server ACLs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.ids import ServerName
from bridge.rooms.visibility import is_server_allowed


@pytest.mark.parametrize(
    ("acl", "server", "allowed"),
    [
        (None, "a.example", True),
        ({}, "a.example", False),
        ({"allow": ["*"]}, "a.example", True),
        ({"allow": ["*"]}, "1.2.3.4:8448", True),
        ({"allow": ["*"], "allow_ip_literals": False}, "1.2.3.4:8448", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "[::1]:8448", False),
        ({"allow": ["*"], "deny": ["*.evil.example"]}, "x.evil.example", False),
        ({"allow": ["*"], "deny": ["*.evil.example"]}, "evil.example", True),
        ({"allow": ["*"], "deny": ["EVIL.example"]}, "evil.example:8448", False),
        ({"allow": ["?.example"]}, "a.example", True),
        ({"allow": ["?.example"]}, "ab.example", False),
        ({"allow": "*"}, "a.example", False),
        ({"allow": [1, None, "a.example"]}, "a.example", True),
    ],
)
def test_an_acl_allows_and_denies(acl: dict[str, Any] | None, server: str, allowed: bool) -> None:
    assert is_server_allowed(acl, ServerName(server)) is allowed


@given(st.lists(st.sampled_from(["*", "?", "a", "."]), max_size=60).map("".join))
def test_no_pattern_takes_long(pattern: str) -> None:
    server = ServerName("a" * 60 + ".example")
    is_server_allowed({"allow": [pattern]}, server)


@given(st.text(alphabet="ab.", min_size=1, max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_a_star_stands_for_any_run(host: str, start: int, end: int) -> None:
    cut = sorted((min(start, len(host)), min(end, len(host))))
    pattern = host[: cut[0]] + "*" + host[cut[1] :]
    assert is_server_allowed({"allow": [pattern]}, ServerName(host))


def test_a_long_list_counts_to_its_end() -> None:
    deny = [f"{number}.e" for number in range(7_000)]
    acl = {"allow": ["*"], "deny": [*deny, "evil.example"]}
    assert not is_server_allowed(acl, ServerName("evil.example"))
    assert is_server_allowed(acl, ServerName("good.example"))
