"""`isthmus init`: what it writes works, and what it prints is what is left to do."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from bridge import cli, config
from bridge.adapters.xmpp.config import XmppSettings
from bridge.engine.keys import SigningKey


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        if name.startswith("ISTHMUS_"):
            monkeypatch.delenv(name)


def init(folder: Path, *more: str, server_name: str = "gw.mine.test") -> int:
    return cli.main(["init", "--folder", str(folder), "--server-name", server_name, *more])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_configuration_that_is_written_loads(tmp_path: Path) -> None:
    assert init(tmp_path) == 0
    settings = config.load(tmp_path / "config.yaml")
    assert settings.server_name == "gw.mine.test"
    assert settings.listeners == (config.ListenerSettings(),)
    assert settings.health == config.HealthSettings()
    xmpp = XmppSettings(**settings.xmpp)
    assert (xmpp.domain, xmpp.host, xmpp.port) == ("gw.mine.test", "127.0.0.1", 5347)
    assert len(xmpp.secret.get_secret_value()) >= 32


def test_the_signing_key_that_is_written_signs(tmp_path: Path) -> None:
    init(tmp_path)
    settings = config.load(tmp_path / "config.yaml")
    text = settings.path(settings.signing_key).read_text("utf-8")
    key = SigningKey.from_text(text)
    assert key.sign(b"words")
    assert text.endswith("\n")


def test_secrets_are_for_the_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        init(tmp_path)
    finally:
        os.umask(before)
    assert mode(tmp_path / "config.yaml") == 0o600
    assert mode(tmp_path / "data") == 0o700
    assert mode(tmp_path / "data" / "signing.key") == 0o600


def test_two_configurations_share_no_secret(tmp_path: Path) -> None:
    init(tmp_path / "a")
    init(tmp_path / "b")
    first, second = (config.load(tmp_path / name / "config.yaml") for name in "ab")
    assert first.xmpp["secret"] != second.xmpp["secret"]
    assert first.path(first.signing_key).read_text() != second.path(second.signing_key).read_text()


@pytest.mark.parametrize("name", ["config.yaml", "data/signing.key"])
def test_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    there = tmp_path / name
    there.parent.mkdir(exist_ok=True)
    there.write_text("mine", "utf-8")
    before = sorted(tmp_path.rglob("*"))
    assert init(tmp_path) == 2
    assert there.read_text("utf-8") == "mine"
    assert sorted(tmp_path.rglob("*")) == before
    assert f"{there}: is there already; nothing was written" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert init(tmp_path / "file" / "inside") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_name_that_is_no_server_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path, server_name="not a name") == 2
    assert "not a server name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_example_name_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path, server_name="gw.example") == 2
    assert "--server-name: gw.example is the example" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_component_domain_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path, "--xmpp-domain", "Not.Canonical") == 2
    assert "--xmpp-domain" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_prosody_block_has_the_secret_and_the_domain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path, "--xmpp-domain", "matrix.x.test", "--xmpp-port", "5348")
    settings = config.load(tmp_path / "config.yaml")
    printed = capsys.readouterr().out
    block = re.sub(r"\s+", " ", printed)
    assert 'Component "matrix.x.test"' in block
    assert f'component_secret = "{settings.xmpp["secret"]}"' in block
    assert "component_ports = { 5348 }" in block
    assert "_xmpp-server._tcp.matrix.x.test. SRV 0 0 5269" in block


def test_global_options_stand_apart_from_the_component(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path / "a")
    assert "component_ports" not in capsys.readouterr().out
    init(tmp_path / "b", "--xmpp-port", "5348", "--xmpp-host", "xmpp.x.test")
    printed = capsys.readouterr().out
    assert re.search(r"above the first VirtualHost:\s+component_ports", printed)
    assert re.search(r"in component_interfaces, the address .* xmpp\.x\.test", printed)


@pytest.mark.parametrize("option", ["--xmpp-port", "--listen-port", "--health-port"])
def test_a_number_that_is_no_port_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert init(tmp_path, option, "65536") == 2
    assert f"{option}: not a port" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_behind_a_proxy_well_known_leads_to_the_proxy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path)
    printed = capsys.readouterr().out
    assert '{"m.server": "gw.mine.test:443"}' in printed
    assert "http://127.0.0.1:8448, with paths untouched" in printed


def test_with_a_certificate_well_known_leads_to_the_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--certificate", "/etc/a.pem", "--private-key", "/etc/a.key")
    init(tmp_path, "--listen-port", "9448", *files)
    assert '{"m.server": "gw.mine.test:9448"}' in capsys.readouterr().out
    listener = config.load(tmp_path / "config.yaml").listeners[0]
    assert listener.certificate == Path("/etc/a.pem")
    assert listener.private_key == Path("/etc/a.key")


def test_a_server_name_with_a_port_needs_no_well_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--certificate", "/etc/a.pem", "--private-key", "/etc/a.key")
    init(tmp_path, "--listen-port", "9448", *files, server_name="gw.mine.test:9448")
    printed = capsys.readouterr().out
    assert "m.server" not in printed
    assert 'Component "gw.mine.test"' in printed


def test_half_a_certificate_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(tmp_path, "--certificate", "/etc/a.pem") == 2
    assert "needs --private-key" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
