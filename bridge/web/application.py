"""Routes, requests and responses of our own, and the server that carries them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, body read. `target` is the request target as sent (it is what is signed).

    `params` are the template's segments, percent-decoded; `query` holds all values in order.
    `headers` has lower-case names.
    """

    method: str
    target: str
    params: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes
    peer_address: str
    request_id: str

    def query_one(self, name: str) -> str | None: ...

    def query_all(self, name: str) -> tuple[str, ...]: ...

    def json(self) -> object:
        """The parsed body; `BadInput` M_NOT_JSON. Floats are not refused here."""

    def json_object(self) -> dict[str, object]:
        """Like `json`, and `BadInput` M_BAD_JSON unless it is an object."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """`json` or `body`; `json` wins. Header names as to be sent."""

    status: int = 200
    json: object = None
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`path` is a template: `/_matrix/key/v2/query/{server_name}`."""

    method: str
    path: str
    endpoint: Endpoint
    max_body_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where to listen. Port 0 takes a free one. TLS when both files are given."""

    host: str
    port: int
    certificate: Path | None = None
    private_key: Path | None = None
