"""The set-up script says what is wrong; that it works is shown by whoever runs these tests.

And the check behind `make requirements`: it must notice a pin that allows no wheel.
"""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from scripts.check_wheels import allowed_hashes, uncovered
from tests.repository.tree import ROOT

_WHEELS = {
    f"tea-1.0-cp3{minor}-cp3{minor}-manylinux_2_17_{machine}.whl": f"{minor}{machine[0]}".ljust(
        64, "0"
    ).replace("x", "b")
    for minor in (11, 12, 13)
    for machine in ("x86_64", "aarch64")
}


def lock() -> dict[str, Any]:
    wheels = [{"name": name, "hashes": {"sha256": sha}} for name, sha in _WHEELS.items()]
    return {"packages": [{"name": "tea", "version": "1.0", "wheels": wheels}]}


def pinned(hashes: list[str]) -> str:
    return "tea[pot]==1.0 \\\n" + " \\\n".join(f"    --hash=sha256:{sha}" for sha in hashes) + "\n"


@pytest.mark.parametrize("arguments", [[], ["everything"]])
def test_the_set_up_asks_what_for(arguments: list[str]) -> None:
    answered = subprocess.run(
        [str(ROOT / "scripts" / "set-up"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert answered.returncode == 1
    assert answered.stderr == "set-up: say what for: scripts/set-up tools | demo | test\n"


def test_a_pin_with_all_its_hashes_covers_every_python_and_machine() -> None:
    assert list(uncovered(lock(), allowed_hashes(pinned(list(_WHEELS.values()))))) == []


@pytest.mark.parametrize("left_out", sorted(_WHEELS))
def test_a_pin_that_allows_no_wheel_is_noticed(left_out: str) -> None:
    hashes = [sha for name, sha in _WHEELS.items() if name != left_out]
    (problem,) = uncovered(lock(), allowed_hashes(pinned(hashes)))
    assert problem.startswith("tea: no wheel for Python (3, ")
    assert problem.endswith(left_out.removesuffix(".whl").split("_17_")[1])
