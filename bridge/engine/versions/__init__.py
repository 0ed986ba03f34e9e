"""The registry of room versions. To add one: a record in this package, a line in `VERSIONS`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from bridge.engine.versions.matrix import V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12
from bridge.engine.versions.mimi import I_1
from bridge.engine.versions.rules import RoomVersion
from bridge.errors import BadInput
from bridge.ids import RoomVersionId

__all__ = [
    "UNNAMED",
    "VERSIONS",
    "RoomVersion",
    "get_creatable",
    "get_version",
    "is_valid_version_id",
]

VERSIONS: Mapping[RoomVersionId, RoomVersion] = MappingProxyType(
    {version.id: version for version in (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12, I_1)}
)
UNNAMED = V1
"""Of a room whose version nobody names: in its create event, in a template, in an invite.
Spec: client-server API, m.room.create; S2S, GET /make_join and PUT /v1/invite."""

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


def get_creatable(version_id: str) -> RoomVersion:
    """A version that new rooms may have. Raises `BadInput` with `M_UNSUPPORTED_ROOM_VERSION`."""
    version = get_version(version_id)
    if not version.creatable:
        raise BadInput(
            f"rooms of version {version_id} are joined here, but not made",
            errcode="M_UNSUPPORTED_ROOM_VERSION",
        )
    return version


def is_valid_version_id(text: str) -> bool:
    """Whether it could be a room version: the grammar of Matrix or of the `I.` family."""
    return bool(_MATRIX_ID.fullmatch(text) or _MIMI_ID.fullmatch(text))
