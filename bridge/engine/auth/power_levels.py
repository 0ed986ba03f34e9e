"""The rule about `m.room.power_levels` (9 until version 11, 10 from 12).

1. The named levels are integers.   2. `events` and `notifications` are objects of integers.
3. `users` is an object of integers under valid user IDs.   4. From 12, no creator among `users`.
5. No power levels event before: allow.   6. to 10. Nobody changes what is above them, gives more
than they have, or changes another user who stands as high as they do.

Absent `users`, `events` and `notifications` are allowed. `bool` is no integer.
Spec: rooms/v10, v11 and v12, authorisation rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.engine.auth.view import AuthView, refuse
from bridge.engine.pdu import Pdu
from bridge.errors import BadInput
from bridge.ids import parse_user_id

NAMED_LEVELS = (
    "users_default",
    "events_default",
    "state_default",
    "ban",
    "redact",
    "kick",
    "invite",
)


def check_power_levels(pdu: Pdu, view: AuthView) -> None:
    """Raise `Refused` unless the sender may make this change."""
    new = pdu.content
    _check_types(new)  # 1 to 3
    if view.power.privileged_creators and view.power.creators & _levels(new, "users").keys():  # 4
        refuse("power_levels.creator", "creators have no entry in users")
    if view.power_levels is None:  # 5
        return
    old, own = view.power_levels.content, view.power.user(pdu.sender)
    for name in NAMED_LEVELS:  # 6
        _check_change(name, old.get(name), new.get(name), own)
    for group in ("events", "notifications"):  # 7, 8
        before, after = _levels(old, group), _levels(new, group)
        for name in before.keys() | after.keys():
            _check_change(group, before.get(name), after.get(name), own)
    before, after = _levels(old, "users"), _levels(new, "users")
    for user in before.keys() | after.keys():
        current, wanted = before.get(user), after.get(user)
        if current == wanted:
            continue
        if user != pdu.sender and current is not None and current >= own:  # 9
            refuse("power_levels.users", "the other user stands as high as the sender")
        if wanted is not None and wanted > own:  # 10
            refuse("power_levels.users", "nobody gives a level above their own")


def _check_change(rule: str, current: Any, wanted: Any, own: int) -> None:
    if current == wanted:
        return
    # A level of None is one that is added or removed.
    if current is not None and current > own:
        refuse(f"power_levels.{rule}", "the current level is above the sender's")
    if wanted is not None and wanted > own:
        refuse(f"power_levels.{rule}", "the new level is above the sender's")


def _check_types(content: Mapping[str, Any]) -> None:
    for name in NAMED_LEVELS:
        if name in content and type(content[name]) is not int:
            refuse("power_levels.integer", f"{name} is not an integer")
    for group in ("events", "notifications", "users"):
        if group not in content:
            continue
        levels = content[group]
        if not isinstance(levels, dict):
            refuse("power_levels.object", f"{group} is not an object")
        for name, level in levels.items():
            if type(level) is not int:
                refuse("power_levels.integer", f"a level in {group} is not an integer")
            if group == "users":
                _check_user_id(name)


def _check_user_id(text: str) -> None:
    try:
        parse_user_id(text)
    except BadInput as exc:
        refuse("power_levels.user_id", f"users: {exc.reason}")


def _levels(content: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    value = content.get(group)
    return value if isinstance(value, dict) else {}
