"""Between the values of `rooms/` and those of the Matrix port."""

from __future__ import annotations

import math

from bridge.engine.pdu import Pdu
from bridge.engine.power import INFINITE, PowerLevels
from bridge.ids import RoomAlias, RoomId, ServerName, TraceId, UserId
from bridge.ports.matrix import Member, PublicRoom, PublicRooms, RoomEvent, RoomInfo, StateEntry
from bridge.rooms.entries import RoomEntry
from bridge.rooms.public_rooms import RoomPage
from bridge.rooms.query import RoomSummary, TimelineEvent

_NAMED = ("ban", "kick", "invite", "redact")


def to_room_event(one: TimelineEvent, server_name: ServerName) -> RoomEvent:
    pdu = one.pdu
    return RoomEvent(
        position=one.position,
        room_id=pdu.room_id,
        event_id=pdu.event_id,
        type=pdu.type,
        sender=pdu.sender,
        state_key=pdu.state_key,
        content=pdu.content,
        origin_server_ts=pdu.origin_server_ts,
        extensible=pdu.version.extensible_events,
        own=pdu.sender_server == server_name,
        transaction_id=one.transaction_id,
        trace_id=TraceId(one.trace_id),
        redacts=pdu.redacts,
        redacted=one.redacted,
        previous_membership=one.previous_membership,
        invite_state=() if one.invite is None else one.invite.room_state,
    )


def to_room_info(summary: RoomSummary) -> RoomInfo:
    join_rule = _text(summary.join_rules, "join_rule")
    alias = _text(summary.alias, "alias")
    replacement = _text(summary.tombstone, "replacement_room")
    topic = summary.topic
    return RoomInfo(
        room_id=summary.room_id,
        version=summary.version.id,
        extensible=summary.version.extensible_events,
        name=_text(summary.name, "name"),
        topic=_text(topic, "topic"),
        topic_sender=None if topic is None else topic.sender,
        topic_ts=None if topic is None else topic.origin_server_ts,
        canonical_alias=None if alias is None else RoomAlias(alias),
        join_rule="invite" if join_rule is None else join_rule,
        encrypted=summary.encryption is not None,
        direct=summary.is_direct,
        replacement=None if replacement is None else RoomId(replacement),
        position=summary.position,
    )


def to_member(pdu: Pdu) -> Member:
    return Member(
        user_id=UserId(pdu.state_key or ""),
        membership=pdu.membership or "leave",
        displayname=_text(pdu, "displayname"),
        avatar_url=_text(pdu, "avatar_url"),
    )


def to_state_entry(pdu: Pdu) -> StateEntry:
    return StateEntry(state_key=pdu.state_key or "", sender=pdu.sender, content=pdu.content)


def to_public_room(entry: RoomEntry) -> PublicRoom:
    return PublicRoom(
        room_id=entry.room_id,
        members=entry.joined_members,
        name=entry.name,
        topic=entry.topic,
        canonical_alias=entry.canonical_alias,
        join_rule=entry.join_rule,
        is_space=entry.room_type == "m.space",
    )


def to_public_rooms(page: RoomPage) -> PublicRooms:
    return PublicRooms(
        rooms=[to_public_room(one) for one in page.rooms],
        next=page.next,
        previous=page.previous,
        total=page.total,
    )


class RoomPower:
    """Fits `ports.matrix.Power` over the engine's power levels."""

    def __init__(self, levels: PowerLevels) -> None:
        self._levels = levels

    def level(self, user_id: UserId) -> float:
        level = self._levels.user(user_id)
        return math.inf if level >= INFINITE else level

    def needed(self, action: str) -> int:
        """Raises `KeyError` for a word that is no action."""
        if action in _NAMED:
            return self._levels.named(action)
        kind, colon, event_type = action.partition(":")
        if not colon or kind not in ("event", "state"):
            raise KeyError(action)
        return self._levels.event(event_type, is_state=kind == "state")

    def may(self, user_id: UserId, action: str, target: UserId | None = None) -> bool:
        if self.level(user_id) < self.needed(action):
            return False
        if target is None or action not in ("kick", "ban"):
            return True
        return self.level(target) < self.level(user_id)


def _text(pdu: Pdu | None, name: str) -> str | None:
    value = None if pdu is None else pdu.content.get(name)
    return value if isinstance(value, str) else None
