"""The settings, and `config.example.yaml` in step with them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, SecretStr

from bridge import config
from bridge.adapters.xmpp.config import XmppSettings
from bridge.errors import Misconfigured
from bridge.rooms.bounds import DEFAULTS, GraphBounds

EXAMPLE = Path(__file__).resolve().parents[1] / "config.example.yaml"
OWN_VALUES = {
    "server_name": "gw.mine.test",
    "xmpp.domain": "gw.mine.test",
    "xmpp.secret": "of-my-own",
}
MUST_BE_SET = {"server_name", "data_folder", "xmpp.domain", "xmpp.secret"}


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        if name.startswith("ISTHMUS_"):
            monkeypatch.delenv(name)


def example() -> dict[str, Any]:
    loaded = yaml.safe_load(EXAMPLE.read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def with_values(tree: dict[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    for name, value in values.items():
        *sections, key = name.split(".")
        place = tree
        for section in sections:
            place = place[section]
        place[key] = value
    return tree


def minimal(**more: object) -> dict[str, Any]:
    return {"server_name": "gw.mine.test", "data_folder": "/nowhere", **more}


def plain(value: object) -> object:
    """A setting as YAML would give it."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value


def flat(tree: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        for index, item in enumerate(tree):
            yield from flat(item, f"{prefix}.{index}")
    else:
        yield prefix, tree


def defaults() -> dict[str, object]:
    settings = config.read(minimal())
    tree = plain(settings)
    assert isinstance(tree, dict)
    tree["xmpp"] = plain(XmppSettings(domain="gw.mine.test", secret=SecretStr("x")))
    return dict(flat(tree))


def test_the_example_shows_every_setting_and_no_other() -> None:
    assert set(dict(flat(example()))) == set(defaults())


def test_the_example_shows_the_defaults() -> None:
    shown = {name: value for name, value in flat(example()) if name not in MUST_BE_SET}
    expected = {name: value for name, value in defaults().items() if name not in MUST_BE_SET}
    assert shown == expected


def test_every_setting_of_the_example_is_explained() -> None:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    sections = {"database", "rooms", "federation", "policy", "delivery", "log"}
    for above, line in itertools.pairwise(lines):
        key = line.strip().removeprefix("- ").partition(":")[0]
        if line.strip() and not line.strip().startswith("#") and key not in sections:
            assert above.strip().startswith("#"), line


def test_the_example_loads_once_its_example_values_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(with_values(example(), OWN_VALUES)), "utf-8")
    settings = config.load(file)
    assert settings.data_folder == tmp_path / "data"
    assert settings.database_url == f"sqlite:///{tmp_path}/data/isthmus.db"
    assert settings.path(settings.signing_key) == tmp_path / "data" / "signing.key"
    xmpp = XmppSettings(**settings.xmpp)
    assert xmpp.secret.get_secret_value() == "of-my-own"


@pytest.mark.parametrize("name", sorted(config.EXAMPLE_VALUES))
def test_an_example_value_is_refused_by_name(name: str) -> None:
    shown = dict(flat(example()))[name]
    assert shown in config.EXAMPLE_VALUES[name]
    with pytest.raises(Misconfigured, match="still has the example value") as caught:
        config.read(with_values(example(), {**OWN_VALUES, name: shown}))
    assert caught.value.setting == name


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"servername": "x"}, "servername"),
        ({"log": {"levle": "info"}}, "log.levle"),
        ({"listeners": [{"prot": 1}]}, "listeners.0.prot"),
        ({"listeners": [{"port": 65536}]}, "listeners.0.port"),
        ({"well_known": {"server": "https://gw.example"}}, "well_known.server"),
        ({"well_known": {"contacts": [{"role": "m.role.admin"}]}}, "well_known.contacts.0"),
        ({"well_known": {"support_page": "gw.example/help"}}, "well_known.support_page"),
        ({"listeners": [{"certificate": "/a.pem"}]}, "listeners.0"),
        ({"federation": {"allowed_networks": ["ten"]}}, "federation.allowed_networks"),
        ({"media": {"allowed_networks": ["ten"]}}, "media.allowed_networks"),
        ({"delivery": {"workers": 0}}, "delivery.workers"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        config.read(minimal(**wrong))
    assert caught.value.setting == name


def test_a_setting_that_is_missing_is_named() -> None:
    with pytest.raises(Misconfigured) as caught:
        config.read({"data_folder": "/nowhere"})
    assert caught.value.setting == "server_name"


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_SERVER_NAME", "other.test")
    monkeypatch.setenv("ISTHMUS_LOG__LEVEL", "debug")
    monkeypatch.setenv("ISTHMUS_FEDERATION__ALLOWED_NETWORKS", '["10.0.0.0/8"]')
    monkeypatch.setenv("ISTHMUS_XMPP__SECRET", "from-outside")
    settings = config.read(
        minimal(log={"format": "json"}, xmpp={"domain": "gw.mine.test", "secret": "inside"})
    )
    assert settings.server_name == "other.test"
    assert (settings.log.level, settings.log.format) == ("debug", "json")
    assert settings.federation.allowed_networks == ("10.0.0.0/8",)
    assert settings.xmpp == {"domain": "gw.mine.test", "secret": "from-outside"}


def test_a_list_in_the_environment_that_is_no_json_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ISTHMUS_LISTENERS", "127.0.0.1")
    with pytest.raises(Misconfigured, match="listeners"):
        config.read(minimal())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("server_name: [", "is not YAML"),
        ("just words", "holds no settings"),
        ("", "holds no settings"),
        ("a: \x00", "is not YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(
    tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(Misconfigured, match=complaint) as caught:
        config.load(file)
    assert caught.value.setting == str(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"):
        config.load(tmp_path / "config.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Misconfigured, match="is not YAML"):
        config.load(file)


def test_an_absolute_database_wins_over_the_data_folder() -> None:
    settings = config.read(minimal(database={"url": "postgresql://isthmus@db/isthmus"}))
    assert settings.database_url == "postgresql://isthmus@db/isthmus"


def test_the_bounds_of_the_graph_are_settings_of_the_same_names_and_values() -> None:
    settings = config.BoundSettings()
    assert GraphBounds(**settings.model_dump()) == DEFAULTS
    assert list(settings.model_dump()) == [field.name for field in fields(GraphBounds)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("prev_events", 21), ("prev_events", 0), ("missing_events", 51), ("gap_timeout_s", 0)],
)
def test_a_bound_out_of_its_range_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(Misconfigured) as refused:
        config.read(minimal(rooms={"bounds": {name: value}}))
    assert refused.value.setting == f"rooms.bounds.{name}"
