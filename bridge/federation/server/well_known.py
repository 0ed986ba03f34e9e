"""What is told under our bare name: where federation goes, and whom to write to.

Both are open to anybody, and answered only where the operator has something to say; a web server
before us may answer instead. Spec: S2S, server discovery; C2S, server support discovery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridge.engine.canonical import JsonObject
from bridge.errors import NotFound
from bridge.ids import ServerName
from bridge.web.routing import Request, Response, Route

SERVER_PATH = "/.well-known/matrix/server"
SUPPORT_PATH = "/.well-known/matrix/support"
# Pages of any origin may read what is public.
_OPEN = {"Access-Control-Allow-Origin": "*"}


def well_known_routes(
    *,
    server: ServerName | None = None,
    contacts: Sequence[Mapping[str, str]] = (),
    support_page: str | None = None,
) -> tuple[Route, ...]:
    """`server`: whom we delegate to. Each contact has a `role` and a way to reach somebody."""
    support: JsonObject = {}
    if contacts:
        support["contacts"] = [dict(contact) for contact in contacts]
    if support_page is not None:
        support["support_page"] = support_page

    async def delegation(_: Request) -> Response:
        if server is None:
            raise NotFound("this server delegates to nobody")
        return Response(json={"m.server": server}, headers=_OPEN)

    async def helpers(_: Request) -> Response:
        if not support:
            raise NotFound("this server names nobody to write to")
        return Response(json=support, headers=_OPEN)

    return (
        Route(method="GET", path=SERVER_PATH, endpoint=delegation),
        Route(method="GET", path=SUPPORT_PATH, endpoint=helpers),
    )
