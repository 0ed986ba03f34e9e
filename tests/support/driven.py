"""The gateway as an operator runs it, and its Matrix port for a test: `DrivenGateway` starts this.

Beside readiness, on the same loopback port, it takes calls of the methods of
`ports.matrix.MatrixBackend` and of the few of `_LOOKS`, which tell what the database holds.
`python -m tests.support.driven run --config FILE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import orjson

from bridge import app, cli
from bridge.ids import RoomId, RoomVersionId
from bridge.ports.matrix import Profile
from bridge.storage.schema import events as event_rows
from bridge.web.application import Listener, Request, Response, Route, WebServer
from bridge.web.health import health_routes

PATH = "/_test/port/{method}"


class _Driven(app.Gateway):
    """The parts as `app` wires them, and one more route."""

    def _build_web(self) -> None:
        super()._build_web()
        health = self._settings.health
        self._health = WebServer(
            routes=(
                *health_routes(missing=self._missing, with_metrics=health.metrics),
                Route(method="POST", path=PATH, endpoint=self._call),
            ),
            listeners=[Listener(host=health.host, port=health.port)],
            clock=self._clock,
        )

    async def _call(self, request: Request) -> Response:
        name, given = request.params["method"], request.json_object()
        look = _LOOKS.get(name)
        if look is not None:
            found = await look(self, **given)
        else:
            for key, read in _READ.items():
                if given.get(key) is not None:
                    given[key] = read(given[key])
            found = await getattr(self._backend, name)(**given)
        return Response(body=orjson.dumps({"result": found}, default=_plain))

    async def _state_ids(self, room_id: str) -> list[tuple[str, str, str]]:
        room = await self._rooms.sender._states.joined_room(RoomId(room_id))
        return [(type, key, event_id) for (type, key), event_id in room.state.items()]

    async def _extremities(self, room_id: str) -> list[str]:
        room = await self._rooms.sender._states.joined_room(RoomId(room_id))
        return sorted(room.extremities)

    async def _event(self, event_id: str) -> dict[str, Any] | None:
        query = event_rows.select().where(event_rows.c.event_id == event_id)
        row = await self._database.read(lambda tx: tx.execute(query).one_or_none())
        if row is None:
            return None
        return {"pdu": orjson.loads(row.json), "redacted_by": row.redacted_by}


_LOOKS: Mapping[str, Any] = {
    "state_ids": _Driven._state_ids,
    "extremities": _Driven._extremities,
    "event": _Driven._event,
}
_READ: Mapping[str, Any] = {
    "version": RoomVersionId,
    "profile": lambda value: Profile(**value),
}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"not for the wire: {type(value)}")


if __name__ == "__main__":
    with mock.patch.object(app, "Gateway", _Driven):
        raise SystemExit(cli.main())
