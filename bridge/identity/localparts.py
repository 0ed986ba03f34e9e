"""Foreign address <-> Matrix ghost: total, deterministic and reversible, without a table.

A bare XMPP address becomes the localpart of a ghost by the suggested mapping of the Matrix
specification: UTF-8, lower case, and every byte outside `a-z0-9._-/+` as `=hh`. What cannot be
reversed is a hash behind a prefix that no address can produce, and needs a stored row:

    =40=40<hash>        an occupant of a MUC whose real address is hidden
    =40=40=40<hash>     an address that is too long for a user ID

Every ghost localpart contains `=40`; nothing else on our server may (`is_ghost_localpart`).
Addresses come in *prepared* (`adapters.xmpp.addresses`), because preparation is the protocol's.
Spec: appendices, mapping from other character sets; appendices, user identifiers.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Literal

from bridge.errors import BadInput, NotFound
from bridge.ids import MAX_ID_BYTES, RoomAlias, ServerName, UserId, localpart_of, server_of

GHOST_MARK = "=40"
_OCCUPANT = "=40=40"
_TOO_LONG = "=40=40=40"
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-/+")
_HEX = frozenset("0123456789abcdef")
_HASH_BYTES = 20

OccupantKey = Literal["occupant-id", "nickname"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GhostName:
    """A ghost's user ID. `is_hashed`: nothing can recompute the address, keep a row for it."""

    user_id: UserId
    is_hashed: bool = False


def to_localpart(address: str) -> str:
    """The reversible form, without any limit of length. ASCII capitals are folded."""
    try:
        raw = address.encode()
    except UnicodeEncodeError as exc:
        raise BadInput("address with a lone surrogate", errcode="M_INVALID_PARAM") from exc
    if b"@" not in raw:
        raw = b"@" + raw
    return "".join(chr(byte) if byte in _PLAIN else f"={byte:02x}" for byte in raw.lower())


def from_localpart(localpart: str) -> str:
    """The address behind a reversible localpart.

    Raises NotFound for a hashed one (look into the stored rows) and BadInput for what
    `to_localpart` never writes: another spelling is not another name of the same ghost.
    """
    if localpart.startswith(_OCCUPANT):
        raise NotFound(f"only the stored row knows who {localpart} is")
    out = bytearray()
    at = 0
    while at < len(localpart):
        char = localpart[at]
        if char == "=":
            digits = localpart[at + 1 : at + 3]
            if len(digits) != 2 or not set(digits) <= _HEX:
                raise BadInput("not a ghost: broken escape", errcode="M_INVALID_PARAM")
            out.append(int(digits, 16))
            at += 3
        else:
            out += char.encode("utf-8", "surrogatepass")
            at += 1
    try:
        address = out.decode()
    except UnicodeDecodeError as exc:
        raise BadInput("not a ghost: no UTF-8", errcode="M_INVALID_PARAM") from exc
    local, found, domain = address.partition("@")
    if not found or not domain or "@" in domain:
        raise BadInput("not a ghost: no address in it", errcode="M_INVALID_PARAM")
    if not local:
        address = domain
    if to_localpart(address) != localpart:
        raise BadInput("not a ghost: not the canonical spelling", errcode="M_INVALID_PARAM")
    return address


def user_id_for(address: str, server: ServerName, *, prefix: str = "") -> GhostName:
    """The ghost of a prepared bare address (`juliet@capulet.lit`) or domain (`irc.capulet.lit`).

    `prefix` is `_xmpp_` beside an existing homeserver, nothing when we are the homeserver.
    """
    local, found, domain = address.partition("@")
    if not found:
        local, domain = "", address
    if not domain or "@" in domain or (found and not local):
        raise BadInput(f"not a bare address: {address!r}", errcode="M_INVALID_PARAM")
    user_id = f"@{prefix}{to_localpart(address)}:{server}"
    if len(user_id) <= MAX_ID_BYTES:
        return GhostName(user_id=UserId(user_id))
    return _hashed(_TOO_LONG, ("address", to_localpart(address)), server, prefix)


def user_id_for_occupant(
    chat: str, key: str, server: ServerName, *, kind: OccupantKey, prefix: str = ""
) -> GhostName:
    """The ghost of an occupant of the MUC `chat` who is known by occupant-id or nickname only."""
    return _hashed(_OCCUPANT, (kind, chat, key), server, prefix)


def address_for(user_id: UserId, server: ServerName, *, prefix: str = "") -> str:
    """The address of our ghost. NotFound: hashed, ask the stored row. BadInput: none of ours."""
    if server_of(user_id) != server:
        raise BadInput("a user of another server", errcode="M_INVALID_PARAM")
    localpart = localpart_of(user_id)
    if not localpart.startswith(prefix):
        raise BadInput("not a ghost: no prefix", errcode="M_INVALID_PARAM")
    return from_localpart(localpart.removeprefix(prefix))


def alias_for(chat: str, server: ServerName, *, prefix: str = "") -> RoomAlias:
    """The alias under which a foreign MUC is a room: `#coven=40chat.capulet.lit:gw.example`."""
    local, found, domain = chat.partition("@")
    if not found or not local or not domain or "@" in domain:
        raise BadInput(f"not the address of a chat: {chat!r}", errcode="M_INVALID_PARAM")
    alias = f"#{prefix}{to_localpart(chat)}:{server}"
    if len(alias) > MAX_ID_BYTES:
        raise BadInput("the chat's address is too long for an alias", errcode="M_INVALID_PARAM")
    return RoomAlias(alias)


def chat_for(alias: RoomAlias, server: ServerName, *, prefix: str = "") -> str:
    """The foreign MUC behind an alias of ours; BadInput where it is an ordinary alias."""
    if server_of(alias) != server:
        raise BadInput("an alias of another server", errcode="M_INVALID_PARAM")
    localpart = localpart_of(alias)
    if not localpart.startswith(prefix) or localpart.startswith(prefix + _OCCUPANT):
        raise BadInput("not the alias of a chat", errcode="M_INVALID_PARAM")
    chat = from_localpart(localpart.removeprefix(prefix))
    if "@" not in chat:
        raise BadInput("not the alias of a chat", errcode="M_INVALID_PARAM")
    return chat


def is_ghost_localpart(localpart: str, *, prefix: str = "") -> bool:
    """Whether the name is kept for ghosts, well formed or not: nobody else may take it."""
    return localpart.startswith(prefix) and GHOST_MARK in localpart.removeprefix(prefix)


def is_hashed_localpart(localpart: str, *, prefix: str = "") -> bool:
    """Whether only a stored row can say whose ghost it is."""
    return localpart.startswith(prefix + _OCCUPANT)


def _hashed(mark: str, parts: tuple[str, ...], server: ServerName, prefix: str) -> GhostName:
    """160 bits of SHA-256 over the length-prefixed parts, in lower-case base32."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(4, "big") + raw)
    name = base64.b32encode(digest.digest()[:_HASH_BYTES]).decode().lower()
    user_id = f"@{prefix}{mark}{name}:{server}"
    if len(user_id) > MAX_ID_BYTES:
        raise BadInput("our server name is too long for ghosts", errcode="M_INVALID_PARAM")
    return GhostName(user_id=UserId(user_id), is_hashed=True)
