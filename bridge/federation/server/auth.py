"""Who is asking: every federation endpoint but keys and version needs a signed request.

Spec: S2S, request authentication.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bridge.clock import Clock
from bridge.engine.canonical import check_canonical
from bridge.errors import BadInput, Refused
from bridge.federation.xmatrix import check_destination, parse_xmatrix, verify_request
from bridge.ids import ServerName
from bridge.rooms.network import KeyRing
from bridge.web.routing import Endpoint, Request, Response

PeerEndpoint = Callable[[Request, ServerName], Awaitable[Response]]
"""An endpoint that is told which server asks; who asks is proven."""


class Authentication:
    """Turns a `PeerEndpoint` into an `Endpoint` that checks the signature first.

    `on_heard` is told of every server that proved who it is: it is there again.
    """

    def __init__(
        self,
        *,
        own_name: ServerName,
        keyring: KeyRing,
        clock: Clock,
        on_heard: Callable[[ServerName], None] = lambda _: None,
    ) -> None:
        self._own_name = own_name
        self._keyring = keyring
        self._clock = clock
        self._on_heard = on_heard

    def signed(self, endpoint: PeerEndpoint) -> Endpoint:
        async def answer(request: Request) -> Response:
            origin = await self._origin(request)
            self._on_heard(origin)
            return await endpoint(request, origin)

        return answer

    async def _origin(self, request: Request) -> ServerName:
        """Raises `Refused` M_UNAUTHORIZED, `BadInput` for a body that has no canonical form."""
        headers = [value for name, value in request.headers_all if name == "authorization"]
        if not headers:
            raise Refused(
                "no X-Matrix Authorization header", errcode="M_UNAUTHORIZED", rule="xmatrix"
            )
        xmatrix = parse_xmatrix(headers[0])
        check_destination(xmatrix, self._own_name)
        content = None
        if request.body:
            content = request.json()
            try:
                check_canonical(content)
            except BadInput as exc:
                raise BadInput(f"the body has no canonical form: {exc.reason}") from exc
        verify_key = await self._keyring.verify_key(
            xmatrix.origin, xmatrix.key_id, self._clock.now_ms()
        )
        if verify_key is None:
            raise Refused(
                f"{xmatrix.origin} has no key {xmatrix.key_id}",
                errcode="M_UNAUTHORIZED",
                rule="xmatrix_key",
            )
        verify_request(
            xmatrix,
            method=request.method,
            target=request.target,
            own_name=self._own_name,
            content=content,
            verify_key=verify_key,
        )
        return xmatrix.origin
