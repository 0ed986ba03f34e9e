"""Devices and keys of our users for other servers, and who an OpenID token stands for.

What an answer holds is the rule of `people`. Spec: S2S, device management, end-to-end encryption,
OpenID.
"""

from __future__ import annotations

from bridge.ids import ServerName, parse_user_id
from bridge.people.devices import Devices
from bridge.people.keys import Keys
from bridge.people.openid import OpenId
from bridge.web.routing import Request, Response

MAX_BODY_BYTES = 1 << 20


class PeopleEndpoints:
    def __init__(self, *, devices: Devices, keys: Keys, openid: OpenId) -> None:
        self._devices = devices
        self._keys = keys
        self._openid = openid

    async def devices(self, request: Request, _: ServerName) -> Response:
        return Response(json=await self._devices.answer(parse_user_id(request.params["user_id"])))

    async def query_keys(self, request: Request, _: ServerName) -> Response:
        body = request.json_object()
        return Response(json=await self._keys.answer_query(body.get("device_keys")))

    async def claim_keys(self, request: Request, _: ServerName) -> Response:
        body = request.json_object()
        return Response(json=await self._keys.answer_claim(body.get("one_time_keys")))

    async def user_info(self, request: Request) -> Response:
        """Unsigned: whoever has the token may ask."""
        user_id = await self._openid.user_info(request.query_one("access_token"))
        return Response(json={"sub": user_id})
