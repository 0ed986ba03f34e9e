"""Does a pinned requirement file allow a wheel for every Python and machine that we support?

Usage: check_wheels.py LOCK REQUIREMENTS. LOCK is the same resolution as a `pylock.toml`, which
knows the file behind each hash. Nothing of it is kept: it names where the files lie.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

PYTHONS = ((3, 11), (3, 12), (3, 13))
MACHINES = ("x86_64", "aarch64")
# The C library of Debian 12, the oldest distribution that we support.
NEWEST_GLIBC = 36

_PIN = re.compile(r"^([a-z0-9][a-z0-9.-]*)(?:\[[a-z,]+\])?==", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def allowed_hashes(text: str) -> dict[str, set[str]]:
    """Canonical name -> the hashes that stand under its pin."""
    starts = list(_PIN.finditer(text))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return {
        canonicalize_name(match.group(1)): set(_HASH.findall(text[match.start() : end]))
        for match, end in zip(starts, ends, strict=True)
    }


def tags_of(python: tuple[int, int], machine: str) -> set[Tag]:
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(5, NEWEST_GLIBC + 1)]
    platforms += [f"{old}_{machine}" for old in ("manylinux1", "manylinux2010", "manylinux2014")]
    platforms += [f"linux_{machine}"]
    interpreter = f"cp{python[0]}{python[1]}"
    return {
        *cpython_tags(python, platforms=platforms),
        *compatible_tags(python, interpreter=interpreter, platforms=platforms),
    }


def is_wanted(package: dict[str, Any], python: tuple[int, int], machine: str) -> bool:
    marker = package.get("marker")
    version = f"{python[0]}.{python[1]}"
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }
    return marker is None or Marker(marker).evaluate({**environment})


def uncovered(lock: dict[str, Any], allowed: dict[str, set[str]]) -> Iterator[str]:
    for python in PYTHONS:
        for machine in MACHINES:
            tags = tags_of(python, machine)
            for package in lock["packages"]:
                if not is_wanted(package, python, machine):
                    continue
                hashes = allowed.get(canonicalize_name(package["name"]), set())
                if not any(
                    tags & parse_wheel_filename(_file_name(wheel))[3]
                    and wheel["hashes"]["sha256"] in hashes
                    for wheel in package.get("wheels", ())
                ):
                    yield f"{package['name']}: no wheel for Python {python} on {machine}"


def _file_name(wheel: dict[str, Any]) -> str:
    name: str = wheel.get("name") or wheel["url"].rsplit("/", 1)[1]
    return name


def main() -> int:
    lock, requirements = map(Path, sys.argv[1:])
    text = requirements.read_text("utf-8")
    problems = list(uncovered(tomllib.loads(lock.read_text("utf-8")), allowed_hashes(text)))
    for problem in problems:
        print(f"{requirements}: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
