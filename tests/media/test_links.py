"""Links that open one file, for a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import Misconfigured, NotFound
from bridge.ids import ServerName
from bridge.media.links import LinkSigner, read_key

GW = ServerName("gw.example")
SIGNER = LinkSigner(b"k" * 32)


def test_a_link_opens_its_file_until_it_expires() -> None:
    token = SIGNER.sign(GW, "abc", until_s=1000)
    assert len(token) == 28
    SIGNER.check(token, GW, "abc", now_s=1000)
    with pytest.raises(NotFound, match="no longer"):
        SIGNER.check(token, GW, "abc", now_s=1001)


def test_a_link_opens_nothing_else_and_cannot_be_made_longer() -> None:
    token = SIGNER.sign(GW, "abc", until_s=1000)
    with pytest.raises(NotFound):
        SIGNER.check(token, GW, "abd", now_s=1)
    with pytest.raises(NotFound):
        SIGNER.check(token, ServerName("other.example"), "abc", now_s=1)
    with pytest.raises(NotFound):
        LinkSigner(b"x" * 32).check(token, GW, "abc", now_s=1)
    for at in range(len(token)):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(NotFound):
            SIGNER.check(changed, GW, "abc", now_s=1)


@pytest.mark.parametrize("token", ["", "A", "AAAA", "?", "é" * 28, "A" * 1000])
def test_what_is_no_token_is_not_found(token: str) -> None:
    with pytest.raises(NotFound):
        SIGNER.check(token, GW, "abc", now_s=1)


def test_the_key_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "link.key"
    key = read_key(path)
    assert len(key) == 32
    assert read_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["link.key"]


def test_a_key_that_is_none_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "link.key"
    path.write_bytes(b"short")
    with pytest.raises(Misconfigured):
        read_key(path)
