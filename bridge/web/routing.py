"""Our own route values and the table that finds one for a path.

Segments are matched as they were sent and percent-decoded afterwards, so an identifier may contain
an encoded slash. What a literal segment offers goes before what a parameter offers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson

from bridge.errors import BadInput

MAX_QUERY_FIELDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, its body read. `target` is the request target byte by byte as sent.

    `params` are the template's parameters, percent-decoded. `headers` has lower-case names; of
    repeated ones the values stand in `headers_all`.
    """

    method: str
    target: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    headers_all: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    peer_address: str = ""
    request_id: str = ""

    @property
    def path(self) -> str:
        """The target without its query, as sent."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> list[tuple[str, str]]:
        """Fields in order, decoded. Raises `BadInput` for text that is not UTF-8."""
        try:
            return parse_qsl(
                self.target.partition("?")[2],
                keep_blank_values=True,
                errors="strict",
                max_num_fields=MAX_QUERY_FIELDS,
            )
        except ValueError as exc:
            raise BadInput(f"bad query: {exc}", errcode="M_INVALID_PARAM") from exc

    def query_all(self, name: str) -> tuple[str, ...]:
        return tuple(value for key, value in self.query if key == name)

    def query_one(self, name: str) -> str | None:
        """The first value, None when there is none."""
        return next(iter(self.query_all(name)), None)

    def json(self) -> Any:
        """The parsed body. Raises `BadInput` M_NOT_JSON. Floats are not refused here."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as exc:
            raise BadInput(f"the body is not JSON: {exc}", errcode="M_NOT_JSON") from exc

    def json_object(self) -> dict[str, Any]:
        """Like `json`, and `BadInput` M_BAD_JSON unless it is an object."""
        value = self.json()
        if not isinstance(value, dict):
            raise BadInput("the body is not a JSON object", errcode="M_BAD_JSON")
        return value


class ByteStream(Protocol):
    """A body that is too large to be held. It is closed by the server, sent or not."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """`json`, or `body` when it is given, or `stream` with its `length` if that is known.

    A stream that fails breaks the connection off: nobody takes the part for the whole.
    """

    status: int = 200
    json: Any = field(default_factory=dict)
    body: bytes | None = None
    stream: ByteStream | None = None
    length: int | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        return orjson.dumps(self.json) if self.body is None else self.body


Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`path` is a template, `/_matrix/key/v2/query/{server_name}`; a parameter is one segment.

    A parameter never matches an empty segment: a template that ends in `/` is another route.
    """

    method: str
    path: str
    endpoint: Endpoint
    max_body_bytes: int | None = None


@dataclass(slots=True)
class _Node:
    literal: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    routes: dict[str, tuple[Route, tuple[str, ...]]] = field(default_factory=dict)


class RouteTable:
    """Finds the route of a path in a time that does not grow with the number of routes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node, names = self._root, list[str]()
        for segment in route.path.split("/"):
            if segment.startswith("{") and segment.endswith("}"):
                names.append(segment[1:-1])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literal.setdefault(segment, _Node())
        if route.method in node.routes:
            raise ValueError(f"two routes for {route.method} {route.path}")
        node.routes[route.method] = (route, tuple(names))

    def find(self, path: str) -> dict[str, tuple[Route, dict[str, str]]]:
        """By method: the route and its decoded parameters. Empty when the path is unknown.

        Raises `BadInput` for a parameter that is not UTF-8.
        """
        found = _descend(self._root, path.split("/"), 0, ())
        if found is None:
            return {}
        node, raw = found
        values = [_decode(segment) for segment in raw]
        return {
            method: (route, dict(zip(names, values, strict=True)))
            for method, (route, names) in node.routes.items()
        }


def _descend(
    node: _Node, segments: Sequence[str], index: int, raw: tuple[str, ...]
) -> tuple[_Node, tuple[str, ...]] | None:
    # The depth is that of the deepest template, not of the path that was sent.
    if index == len(segments):
        return (node, raw) if node.routes else None
    segment = segments[index]
    literal = node.literal.get(segment)
    if literal is not None:
        found = _descend(literal, segments, index + 1, raw)
        if found is not None:
            return found
    if node.parameter is not None and segment:
        return _descend(node.parameter, segments, index + 1, (*raw, segment))
    return None


def _decode(segment: str) -> str:
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadInput("the path is not UTF-8", errcode="M_INVALID_PARAM") from exc
