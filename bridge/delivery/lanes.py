"""Lanes: one serial worker per key, many keys at once, bounded. (Signatures; bodies follow.)"""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class Lanes:
    """Runs `work(key)` once for each wake-up of the key, never twice at the same time.

    `work` takes whatever is stored for the key and returns; a wake-up during its run makes it run
    once more. What it does not catch is logged and the key rests until it is woken again.
    """

    def __init__(
        self, work: Callable[[str], Awaitable[None]], *, workers: int, waiting: int = 10_000
    ) -> None:
        raise NotImplementedError

    def wake(self, key: str) -> bool:
        """False when too many keys wait: look for the work again later."""
        raise NotImplementedError

    async def run(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Begin nothing new; `run` returns when the work in hand is finished."""
        raise NotImplementedError
