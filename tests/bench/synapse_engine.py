"""What Synapse's own functions cost: run by its own environment's Python, never imported.

Each line on standard input is one request, `{"measure": NAME, "times": N, ...}`; each line of the
answer tells its CPU seconds for one, and what it computed. `load` brings events before that.

receive: out of the text of a PDU the event with its ID; the signature; the content hash.
auth: the rules for one event by its auth events.
resolve: two state maps. Its database's part (the difference of the auth chains) is worked out
beforehand and costs nothing here.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from signedjson.key import decode_verify_key_bytes
from signedjson.sign import verify_signed_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import check_event_content_hash
from synapse.crypto.keyring import VerifyJsonRequest
from synapse.event_auth import check_state_dependent_auth_rules, check_state_independent_auth_rules
from synapse.events import make_event_from_dict
from synapse.federation.federation_base import event_from_pdu_json
from synapse.state import v2
from synapse.storage.databases.main.event_federation import StateDifference
from synapse.util.json import json_decoder
from unpaddedbase64 import decode_base64


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


class Store:
    """The events of one room. Also what Synapse's functions ask."""

    def __init__(self, version_id: str, jsons: Iterable[dict[str, Any]]) -> None:
        self.version = KNOWN_ROOM_VERSIONS[version_id]
        events = [make_event_from_dict(one, room_version=self.version) for one in jsons]
        self.events = {event.event_id: event for event in events}
        self.difference: StateDifference | None = None

    async def get_events(
        self, event_ids: Iterable[str], *_args: object, **_kwargs: object
    ) -> dict[str, Any]:
        return {one: self.events[one] for one in event_ids if one in self.events}

    async def get_auth_chain_difference(self, *_args: object) -> StateDifference:
        assert self.difference is not None
        return self.difference

    def closure(self, event_ids: Iterable[str]) -> set[str]:
        reached: set[str] = set()
        front = set(event_ids)
        while front:
            reached |= front
            front = {a for one in front for a in self.events[one].auth_event_ids()} - reached
        return reached

    def find_difference(self, maps: list[Mapping[Any, str]]) -> StateDifference:
        chains = [self.closure(one.values()) for one in maps]
        conflicted = {
            one
            for key in set(itertools.chain(*maps))
            if len({each.get(key) for each in maps}) > 1
            for one in (each[key] for each in maps if key in each)
        }
        above: set[str] = set()
        front = set(conflicted)
        while front:
            above |= front
            front = {
                event_id
                for event_id in self.closure(conflicted)
                if front.intersection(self.events[event_id].auth_event_ids())
            } - above
        return StateDifference(
            auth_difference=set[str]().union(*chains) - chains[0].intersection(*chains[1:]),
            conflicted_subgraph=above & self.closure(conflicted),
        )


def cpu_of(function: Callable[[], object], times: int) -> float:
    begin = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - begin) / times


def receive(request: Mapping[str, Any], times: int) -> dict[str, Any]:
    version = KNOWN_ROOM_VERSIONS[request["version"]]
    server, text = request["server"], request["pdu"]
    key = decode_verify_key_bytes(request["key_id"], decode_base64(request["key"]))
    found: list[Any] = []

    def once() -> None:
        event = event_from_pdu_json(json_decoder.decode(text), version)
        verify = VerifyJsonRequest.from_event(server, event, event.origin_server_ts)
        verify_signed_json(verify.get_json_object(), server, key)
        assert check_event_content_hash(event)
        found[:] = [event.event_id]

    return {"cpu_s": cpu_of(once, times), "result": found[0]}


def auth(store: Store, request: Mapping[str, Any], times: int) -> dict[str, Any]:
    event = store.events[request["event_id"]]
    state = [store.events[one] for one in event.auth_event_ids()]
    if request["create_id"] not in event.auth_event_ids():
        state.append(store.events[request["create_id"]])

    def once() -> None:
        finish(check_state_independent_auth_rules(store, event))
        check_state_dependent_auth_rules(event, state)

    return {"cpu_s": cpu_of(once, times), "result": "allowed"}


def resolve(store: Store, request: Mapping[str, Any], times: int) -> dict[str, Any]:
    maps: list[Mapping[Any, str]] = [
        {(kind, key): event_id for kind, key, event_id in entries} for entries in request["maps"]
    ]
    store.difference = store.find_difference(maps)
    room_id = next(iter(store.events.values())).room_id
    found: list[Any] = []

    def once() -> None:
        found[:] = [
            finish(v2.resolve_events_with_store(Clock(), room_id, store.version, maps, None, store))
        ]

    cpu_s = cpu_of(once, times)
    return {"cpu_s": cpu_s, "result": [[*key, one] for key, one in dict(found[0]).items()]}


def serve() -> None:
    store: Store | None = None
    for line in sys.stdin:
        request = json.loads(line)
        times = request.get("times", 1)
        answer: dict[str, Any]
        if request["measure"] == "load":
            store = Store(request["version"], request["events"])
            answer = {"cpu_s": 0.0, "result": len(store.events)}
        elif request["measure"] == "receive":
            answer = receive(request, times)
        else:
            assert store is not None
            run = {"auth": auth, "resolve": resolve}[request["measure"]]
            answer = run(store, request, times)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    logging.disable()
    serve()
