"""Our own keys, and what we are. Unsigned requests: anybody may ask.

Spec: S2S, retrieving server keys; S2S, server implementation.
"""

from __future__ import annotations

from bridge import __version__
from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.engine.signing import sign_json
from bridge.federation.own_keys import OwnKeys
from bridge.ids import ServerName
from bridge.web.routing import Request, Response

VALID_FOR_MS = 24 * 3600 * 1000
"""Peers ask again after half of this at the latest; long enough to survive an outage of ours."""
SOFTWARE = "Isthmus"


class Keys:
    def __init__(self, *, own_name: ServerName, keys: OwnKeys, clock: Clock) -> None:
        self._own_name = own_name
        self._keys = keys
        self._clock = clock

    async def own(self, _: Request) -> Response:
        return Response(json=self.document())

    def document(self) -> JsonObject:
        """What we publish: signed with every key that is in use."""
        keys = self._keys.current
        document: JsonObject = {
            "server_name": self._own_name,
            "verify_keys": {key.key_id: {"key": key.verify_key_base64} for key in keys},
            "old_verify_keys": {
                key.key_id: {"key": key.verify_key_base64, "expired_ts": key.expired_ms}
                for key in self._keys.old
            },
            "valid_until_ts": self._clock.now_ms() + VALID_FOR_MS,
        }
        for key in keys:
            document = sign_json(document, server=self._own_name, key=key)
        return document

    async def version(self, _: Request) -> Response:
        return Response(json={"server": {"name": SOFTWARE, "version": __version__}})
