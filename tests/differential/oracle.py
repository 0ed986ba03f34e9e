"""What Synapse makes of event graphs: run by its own environment's Python, never imported.

Each line on standard input is one graph: `version`, `algorithm` (`v1` or `v2`, of state
resolution), `events` in an order in which each comes after those that it names, and `resolve`, some
lists of event IDs. Each line of the answer tells
`ids` (as computed here), `refused` (ID -> why) and `states`, one for each list of events in
`resolve`: the resolved state after them, as a list of [type, state key, event ID].

Events are handed to Synapse as not yet stored, so that its code walks the auth chains itself: all
but those of which the answer is known beforehand, because that walk takes every path and not every
event. Which they are is said at `_in_question`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.event_auth import check_state_dependent_auth_rules, check_state_independent_auth_rules
from synapse.events import make_event_from_dict
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference

State: TypeAlias = Mapping[tuple[str, str], str]


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never truly waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waits for something")


class Clock:
    """It never sleeps."""

    async def sleep(self, _duration: object) -> None:
        return None


class Room:
    """One graph's events, as far as they have been judged. Also the store that Synapse asks."""

    def __init__(self, version_id: str, algorithm: str) -> None:
        self.version = KNOWN_ROOM_VERSIONS[version_id]
        self.algorithm = algorithm
        self.events: dict[str, Any] = {}
        self.after: dict[str, State] = {}
        self._chains: dict[str, frozenset[str]] = {}
        """Each event with all that is behind its auth events."""

    async def get_events(
        self, event_ids: Iterable[str], *_args: object, **_kwargs: object
    ) -> dict[str, Any]:
        return {one: self.events[one] for one in event_ids if one in self.events}

    async def get_auth_chain_difference(
        self, _room_id: str, state_sets: Iterable[Collection[str]], *_args: object
    ) -> Any:
        # Of settled events alone nothing is in the difference, nor on the way between conflicts.
        if any(not self._chains.keys() >= set(ids) for ids in state_sets):
            raise RuntimeError("not an event of this room")
        return StateDifference(auth_difference=set(), conflicted_subgraph=set())

    def _in_question(self, states: Sequence[State]) -> set[str]:
        """The events behind some of the states, without the settled ones.

        Settled are those behind every one of the states with no conflicted event behind them.
        """
        none: frozenset[str] = frozenset()
        chains = [none.union(*(self._chains[one] for one in state.values())) for state in states]
        same = set(states[0].items()).intersection(*(state.items() for state in states[1:]))
        conflicted = {one for state in states for one in state.values()} - {one for _, one in same}
        behind_all = chains[0].intersection(*chains[1:])
        settled = {one for one in behind_all if conflicted.isdisjoint(self._chains[one])}
        return set(none.union(*chains)) - settled

    def resolve(self, event_ids: Sequence[str]) -> State:
        """The state after all of the given events."""
        states = [self.after[one] for one in event_ids]
        if len(states) < 2:
            return states[0] if states else {}
        room_id = self.events[event_ids[0]].room_id
        open_events = {one: self.events[one] for one in self._in_question(states)}
        if self.algorithm == "v1":
            found = finish(
                v1.resolve_events_with_store(
                    room_id, self.version, states, dict(self.events), self.get_events
                )
            )
        else:
            found = finish(
                v2.resolve_events_with_store(
                    Clock(), room_id, self.version, states, open_events, self
                )
            )
        return dict(found)

    def add(self, event_json: dict[str, Any]) -> tuple[str, str | None]:
        """Judge the event by its auth events and by the state before it: its ID, why refused."""
        event = make_event_from_dict(event_json, room_version=self.version)
        before = self.resolve(list(event.prev_event_ids()))
        try:
            behind = event.auth_event_ids()
        except RuntimeError as exc:
            # It is asked for everywhere, so that the event is lost.
            self.after[event.event_id] = before
            return event.event_id, f"fails: {str(exc).partition(chr(10))[0]}"
        refusal = self._refusal(event, before)
        if refusal is not None:
            event = make_event_from_dict(
                event_json, room_version=self.version, rejected_reason=refusal
            )
        self.events[event.event_id] = event
        chains = (self._chains[one] for one in behind if one in self._chains)
        self._chains[event.event_id] = frozenset({event.event_id}).union(*chains)
        after = dict(before)
        if refusal is None and event.is_state():
            after[event.type, event.state_key] = event.event_id
        self.after[event.event_id] = after
        return event.event_id, refusal

    def _refusal(self, event: Any, before: State) -> str | None:
        try:
            finish(check_state_independent_auth_rules(self, event))
            for authority in (event.auth_event_ids(), before.values()):
                check_state_dependent_auth_rules(event, [self.events[one] for one in authority])
        except SynapseError as exc:
            return exc.msg or "refused"
        except (AttributeError, TypeError, ValueError) as exc:
            # It does not look at all values before it works with them; so the event is lost there.
            return f"fails: {exc!r}"
        return None


def answer(graph: Mapping[str, Any]) -> dict[str, Any]:
    room = Room(graph["version"], graph["algorithm"])
    added = [room.add(event_json) for event_json in graph["events"]]
    return {
        "ids": [event_id for event_id, _ in added],
        "refused": {event_id: why for event_id, why in added if why is not None},
        "states": [
            [[*key, one] for key, one in room.resolve(event_ids).items()]
            for event_ids in graph["resolve"]
        ],
    }


if __name__ == "__main__":
    logging.disable()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
