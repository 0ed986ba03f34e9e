"""What passes, told to the bridge side: converted, newest first to count, nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from bridge.backends.native import ephemeral
from bridge.backends.native.ephemeral import EphemeralFeed
from bridge.engine.edu import Receipt, TypingEdu
from bridge.errors import NotFound
from bridge.ids import EventId, RoomId, UserId
from bridge.ports.matrix import Ephemeral, PresenceChange, ReadUpTo, Typing
from bridge.rooms.passing import UserPresence
from tests.support.clock import settle
from tests.support.network import RecordingListener

ROOM = RoomId("!room:x.example")
ALICE = UserId("@alice:x.example")


class Listener(RecordingListener):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[Ephemeral] = []
        self.open = asyncio.Event()
        self.problem: Exception | None = None

    async def on_ephemeral(self, change: Ephemeral) -> None:
        await self.open.wait()
        if self.problem is not None:
            raise self.problem
        self.told.append(change)


def typing(on: bool, user: UserId = ALICE) -> TypingEdu:
    return TypingEdu(room_id=ROOM, user_id=user, typing=on)


@asynccontextmanager
async def feeding(listener: Listener) -> AsyncIterator[EphemeralFeed]:
    feed = EphemeralFeed(listener=listener)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(feed.run())
        try:
            yield feed
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_each_is_told_as_what_the_bridge_side_knows() -> None:
    listener = Listener()
    listener.open.set()
    async with feeding(listener) as feed:
        feed.put(typing(True))
        feed.put(
            Receipt(room_id=ROOM, user_id=ALICE, event_id=EventId("$1"), ts_ms=7, thread_id="main")
        )
        feed.put(
            UserPresence(
                user_id=ALICE,
                presence="unavailable",
                status="away",
                last_active_ms=5,
                currently_active=False,
            )
        )
        await settle()
    assert listener.told == [
        Typing(room_id=ROOM, user_id=ALICE, typing=True),
        ReadUpTo(room_id=ROOM, user_id=ALICE, event_id=EventId("$1"), thread_id="main", at_ms=7),
        PresenceChange(
            user_id=ALICE,
            presence="unavailable",
            status_text="away",
            last_active_ms=5,
            currently_active=False,
        ),
    ]


async def test_what_is_newer_takes_the_place_of_what_waits() -> None:
    listener = Listener()
    async with feeding(listener) as feed:
        feed.put(typing(True, UserId("@other:x.example")))
        await settle()  # this one is in the listener's hands
        for on in (True, False, True, False):
            feed.put(typing(on))
        listener.open.set()
        await settle()
    assert [(one.user_id, one.typing) for one in listener.told if isinstance(one, Typing)] == [
        ("@other:x.example", True),
        (ALICE, False),
    ]


async def test_over_the_bound_the_oldest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ephemeral, "MAX_WAITING", 2)
    listener = Listener()
    listener.open.set()
    feed = EphemeralFeed(listener=listener)
    for number in range(4):
        feed.put(typing(True, UserId(f"@u{number}:x.example")))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(feed.run())
        await settle()
        task.cancel()
    users = [one.user_id for one in listener.told if isinstance(one, Typing)]
    assert users == ["@u2:x.example", "@u3:x.example"]


async def test_a_listener_that_fails_or_dawdles_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ephemeral, "PATIENCE_S", 0.01)
    listener = Listener()
    listener.problem = NotFound("no chat")
    async with feeding(listener) as feed:
        feed.put(typing(True))
        await asyncio.sleep(0.05)
        listener.open.set()
        feed.put(typing(False))
        await settle()
        listener.problem = KeyError("a mistake")
        feed.put(typing(False))
        await settle()
        listener.problem = None
        feed.put(typing(True))
        await settle()
    assert listener.told == [Typing(room_id=ROOM, user_id=ALICE, typing=True)]
