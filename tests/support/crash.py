"""A process that ends at one of its writes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from bridge.storage.database import Transaction
from tests.support.network import Server


class Crash(BaseException):
    """What no code catches."""


def crash_at(monkeypatch: pytest.MonkeyPatch, server: Server, number: int, when: str) -> None:
    """The write of this number is never begun, undone with the process, or the last that was."""
    write, calls = server.database.write, count()

    async def crashing(unit: Callable[[Transaction], Any]) -> Any:
        if next(calls) != number:
            return await write(unit)
        if when == "before":
            raise Crash
        if when == "after":
            await write(unit)
            raise Crash

        def undone(tx: Transaction) -> None:
            unit(tx)
            raise Crash

        return await write(undone)

    monkeypatch.setattr(server.database, "write", crashing)
