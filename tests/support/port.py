"""A gateway in a process of its own whose Matrix port is used: for what has no face on XMPP yet."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Mapping
from typing import Any, ClassVar

import aiohttp
import orjson

from bridge.demo.servers import CertificateAuthority, Prosody
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from tests.support.driven import PATH
from tests.support.gateway import Gateway

_TIMEOUT = aiohttp.ClientTimeout(total=60.0)
_ONCE = frozenset({"open_direct", "create_room", "upgrade", "send", "redact", "invite"})
"""What takes a transaction ID."""
_TRACED = frozenset({"open_direct", "send"})


class DrivenGateway(Gateway):
    """The whole program, and `call`. Its files are links; failed peers are tried again soon."""

    PROGRAM: ClassVar[str] = "tests.support.driven"

    def __init__(
        self,
        server: Prosody,
        authority: CertificateAuthority,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`server` has an upload service."""
        super().__init__(server, authority)
        self.upload_service = f"upload.{server.domain}"
        self.tls = ssl.create_default_context(cafile=str(authority.certificate_file))
        self.change_settings(
            {
                "federation": {"retry_max_s": 1},
                "media": {"public_url": f"https://{self.server_name}"},
            }
        )
        self.change_settings(settings or {})

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
