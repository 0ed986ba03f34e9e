"""Walking auth chains without knowing the events beforehand.

Generators yield a set of event IDs and are sent a mapping of those found; what is missing from the
answer counts as not existing. The answer may hold more than was asked for, which saves rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TypeAlias, TypeVar

from bridge.engine.pdu import Pdu
from bridge.ids import EventId

T = TypeVar("T")
Fetching: TypeAlias = Generator[frozenset[EventId], Mapping[EventId, Pdu], T]
"""Yields the event IDs it needs, is sent those found, returns a T."""


class EventPool:
    """The events one computation has seen; each is asked for at most once."""

    def __init__(self) -> None:
        self._known: dict[EventId, Pdu] = {}
        self._asked: set[EventId] = set()

    def find(self, event_id: EventId) -> Pdu | None:
        """None when it does not exist or was never loaded."""
        return self._known.get(event_id)

    def load(self, event_ids: Iterable[EventId]) -> Fetching[None]:
        """Fetch what is not known yet, in one batch."""
        # Not by subtracting sets: that would look through all that is known, for each step.
        known, asked = self._known, self._asked
        unknown = [one for one in event_ids if one not in known and one not in asked]
        if unknown:
            missing = frozenset(unknown)
            self._asked |= missing
            self._known.update((yield missing))

    def auth_events(self, event: Pdu) -> list[Pdu]:
        """Those of the event's auth events that were loaded, in its order."""
        found = (self._known.get(event_id) for event_id in event.auth_events)
        return [parent for parent in found if parent is not None]

    def closure(self, event_ids: Iterable[EventId]) -> Fetching[frozenset[EventId]]:
        """The given events and everything behind their auth events; missing ones left out."""
        reached: set[EventId] = set()
        waiting = list(event_ids)
        missing: set[EventId] = set()
        while waiting:
            # As far as one comes with what is known, before anything is asked for.
            while waiting:
                event_id = waiting.pop()
                event = self._known.get(event_id)
                if event is None:
                    missing.add(event_id)
                elif event_id not in reached:
                    reached.add(event_id)
                    waiting.extend(event.auth_events)
            yield from self.load(missing)
            waiting = [event_id for event_id in missing if event_id in self._known]
            missing.clear()
        return frozenset(reached)


def auth_chain(event_ids: Iterable[EventId]) -> Fetching[dict[EventId, Pdu]]:
    """All auth events of the given events, recursively; a given event only if another needs it."""
    pool = EventPool()
    start = frozenset(event_ids)
    yield from pool.load(start)
    parents = {
        parent
        for event_id in start
        if (event := pool.find(event_id)) is not None
        for parent in event.auth_events
    }
    reached = yield from pool.closure(parents)
    return {event_id: event for event_id in reached if (event := pool.find(event_id)) is not None}


def run(
    fetching: Fetching[T],
    lookup: Callable[[frozenset[EventId]], Mapping[EventId, Pdu]],
) -> T:
    """Drive a generator with a plain function, where everything is at hand."""
    try:
        wanted = next(fetching)
        while True:
            wanted = fetching.send(lookup(wanted))
    except StopIteration as done:
        result: T = done.value
        return result
