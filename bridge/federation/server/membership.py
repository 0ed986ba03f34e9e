"""Joins, knocks, leaves and invites of other servers.

Spec: S2S, joining rooms, knocking upon a room, inviting to a room, leaving rooms, third-party
invites.
"""

from __future__ import annotations

from bridge.engine.canonical import JsonObject
from bridge.engine.versions import UNNAMED
from bridge.errors import BadInput
from bridge.ids import (
    RoomVersionId,
    ServerName,
    parse_event_id,
    parse_room_id,
    parse_user_id,
)
from bridge.rooms.answer import Answers, IncompatibleVersion
from bridge.web.routing import Request, Response

MAX_INVITE_STATE = 100


class Membership:
    def __init__(self, *, answers: Answers) -> None:
        self._answers = answers

    async def make_join(self, request: Request, origin: ServerName) -> Response:
        versions = request.query_all("ver") or (UNNAMED.id,)
        try:
            answer = await self._answers.make_join(
                origin,
                parse_room_id(request.params["room_id"]),
                parse_user_id(request.params["user_id"]),
                [RoomVersionId(version) for version in versions],
            )
        except IncompatibleVersion as exc:
            return _incompatible(exc)
        return Response(json=answer)

    async def send_join(self, request: Request, origin: ServerName) -> Response:
        omit_members = request.query_one("omit_members") == "true"
        return Response(json=await self._joined(request, origin, omit_members=omit_members))

    async def send_join_v1(self, request: Request, origin: ServerName) -> Response:
        return Response(json=[200, await self._joined(request, origin)])

    async def _joined(
        self, request: Request, origin: ServerName, *, omit_members: bool = False
    ) -> JsonObject:
        return await self._answers.send_join(
            origin,
            parse_room_id(request.params["room_id"]),
            parse_event_id(request.params["event_id"]),
            request.json_object(),
            omit_members=omit_members,
        )

    async def make_knock(self, request: Request, origin: ServerName) -> Response:
        try:
            answer = await self._answers.make_knock(
                origin,
                parse_room_id(request.params["room_id"]),
                parse_user_id(request.params["user_id"]),
                [RoomVersionId(version) for version in request.query_all("ver")],
            )
        except IncompatibleVersion as exc:
            return _incompatible(exc)
        return Response(json=answer)

    async def send_knock(self, request: Request, origin: ServerName) -> Response:
        answer = await self._answers.send_knock(
            origin,
            parse_room_id(request.params["room_id"]),
            parse_event_id(request.params["event_id"]),
            request.json_object(),
        )
        return Response(json=answer)

    async def make_leave(self, request: Request, origin: ServerName) -> Response:
        answer = await self._answers.make_leave(
            origin,
            parse_room_id(request.params["room_id"]),
            parse_user_id(request.params["user_id"]),
        )
        return Response(json=answer)

    async def send_leave(self, request: Request, origin: ServerName) -> Response:
        await self._left(request, origin)
        return Response(json={})

    async def send_leave_v1(self, request: Request, origin: ServerName) -> Response:
        await self._left(request, origin)
        return Response(json=[200, {}])

    async def _left(self, request: Request, origin: ServerName) -> None:
        await self._answers.send_leave(
            origin,
            parse_room_id(request.params["room_id"]),
            parse_event_id(request.params["event_id"]),
            request.json_object(),
        )

    async def invite(self, request: Request, origin: ServerName) -> Response:
        body = request.json_object()
        event, version = body.get("event"), body.get("room_version")
        if not isinstance(event, dict) or not isinstance(version, str):
            raise BadInput("an invite has an event and a room_version", errcode="M_MISSING_PARAM")
        try:
            signed = await self._invited(
                request, origin, event, RoomVersionId(version), body.get("invite_room_state")
            )
        except IncompatibleVersion as exc:
            return _incompatible(exc)
        return Response(json={"event": signed})

    async def invite_v1(self, request: Request, origin: ServerName) -> Response:
        event = request.json_object()
        unsigned = event.get("unsigned")
        state = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        try:
            signed = await self._invited(request, origin, event, None, state)
        except IncompatibleVersion as exc:
            return _incompatible(exc)
        return Response(json=[200, {"event": signed}])

    async def exchange_third_party_invite(self, request: Request, origin: ServerName) -> Response:
        await self._answers.exchange_third_party_invite(
            origin, parse_room_id(request.params["room_id"]), request.json_object()
        )
        return Response(json={})

    async def _invited(
        self,
        request: Request,
        origin: ServerName,
        event: JsonObject,
        version: RoomVersionId | None,
        state: object,
    ) -> JsonObject:
        listed = (
            [entry for entry in state if isinstance(entry, dict)] if isinstance(state, list) else []
        )
        return await self._answers.invite(
            origin,
            parse_room_id(request.params["room_id"]),
            parse_event_id(request.params["event_id"]),
            event,
            version,
            listed[:MAX_INVITE_STATE],
        )


def _incompatible(error: IncompatibleVersion) -> Response:
    """The one error whose body says more than code and reason."""
    return Response(
        status=400,
        json={
            "errcode": error.errcode,
            "error": error.reason,
            "room_version": error.room_version,
        },
    )
