"""The engine's parts beside Synapse's functions, on the same inputs.

Receipt of a PDU, auth checks, state resolution; and the walk through a deep auth chain.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import pytest
from nacl.signing import VerifyKey as NaclKey

from bridge.engine.auth import check_auth, check_auth_events
from bridge.engine.canonical import encode_canonical, parse_json
from bridge.engine.format import MAX_PDU_BYTES
from bridge.engine.hashes import signed_bytes
from bridge.engine.keys import decode_base64
from bridge.engine.pdu import Pdu
from bridge.engine.receipt import VerifyKey, check_signatures_and_hash
from bridge.engine.state import CREATE, POWER_LEVELS, StateKey
from bridge.engine.stateres import resolve, run
from bridge.engine.stateres.chains import auth_chain
from bridge.ids import EventId, TraceId, UserId
from bridge.rooms.append import event_row
from bridge.rooms.bounds import GraphBounds
from bridge.rooms.load import KnownEvent, RoomStates
from bridge.storage import events as event_rows
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from tests.bench.beside import (
    SynapseEngine,
    at_least_quicker,
    at_most,
    cpu_of,
    medians,
    synapse_engine,
)
from tests.bench.long_room import LongRoom
from tests.bench.measure import load
from tests.engine.rooms import key_of

ENTRIES = 2_000
CONFLICTS = 20
VERSIONS = ("11", "12")
"""State resolution 2 and 2.1."""


@pytest.mark.bench
@pytest.mark.timeout(300)
def test_receipt_of_a_typical_pdu() -> None:
    """Beside the bare signature check of the same bytes, and Synapse."""
    room = LongRoom("12")
    room.fill(50)
    (pdu,) = room.talk(1)
    server = pdu.sender_server
    ((key_id, signature),) = pdu.json["signatures"][server].items()
    key_base64 = key_of(server).verify_key_base64
    keys = {server: {key_id: VerifyKey(key_base64=key_base64, valid_until_ts=2**52)}}
    text = encode_canonical(pdu.wire())
    message, raw = signed_bytes(pdu.json, pdu.version), decode_base64(signature)
    bare_key = NaclKey(decode_base64(key_base64))

    def receive() -> Pdu:
        parsed = Pdu.parse(parse_json(text, max_bytes=MAX_PDU_BYTES), room.version)
        return check_signatures_and_hash(parsed, keys, now_ms=pdu.origin_server_ts)

    with synapse_engine() as synapse:
        asked = {
            "version": "12",
            "pdu": text.decode(),
            "server": server,
            "key_id": key_id,
            "key": key_base64,
        }
        assert synapse.ask("receive", **asked)["result"] == receive().event_id == pdu.event_id
        ours_s, bare_s, theirs_s = medians(
            lambda: cpu_of(receive, 500),
            lambda: cpu_of(lambda: bare_key.verify(message, raw), 500),
            lambda: float(synapse.ask("receive", times=500, **asked)["cpu_s"]),
        )
    print(f"\nreceipt of a PDU of {len(text)} bytes ({load()})")
    print(at_most("receipt of a PDU", 1.5, ours_s, "bare signature check", bare_s))
    print(at_least_quicker("receipt of a PDU", 1, ours_s, theirs_s))


@pytest.mark.bench
@pytest.mark.timeout(300)
@pytest.mark.parametrize("version_id", VERSIONS)
def test_auth_checks(version_id: str) -> None:
    """Of a message, a new name, and a kick."""
    room = LongRoom(version_id)
    room.fill(50)
    member, other = room.members[5], room.members[6]
    chosen = {
        "message": room.build("m.room.message", member, {"body": "Hello"}),
        "member event": room.build(
            "m.room.member", member, room.membership(member, "New name"), member
        ),
        "kick": room.build("m.room.member", room.alice, {"membership": "leave"}, other),
    }
    events = room.by_id()
    create = room.state[CREATE]

    def check(pdu: Pdu, auth_events: Mapping[EventId, Pdu]) -> None:
        check_auth_events(pdu, auth_events)
        state = {event.key: event for event in auth_events.values() if event.key is not None}
        check_auth(pdu, {CREATE: create, **state})

    print(f"\nauth checks, version {version_id} ({load()})")
    with synapse_engine() as synapse:
        synapse.load(version_id, [*room.events, *chosen.values()])
        for name, pdu in chosen.items():
            auth_events = {one: events[one] for one in pdu.auth_events}
            ours_s, theirs_s = medians(
                _checking(check, pdu, auth_events), _asking_auth(synapse, pdu, create)
            )
            print(at_least_quicker(f"auth check of a {name}, {version_id}", 3, ours_s, theirs_s))


def _checking(
    check: Callable[[Pdu, Mapping[EventId, Pdu]], None], pdu: Pdu, auth: Mapping[EventId, Pdu]
) -> Callable[[], float]:
    return lambda: cpu_of(lambda: check(pdu, auth), 2_000)


def _asking_auth(synapse: SynapseEngine, pdu: Pdu, create: Pdu) -> Callable[[], float]:
    return lambda: float(
        synapse.ask("auth", event_id=pdu.event_id, create_id=create.event_id, times=2_000)["cpu_s"]
    )


@pytest.mark.bench
@pytest.mark.timeout(300)
@pytest.mark.parametrize("version_id", VERSIONS)
def test_state_resolution(version_id: str) -> None:
    """Two state maps with 2,000 entries, 20 of them in conflict."""
    room = LongRoom(version_id)
    room.fill(ENTRIES)
    maps, more = fork(room)
    events = room.by_id() | {pdu.event_id: pdu for pdu in more}

    def lookup(wanted: frozenset[EventId]) -> dict[EventId, Pdu]:
        return {one: events[one] for one in wanted if one in events}

    with synapse_engine() as synapse:
        synapse.load(version_id, list(events.values()))
        entries = [[[*key, one] for key, one in each.items()] for each in maps]
        theirs = synapse.ask("resolve", maps=entries)["result"]
        ours = run(resolve(maps, room.version), lookup)
        assert {(*key, one) for key, one in ours.items()} == {tuple(one) for one in theirs}
        ours_s, theirs_s = medians(
            lambda: cpu_of(lambda: run(resolve(maps, room.version), lookup), 20),
            lambda: float(synapse.ask("resolve", maps=entries, times=20)["cpu_s"]),
        )
    print(f"\nstate resolution, version {version_id} ({load()})")
    print(at_least_quicker(f"state resolution, {version_id}", 3, ours_s, theirs_s))


def fork(room: LongRoom) -> tuple[list[dict[StateKey, EventId]], list[Pdu]]:
    """Two sides of a partition: levels, join rules, a topic, bans, and new names on both."""
    base, last = dict(room.state), room.events[-1]
    maps: list[dict[StateKey, EventId]] = []
    more: list[Pdu] = []
    for side in ("left", "right"):
        state = dict(base)
        before = last

        def send(
            kind: str,
            sender: UserId,
            content: dict[str, object],
            state_key: str,
            *,
            state: dict[StateKey, Pdu] = state,
        ) -> None:
            nonlocal before
            before = room.build(kind, sender, content, state_key, after=before, state=state)
            state[kind, state_key] = before
            more.append(before)

        alice, members = room.alice, room.members
        users: dict[str, object] = {members[1]: 50, members[2 if side == "left" else 3]: 50}
        if not room.version.auth.privileged_creators:
            users[alice] = 100
        send("m.room.power_levels", alice, {"users": users, "ban": 50}, "")
        rule = "public" if side == "left" else "invite"
        send("m.room.join_rules", alice, {"join_rule": rule, "side": side}, "")
        send("m.room.topic", members[1], {"topic": side}, "")
        for user in members[10:12]:
            send("m.room.member", members[1], {"membership": "ban", "reason": side}, user)
        for user in members[20 : 20 + CONFLICTS - 5]:
            send("m.room.member", user, room.membership(user, f"{user} {side}"), user)
        maps.append({key: pdu.event_id for key, pdu in state.items()})
    assert sum(maps[0][key] != maps[1][key] for key in maps[0]) == CONFLICTS
    return maps, more


DEEP = 10_000
LEVELS_APART = 10


@pytest.mark.bench
@pytest.mark.timeout(600)
async def test_auth_chains_of_a_deep_room(sqlite_database: Database) -> None:
    """10,000 power levels, each authorised by the one before; then a fork of ten more each."""
    room = LongRoom("12", name="deep")
    users: dict[str, int] = {}
    for number in range(DEEP):
        users = {room.members[0] + "x": number % 50}
        send_levels(room, users)
    tips: list[EventId] = []
    base, end = dict(room.state), list(room.events)
    for side in (0, 1):
        room.state, kept = dict(base), room.events
        room.events = list(end)
        for number in range(LEVELS_APART):
            send_levels(room, {**users, room.alice + "x": 100 * side + number})
        tips.append(room.state[POWER_LEVELS].event_id)
        room.events = [*kept, *room.events[len(end) :]]
    events = room.by_id()
    maps = [{**{key: pdu.event_id for key, pdu in base.items()}, POWER_LEVELS: tip} for tip in tips]

    def lookup(wanted: frozenset[EventId]) -> dict[EventId, Pdu]:
        return {one: events[one] for one in wanted if one in events}

    async def stored() -> float:
        """Nothing in memory, each question one query."""
        states = RoomStates(database=sqlite_database, bounds=GraphBounds(cached_events=100))
        begin = time.process_time()
        await states.drive(resolve(maps, room.version))
        return time.process_time() - begin

    await sqlite_database.write(lambda tx: store(tx, room))
    (walk_s,) = medians(lambda: cpu_of(lambda: run(auth_chain(tips), lookup), 1))
    (memory_s,) = medians(lambda: cpu_of(lambda: run(resolve(maps, room.version), lookup), 1))
    stored_s = statistics.median([await stored() for _ in range(3)])
    print(f"\nauth chains {DEEP} deep ({load()})")
    print(f"  one walk {1000 * walk_s:.0f} ms, events in memory")
    print(f"  resolving two maps that differ by {LEVELS_APART} of them: {1000 * memory_s:.0f} ms;")
    print(f"  with all events in the database: {1000 * stored_s:.0f} ms")


def send_levels(room: LongRoom, users: Mapping[str, int]) -> None:
    room.send("m.room.power_levels", room.alice, {"users": dict(users)}, "")


def store(tx: Transaction, room: LongRoom) -> None:
    assert room.room_id is not None
    room_rows.insert_room(
        tx,
        room_rows.RoomRow(
            room_id=room.room_id,
            version=room.version.id,
            position=1,
            snapshot_id=None,
            joined=True,
        ),
    )
    event_rows.insert_outliers(
        tx,
        (
            event_row(
                KnownEvent(pdu=pdu, verdict="accepted", outlier=True, snapshot_before=None),
                None,
                trace_id=TraceId("bench"),
                rule=None,
                now_ms=1,
            )
            for pdu in room.events
        ),
    )
