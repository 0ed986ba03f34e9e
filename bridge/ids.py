"""Matrix identifiers: distinct types over `str`, and the parsers that make them.

Parsers raise `BadInput`. They accept what the specification says *receivers* must accept
(historical user IDs included), because refusing more would split rooms.
Spec: appendices, identifier grammar.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NewType

from bridge.errors import BadInput

ServerName = NewType("ServerName", str)
UserId = NewType("UserId", str)
RoomId = NewType("RoomId", str)
RoomAlias = NewType("RoomAlias", str)
EventId = NewType("EventId", str)
KeyId = NewType("KeyId", str)
DeviceId = NewType("DeviceId", str)
RoomVersionId = NewType("RoomVersionId", str)
TraceId = NewType("TraceId", str)
"""Born with a message, carried by each of its rows; what `why` looks for."""

MAX_ID_BYTES = 255
_SURELY_SHORT = MAX_ID_BYTES // 4
"""Characters that fit whatever they are."""
_HOST = re.compile(r"[A-Za-z0-9.-]{1,255}")
_IPV6 = re.compile(r"\[[0-9A-Fa-f:.]{2,45}\]")
_PORT = re.compile(r"[0-9]{1,5}")
_MEDIA_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")


def fits(text: str, max_bytes: int) -> bool:
    """Whether it takes no more in UTF-8."""
    if 4 * len(text) <= max_bytes:
        return True
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size <= max_bytes


def _shown(text: object) -> str:
    """For an error: as much of a stranger's text as a log line should carry."""
    if not isinstance(text, str):
        return f"a {type(text).__name__}"
    return repr(text) if len(text) <= 100 else f"{text[:100]!r}..."


def split_server_name(name: str) -> tuple[str, int | None]:
    """Host (IPv6 in its brackets) and the explicit port. Spec: appendices, server name."""
    host, port = name, None
    if name.startswith("["):
        end = name.find("]")
        if end < 0:
            raise BadInput(f"not a server name: {_shown(name)}")
        host, rest = name[: end + 1], name[end + 1 :]
        # A zone (`%` and anything at all) is no part of a server name.
        if not _IPV6.fullmatch(host):
            raise BadInput(f"not a server name: {_shown(name)}")
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError as exc:
            raise BadInput(f"not a server name: {_shown(name)}") from exc
        if rest and not rest.startswith(":"):
            raise BadInput(f"not a server name: {_shown(name)}")
        port_text = rest[1:] if rest else None
    else:
        host, colon, tail = name.partition(":")
        port_text = tail if colon else None
        if not _HOST.fullmatch(host):
            raise BadInput(f"not a server name: {_shown(name)}")
    if port_text is not None:
        if not _PORT.fullmatch(port_text) or not 0 < int(port_text) < 65536:
            raise BadInput(f"not a server name: {_shown(name)}")
        port = int(port_text)
    return host, port


def parse_server_name(text: object) -> ServerName:
    """A host name, an IPv4 or bracketed IPv6 literal, with an optional port."""
    if not isinstance(text, str) or not 0 < len(text) <= 230:
        raise BadInput("not a server name")
    _check_server_name(text)
    return ServerName(text)


@lru_cache(maxsize=4096)
def _check_server_name(text: str) -> None:
    """The same few come again and again. What is refused is not remembered."""
    split_server_name(text)


def _split(text: object, sigil: str, kind: str) -> tuple[str, str]:
    if not isinstance(text, str) or not text.startswith(sigil):
        raise BadInput(f"not a {kind}: {_shown(text)}", errcode="M_INVALID_PARAM")
    if not fits(text, MAX_ID_BYTES):
        raise BadInput(f"{kind} over {MAX_ID_BYTES} bytes", errcode="M_INVALID_PARAM")
    local, colon, domain = text[1:].partition(":")
    if not colon or "\0" in text:
        raise BadInput(f"not a {kind}: {_shown(text)}", errcode="M_INVALID_PARAM")
    parse_server_name(domain)
    return local, domain


def parse_user_id(text: object) -> UserId:
    """`@localpart:server`, historical localparts (any characters, even none) allowed."""
    _split(text, "@", "user ID")
    assert isinstance(text, str)
    return UserId(text)


def parse_room_alias(text: object) -> RoomAlias:
    """`#localpart:server`."""
    _split(text, "#", "room alias")
    assert isinstance(text, str)
    return RoomAlias(text)


def parse_room_id(text: object) -> RoomId:
    """`!opaque:server`, or from version 12 `!` and a reference hash without a domain."""
    if not isinstance(text, str) or not text.startswith("!") or len(text) < 2 or "\0" in text:
        raise BadInput(f"not a room ID: {_shown(text)}", errcode="M_INVALID_PARAM")
    if not fits(text, MAX_ID_BYTES):
        raise BadInput(f"room ID over {MAX_ID_BYTES} bytes", errcode="M_INVALID_PARAM")
    return RoomId(text)


def parse_event_id(text: object) -> EventId:
    """`$` and something: the reference hash in version 4 and later, `$opaque:server` before."""
    if not isinstance(text, str) or text[:1] != "$" or len(text) < 2 or "\0" in text:
        raise BadInput(f"not an event ID: {_shown(text)}", errcode="M_INVALID_PARAM")
    if len(text) > _SURELY_SHORT and not fits(text, MAX_ID_BYTES):
        raise BadInput(f"event ID over {MAX_ID_BYTES} bytes", errcode="M_INVALID_PARAM")
    return EventId(text)


def parse_device_id(text: object) -> DeviceId:
    """Whatever a client or server chose, within 255 bytes; `*`, which means all, is none."""
    if not isinstance(text, str) or not text or text == "*" or "\0" in text:
        raise BadInput(f"not a device ID: {_shown(text)}", errcode="M_INVALID_PARAM")
    if not fits(text, MAX_ID_BYTES):
        raise BadInput(f"device ID over {MAX_ID_BYTES} bytes", errcode="M_INVALID_PARAM")
    return DeviceId(text)


def parse_event_id_with_server(text: object) -> EventId:
    """`$opaque:server` of room versions 1 and 2."""
    _split(text, "$", "event ID")
    assert isinstance(text, str)
    return EventId(text)


def parse_mxc(text: object) -> tuple[ServerName, str]:
    """Server and media ID of `mxc://server/id`. Spec: C2S, content repository."""
    if not isinstance(text, str) or not text.startswith("mxc://"):
        raise BadInput(f"not an mxc URI: {_shown(text)}", errcode="M_INVALID_PARAM")
    server, _, media_id = text.removeprefix("mxc://").partition("/")
    return parse_server_name(server), parse_media_id(media_id)


def parse_media_id(text: object) -> str:
    """Letters, digits, `_` and `-`: nothing that means anything in a path."""
    if not isinstance(text, str) or not _MEDIA_ID.fullmatch(text):
        raise BadInput(f"not a media ID: {_shown(text)}", errcode="M_INVALID_PARAM")
    return text


def localpart_of(identifier: UserId | RoomAlias) -> str:
    """What stands between the sigil and the first colon."""
    return identifier[1:].partition(":")[0]


def server_of(identifier: UserId | RoomAlias | EventId) -> ServerName:
    """What stands behind the first colon; for an event ID that is a hash, nothing."""
    return ServerName(identifier.partition(":")[2])
