"""`status`: what an operator looks at first."""

from __future__ import annotations

from functools import partial

from bridge import __version__
from bridge.bot.status import GatewayStatus
from bridge.ids import RoomId, ServerName, TraceId, UserId
from bridge.storage import peers, portals, queues
from bridge.storage.database import Database, Transaction
from bridge.storage.peers import Mark
from tests.support.clock import FakeClock


async def test_it_tells_what_is_connected_what_waits_and_who_is_down(
    sqlite_database: Database, clock: FakeClock
) -> None:
    status = GatewayStatus(
        database=sqlite_database, clock=clock, connection=lambda: "connected", adapter="x"
    )

    def unit(tx: Transaction) -> None:
        portals.bind(
            tx, adapter="x", kind=portals.PLUMBED, chat="tea@muc", user_id=UserId(""),
            room_id=RoomId("!r"), now_ms=1,
        )  # fmt: skip
        queues.put_outbox(
            tx, lane="l", adapter="x", cause="c", payload={}, trace_id=TraceId("t"), now_ms=1_000
        )
        for name in ("down.example", "up.example"):
            server = ServerName(name)
            peers.mark(tx, [Mark(server=server, room_id=RoomId("!r"), first=1, newest=1)])
        peers.failed(tx, ServerName("down.example"), next_attempt_ms=2_000, error="no route")
        peers.failed(tx, ServerName("idle.example"), next_attempt_ms=2_000, error="no route")

    before = await status.sections()
    assert [line for section in before for line in section.lines] == [
        f"Isthmus {__version__}, up for 0 minutes",
        "XMPP: connected",
        "0 chats of XMPP have rooms",
        "inbox: 0 waiting, 0 parked",
        "outbox: 0 waiting, 0 parked",
        "all that are needed can be reached",
    ]
    await sqlite_database.write(unit)
    clock.shift(26 * 3600 + 60)
    after = await status.sections()
    assert [line for section in after for line in section.lines] == [
        f"Isthmus {__version__}, up for 1 day 2 hours",
        "XMPP: connected",
        "1 chat of XMPP has a room",
        "inbox: 0 waiting, 0 parked",
        "outbox: 1 waiting (the oldest since 1970-01-01 00:00:01), 0 parked",
        "down.example cannot be reached (no route), next try 1970-01-01 00:00:02",
    ]


async def test_many_servers_that_are_down_do_not_make_it_long(
    sqlite_database: Database, clock: FakeClock
) -> None:
    def unit(tx: Transaction, name: str) -> None:
        server = ServerName(name)
        peers.mark(tx, [Mark(server=server, room_id=RoomId("!r"), first=1, newest=1)])
        peers.failed(tx, server, next_attempt_ms=2_000, error="no")

    for number in range(30):
        await sqlite_database.write(partial(unit, name=f"s{number}.example"))
    status = GatewayStatus(
        database=sqlite_database, clock=clock, connection=lambda: "lost", adapter="x"
    )
    assert len((await status.sections())[-1].lines) == 21
