"""Links to Matrix users and rooms, as clients and people write them.

    https://matrix.to/#/@alice:m.example        https://matrix.to/#/%23garden:m.example?via=m.example
    matrix:u/alice:m.example    matrix:r/garden:m.example    matrix:roomid/AbC:m.example?via=...

A link to an event is read as one to its room. Spec: appendices, matrix.to navigation and Matrix
URIs (MSC2312).
"""

from __future__ import annotations

from urllib.parse import unquote

from bridge.errors import BadInput
from bridge.ids import (
    RoomAlias,
    RoomId,
    UserId,
    parse_room_alias,
    parse_room_id,
    parse_user_id,
)

_SIGILS = {"u": "@", "user": "@", "r": "#", "room": "#", "roomid": "!"}
"""The long forms are older."""


def parse_matrix_to(text: str) -> UserId | RoomAlias | RoomId:
    _, found, rest = text.strip().partition("/#/")
    if not found:
        raise BadInput("not a matrix.to link: nothing behind #/")
    return parse_matrix_id(_unquote(rest.partition("?")[0].partition("/")[0]))


def parse_matrix_uri(text: str) -> UserId | RoomAlias | RoomId:
    scheme, _, rest = text.strip().partition(":")
    path = rest.partition("#")[0].partition("?")[0]
    kind, _, more = path.partition("/")
    sigil = _SIGILS.get(kind)
    name = more.partition("/")[0]
    if scheme.lower() != "matrix" or sigil is None or not name:
        raise BadInput("not a matrix: link to a user or a room")
    return parse_matrix_id(sigil + _unquote(name))


def parse_matrix_id(text: str) -> UserId | RoomAlias | RoomId:
    """By its sigil."""
    match text[:1]:
        case "@":
            return parse_user_id(text)
        case "#":
            return parse_room_alias(text)
        case "!":
            return parse_room_id(text)
    raise BadInput("not a Matrix user, alias or room ID")


def _unquote(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as exc:
        raise BadInput("not a link: no UTF-8") from exc
