from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadInput
from bridge.web.routing import Request, Response, Route, RouteTable


async def _nothing(_: Request) -> Response:
    return Response()


def _route(method: str, path: str) -> Route:
    return Route(method=method, path=path, endpoint=_nothing)


TABLE = RouteTable(
    [
        _route("GET", "/_matrix/key/v2/server"),
        _route("GET", "/_matrix/key/v2/query/{server_name}"),
        _route("POST", "/_matrix/key/v2/query"),
        _route("PUT", "/rooms/{room_id}/state/{kind}/{key}"),
        _route("PUT", "/rooms/{room_id}/state/{kind}/"),
        _route("GET", "/rooms/{room_id}/state/fixed"),
        _route("GET", "/rooms/{room_id}/state/{kind}"),
    ]
)


def _found(method: str, path: str) -> tuple[str, dict[str, str]] | None:
    found = TABLE.find(path).get(method)
    return None if found is None else (found[0].path, found[1])


@pytest.mark.parametrize(
    ("method", "path", "template", "params"),
    [
        ("GET", "/_matrix/key/v2/server", "/_matrix/key/v2/server", {}),
        ("GET", "/rooms/!a/state/fixed", "/rooms/{room_id}/state/fixed", {"room_id": "!a"}),
        (
            "GET",
            "/rooms/%21a%3Ab/state/m.room.topic",
            "/rooms/{room_id}/state/{kind}",
            {"room_id": "!a:b", "kind": "m.room.topic"},
        ),
        (
            "PUT",
            "/rooms/a/state/b/",
            "/rooms/{room_id}/state/{kind}/",
            {"room_id": "a", "kind": "b"},
        ),
        (
            "PUT",
            "/rooms/a/state/b/%2F",
            "/rooms/{room_id}/state/{kind}/{key}",
            {"room_id": "a", "kind": "b", "key": "/"},
        ),
    ],
)
def test_a_path_finds_its_route(
    method: str, path: str, template: str, params: dict[str, str]
) -> None:
    assert _found(method, path) == (template, params)


@pytest.mark.parametrize(
    "path", ["/", "", "/_matrix", "/_matrix/key/v2/server/", "//_matrix/key/v2/server", "*"]
)
def test_an_unknown_path_finds_nothing(path: str) -> None:
    assert TABLE.find(path) == {}


def test_a_known_path_tells_its_methods() -> None:
    assert set(TABLE.find("/_matrix/key/v2/query")) == {"POST"}
    assert set(TABLE.find("/_matrix/key/v2/query/m.example")) == {"GET"}


def test_a_parameter_that_is_not_utf8_is_bad_input() -> None:
    with pytest.raises(BadInput):
        TABLE.find("/_matrix/key/v2/query/%ff")


def test_the_same_route_twice_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="two routes"):
        RouteTable([_route("GET", "/a/{b}"), _route("GET", "/a/{c}")])


@given(st.text(min_size=1))
def test_any_identifier_comes_through_a_path(text: str) -> None:
    found = _found("GET", "/_matrix/key/v2/query/" + quote(text, safe=""))
    assert found == ("/_matrix/key/v2/query/{server_name}", {"server_name": text})


@given(st.text())
def test_any_value_comes_through_a_query(text: str) -> None:
    request = Request(method="GET", target=f"/x?a={quote(text, safe='')}&b=1&b=")
    assert request.query_one("a") == text
    assert request.query_all("b") == ("1", "")
    assert request.query_one("c") is None


def test_a_query_that_is_not_utf8_is_bad_input() -> None:
    with pytest.raises(BadInput):
        Request(method="GET", target="/x?a=%ff").query_one("a")


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        (b"", "M_NOT_JSON"),
        (b"{", "M_NOT_JSON"),
        (b'{"a": NaN}', "M_NOT_JSON"),
        (b'{"a": "\\ud800"}', "M_NOT_JSON"),
        (b'\xff"', "M_NOT_JSON"),
        (b"[" * 100_000, "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b"null", "M_BAD_JSON"),
    ],
)
def test_a_body_that_is_no_json_object_is_told_by_its_code(body: bytes, errcode: str) -> None:
    with pytest.raises(BadInput) as caught:
        Request(method="PUT", target="/", body=body).json_object()
    assert caught.value.errcode == errcode
