"""The pinned requirement files: hashes for every entry, no trace of an index, nothing missing.

That wheels exist for each Python and machine is asked of the index when the files are made
(`make requirements`); here stands what can be known without one.
"""

from __future__ import annotations

import re
from importlib import metadata
from itertools import product

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repository.tree import ROOT, project_file

FILES = ("product", "development", "synapse")
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")

_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pins(name: str) -> dict[str, tuple[Requirement, int]]:
    """Canonical name -> the pinned requirement and how many hashes it has."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").replace("\\\n", " ")
    found: dict[str, tuple[Requirement, int]] = {}
    for line in filter(str.strip, text.splitlines()):
        requirement = Requirement(line.split("--hash")[0].strip())
        found[canonicalize_name(requirement.name)] = (requirement, len(_HASH.findall(line)))
    return found


def named(name: str) -> set[str]:
    """Canonical names of an input file, its comments and constraints aside."""
    lines = (ROOT / "requirements" / f"{name}.in").read_text("utf-8").splitlines()
    return {
        canonicalize_name(Requirement(line).name)
        for line in lines
        if line.strip() and not line.startswith(("#", "-"))
    }


def machine(python: str, architecture: str, extra: str) -> dict[str, str]:
    return {
        "extra": extra,
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": architecture,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


def applies(requirement: Requirement, environment: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**environment})


@pytest.mark.parametrize("name", FILES)
def test_every_entry_is_one_version_with_hashes(name: str) -> None:
    for requirement, hashes in pins(name).values():
        assert [clause.operator for clause in requirement.specifier] == ["=="], requirement
        assert hashes, requirement


@pytest.mark.parametrize("name", FILES)
def test_a_requirement_file_says_nothing_about_where_packages_come_from(name: str) -> None:
    for line in (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").splitlines():
        assert "://" not in line
        assert "#" not in line
        assert re.match(r"[a-z0-9]|    --hash=sha256:", line), line


@pytest.mark.parametrize("name", FILES)
def test_what_is_named_is_pinned(name: str) -> None:
    assert named(name) <= pins(name).keys()


def test_the_project_file_names_the_same_libraries() -> None:
    declared = [Requirement(text) for text in project_file()["project"]["dependencies"]]
    pinned = pins("product")
    assert {canonicalize_name(item.name) for item in declared} == named("product")
    for item in declared:
        version = next(iter(pinned[canonicalize_name(item.name)][0].specifier)).version
        assert item.specifier.contains(version), item


def test_the_build_back_end_is_pinned_with_the_development_tools() -> None:
    requires = {Requirement(text).name for text in project_file()["build-system"]["requires"]}
    assert requires <= pins("development").keys()


def test_product_and_development_agree_where_they_meet() -> None:
    ours, tools = pins("product"), pins("development")
    for name in ours.keys() & tools.keys():
        assert ours[name][0].specifier == tools[name][0].specifier


@pytest.mark.parametrize(("python", "architecture"), list(product(PYTHONS, MACHINES)))
def test_nothing_that_is_needed_is_left_unpinned(python: str, architecture: str) -> None:
    """Follows what the installed packages declare, on every Python and machine we support."""
    pinned = {**pins("development"), **pins("product")}
    environment = machine(python, architecture, "")
    there = {name for name, (item, _) in pinned.items() if applies(item, environment)}
    waiting = [Requirement(text) for text in project_file()["project"]["dependencies"]]
    waiting += [Requirement(name) for name in named("development")]
    seen: set[tuple[str, str]] = set()
    while waiting:
        item = waiting.pop()
        name = canonicalize_name(item.name)
        assert name in there, f"{name} is not pinned for Python {python} on {architecture}"
        for extra in {"", *item.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            waiting += [
                needed
                for needed in map(Requirement, metadata.requires(name) or ())
                if applies(needed, machine(python, architecture, extra))
            ]
