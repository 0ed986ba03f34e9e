"""What surrounds every endpoint: one border where errors become Matrix JSON, and the counting.

Spec: S2S, unsupported endpoints; C2S, standard error response.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable

from bridge.clock import Clock
from bridge.errors import IsthmusError, Unavailable
from bridge.telemetry import metrics
from bridge.telemetry.log import bind, get_logger
from bridge.web.errors import body_of, status_of
from bridge.web.routing import Response, Route

DEFAULT_RETRY_S = 5.0

log = get_logger("web")


def unknown_path() -> Response:
    return Response(status=404, json={"errcode": "M_UNRECOGNIZED", "error": "unrecognized request"})


def wrong_method(allowed: Iterable[str]) -> Response:
    return Response(
        status=405,
        json={"errcode": "M_UNRECOGNIZED", "error": "this path has other methods"},
        headers={"Allow": ", ".join(sorted(allowed))},
    )


def error_response(error: IsthmusError) -> Response:
    """The Matrix error; `Retry-After` in whole seconds with everything that may be tried again."""
    body = body_of(error)
    headers = {}
    if isinstance(error, Unavailable):
        retry_after_s = DEFAULT_RETRY_S if error.retry_after_s is None else error.retry_after_s
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    return Response(status=status_of(error), json=body, headers=headers)


async def answer(
    work: Callable[[], Awaitable[Response]], *, route: Route, request_id: str, clock: Clock
) -> Response:
    """Run the endpoint; whatever it raises becomes a response. Counts and times it."""
    started = clock.monotonic_s()
    metrics.HTTP_IN_FLIGHT.inc()
    try:
        with bind(request_id=request_id):
            response = await _shielded(work, route)
    finally:
        metrics.HTTP_IN_FLIGHT.dec()
        metrics.HTTP_SECONDS.labels(route.path).observe(clock.monotonic_s() - started)
    count(route.path, route.method, response.status)
    return response


async def _shielded(work: Callable[[], Awaitable[Response]], route: Route) -> Response:
    try:
        return await work()
    except IsthmusError as exc:
        response = error_response(exc)
        tell = log.warning if response.status >= 500 else log.debug
        tell(
            "request refused",
            method=route.method,
            route=route.path,
            status=response.status,
            errcode=exc.errcode,
            rule=getattr(exc, "rule", ""),
            reason=exc.reason,
        )
        return response
    except Exception:
        metrics.HTTP_FAILURES.labels(route.path).inc()
        log.exception("request failed", method=route.method, route=route.path)
        return Response(status=500, json={"errcode": "M_UNKNOWN", "error": "internal server error"})


def count(route: str, method: str, status: int) -> None:
    """`route` and `method` are ours, never a stranger's: labels must stay few."""
    metrics.HTTP_REQUESTS.labels(route, method, str(status)).inc()
