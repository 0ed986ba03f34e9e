"""The registry of room versions. To add one: a record in this package, a line in `VERSIONS`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from bridge.engine.versions.matrix import V3, V4, V5, V6, V7, V8, V9, V10, V11, V12
from bridge.engine.versions.mimi import I_1
from bridge.engine.versions.rules import RoomVersion
from bridge.errors import BadInput
from bridge.ids import RoomVersionId

__all__ = ["VERSIONS", "RoomVersion", "get_version", "is_valid_version_id"]

VERSIONS: Mapping[RoomVersionId, RoomVersion] = MappingProxyType(
    {version.id: version for version in (V3, V4, V5, V6, V7, V8, V9, V10, V11, V12, I_1)}
)

_MATRIX_ID = re.compile(r"[a-z0-9.-]{1,32}")
_MIMI_ID = re.compile(r"I\.[0-9.]{1,30}")


def get_version(version_id: str) -> RoomVersion:
    """Case-sensitive. Raises `BadInput` with `M_UNSUPPORTED_ROOM_VERSION`."""
    version = VERSIONS.get(RoomVersionId(version_id))
    if version is None:
        raise BadInput(
            f"room version {version_id!r} is not known here", errcode="M_UNSUPPORTED_ROOM_VERSION"
        )
    return version


def is_valid_version_id(text: str) -> bool:
    """Whether it could be a room version: the grammar of Matrix or of the `I.` family."""
    return bool(_MATRIX_ID.fullmatch(text) or _MIMI_ID.fullmatch(text))
