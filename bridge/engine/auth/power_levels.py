"""The rule about `m.room.power_levels` (10 until version 5, 9 from 6 to 11, 10 from 12).

1. The named levels are integers.   2. `events` and `notifications` are objects of integers.
3. `users` is an object of integers under valid user IDs.   4. From 12, no creator among `users`.
5. No power levels event before: allow.   6. to 10. Nobody changes what is above them, gives more
than they have, or changes another user who stands as high as they do.

Before version 10 the rules have neither 1 nor 2, and levels may be strings and floats: what counts
is their value (`engine.power.read_level`), and what has none counts as absent. Before version 6
`notifications` is nobody's business.

Absent `users`, `events` and `notifications` are allowed. `bool` is no integer.
Spec: rooms/v3, v6, v10, v11 and v12, authorisation rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.engine.auth.view import AuthView, refuse
from bridge.engine.pdu import Pdu
from bridge.engine.power import read_level
from bridge.engine.versions.rules import AuthRules
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
    new, rules = pdu.content, pdu.version.auth
    if rules.integer_levels:
        _check_types(new)  # 1, 2
    _check_users(new, rules)  # 3
    if view.power.privileged_creators and view.power.creators & _group(new, "users").keys():  # 4
        refuse("power_levels.creator", "creators have no entry in users")
    if view.power_levels is None:  # 5
        return
    old, own = view.power_levels.content, view.power.user(pdu.sender)
    before, after = _levels(old, rules), _levels(new, rules)
    for name in NAMED_LEVELS:  # 6
        _check_change(name, before.get(name), after.get(name), own)
    for group in ("events", "notifications") if rules.check_notifications else ("events",):  # 7, 8
        before, after = _levels(_group(old, group), rules), _levels(_group(new, group), rules)
        for name in before.keys() | after.keys():
            _check_change(group, before.get(name), after.get(name), own)
    before, after = _levels(_group(old, "users"), rules), _levels(_group(new, "users"), rules)
    for user in before.keys() | after.keys():
        current, wanted = before.get(user), after.get(user)
        if current == wanted:
            continue
        if user != pdu.sender and current is not None and current >= own:  # 9
            refuse("power_levels.users", "the other user stands as high as the sender")
        if wanted is not None and wanted > own:  # 10
            refuse("power_levels.users", "nobody gives a level above their own")


def _check_change(rule: str, current: int | None, wanted: int | None, own: int) -> None:
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
    for group in ("events", "notifications"):
        if group not in content:
            continue
        levels = content[group]
        if not isinstance(levels, dict):
            refuse("power_levels.object", f"{group} is not an object")
        if not all(type(level) is int for level in levels.values()):
            refuse("power_levels.integer", f"a level in {group} is not an integer")


def _check_users(content: Mapping[str, Any], rules: AuthRules) -> None:
    if "users" not in content:
        return
    levels = content["users"]
    if not isinstance(levels, dict):
        refuse("power_levels.object", "users is not an object")
    for name, level in levels.items():
        if read_level(level, integers_only=rules.integer_levels) is None:
            refuse("power_levels.integer", "a level in users is not an integer")
        _check_user_id(name)


def _check_user_id(text: str) -> None:
    try:
        parse_user_id(text)
    except BadInput as exc:
        refuse("power_levels.user_id", f"users: {exc.reason}")


def _group(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def _levels(values: Mapping[str, Any], rules: AuthRules) -> Mapping[str, int]:
    """Those of the values that are levels, as they count."""
    read = (
        (name, read_level(value, integers_only=rules.integer_levels))
        for name, value in values.items()
    )
    return {name: level for name, level in read if level is not None}
