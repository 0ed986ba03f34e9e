"""From the exception tree to the status and body of a Matrix error.

The error code decides the status; a code without an entry goes by the class.
Spec: C2S, standard error response, common error codes.
"""

from __future__ import annotations

from typing import Any

from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable

STATUS_OF_ERRCODE: dict[str, int] = {
    "M_BAD_JSON": 400,
    "M_BAD_STATE": 400,
    "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM": 403,
    "M_DUPLICATE_ANNOTATION": 400,
    "M_EXCLUSIVE": 400,
    "M_FORBIDDEN": 403,
    "M_GUEST_ACCESS_FORBIDDEN": 403,
    "M_INCOMPATIBLE_ROOM_VERSION": 400,
    "M_INVALID_PARAM": 400,
    "M_INVALID_ROOM_STATE": 400,
    "M_INVALID_USERNAME": 400,
    "M_LIMIT_EXCEEDED": 429,
    "M_MISSING_PARAM": 400,
    "M_MISSING_TOKEN": 401,
    "M_NOT_FOUND": 404,
    "M_NOT_JSON": 400,
    "M_RESOURCE_LIMIT_EXCEEDED": 403,
    "M_ROOM_IN_USE": 400,
    "M_TOO_LARGE": 413,
    "M_UNABLE_TO_AUTHORISE_JOIN": 400,
    "M_UNABLE_TO_GRANT_JOIN": 400,
    "M_UNAUTHORIZED": 401,
    "M_UNKNOWN_TOKEN": 401,
    "M_UNRECOGNIZED": 404,
    "M_UNSUPPORTED_ROOM_VERSION": 400,
    "M_USER_DEACTIVATED": 403,
    "M_USER_IN_USE": 400,
    "M_WEAK_PASSWORD": 400,
    "M_WRONG_ROOM_KEYS_VERSION": 403,
}


def status_of(error: IsthmusError) -> int:
    """By the code, else by the class. 500 is for what we did not foresee."""
    status = STATUS_OF_ERRCODE.get(error.errcode)
    if status is not None:
        return status
    if isinstance(error, BadInput):
        return 400
    if isinstance(error, Refused):
        return 403
    if isinstance(error, NotFound):
        return 404
    return 503 if isinstance(error, Unavailable) else 500


def body_of(error: IsthmusError) -> dict[str, Any]:
    """`errcode`, `error`, and `retry_after_ms` where it is known."""
    body: dict[str, Any] = {"errcode": error.errcode, "error": error.reason}
    if isinstance(error, Unavailable) and error.retry_after_s is not None:
        body["retry_after_ms"] = int(error.retry_after_s * 1000)
    return body
