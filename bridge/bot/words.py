"""How commands, times and rows are spelt out in answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from bridge.ports.command import CommandInfo, Level

LEVEL_NAMES: Mapping[Level, str] = {
    Level.NOBODY: "everybody",
    Level.USER: "users (level `user`)",
    Level.ADMIN: "admins (level `admin`)",
}


def describe(info: CommandInfo) -> str:
    """The usage of a command, with its arguments."""
    lines = [f"Usage: {info.usage}"]
    lines.extend(f"  {argument.name}: {argument.summary}" for argument in info.arguments)
    return "\n".join(lines)


def to_time(at_ms: int) -> str:
    """`2026-11-22 14:03:05`, in UTC."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "some other time"


def first_of(names: Sequence[str], most: int) -> str:
    """Names in a row, the last ones as a number."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def count_of(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
