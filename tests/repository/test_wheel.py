"""The wheel that an operator installs: complete, typed, and usable away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bridge
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
    assert not [name for name in names(wheel) if "__pycache__" in name]


def test_the_command_is_isthmus(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        lines = archive.read(entry).decode().splitlines()
    assert "isthmus = bridge.cli:main" in lines
    assert project_file()["project"]["scripts"] == {"isthmus": "bridge.cli:main"}


def run_from(lib: Path, folder: Path, *arguments: str) -> str:
    """What Python prints with the unpacked wheel before everything else on its path."""
    answered = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(lib), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert answered.returncode == 0, answered.stderr
    return answered.stdout.strip()


@pytest.fixture
def unpacked(wheel: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "lib")
    return tmp_path / "lib"


def test_the_command_starts_from_an_unpacked_wheel(unpacked: Path, tmp_path: Path) -> None:
    where = run_from(unpacked, tmp_path, "-c", "import bridge.cli; print(bridge.cli.__file__)")
    assert Path(where).is_relative_to(unpacked / "bridge")
    version = run_from(unpacked, tmp_path, "-m", "bridge", "--version")
    assert version == f"isthmus {bridge.__version__}"


def test_an_unpacked_wheel_brings_a_database_to_the_newest_revision(
    unpacked: Path, tmp_path: Path
) -> None:
    where = run_from(
        unpacked,
        tmp_path,
        "-c",
        "from bridge.storage import migrate\n"
        "migrate.upgrade('sqlite:///gateway.db')\n"
        "assert migrate.is_current('sqlite:///gateway.db')\n"
        "print(migrate.migrations_folder())",
    )
    assert Path(where) == unpacked / "bridge" / "migrations"
