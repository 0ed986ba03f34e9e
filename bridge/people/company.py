"""Who shares a room with whom decides who follows whose device list; this watches it change.

The arrival order of events is read with a cursor of our own. When a user of ours comes or goes, or
a server comes into a room of theirs, the list's followers are set right, and newcomers told of it.
The list of a user of another server with whom no room is shared any more is forgotten. What no
event tells (a room that was purged, a state that was resolved otherwise) is found by looking at all
of them now and then. Spec: S2S, device management.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from bridge.clock import Clock
from bridge.errors import Unavailable
from bridge.ids import EventId, RoomId, ServerName, UserId, server_of
from bridge.people.sharing import DEVICE_LIST, Told, reconcile
from bridge.storage import device_lists, devices, streams
from bridge.storage.database import Database, Transaction
from bridge.storage.schema import stream_events
from bridge.telemetry.log import get_logger

log = get_logger("people")

CURSOR = "people"
BATCH = 500
PAUSE_S = 0.5
"""Between two looks: what comes together is looked at together."""
POLL_S = 30.0
SAVE_EVERY = 5_000
"""Positions that may be read again after a crash; reading them twice changes nothing."""
SWEEP_S = 3_600.0
SWEEP_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _News:
    newest: int
    members: frozenset[tuple[RoomId, UserId]]
    more: bool


class Company:
    """`run()` is its one task."""

    def __init__(
        self,
        *,
        own_name: ServerName,
        database: Database,
        clock: Clock,
        wake: Callable[[ServerName], None],
    ) -> None:
        self._own_name = own_name
        self._database = database
        self._clock = clock
        self._wake = wake
        self._after: int | None = None
        self._saved = 0
        self._swept_s: float | None = None

    async def run(self) -> None:
        waker = self._database.waker(stream_events.name)
        while True:
            try:
                more = await self.look()
                if self._is_time_to_sweep():
                    await self.sweep()
            except Unavailable as exc:
                log.warning("who shares a room must wait", reason=exc.reason)
                await self._clock.sleep(1.0)
                continue
            if not more:
                await waker.wait(POLL_S)
                await self._clock.sleep(PAUSE_S)

    async def look(self) -> bool:
        """The next events; False when there are no more by now."""
        if self._after is None:
            self._after = self._saved = await self._database.write(_start)
        after = self._after
        news = await self._database.read(lambda tx: _read(tx, after))
        if news.members:
            told = await self._database.write(partial(self._follow, news=news))
            told.settle(self._wake, DEVICE_LIST)
            self._saved = news.newest
        elif news.newest - self._saved >= SAVE_EVERY:
            await self._database.write(lambda tx: streams.advance(tx, CURSOR, news.newest))
            self._saved = news.newest
        self._after = news.newest
        return news.more

    def _follow(self, tx: Transaction, news: _News) -> Told:
        now_ms = self._clock.now_ms()
        ours = {user for _, user in news.members if server_of(user) == self._own_name}
        owners = {user for user in ours if devices.has_any(tx, user)}
        rooms = sorted({room for room, _ in news.members})
        for room_id in rooms:
            owners.update(devices.owners_in_room(tx, room_id))
        told = Told()
        for user_id in sorted(owners):
            told |= reconcile(tx, user_id, now_ms)
        for room_id in rooms:
            _forget(tx, device_lists.strangers(tx, BATCH, room_id=room_id))
        streams.advance(tx, CURSOR, news.newest)
        return told

    # --- now and then ---------------------------------------------------------------------------

    def _is_time_to_sweep(self) -> bool:
        now_s = self._clock.monotonic_s()
        if self._swept_s is not None and now_s - self._swept_s < SWEEP_S:
            return False
        self._swept_s = now_s
        return True

    async def sweep(self) -> None:
        """Everybody, a few at a time."""
        while await self._database.write(_forget_strangers) >= SWEEP_BATCH:
            await self._clock.sleep(PAUSE_S)
        after = ""
        while True:
            users = await self._database.read(
                partial(devices.users_with_devices, after=after, limit=SWEEP_BATCH)
            )
            if not users:
                return
            after = users[-1]
            told = await self._database.write(partial(self._reconcile_all, users=users))
            told.settle(self._wake, DEVICE_LIST)
            await self._clock.sleep(PAUSE_S)

    def _reconcile_all(self, tx: Transaction, users: Collection[UserId]) -> Told:
        told = Told()
        for user_id in sorted(users):
            told |= reconcile(tx, user_id, self._clock.now_ms())
        return told


def _start(tx: Transaction) -> int:
    """Where we were; the first time, now: the sweep looks at what was before."""
    found = streams.cursor(tx, CURSOR)
    if found == 0:
        found = streams.head(tx, stream_events)
        streams.advance(tx, CURSOR, found)
    return found


def _read(tx: Transaction, after: int) -> _News:
    rows = streams.read_since(tx, stream_events, after, BATCH)
    newest = rows[-1]["position"] if rows else after
    members: frozenset[tuple[RoomId, UserId]] = frozenset()
    if rows and (devices.is_any(tx) or device_lists.is_any(tx)):
        members = devices.members_named(tx, [EventId(row["event_id"]) for row in rows])
    return _News(newest=newest, members=members, more=len(rows) == BATCH)


def _forget_strangers(tx: Transaction) -> int:
    return _forget(tx, device_lists.strangers(tx, SWEEP_BATCH))


def _forget(tx: Transaction, users: Collection[UserId]) -> int:
    for user_id in users:
        device_lists.forget(tx, user_id)
    return len(users)
