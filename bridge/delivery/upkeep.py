"""What grows with traffic and has had its use is forgotten here, table by table.

Elsewhere, by whoever fills it: finished rows of the queues (`delivery.queue`), federation
transactions and their PDUs (`rooms.receive`), acceptances (`federation.sender`). Events and states
of rooms stay: they are the rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bridge.clock import Clock
from bridge.errors import Unavailable
from bridge.storage import (
    device_keys,
    events,
    journal,
    messages,
    openid,
    rooms,
    server_keys,
    to_device,
)
from bridge.storage.database import Database, Transaction
from bridge.telemetry.log import get_logger

EVERY_S = 3_600.0
PAUSE_S = 0.2
BATCH = 500
DAY_S = 24 * 3_600.0
KEEP_JOURNAL_S = 30 * DAY_S
KEEP_STRANGERS_S = 30 * DAY_S
KEEP_CLAIMED_KEYS_S = 30 * DAY_S
KEEP_TO_DEVICE_S = 30 * DAY_S
"""How long a message to a device that comes again is known."""
KEEP_MESSAGES_S = 180 * DAY_S
"""How long a message can still be answered, corrected or acknowledged by name."""

log = get_logger("delivery")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    what: str
    keep_s: float
    prune: Callable[..., int]
    """Takes the transaction, `before_ms` and `limit`; tells how many rows went."""


class Upkeep:
    """`run()` is its one task.

    `keep_done_s`: how long the queues keep finished rows. The transaction IDs that are made from
    them are kept twice as long, so that no repetition finds its row but not its event.
    """

    def __init__(self, *, database: Database, clock: Clock, keep_done_s: float) -> None:
        self._database = database
        self._clock = clock
        self._rules: Sequence[_Rule] = (
            _Rule(what="journal", keep_s=KEEP_JOURNAL_S, prune=journal.prune),
            _Rule(
                what="local_transactions",
                keep_s=max(2 * keep_done_s, 60 * DAY_S),
                prune=events.prune_local_transactions,
            ),
            _Rule(what="messages", keep_s=KEEP_MESSAGES_S, prune=messages.prune),
            _Rule(what="claimed keys", keep_s=KEEP_CLAIMED_KEYS_S, prune=device_keys.prune_claimed),
            _Rule(what="to-device", keep_s=KEEP_TO_DEVICE_S, prune=to_device.prune_received),
            _Rule(what="openid tokens", keep_s=0.0, prune=openid.prune),
            _Rule(what="strangers' keys", keep_s=KEEP_STRANGERS_S, prune=server_keys.prune),
            _Rule(what="strangers", keep_s=KEEP_STRANGERS_S, prune=rooms.purge_strangers),
        )

    async def run(self) -> None:
        while True:
            try:
                await self.tidy()
            except Unavailable as exc:
                log.warning("upkeep must wait", reason=exc.reason)
            await self._clock.sleep(EVERY_S)

    async def tidy(self) -> None:
        """Once through all tables, a little at a time."""
        for rule in self._rules:
            before_ms = self._clock.now_ms() - round(rule.keep_s * 1000)
            unit: Callable[[Transaction], int] = partial(
                rule.prune, before_ms=before_ms, limit=BATCH
            )
            total = gone = await self._database.write(unit)
            while gone >= BATCH:
                await self._clock.sleep(PAUSE_S)
                gone = await self._database.write(unit)
                total += gone
            if total:
                log.info("old rows forgotten", what=rule.what, rows=total)
