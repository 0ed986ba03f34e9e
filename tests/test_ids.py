"""Server names as strangers write them. Spec: appendices, server name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bridge.errors import BadInput
from bridge.ids import (
    parse_event_id,
    parse_room_alias,
    parse_room_id,
    parse_server_name,
    parse_user_id,
    split_server_name,
)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("m.example", ("m.example", None)),
        ("m.example:8448", ("m.example", 8448)),
        ("192.0.2.1:1", ("192.0.2.1", 1)),
        ("[2001:db8::1]", ("[2001:db8::1]", None)),
        ("[2001:DB8::1]:65535", ("[2001:DB8::1]", 65535)),
        ("[::ffff:192.0.2.1]", ("[::ffff:192.0.2.1]", None)),
    ],
)
def test_a_server_name_has_a_host_and_perhaps_a_port(
    name: str, parts: tuple[str, int | None]
) -> None:
    assert split_server_name(parse_server_name(name)) == parts


@pytest.mark.parametrize(
    "name",
    [
        "",
        "[]",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]",
        "[2001:db8::1%\r\nX-Injected: 1]",
        '[2001:db8::1%",key="x]',
        "[2001:db8::1%\0]",
        "m.example:0",
        "m.example:65536",
        "m.example:٣",
        "m.example:1\n",
        "m.example\r\n",
        "mücke.example",
        "m.example/x",
        "m.example?x",
        "u@m.example",
        "a" * 231,
    ],
)
def test_what_is_no_server_name_is_refused_wherever_it_stands(name: str) -> None:
    with pytest.raises(BadInput):
        parse_server_name(name)
    with pytest.raises(BadInput):
        parse_user_id(f"@user:{name}")


@pytest.mark.parametrize(
    "parse", [parse_event_id, parse_room_alias, parse_room_id, parse_server_name, parse_user_id]
)
@pytest.mark.parametrize(
    "text", ["x" * 60_000, "@" + "x" * 60_000, "#!$" * 20_000, {"x": "y" * 60_000}]
)
def test_an_error_shows_no_more_of_a_strangers_text_than_a_log_line_carries(
    parse: Callable[[object], object], text: object
) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert len(caught.value.reason) < 300
