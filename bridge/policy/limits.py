"""How much one server may ask, and how many events one server or room may bring: token buckets.

Pure: the time is handed in. A bucket that nobody has used for long is full, so that the oldest
may be forgotten when too many keys are known.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import inf

from bridge.errors import Unavailable

MAX_BUCKETS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many a second for ever, and so many at once."""

    per_s: float
    burst: float


class Buckets:
    """One bucket for each key, all of one rate."""

    def __init__(self, rate: Rate, *, most: int = MAX_BUCKETS) -> None:
        self._rate = rate
        self._most = most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By key: what was left, and when. The longest unused first."""

    def wait_s(self, key: str, now_s: float, cost: float = 1.0) -> float:
        """How long until there is enough; takes nothing. What costs more than a whole bucket waits
        for a full one."""
        if self._rate.per_s == inf:
            return 0.0
        needed = min(cost, self._rate.burst) - self._fill(key, now_s)
        return max(0.0, needed / self._rate.per_s)

    def take(self, key: str, now_s: float, cost: float = 1.0) -> None:
        """May leave less than nothing, which is to be made up for."""
        if self._rate.per_s == inf:
            return
        left = self._fill(key, now_s) - cost
        self._left[key] = (left, now_s)
        self._left.move_to_end(key)
        while len(self._left) > self._most:
            self._left.popitem(last=False)

    def _fill(self, key: str, now_s: float) -> float:
        before = self._left.get(key)
        if before is None:
            return self._rate.burst
        left, at_s = before
        # A clock that was set back gives nothing.
        return min(self._rate.burst, left + max(0.0, now_s - at_s) * self._rate.per_s)


NO_RATE = Rate(per_s=inf, burst=inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The buckets at our doors."""

    requests: Buckets = field(default_factory=lambda: Buckets(NO_RATE))
    """Of one server; transactions count by their events, and as requests if they bring none."""
    server_events: Buckets = field(default_factory=lambda: Buckets(NO_RATE))
    room_events: Buckets = field(default_factory=lambda: Buckets(NO_RATE))
    server_edus: Buckets = field(default_factory=lambda: Buckets(NO_RATE))

    def check_request(self, server: str, now_s: float) -> None:
        """Raises Unavailable."""
        _check(self.requests.wait_s(server, now_s), f"too many requests of {server}")
        self.requests.take(server, now_s)

    def check_edus(self, server: str, count: int, now_s: float) -> None:
        """A transaction with so many EDUs. Raises Unavailable."""
        _check(self.server_edus.wait_s(server, now_s, count), f"too many EDUs of {server}")
        self.server_edus.take(server, now_s, count)

    def check_events(self, server: str, rooms: dict[str, int], now_s: float) -> None:
        """A transaction with so many events in each room: all of it, or nothing is taken. Raises
        Unavailable."""
        total = sum(rooms.values())
        _check(self.server_events.wait_s(server, now_s, total), f"too many events of {server}")
        for room, count in rooms.items():
            _check(self.room_events.wait_s(room, now_s, count), f"too many events in {room}")
        self.server_events.take(server, now_s, total)
        for room, count in rooms.items():
            self.room_events.take(room, now_s, count)


def _check(wait_s: float, reason: str) -> None:
    if wait_s > 0:
        raise Unavailable(reason, errcode="M_LIMIT_EXCEEDED", retry_after_s=wait_s)
