from __future__ import annotations

import pytest

from bridge.errors import BadInput, Conflict, IsthmusError, NotFound, Refused, Unavailable
from bridge.web.errors import body_of, status_of
from bridge.web.middleware import error_response


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadInput("x"), 400),
        (BadInput("x", errcode="M_TOO_LARGE"), 413),
        (BadInput("x", errcode="ORG.EXAMPLE.ODD"), 400),
        (Refused("x"), 403),
        (Refused("x", errcode="M_UNAUTHORIZED"), 401),
        (Refused("x", errcode="M_UNKNOWN"), 403),
        (Refused("x", errcode="M_UNABLE_TO_AUTHORISE_JOIN"), 400),
        (NotFound("x"), 404),
        (NotFound("x", errcode="M_UNKNOWN"), 404),
        (Unavailable("x"), 429),
        (Unavailable("x", errcode="M_UNKNOWN"), 503),
        (Conflict("x"), 429),
        (IsthmusError("x"), 500),
    ],
)
def test_code_and_class_decide_the_status(error: IsthmusError, status: int) -> None:
    assert status_of(error) == status


def test_the_body_has_code_and_reason_and_the_wait_where_known() -> None:
    assert body_of(Refused("no entry")) == {"errcode": "M_FORBIDDEN", "error": "no entry"}
    assert body_of(Unavailable("later", retry_after_s=1.5)) == {
        "errcode": "M_LIMIT_EXCEEDED",
        "error": "later",
        "retry_after_ms": 1500,
    }


def test_what_may_be_tried_again_says_when() -> None:
    assert error_response(Unavailable("later", retry_after_s=1.5)).headers == {"Retry-After": "2"}
    assert error_response(Conflict("moved")).headers == {"Retry-After": "5"}
    assert error_response(Refused("never")).headers == {}
