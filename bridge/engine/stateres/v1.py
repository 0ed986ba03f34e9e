"""State resolution, version 1. Kept for rooms of version 1; it may bring old state back.

R begins as what no two state maps disagree about; a key that some state map lacks is not in doubt.

1. Conflicted power levels: by depth ascending, then SHA-1 of the event ID descending. The first
   joins R, each next one replaces it as long as R allows it; the first refusal ends the list.
2. The same for join rules.
3. The same for member events, each user for themselves.
4. Anything else: of the greatest depth, then the smallest SHA-1, the first that R allows.

R takes over the results of one step together, when all keys of the step are decided, so that no
order among the keys matters: what 3 decides about one user is not yet there for another.
Deviates: the text does not say what 4 picks when R allows none. Established servers keep the last
of the list, and agreeing with them is the purpose. As on those, power levels with a state key are
no power levels to 1.
Spec: rooms/v1, state resolution.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Iterable, Sequence

from bridge.engine.auth import auth_state_keys, check_auth
from bridge.engine.pdu import Pdu
from bridge.engine.state import JOIN_RULES, MEMBER, POWER_LEVELS, AuthState, StateKey, StateMap
from bridge.engine.stateres.chains import EventPool, Fetching
from bridge.engine.versions.rules import RoomVersion
from bridge.errors import Refused
from bridge.ids import EventId

_AUTH_STEPS = (1, 2, 3)
_OTHERS = 4


def resolve(
    state_maps: Sequence[StateMap], version: RoomVersion
) -> Fetching[dict[StateKey, EventId]]:
    """The resolution of the state maps; their order and repetition do not matter.

    Conflicted events that are not found are left out. No event is asked for when there is
    nothing to resolve.
    """
    result, conflicted = separate(state_maps)
    if not conflicted:
        return result
    pool = EventPool()
    yield from pool.load(event_id for event_ids in conflicted.values() for event_id in event_ids)
    lists = {key: _in_order(pool, event_ids) for key, event_ids in conflicted.items()}
    state = yield from _auth_state(pool, result, lists.values(), version)
    for step in _AUTH_STEPS:
        state |= {
            key: _last_allowed(key, events, state)
            for key, events in lists.items()
            if events and _step(key) == step
        }
    state |= {
        key: _best_allowed(events, state)
        for key, events in lists.items()
        if events and _step(key) == _OTHERS
    }
    return {**result, **{key: state[key].event_id for key in lists if key in state}}


def separate(
    state_maps: Iterable[StateMap],
) -> tuple[dict[StateKey, EventId], dict[StateKey, frozenset[EventId]]]:
    """What is in no conflict, and the events of each key in conflict."""
    seen: dict[StateKey, EventId] = {}
    conflicted: dict[StateKey, frozenset[EventId]] = {}
    for state in state_maps:
        for key, event_id in state.items():
            known = seen.setdefault(key, event_id)
            if known != event_id:
                conflicted[key] = conflicted.get(key, frozenset({known})) | {event_id}
    return {key: one for key, one in seen.items() if key not in conflicted}, conflicted


def _step(key: StateKey) -> int:
    if key == POWER_LEVELS:
        return 1
    if key[0] == JOIN_RULES[0]:
        return 2
    return 3 if key[0] == MEMBER else _OTHERS


def _in_order(pool: EventPool, event_ids: Iterable[EventId]) -> list[Pdu]:
    """Those found, from the smallest depth and the greatest hash on."""
    found = [event for event_id in event_ids if (event := pool.find(event_id)) is not None]
    return sorted(found, key=lambda event: (-event.depth, _sha1(event.event_id)), reverse=True)


def _sha1(event_id: EventId) -> bytes:
    return hashlib.sha1(event_id.encode(errors="surrogatepass"), usedforsecurity=False).digest()


def _auth_state(
    pool: EventPool,
    unconflicted: StateMap,
    lists: Iterable[Sequence[Pdu]],
    version: RoomVersion,
) -> Fetching[dict[StateKey, Pdu]]:
    """The events of the unconflicted state that the rules look at for any conflicted event."""
    keys: set[StateKey] = set()
    for event in (event for events in lists for event in events):
        keys |= auth_state_keys(event.type, event.sender, event.state_key, event.content, version)
    wanted = {key: unconflicted[key] for key in keys if key in unconflicted}
    yield from pool.load(wanted.values())
    return {key: pdu for key, one in wanted.items() if (pdu := pool.find(one)) is not None}


def _last_allowed(key: StateKey, events: Sequence[Pdu], state: dict[StateKey, Pdu]) -> Pdu:
    """1 to 3. `events` is in order and not empty; `state` stays as it is."""
    own = ChainMap({key: events[0]}, state)
    for event in events[1:]:
        if not _is_allowed(event, own):
            break
        own[key] = event
    return own[key]


def _best_allowed(events: Sequence[Pdu], state: AuthState) -> Pdu:
    """4. `events` is in order and not empty."""
    for event in reversed(events):
        if _is_allowed(event, state):
            return event
    return events[0]


def _is_allowed(event: Pdu, state: AuthState) -> bool:
    try:
        check_auth(event, state)
    except Refused:
        return False
    return True
