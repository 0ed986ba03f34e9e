"""State resolution, version 2, and 2.1 where the room version's rules say so.

1. Power events of the full conflicted set, with their auth chains inside it, in reverse
   topological power order.
2. Iterative auth checks over them, from the unconflicted state map (2.1: from nothing).
3. The remaining events of the full conflicted set, in mainline order.
4. Iterative auth checks over them, going on from 2.
5. The unconflicted state map over the result.

The auth chain of a state map includes the state events themselves, as on all established servers.
Spec: rooms/v2 and rooms/v12, state resolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bridge.engine.auth import auth_state_keys, check_auth
from bridge.engine.pdu import Pdu
from bridge.engine.state import CREATE, POWER_LEVELS, StateKey, StateMap
from bridge.engine.stateres.chains import EventPool, Fetching
from bridge.engine.stateres.ordering import (
    create_id_of,
    is_power_event,
    sort_by_mainline,
    sort_by_power,
)
from bridge.engine.versions.rules import RoomVersion
from bridge.errors import Refused
from bridge.ids import EventId


def resolve(
    state_maps: Sequence[StateMap], version: RoomVersion
) -> Fetching[dict[StateKey, EventId]]:
    """The resolution of the state maps; their order does not matter.

    Conflicted events that are not found are left out. No event is asked for when there is
    nothing to resolve.
    """
    unconflicted, conflicted = separate(state_maps)
    if not conflicted:
        return unconflicted
    pool = EventPool()
    full = yield from _full_conflicted_set(pool, unconflicted, conflicted, version)
    power_events = [event_id for event_id in full if _is_power(pool, event_id)]
    first = yield from sort_by_power(pool, power_events, within=full)  # 1
    state = {} if version.stateres.starts_empty else dict(unconflicted)
    yield from _check_in_turn(pool, first, state)  # 2
    rest = full - frozenset(first)
    second = yield from sort_by_mainline(pool, rest, power_levels=state.get(POWER_LEVELS))  # 3
    yield from _check_in_turn(pool, second, state)  # 4
    result = dict(unconflicted)  # 5
    for event_id in full:
        event = pool.find(event_id)
        key = None if event is None else event.key
        if key is not None and key in state and key not in unconflicted:
            result[key] = state[key]
    return result


def separate(
    state_maps: Sequence[StateMap],
) -> tuple[dict[StateKey, EventId], list[frozenset[EventId]]]:
    """The unconflicted state map, and per state map its conflicted events.

    The list is empty when nothing is conflicted. A key that some state map lacks is conflicted.
    """
    if not state_maps:
        return {}, []
    first = state_maps[0]
    unconflicted = first.copy() if isinstance(first, dict) else dict(first.items())
    dropped: list[StateKey] = []
    for other in state_maps[1:]:
        there = map(other.get, unconflicted)
        pairs = zip(unconflicted.items(), there, strict=True)
        differing = [key for (key, one), two in pairs if one != two]
        for key in differing:
            del unconflicted[key]
        dropped += differing
    conflicted: list[frozenset[EventId]] = []
    for state in state_maps:
        keys = [key for key in dropped if key in state]
        if len(state) > len(unconflicted) + len(keys):  # It has some that the first lacks.
            keys += [key for key in state if key not in first]
        conflicted.append(frozenset(state[key] for key in keys))
    return unconflicted, conflicted if any(conflicted) else []


def _full_conflicted_set(
    pool: EventPool,
    unconflicted: StateMap,
    conflicted: Sequence[frozenset[EventId]],
    version: RoomVersion,
) -> Fetching[frozenset[EventId]]:
    """Conflicted state events, auth difference and (2.1) conflicted subgraph, as far as found."""
    state_events = frozenset[EventId]().union(*conflicted)
    yield from pool.closure(state_events)  # One walk, so that the next ones fetch nothing.
    chains: list[frozenset[EventId]] = []
    for events in conflicted:
        chains.append((yield from pool.closure(events)))
    reached = frozenset[EventId]().union(*chains)
    difference = reached - chains[0].intersection(*chains[1:]) - state_events
    # What the unconflicted state rests on is in every chain, and so in no difference.
    if difference:
        difference = difference.difference(unconflicted.values())
    if difference:
        difference -= yield from pool.closure(unconflicted.values())
    full = difference | state_events
    if version.stateres.conflicted_subgraph:
        full |= _conflicted_subgraph(pool, state_events, reached)
    return frozenset(
        event_id
        for event_id in full
        if (event := pool.find(event_id)) is not None and event.is_state
    )


def _conflicted_subgraph(
    pool: EventPool, state_events: frozenset[EventId], reached: frozenset[EventId]
) -> frozenset[EventId]:
    """Events on auth paths from one conflicted state event to another. `reached` is closed."""
    children: dict[EventId, set[EventId]] = {}
    for event_id in reached:
        event = pool.find(event_id)
        if event is not None:
            for parent in event.auth_events:
                children.setdefault(parent, set()).add(event_id)
    above: set[EventId] = set()
    front = set(state_events)
    while front:
        above |= front
        front = {child for event_id in front for child in children.get(event_id, ())} - above
    return reached & above


def _is_power(pool: EventPool, event_id: EventId) -> bool:
    event = pool.find(event_id)
    return event is not None and is_power_event(event)


def _check_in_turn(
    pool: EventPool, event_ids: Iterable[EventId], state: dict[StateKey, EventId]
) -> Fetching[None]:
    """Iterative auth checks: apply to `state`, in place, each event that it allows."""
    for event_id in event_ids:
        event = pool.find(event_id)
        if event is None or event.key is None:
            continue
        auth_state = yield from _auth_state(pool, event, state)
        try:
            check_auth(event, auth_state)
        except Refused:
            continue
        state[event.key] = event_id


def _auth_state(pool: EventPool, event: Pdu, state: StateMap) -> Fetching[dict[StateKey, Pdu]]:
    """What the rules look at: from the state, else from the event's own auth events."""
    keys = auth_state_keys(event.type, event.sender, event.state_key, event.content, event.version)
    create_id = create_id_of(event)
    named = event.auth_events
    present = [(key, state[key]) for key in keys if key in state]
    wanted = [*named, *(one for _, one in present)]
    if create_id is not None:
        wanted.append(create_id)
    yield from pool.load(wanted)
    result: dict[StateKey, Pdu] = {}
    for event_id in named:
        parent = pool.find(event_id)
        if parent is not None and parent.key in keys and not parent.rejected:
            result[parent.key] = parent
    for key, event_id in present:
        current = pool.find(event_id)
        if current is not None:
            result[key] = current
    if create_id is not None:
        create = pool.find(create_id)
        if create is not None:
            result[CREATE] = create
    return result
