"""What is not in the table: other paths and other methods, under every prefix.

Spec: S2S, unsupported endpoints.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from yarl import URL

from bridge.federation.server.routes import federation_routes
from bridge.federation.server.well_known import well_known_routes
from bridge.web.application import Listener, Route, WebServer

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE")


class Nothing:
    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def table() -> tuple[Route, ...]:
    parts = inspect.signature(federation_routes).parameters
    nothing: Any = {name: Nothing() for name in parts}
    return (*federation_routes(**nothing), *well_known_routes())


@pytest.fixture
async def base() -> AsyncIterator[str]:
    server = WebServer(routes=table(), listeners=[Listener(host="127.0.0.1", port=0)])
    await server.start()
    try:
        yield "http://{}:{}".format(*server.addresses[0])
    finally:
        await server.stop()


async def ask(base: str, method: str, path: str) -> tuple[int, str, set[str]]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, URL(base + path, encoded=True)) as answer,
    ):
        allowed = set(filter(None, answer.headers.get("Allow", "").split(", ")))
        code = "" if method == "HEAD" else (await answer.json())["errcode"]
        return answer.status, code, allowed


async def test_every_known_path_tells_which_methods_it_has(base: str) -> None:
    methods: dict[str, set[str]] = {}
    for route in table():
        path = re.sub(r"\{[^}]*\}", "x", route.path)
        methods.setdefault(path, set()).add(route.method)
    for path, known in methods.items():
        for method in METHODS:
            if method not in known:
                status, code, allowed = await ask(base, method, path)
                assert (status, allowed) == (405, known), (method, path)
                assert code in ("M_UNRECOGNIZED", ""), (method, path)


async def test_every_other_path_is_unrecognized_whatever_the_method(base: str) -> None:
    prefixes = (
        "",
        "/_matrix",
        "/_matrix/federation",
        "/_matrix/federation/v1",
        "/_matrix/federation/v2",
        "/_matrix/federation/v9",
        "/_matrix/federation/unstable/org.example",
        "/_matrix/key/v1",
        "/_matrix/key/v2",
        "/_matrix/client/v3",
        "/_matrix/media/v3",
        "/_matrix/app/v1",
        "/_matrix/identity/v2",
        "/_matrix/policy/v1",
        "/_synapse/admin/v1",
        "/_isthmus",
        "/.well-known",
        "/.well-known/matrix",
    )
    for prefix in prefixes:
        for method in METHODS:
            status, code, _ = await ask(base, method, f"{prefix}/no_such_thing")
            assert status == 404, (method, prefix)
            assert code in ("M_UNRECOGNIZED", ""), (method, prefix)
