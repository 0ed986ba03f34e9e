"""What is forgotten, and what is not."""

from __future__ import annotations

import asyncio
from functools import partial

from bridge.delivery.upkeep import DAY_S, KEEP_MESSAGES_S, Upkeep
from bridge.ids import EventId, RoomId, RoomVersionId, ServerName, TraceId, UserId
from bridge.storage import events, invites, journal, messages, rooms
from bridge.storage.database import Database, Transaction
from bridge.storage.invites import InviteRow
from bridge.storage.messages import MappedMessage
from bridge.storage.rooms import RoomRow
from tests.support.clock import FakeClock

ROOM = RoomId("!room:here.example")
DAYS_MS = int(DAY_S * 1000)


def mapped(event: str, at_ms: int, *, pending: bool = False) -> MappedMessage:
    return MappedMessage(
        adapter="xmpp",
        room_id=ROOM,
        event_id=EventId(event),
        part=0,
        chat="c",
        sender="s",
        stanza_id=event,
        origin_id=None,
        origin="chat",
        receipt_due=False,
        session="",
        sent_to="",
        pending=pending,
        noticed_ms=None,
        at_ms=at_ms,
    )


def event(name: str, room_id: RoomId, at_ms: int) -> events.EventRow:
    return events.EventRow(
        event_id=EventId(name),
        room_id=room_id,
        type="m.room.member",
        state_key="@a:here.example",
        sender=UserId("@b:there.example"),
        depth=1,
        origin_server_ts=1,
        json="{}",
        verdict=events.ACCEPTED,
        rule=None,
        outlier=True,
        snapshot_before=None,
        redacted_by=None,
        received_ms=at_ms,
        trace_id=TraceId("t"),
    )


async def test_old_rows_go_and_what_is_still_needed_stays(
    database: Database, clock: FakeClock
) -> None:
    now_ms = clock.now_ms()

    def fill(tx: Transaction) -> None:
        for number in range(1_200):
            trace = TraceId(f"t{number}")
            journal.record(tx, trace, "step", "done", "", now_ms - 31 * DAYS_MS)
        journal.record(tx, TraceId("new"), "step", "done", "", now_ms - 29 * DAYS_MS)
        old = now_ms - 61 * DAYS_MS
        put = partial(events.insert_local_transaction, tx, room_id=ROOM)
        put("old", event_id=EventId("$old"), at_ms=old)
        put("room", event_id=None, at_ms=old)
        put("inside", event_id=EventId("$inside"), at_ms=now_ms - 59 * DAYS_MS)
        long_ago = now_ms - int(KEEP_MESSAGES_S * 1000) - 1
        messages.put(tx, mapped("$old", long_ago))
        messages.put(tx, mapped("$pending", long_ago, pending=True))
        messages.put(tx, mapped("$new", now_ms))

    await database.write(fill)
    upkeep = Upkeep(database=database, clock=clock, keep_done_s=14 * DAY_S)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(upkeep.tidy())
        while not task.done():
            await asyncio.sleep(0.005)
            await clock.advance(0.2)

    def look(tx: Transaction) -> tuple[list[int], list[bool], list[bool]]:
        traces = [TraceId("t0"), TraceId("t1199"), TraceId("new")]
        return (
            [len(journal.read(tx, one)) for one in traces],
            [
                events.find_local_transaction(tx, one) is not None
                for one in ("old", "room", "inside")
            ],
            [bool(messages.of_event(tx, EventId(one))) for one in ("$old", "$pending", "$new")],
        )

    assert await database.read(look) == (
        [0, 0, 1],
        [False, True, True],
        [False, True, True],
    )


async def test_rooms_known_by_ended_invites_only_are_forgotten(
    database: Database, clock: FakeClock
) -> None:
    old_ms, now_ms = clock.now_ms() - 31 * DAYS_MS, clock.now_ms()
    names = ("ended", "open", "young", "ours")
    ids = {one: RoomId(f"!{one}:there.example") for one in names}

    def fill(tx: Transaction) -> None:
        for name, room_id in ids.items():
            rooms.insert_room(
                tx,
                RoomRow(
                    room_id=room_id,
                    version=RoomVersionId("11"),
                    position=0,
                    snapshot_id=7 if name == "ours" else None,
                    joined=False,
                ),
            )
            at_ms = now_ms if name == "young" else old_ms
            events.insert_outliers(tx, [event(f"${name}", room_id, at_ms)])
        invites.put(
            tx,
            InviteRow(
                room_id=ids["open"],
                user_id=UserId("@a:here.example"),
                event_id=EventId("$open"),
                origin=ServerName("there.example"),
                room_state=[],
                received_ms=old_ms,
            ),
        )

    await database.write(fill)
    await Upkeep(database=database, clock=clock, keep_done_s=DAY_S).tidy()
    left = {
        name: await database.read(partial(rooms.find, room_id=room_id)) is not None
        for name, room_id in ids.items()
    }
    assert left == {"ended": False, "open": True, "young": True, "ours": True}
    assert await database.read(partial(events.find, event_ids=[EventId("$ended")])) == {}
