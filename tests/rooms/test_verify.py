"""The keys of an answer: fetched in a bounded time, whoever does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import pytest

from bridge.clock import Clock
from bridge.engine.build import Draft, PrevEvent, build_pdu
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.versions import RoomVersion, get_version
from bridge.ids import EventId, KeyId, RoomId, ServerName, UserId
from bridge.rooms import verify
from bridge.rooms.load import KnownEvent
from bridge.rooms.verify import Verifier

KEY = SigningKey.from_seed("1", b"k" * 32)
ROOM, V12 = RoomId("!room"), get_version("12")


class SlowKeys:
    """Servers whose name begins with `slow` never answer."""

    def __init__(self) -> None:
        self.asked: list[ServerName] = []
        self.until: list[int] = []

    async def verify_key(self, server: ServerName, key_id: KeyId, at_ms: int) -> str | None:
        self.asked.append(server)
        self.until.append(at_ms)
        if server.startswith("slow"):
            await asyncio.Event().wait()
        return KEY.verify_key_base64


class NothingKnown:
    """Fits `verify.Names`."""

    async def events(self, event_ids: Iterable[EventId]) -> Mapping[EventId, KnownEvent]:
        return {}


def verifier_with(keys: SlowKeys, clock: Clock) -> Verifier:
    return Verifier(
        server_name=ServerName("here.example"),
        key=KEY,
        keyring=keys,
        names=NothingKnown(),
        clock=clock,
    )


def said_by(server: str, version: RoomVersion = V12) -> Pdu:
    return build_pdu(
        Draft(room_id=ROOM, type="m.room.message", sender=UserId(f"@a:{server}"), content={}),
        prev_events=[PrevEvent(event_id=EventId("$x"), depth=1)],
        auth_events=[],
        version=version,
        key=KEY,
        server=ServerName(server),
        origin_server_ts=1,
    )


async def test_servers_that_do_not_answer_do_not_hold_up_the_others(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "KEYS_TIMEOUT_S", 0.05)
    keys = SlowKeys()
    verifier = verifier_with(keys, clock)
    servers = ["good.example", *(f"slow{number}.example" for number in range(40)), "fine.example"]
    pdus = [said_by(server) for server in servers]
    async with asyncio.timeout(10):
        good = await verifier.check_all([pdu.wire() for pdu in pdus], V12, ROOM)
    assert pdus[0] in good
    assert len([one for one in good if one.sender_server.startswith("slow")]) == 0
    # Who was not asked in time is not asked one by one afterwards.
    assert len([one for one in keys.asked if one.startswith("slow")]) <= verify.MAX_FETCHES


@pytest.mark.parametrize(("version_id", "until"), [("3", 0), ("4", 0), ("5", 1), ("12", 1)])
async def test_a_key_counts_at_the_event_s_time_from_version_5_and_at_any_time_before(
    clock: Clock, version_id: str, until: int
) -> None:
    keys = SlowKeys()
    verifier = verifier_with(keys, clock)
    pdu = said_by("good.example", get_version(version_id))
    assert await verifier.check(pdu) == pdu
    assert keys.until == [until]
