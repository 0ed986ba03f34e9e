"""The wheel that an operator installs: complete, typed, and usable away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.repository.tree import ROOT, project_file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        timeout=100,
    )
    (built,) = folder.glob("isthmus-*.whl")
    return built


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_every_module_and_says_that_it_is_typed(wheel: Path) -> None:
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "bridge").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert modules | {"bridge/py.typed"} <= names(wheel)


def test_the_wheel_has_the_migrations_inside_the_package(wheel: Path) -> None:
    revisions = {
        f"bridge/{path.relative_to(ROOT)}"
        for path in (ROOT / "migrations").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert "bridge/migrations/env.py" in revisions
    assert any(name.startswith("bridge/migrations/versions/") for name in revisions)
    assert revisions <= names(wheel)


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    assert {name.split("/")[0].split("-")[0] for name in names(wheel)} == {"bridge", "isthmus"}


def test_the_command_is_isthmus(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        lines = archive.read(entry).decode().splitlines()
    assert "isthmus = bridge.cli:main" in lines
    assert project_file()["project"]["scripts"] == {"isthmus": "bridge.cli:main"}


def test_the_command_starts_from_an_unpacked_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "lib")
    answered = subprocess.run(
        [sys.executable, "-c", "import bridge.cli; print(bridge.cli.__file__)"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "lib"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert answered.returncode == 0, answered.stderr
    assert Path(answered.stdout.strip()).is_relative_to(tmp_path / "lib" / "bridge")
