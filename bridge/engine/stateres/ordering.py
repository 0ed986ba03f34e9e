"""The two orders of state resolution: reverse topological power ordering and mainline ordering.

Spec: rooms/v2, definitions.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable

from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels
from bridge.engine.state import CREATE, POWER_LEVELS
from bridge.engine.stateres.chains import EventPool, Fetching
from bridge.ids import EventId


def is_power_event(event: Pdu) -> bool:
    """State that may take somebody's rights away. The create event is not one."""
    if not event.is_state:
        return False
    if event.type in ("m.room.power_levels", "m.room.join_rules"):
        return True
    return event.membership in ("leave", "ban") and event.sender != event.state_key


def create_id_of(event: Pdu) -> EventId | None:
    """The create event that the room ID names, from version 12."""
    if not event.version.event_format.room_id_from_create:
        return None
    return EventId("$" + event.room_id[1:])


def sort_by_power(
    pool: EventPool, event_ids: Collection[EventId], *, within: Collection[EventId]
) -> Fetching[list[EventId]]:
    """The given events and their auth chains inside `within`, auth events first.

    Among those that may come next, the first is the one whose sender has the greater power by its
    own auth events, then the earlier, then the smaller event ID.

    Chains are followed by steps inside `within`; a chain that leaves it ends there.
    Deviates: the text also means events behind such a gap. All established servers stop at it,
    and agreeing with them is the purpose.
    """
    parents: dict[EventId, frozenset[EventId]] = {}
    front = set(event_ids)
    while front:
        event_id = front.pop()
        event = pool.find(event_id)
        if event is None:
            continue
        parents[event_id] = frozenset(parent for parent in event.auth_events if parent in within)
        front |= parents[event_id] - parents.keys()
    yield from _load_senders_power(pool, parents)

    children: dict[EventId, set[EventId]] = {event_id: set() for event_id in parents}
    waiting: dict[EventId, int] = {}
    for event_id, behind in parents.items():
        present = behind & parents.keys()
        waiting[event_id] = len(present)
        for parent in present:
            children[parent].add(event_id)
    ready = [_rank(pool, event_id) for event_id, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    ordered: list[EventId] = []
    while ready:
        *_, event_id = heapq.heappop(ready)
        ordered.append(event_id)
        for child in children[event_id]:
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(ready, _rank(pool, child))
    return ordered


def _load_senders_power(pool: EventPool, event_ids: Iterable[EventId]) -> Fetching[None]:
    wanted: set[EventId] = set()
    for event_id in event_ids:
        event = pool.find(event_id)
        if event is not None:
            wanted.update(event.auth_events)
            create_id = create_id_of(event)
            if create_id is not None:
                wanted.add(create_id)
    yield from pool.load(wanted)


def _rank(pool: EventPool, event_id: EventId) -> tuple[int, int, EventId]:
    event = pool.find(event_id)
    assert event is not None
    by_key = {parent.key: parent for parent in pool.auth_events(event)}
    create_id = create_id_of(event)
    create = by_key.get(CREATE) if create_id is None else pool.find(create_id)
    power = PowerLevels.of(by_key.get(POWER_LEVELS), create)
    return -power.user(event.sender), event.origin_server_ts, event_id


def sort_by_mainline(
    pool: EventPool, event_ids: Iterable[EventId], *, power_levels: EventId | None
) -> Fetching[list[EventId]]:
    """Oldest mainline position first, then the earlier, then the smaller event ID."""
    mainline: dict[EventId, int] = {}
    current = power_levels
    while current is not None and current not in mainline:
        mainline[current] = len(mainline)
        current = yield from _power_levels_behind(pool, current)
    ranked: list[tuple[int, int, EventId]] = []
    for event_id in event_ids:
        event = pool.find(event_id)
        if event is None:
            continue
        position = yield from _mainline_position(pool, event_id, mainline)
        ranked.append((-position, event.origin_server_ts, event_id))
    return [event_id for *_, event_id in sorted(ranked)]


def _mainline_position(
    pool: EventPool, event_id: EventId, mainline: dict[EventId, int]
) -> Fetching[int]:
    # Without a common event the position is behind all others.
    seen: set[EventId] = set()
    current = yield from _power_levels_behind(pool, event_id)
    while current is not None and current not in seen:
        if current in mainline:
            return mainline[current]
        seen.add(current)
        current = yield from _power_levels_behind(pool, current)
    return len(mainline)


def _power_levels_behind(pool: EventPool, event_id: EventId) -> Fetching[EventId | None]:
    yield from pool.load({event_id})
    event = pool.find(event_id)
    if event is None:
        return None
    yield from pool.load(event.auth_events)
    for parent in pool.auth_events(event):
        if parent.key == POWER_LEVELS:
            return parent.event_id
    return None
