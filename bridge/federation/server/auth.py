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
from bridge.policy.house import House
from bridge.policy.limits import Limits
from bridge.policy.rules import Scope
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
        house: House | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._own_name = own_name
        self._keyring = keyring
        self._clock = clock
        self._on_heard = on_heard
        self._house = house or House(own_name=own_name)
        self._limits = limits or Limits()

    def signed(
        self, endpoint: PeerEndpoint, scope: Scope = Scope.ALL, *, is_counted: bool = True
    ) -> Endpoint:
        """`scope`: what the rules of the house call it. A server that they deny is refused after
        it has proven who it is: nobody is denied for a name that somebody else has written.
        `is_counted`: towards the requests that one server may make."""

        async def answer(request: Request) -> Response:
            origin = await self._origin(request)
            self._house.check_server(origin, scope, door="request")
            self._on_heard(origin)
            if is_counted:
                self._limits.check_request(origin, self._clock.monotonic_s())
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
        content, strict = None, True
        if request.body:
            content = request.json()
            try:
                strict = _check_body(content)
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
            strict=strict,
        )
        return xmatrix.origin


def _check_body(content: object) -> bool:
    """Whether it is canonical. Raises `BadInput` where it is not and has to be.

    Only the events of a transaction need not be: before room version 6 nothing asks for it, and
    from 6 on the single event is discarded. Spec: rooms/v3 and rooms/v6, canonical JSON.
    """
    try:
        check_canonical(content)
    except BadInput:
        pdus = content.get("pdus") if isinstance(content, dict) else None
        if not isinstance(pdus, list) or not all(isinstance(pdu, dict) for pdu in pdus):
            raise
        assert isinstance(content, dict)
        check_canonical({name: value for name, value in content.items() if name != "pdus"})
        check_canonical(pdus, strict=False)
        return False
    return True
