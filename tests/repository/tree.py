"""The tree under test: where it stands and which of its files are tracked."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# Made here, never tracked. Only asked where the tree has no git, as in an unpacked archive.
_MADE = frozenset({"__pycache__", "build", "data", "dist"})


def tracked_files() -> tuple[Path, ...]:
    """Files that git knows; without git, every file that is not made by our own tools."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            timeout=60,
        )
        names = [name for name in listed.stdout.decode().split("\0") if name]
        return tuple(path for name in names if (path := ROOT / name).is_file())
    return tuple(_walk(ROOT))


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".") and path.name not in {".ci", ".gitignore"}
        if hidden or path.name in _MADE:
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def project_file() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)
