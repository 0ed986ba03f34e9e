"""Nothing tracked depends on one machine, and no test is left out quietly.

The forbidden words are put together here, so that this file does not hold them itself.
"""

from __future__ import annotations

import os
import re

import pytest

from tests.repository.tree import ROOT, project_file, tracked_files


def spelt(separator: str, *parts: str) -> str:
    return separator.join(parts)


_INDEX_HOSTS = "|".join(
    re.escape(spelt(".", *labels))
    for labels in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pypi", "python", "org"),
        ("deb", "debian", "org"),
        ("snapshot", "debian", "org"),
        ("security", "debian", "org"),
        ("npmjs", "org"),
        ("crates", "io"),
        ("conda", "anaconda", "org"),
    )
)
_FOLDERS = "work|root|home|opt|Users|mnt"

_FORBIDDEN = {
    "a package index by name": re.compile(_INDEX_HOSTS, re.IGNORECASE),
    "an absolute path of one machine": re.compile(
        rf"(?<![\w.}}\])])/(?:{_FOLDERS})(?:/|\b(?![\w-]))"
    ),
    "a folder outside the tree": re.compile(re.escape(spelt("/", "..", "shared"))),
}
_LEFT_OUT = re.compile(r"\bmark\.(?:skip|skipif|xfail)\b|\bpytest\.(?:skip|xfail|importorskip)\b")
_LICENCE_TEXTS = {"LICENSE"}


@pytest.mark.parametrize("what", sorted(_FORBIDDEN))
def test_no_tracked_file_names(what: str) -> None:
    pattern = _FORBIDDEN[what]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        if path.name not in _LICENCE_TEXTS
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a package index by name", "https://" + spelt(".", "PyPI", "org") + "/simple"),
        ("an absolute path of one machine", 'x = "' + spelt("/", "", "work", "main") + '"'),
        ("an absolute path of one machine", spelt("/", "", "root")),
        ("a folder outside the tree", "see " + spelt("/", "..", "shared", "DESIGN.md")),
    ],
)
def test_the_forbidden_words_are_recognised(what: str, line: str) -> None:
    assert _FORBIDDEN[what].search(line)


@pytest.mark.parametrize("line", ["/rooms/x/work", "a/home", "/works", "{base}/home", "/root-of"])
def test_an_address_is_no_path_of_a_machine(line: str) -> None:
    assert not _FORBIDDEN["an absolute path of one machine"].search(line)


def test_no_test_is_skipped_or_expected_to_fail() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        if path.suffix == ".py" and path.is_relative_to(ROOT / "tests")
        if path != ROOT / "tests" / "repository" / "test_tracked_files.py"
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if _LEFT_OUT.search(line)
    ]
    assert found == []


def test_a_warning_is_only_let_through_for_a_named_library() -> None:
    filters = project_file()["tool"]["pytest"]["ini_options"]["filterwarnings"]
    assert filters[0] == "error"
    for entry in filters[1:]:
        fields = [*entry.split(":"), "", "", ""]
        action, module = fields[0], fields[3]
        assert action == "ignore", entry
        assert module, f"{entry}: name the library's module"
        assert not module.startswith(("bridge", "tests")), entry


@pytest.mark.parametrize(
    "name", [".ci/run", "scripts/set-up", "scripts/requirements", "scripts/run-tests"]
)
def test_scripts_can_be_started(name: str) -> None:
    path = ROOT / name
    assert os.access(path, os.X_OK)
    assert path.read_text("utf-8").startswith("#!/usr/bin/env bash\n")


def test_the_changelog_has_a_place_for_what_is_not_released() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text("utf-8")
