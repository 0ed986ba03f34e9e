"""What other servers say in passing, told to the bridge side: at most once, newest first to count.

A bounded queue between them: what the listener does not take in time is replaced by what is newer,
and over the bound the oldest is dropped. Nobody on the Matrix side waits.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable

from bridge.engine.edu import Receipt, TypingEdu
from bridge.errors import IsthmusError
from bridge.ports.matrix import (
    Ephemeral,
    MatrixListener,
    PresenceChange,
    PresenceState,
    ReadUpTo,
    Typing,
)
from bridge.rooms.passing import Change, UserPresence
from bridge.telemetry import metrics
from bridge.telemetry.log import get_logger

MAX_WAITING = 5_000
PATIENCE_S = 10.0

log = get_logger("backend")


class EphemeralFeed:
    """Fits `rooms.passing.EphemeralSink`. `run()` is the one long-lived task."""

    def __init__(self, *, listener: MatrixListener) -> None:
        self._listener = listener
        self._waiting: OrderedDict[Hashable, Ephemeral] = OrderedDict()
        self._changed = asyncio.Event()

    def put(self, change: Change) -> None:
        key = _key(change)
        self._waiting.pop(key, None)
        self._waiting[key] = _to_port(change)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
        self._changed.set()

    async def run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._waiting:
                _, change = self._waiting.popitem(last=False)
                await self._tell(change)

    async def _tell(self, change: Ephemeral) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._listener.on_ephemeral(change)
        except (IsthmusError, TimeoutError) as exc:
            log.info("not told to the bridge side", kind=type(change).__name__, reason=str(exc))
        except Exception:
            metrics.LANE_FAILURES.labels(lanes="ephemeral").inc()
            log.exception("telling the bridge side failed", kind=type(change).__name__)


def _key(change: Change) -> Hashable:
    match change:
        case TypingEdu():
            return "typing", change.room_id, change.user_id
        case Receipt():
            return "read", change.room_id, change.user_id, change.thread_id
        case UserPresence():
            return "presence", change.user_id


def _to_port(change: Change) -> Ephemeral:
    match change:
        case TypingEdu():
            return Typing(room_id=change.room_id, user_id=change.user_id, typing=change.typing)
        case Receipt():
            return ReadUpTo(
                room_id=change.room_id,
                user_id=change.user_id,
                event_id=change.event_id,
                thread_id=change.thread_id,
                at_ms=change.ts_ms,
            )
        case UserPresence():
            return PresenceChange(
                user_id=change.user_id,
                presence=_presence(change.presence),
                status_text=change.status,
                last_active_ms=change.last_active_ms,
                currently_active=change.currently_active,
            )


def _presence(word: str) -> PresenceState:
    match word:
        case "online" | "unavailable":
            return word
        case _:
            return "offline"
