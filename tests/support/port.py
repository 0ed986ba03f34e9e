"""A gateway in a process of its own whose Matrix port is used: for what has no face on XMPP yet."""

from __future__ import annotations

import secrets
from typing import Any, ClassVar

import aiohttp
import orjson

from bridge.errors import BadInput, NotFound, Refused, Unavailable
from tests.support.driven import PATH
from tests.support.gateway import Gateway

_TIMEOUT = aiohttp.ClientTimeout(total=60.0)
_ONCE = frozenset({"open_direct", "create_room", "upgrade", "send", "redact", "invite"})
"""What takes a transaction ID."""
_TRACED = frozenset({"open_direct", "send"})


class DrivenGateway(Gateway):
    """The whole program, and `call`."""

    PROGRAM: ClassVar[str] = "tests.support.driven"

    async def call(self, method: str, **given: Any) -> Any:
        """A method of the port, or a look of `driven`. Raises as the port does."""
        if method in _ONCE:
            given.setdefault("txn", f"test.{secrets.token_hex(8)}")
        if method in _TRACED:
            given.setdefault("trace", "test")
        url = self.ready_url.partition("/_isthmus")[0] + PATH.format(method=method)
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.post(url, data=orjson.dumps(given)) as response,
            ):
                status, answer = response.status, orjson.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise Unavailable(f"{method}: {exc}") from exc
        if status == 200:
            return answer["result"]
        said, errcode = str(answer.get("error")), str(answer.get("errcode"))
        if status >= 500 or status == 429:
            raise Unavailable(f"{method}: {status} {said}", errcode=errcode)
        kind = {403: Refused, 404: NotFound}.get(status, BadInput)
        raise kind(f"{method}: {status} {said}", errcode=errcode)
