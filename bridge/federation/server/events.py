"""Events and the graph, for servers that may see them.

Spec: S2S, retrieving events; S2S, backfilling and retrieving missing events.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.errors import BadInput
from bridge.ids import EventId, ServerName, parse_event_id, parse_room_id
from bridge.rooms.answer import Answers
from bridge.web.routing import Request, Response

MAX_BACKFILL = 100
MAX_MISSING = 100
DEFAULT_MISSING = 10
MAX_NAMED_EVENTS = 100


class Events:
    def __init__(self, *, own_name: ServerName, answers: Answers, clock: Clock) -> None:
        self._own_name = own_name
        self._answers = answers
        self._clock = clock

    async def event(self, request: Request, origin: ServerName) -> Response:
        pdu = await self._answers.event(origin, parse_event_id(request.params["event_id"]))
        return self._transaction([pdu])

    async def state(self, request: Request, origin: ServerName) -> Response:
        return Response(
            json=await self._answers.state(
                origin, parse_room_id(request.params["room_id"]), _event_id(request)
            )
        )

    async def state_ids(self, request: Request, origin: ServerName) -> Response:
        return Response(
            json=await self._answers.state_ids(
                origin, parse_room_id(request.params["room_id"]), _event_id(request)
            )
        )

    async def event_auth(self, request: Request, origin: ServerName) -> Response:
        return Response(
            json=await self._answers.event_auth(
                origin,
                parse_room_id(request.params["room_id"]),
                parse_event_id(request.params["event_id"]),
            )
        )

    async def timestamp_to_event(self, request: Request, origin: ServerName) -> Response:
        direction = request.query_one("dir")
        if direction not in ("f", "b"):
            raise BadInput(
                "dir is f or b",
                errcode="M_MISSING_PARAM" if direction is None else "M_INVALID_PARAM",
            )
        return Response(
            json=await self._answers.timestamp_to_event(
                origin,
                parse_room_id(request.params["room_id"]),
                _count(request.query_one("ts"), "ts", 2**53),
                forwards=direction == "f",
            )
        )

    async def backfill(self, request: Request, origin: ServerName) -> Response:
        start = request.query_all("v")
        if not start:
            raise BadInput("v is missing", errcode="M_MISSING_PARAM")
        pdus = await self._answers.backfill(
            origin,
            parse_room_id(request.params["room_id"]),
            _event_ids(start, "v"),
            _count(request.query_one("limit"), "limit", MAX_BACKFILL),
        )
        return self._transaction(pdus)

    async def get_missing_events(self, request: Request, origin: ServerName) -> Response:
        body = request.json_object()
        events = await self._answers.get_missing_events(
            origin,
            parse_room_id(request.params["room_id"]),
            _event_ids(body.get("earliest_events"), "earliest_events"),
            _event_ids(body.get("latest_events"), "latest_events"),
            _count(body.get("limit", DEFAULT_MISSING), "limit", MAX_MISSING),
            _count(body.get("min_depth", 0), "min_depth", 2**53),
        )
        return Response(json={"events": events})

    def _transaction(self, pdus: Sequence[JsonObject]) -> Response:
        return Response(
            json={
                "origin": self._own_name,
                "origin_server_ts": self._clock.now_ms(),
                "pdus": list(pdus),
            }
        )


def _event_id(request: Request) -> EventId:
    value = request.query_one("event_id")
    if value is None:
        raise BadInput("event_id is missing", errcode="M_MISSING_PARAM")
    return parse_event_id(value)


def _event_ids(value: object, name: str) -> list[EventId]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_NAMED_EVENTS:
        raise BadInput(
            f"{name} is no list of at most {MAX_NAMED_EVENTS} event IDs", errcode="M_INVALID_PARAM"
        )
    return [parse_event_id(entry) for entry in value]


def _count(value: object, name: str, at_most: int) -> int:
    """A count that a peer asks for, bounded by what we are ready to give."""
    if value is None:
        raise BadInput(f"{name} is missing", errcode="M_MISSING_PARAM")
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit():
        raise BadInput(f"{name} is no count", errcode="M_INVALID_PARAM")
    return min(int(text[:20]), at_most)
