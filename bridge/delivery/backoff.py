"""How long to wait before the next attempt: doubling, with jitter, within bounds. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The n-th wait lies between half and all of `first_s` * 2^n, and never above `most_s`."""

    first_s: float = 1.0
    most_s: float = 300.0

    def delay_s(self, attempts: int, random: Random) -> float:
        """`attempts` have failed before this one (0 after the first failure)."""
        doublings = min(max(attempts, 0), 60)
        full = min(self.first_s * 2.0**doublings, self.most_s)
        return full * (0.5 + 0.5 * random.random())
