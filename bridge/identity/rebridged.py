"""Users whom another bridge has made out of somebody of this chat, or of ourselves. Pure.

Two bridges between one room and one chat would carry each other's ghosts round and round. What
betrays a ghost is its localpart: most bridges write the foreign address there by the mapping of
the Matrix specification, behind a prefix of their own (`_xmpp_`, `_bifrost_`, none).

A user is re-bridged who holds
1. an address of our own component: one of our people in the chat, seen by another bridge;
2. an address of an occupant of this very chat (`chat/nickname`);
3. any foreign address, on a server that says in the room's state (MSC2346) that it bridges the
   same chat.
Spec: appendices, mapping from other character sets; MSC2346.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from bridge.identity.localparts import GHOST_MARK
from bridge.ids import ServerName, UserId, localpart_of, server_of

Why = Literal["own-address", "occupant", "bridged-there"]
_HEX = frozenset("0123456789abcdef")


def find_rebridged(
    user_id: UserId,
    *,
    own_server: ServerName,
    is_own_address: Callable[[str], bool],
    chat: str,
    bridging: Collection[ServerName] = (),
) -> Why | None:
    """Why this user's words come from the chat already, or from us; None: they do not.

    `own_server`: its ghosts are ours, and known. `bridging`: servers with a bridge to this chat.
    """
    if server_of(user_id) == own_server or not has_address(user_id):
        return None
    text = _read(localpart_of(user_id))
    local, _, rest = text.partition("@")
    if f"{text}/".startswith(f"{chat}/") or f"_{chat}/" in f"{text}/":
        return "occupant"
    if is_own_address(f"{local}@{rest.partition('/')[0]}"):
        return "own-address"
    return "bridged-there" if server_of(user_id) in bridging else None


def has_address(user_id: UserId) -> bool:
    """Whether the localpart looks like a foreign address; most people's does not."""
    return GHOST_MARK in localpart_of(user_id)


def _read(localpart: str) -> str:
    """The text behind `=hh`, a prefix included; what is no escape stands for itself."""
    out = bytearray()
    at = 0
    while at < len(localpart):
        digits = localpart[at + 1 : at + 3]
        if localpart[at] == "=" and len(digits) == 2 and set(digits) <= _HEX:
            out.append(int(digits, 16))
            at += 3
        else:
            out += localpart[at].encode("utf-8", "surrogatepass")
            at += 1
    return out.decode("utf-8", "replace")
