"""Our own `.well-known` documents, held against the specification's OpenAPI files."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.clock import SystemClock
from bridge.federation.client.discovery import _delegated_name
from bridge.federation.server.well_known import SERVER_PATH, SUPPORT_PATH, well_known_routes
from bridge.ids import ServerName
from bridge.net.client import HttpResponse
from bridge.web.middleware import answer
from bridge.web.routing import Request, Response, RouteTable
from tests.support.openapi import complaints


async def ask(path: str, **settings: Any) -> Response:
    route, _ = RouteTable(well_known_routes(**settings)).find(path)["GET"]
    request = Request(method="GET", target=path)
    return await answer(
        lambda: route.endpoint(request), route=route, request_id="r", clock=SystemClock()
    )


async def test_a_delegation_is_told_in_the_form_that_discovery_reads() -> None:
    told = await ask(SERVER_PATH, server=ServerName("matrix.gw.example:443"))
    assert complaints("GET", SERVER_PATH, told.status, told.json) == []
    assert (told.status, told.content_type) == (200, "application/json")
    read = HttpResponse(status=told.status, headers={}, body=told.to_bytes())
    assert _delegated_name(read) == "matrix.gw.example:443"


async def test_contacts_and_page_are_told_to_pages_of_any_origin() -> None:
    contacts = [
        {"role": "m.role.admin", "matrix_id": "@admin:m.example"},
        {"role": "m.role.security", "email_address": "security@gw.example"},
    ]
    told = await ask(SUPPORT_PATH, contacts=contacts, support_page="https://gw.example/help")
    assert told.status == 200
    assert complaints("GET", SUPPORT_PATH, 200, told.json) == []
    assert told.json == {"contacts": contacts, "support_page": "https://gw.example/help"}
    assert told.headers["Access-Control-Allow-Origin"] == "*"
    page_only = await ask(SUPPORT_PATH, support_page="https://gw.example/help")
    assert page_only.json == {"support_page": "https://gw.example/help"}


@pytest.mark.parametrize("path", [SERVER_PATH, SUPPORT_PATH])
async def test_who_has_nothing_to_say_answers_that_it_is_not_found(path: str) -> None:
    told = await ask(path)
    assert (told.status, told.json["errcode"]) == (404, "M_NOT_FOUND")
