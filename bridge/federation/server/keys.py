"""Our own keys, and what we are. Unsigned requests: anybody may ask.

Spec: S2S, retrieving server keys; S2S, server implementation.
"""

from __future__ import annotations

from bridge import __version__
from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.engine.keys import SigningKey
from bridge.engine.signing import sign_json
from bridge.ids import ServerName
from bridge.web.routing import Request, Response

VALID_FOR_MS = 24 * 3600 * 1000
"""Peers ask again after half of this at the latest; long enough to survive an outage of ours."""
SOFTWARE = "Isthmus"


class Keys:
    def __init__(self, *, own_name: ServerName, key: SigningKey, clock: Clock) -> None:
        self._own_name = own_name
        self._key = key
        self._clock = clock

    async def own(self, _: Request) -> Response:
        document: JsonObject = {
            "server_name": self._own_name,
            "verify_keys": {self._key.key_id: {"key": self._key.verify_key_base64}},
            "old_verify_keys": {},
            "valid_until_ts": self._clock.now_ms() + VALID_FOR_MS,
        }
        return Response(json=sign_json(document, server=self._own_name, key=self._key))

    async def version(self, _: Request) -> Response:
        return Response(json={"server": {"name": SOFTWARE, "version": __version__}})
