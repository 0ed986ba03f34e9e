"""The state event that says which foreign chat a room is bridged to. Pure. Spec: MSC2346."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from bridge.errors import BadInput
from bridge.ids import ServerName, UserId, parse_user_id, server_of
from bridge.ports.matrix import StateEntry

TYPES = ("m.bridge", "uk.half-shot.bridge")
"""The name of the proposal, and the one that clients read today."""


def state_key(adapter: str, chat: str) -> str:
    network = _network(chat)
    return f"isthmus://{quote(adapter)}/{quote(network)}/{quote(chat, safe='@')}"


def content(
    *, adapter: str, chat: str, name: str | None, link: str, bot: UserId, creator: UserId | None
) -> dict[str, Any]:
    """IDs are in lower case, as the proposal asks: chats' addresses are prepared already."""
    channel = {"id": chat.lower(), "external_url": link}
    if name is not None:
        channel["displayname"] = name
    info: dict[str, Any] = {
        "bridgebot": bot,
        "protocol": {"id": adapter, "displayname": adapter.upper()},
        "network": {"id": _network(chat).lower()},
        "channel": channel,
    }
    if creator is not None:
        info["creator"] = creator
    return info


def servers_bridging(
    entries: Sequence[StateEntry], *, adapter: str, chat: str, bot: UserId
) -> frozenset[ServerName]:
    """Servers of other bridges that say they bridge this chat: of the bot that is named, and of
    whoever said so."""
    servers: set[ServerName] = set()
    for entry in entries:
        claimed = _id_of(entry.content, "protocol"), _id_of(entry.content, "channel")
        if claimed != (adapter, chat.lower()) or entry.content.get("bridgebot") == bot:
            continue
        servers.add(server_of(entry.sender))
        with suppress(BadInput):  # the bot may be left out
            servers.add(server_of(parse_user_id(entry.content.get("bridgebot"))))
    return frozenset(servers - {server_of(bot)})


def _id_of(info: Mapping[str, Any], what: str) -> str | None:
    value = info.get(what)
    found = value.get("id") if isinstance(value, Mapping) else None
    return found.lower() if isinstance(found, str) else None


def _network(chat: str) -> str:
    return chat.partition("@")[2] or chat
