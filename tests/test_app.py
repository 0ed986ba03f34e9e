"""What is read from the settings when the parts are put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge import config
from bridge.app import Network, read_identity, read_keys, read_notaries
from bridge.engine.keys import SigningKey
from bridge.errors import Misconfigured, Refused, Unavailable
from bridge.net.client import HttpRequest


def _settings(data_folder: str = "/nowhere", **more: Any) -> config.Settings:
    return config.read({"server_name": "gw.test", "data_folder": data_folder, **more})


@pytest.mark.parametrize("version", ["1", "2", "13", "i.1"])
def test_a_version_that_is_not_made_here_is_refused_at_the_start(version: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        read_identity(_settings(rooms={"versions": ["12", version]}))
    assert caught.value.setting == "rooms.versions"
    with pytest.raises(Misconfigured) as caught:
        read_identity(_settings(portals={"version": version}))
    assert caught.value.setting == "portals.version"


def test_versions_that_are_made_here_are_taken_in_their_order(tmp_path: Path) -> None:
    key = SigningKey.from_seed("a", bytes(32))
    (tmp_path / "signing.key").write_text(key.to_text())
    settings = _settings(data_folder=str(tmp_path), rooms={"versions": ["11", "I.1"]})
    assert read_identity(settings).versions == ("11", "I.1")


def test_a_notary_that_is_no_server_is_refused_at_the_start() -> None:
    assert read_notaries(["notary.example:8448"]) == ("notary.example:8448",)
    with pytest.raises(Misconfigured) as caught:
        read_notaries(["https://notary.example"])
    assert caught.value.setting == "federation.notaries"


@pytest.mark.parametrize("content", [None, b"", b"ed25519 a", b"\xff"])
def test_a_key_file_that_cannot_be_used_is_refused_at_the_start(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "signing.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Misconfigured) as caught:
        read_keys(path)
    assert caught.value.setting == "signing_key"


async def test_files_are_not_fetched_from_a_network_that_is_open_for_servers_only() -> None:
    request = HttpRequest(method="GET", url="http://127.0.0.1:1/file", timeout_s=5.0)
    for_servers = _settings(federation={"allowed_networks": ["127.0.0.0/8"]})
    async with Network(for_servers) as network:
        with pytest.raises(Unavailable):
            await network.client.send(request)
        with pytest.raises(Refused) as caught:
            await network.files.send(request)
        assert caught.value.rule == "private_address"
    for_both = _settings(
        federation={"allowed_networks": ["127.0.0.0/8"]},
        media={"allowed_networks": ["127.0.0.0/8"]},
    )
    async with Network(for_both) as network:
        with pytest.raises(Unavailable):
            await network.files.send(request)
