"""Power levels as the rules read them, defaults and version 12 creators included.

Before version 10 a level may be a string or a float (`read_level`).
Spec: client-server API, m.room.power_levels; rooms/v3, deprecated event content schemas; rooms/v12,
authorisation rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bridge.engine.pdu import Pdu
from bridge.ids import UserId

INFINITE: Final = 2**53
"""A creator's level from version 12: above every integer that canonical JSON can carry."""

_DEFAULTS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "kick": 50,
    "redact": 50,
    "invite": 0,
}


MAX_LEVEL_DIGITS: Final = 400
"""Of a level that is a string, leading zeros aside: the largest double has 309."""


def read_level(value: object, *, integers_only: bool) -> int | None:
    """A power level as it counts, None for what is none. `bool` is no level.

    Unless `integers_only`: strings that are integers in base 10, with sign, zeros and white space
    around, and floats, which lose their fraction. Spec: rooms/v3, deprecated event content schemas.
    """
    if type(value) is int:
        return value
    if integers_only:
        return None
    if isinstance(value, str):
        return _integer_of(value.strip())
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    return None


def _integer_of(text: str) -> int | None:
    digits = text[1:] if text.startswith(("+", "-")) else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    digits = digits.lstrip("0") or "0"
    if len(digits) > MAX_LEVEL_DIGITS:
        return None
    return -int(digits) if text.startswith("-") else int(digits)


def creators_of(create: Pdu) -> frozenset[UserId]:
    """Who made the room. More than one only where creators are privileged."""
    rules = create.version.auth
    if rules.creator_in_content:
        creator = create.content.get("creator")
        return frozenset({UserId(creator)}) if isinstance(creator, str) else frozenset()
    if not rules.privileged_creators:
        return frozenset({create.sender})
    more = create.content.get("additional_creators")
    named = more if isinstance(more, list) else []
    others = (UserId(user) for user in named if isinstance(user, str))
    return frozenset({create.sender, *others})


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLevels:
    """The levels of one state of a room. Build with `of`."""

    content: Mapping[str, Any]
    creators: frozenset[UserId]
    privileged_creators: bool
    has_event: bool
    integer_levels: bool = True

    @staticmethod
    def of(power_levels: Pdu | None, create: Pdu | None) -> PowerLevels:
        """From the state's two events. Without a power levels event the creator has 100."""
        return _power_levels(power_levels, create)

    def user(self, user_id: str) -> int:
        """`INFINITE` for a privileged creator."""
        if self.privileged_creators and user_id in self.creators:
            return INFINITE
        if not self.has_event:
            return 100 if user_id in self.creators else 0
        value = _object(self.content, "users").get(user_id)
        if type(value) is int:
            return value
        level = read_level(value, integers_only=self.integer_levels)
        return self.users_default if level is None else level

    def event(self, event_type: str, *, is_state: bool) -> int:
        """The level required to send this type."""
        value = _object(self.content, "events").get(event_type)
        if type(value) is int:
            return value
        level = read_level(value, integers_only=self.integer_levels)
        return (
            self.named("state_default" if is_state else "events_default")
            if level is None
            else level
        )

    def named(self, name: str) -> int:
        """One of the levels of the top level, such as `ban`, or its default."""
        return self._level(self.content, name, _DEFAULTS[name])

    @property
    def users_default(self) -> int:
        return self.named("users_default")

    @property
    def ban(self) -> int:
        return self.named("ban")

    @property
    def kick(self) -> int:
        return self.named("kick")

    @property
    def invite(self) -> int:
        return self.named("invite")

    @property
    def redact(self) -> int:
        return self.named("redact")

    @property
    def notify_room(self) -> int:
        """The level to notify the whole room."""
        return self._level(_object(self.content, "notifications"), "room", 50)

    def may_send(self, user_id: str, event_type: str, *, is_state: bool = False) -> bool:
        return self.user(user_id) >= self.event(event_type, is_state=is_state)

    def may_invite(self, user_id: str) -> bool:
        return self.user(user_id) >= self.invite

    def may_kick(self, user_id: str, target: str) -> bool:
        return self.user(user_id) >= self.kick and self.user(target) < self.user(user_id)

    def may_ban(self, user_id: str, target: str) -> bool:
        return self.user(user_id) >= self.ban and self.user(target) < self.user(user_id)

    def may_redact(self, user_id: str) -> bool:
        """Other servers' events; those of the own server need no level."""
        return self.user(user_id) >= self.redact

    def may_notify_room(self, user_id: str) -> bool:
        return self.user(user_id) >= self.notify_room

    def _level(self, levels: Mapping[str, Any], name: str, default: int) -> int:
        # Accepted events hold levels only where the rules look; anything else counts as not set.
        level = read_level(levels.get(name), integers_only=self.integer_levels)
        return default if level is None else level


_recent: dict[tuple[int, int], tuple[Pdu | None, Pdu | None, PowerLevels]] = {}
_MAX_RECENT = 256


def _power_levels(power_levels: Pdu | None, create: Pdu | None) -> PowerLevels:
    """The same two events decide about most of what comes after them. They are told by identity:
    comparing large contents would cost more than reading them again."""
    found = _recent.get((id(power_levels), id(create)))
    if found is not None:
        return found[2]
    levels = PowerLevels(
        content={} if power_levels is None else power_levels.content,
        creators=frozenset() if create is None else creators_of(create),
        privileged_creators=create is not None and create.version.auth.privileged_creators,
        has_event=power_levels is not None,
        integer_levels=power_levels is None or power_levels.version.auth.integer_levels,
    )
    if len(_recent) >= _MAX_RECENT:
        _recent.clear()
    # Kept with the events, so that nothing else gets their identity.
    _recent[id(power_levels), id(create)] = power_levels, create, levels
    return levels


def _object(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name)
    return value if isinstance(value, dict) else {}
