"""What a supervisor and a metrics collector ask. Answers nothing that identifies anybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bridge.telemetry.metrics import render_metrics
from bridge.web.routing import Request, Response, Route

LIVE_PATH = "/_isthmus/live"
READY_PATH = "/_isthmus/ready"
METRICS_PATH = "/_isthmus/metrics"


def health_routes(
    *, missing: Callable[[], Sequence[str]], with_metrics: bool = False
) -> tuple[Route, ...]:
    """`missing` names what readiness waits for, in plain words; nothing missing is ready."""

    async def live(_: Request) -> Response:
        return Response(json={"live": True})

    async def ready(_: Request) -> Response:
        waiting_for = list(missing())
        if waiting_for:
            return Response(status=503, json={"ready": False, "missing": waiting_for})
        return Response(json={"ready": True})

    async def exposition(_: Request) -> Response:
        body, content_type = render_metrics()
        return Response(body=body, content_type=content_type)

    routes: tuple[Route, ...] = (
        Route(method="GET", path=LIVE_PATH, endpoint=live),
        Route(method="GET", path=READY_PATH, endpoint=ready),
    )
    if with_metrics:
        routes += (Route(method="GET", path=METRICS_PATH, endpoint=exposition),)
    return routes
