"""How the gateway is doing, for `status`: what is connected, what waits, who cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bridge import __version__
from bridge.bot.context import Section
from bridge.bot.words import count_of, to_time
from bridge.clock import Clock
from bridge.storage import peers, portals, queues
from bridge.storage.database import Database
from bridge.storage.queues import INBOX, OUTBOX, Backlog, QueueTable

MAX_PEERS = 20


class GatewayStatus:
    """Fills `bot.context.Status`. `connection`: how things are with the chat side, in words."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        connection: Callable[[], str],
        adapter: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._connection = connection
        self._adapter = adapter
        self._started_s = clock.monotonic_s()

    async def sections(self) -> Sequence[Section]:
        return [
            Section(title="Gateway", lines=await self._gateway()),
            Section(
                title="Queues", lines=[await self._backlog(queue) for queue in (INBOX, OUTBOX)]
            ),
            Section(title="Matrix servers", lines=await self._peers()),
        ]

    async def _gateway(self) -> Sequence[str]:
        found = await self._database.read(partial(portals.all_chats, adapter=self._adapter))
        return [
            f"Isthmus {__version__}, up for {_span(self._clock.monotonic_s() - self._started_s)}",
            f"XMPP: {self._connection()}",
            count_of(len(found), "chat of XMPP has a room", "chats of XMPP have rooms"),
        ]

    async def _backlog(self, queue: QueueTable) -> str:
        backlog = await self._database.read(partial(queues.backlog, queue=queue))
        return spell_backlog(queue.topic, backlog)

    async def _peers(self) -> Sequence[str]:
        down = await self._database.read(partial(peers.down, limit=MAX_PEERS + 1))
        lines = [
            f"{one.server} cannot be reached ({one.last_error or 'no reason known'}), "
            f"next try {to_time(one.next_attempt_ms)}"
            for one in down[:MAX_PEERS]
        ]
        if len(down) > MAX_PEERS:
            lines.append("and more")
        return lines or ["all that are needed can be reached"]


def spell_backlog(name: str, backlog: Backlog) -> str:
    since = "" if backlog.oldest_ms is None else f" (the oldest since {to_time(backlog.oldest_ms)})"
    return f"{name}: {backlog.waiting} waiting{since}, {backlog.parked} parked"


def _span(seconds: float) -> str:
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{count_of(days, 'day')} {count_of(hours, 'hour')}"
    if hours:
        return f"{count_of(hours, 'hour')} {count_of(minutes % 60, 'minute')}"
    return count_of(minutes, "minute")
