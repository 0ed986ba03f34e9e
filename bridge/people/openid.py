"""OpenID tokens: whoever is given one by a user may ask us, once or more, who that user is.

Spec: S2S, OpenID; client-server API, POST /user/{userId}/openid/request_token.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.errors import BadInput, Refused
from bridge.ids import ServerName, UserId, server_of
from bridge.storage import openid
from bridge.storage.database import Database

LIFETIME_S = 3_600
MAX_TOKEN_CHARACTERS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIdToken:
    access_token: str
    expires_in_s: int


class OpenId:
    def __init__(
        self,
        *,
        own_name: ServerName,
        database: Database,
        clock: Clock,
        random_text: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        self._own_name = own_name
        self._database = database
        self._clock = clock
        self._random_text = random_text

    async def issue(self, user_id: UserId) -> OpenIdToken:
        """A new token for one of our users; it is good for nothing but `user_info`."""
        if server_of(user_id) != self._own_name:
            raise BadInput("not a user of this server", errcode="M_INVALID_PARAM")
        token = self._random_text()
        expires_ms = self._clock.now_ms() + LIFETIME_S * 1000
        await self._database.write(
            lambda tx: openid.add(
                tx, token_hash=_hash(token), user_id=user_id, expires_ms=expires_ms
            )
        )
        return OpenIdToken(access_token=token, expires_in_s=LIFETIME_S)

    async def user_info(self, token: str | None) -> UserId:
        """`Refused` M_UNKNOWN_TOKEN for what we did not issue or has expired."""
        if not token:
            raise Refused("no access token", errcode="M_MISSING_TOKEN", rule="openid")
        found = None
        if len(token) <= MAX_TOKEN_CHARACTERS:
            now_ms = self._clock.now_ms()
            found = await self._database.read(lambda tx: openid.find(tx, _hash(token), now_ms))
        if found is None:
            raise Refused(
                "access token unknown or expired", errcode="M_UNKNOWN_TOKEN", rule="openid"
            )
        return found


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
