"""State resolution, by the algorithm that the room version's rules name.

Spec: S2S, room state resolution; rooms/v1; rooms/v2; rooms/v12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from bridge.engine.state import StateKey, StateMap
from bridge.engine.stateres import v1, v2
from bridge.engine.stateres.chains import Fetching, auth_chain, run
from bridge.engine.versions.rules import RoomVersion
from bridge.ids import EventId

__all__ = ["Fetching", "auth_chain", "resolve", "run"]

_ALGORITHMS: Mapping[
    str, Callable[[Sequence[StateMap], RoomVersion], Fetching[dict[StateKey, EventId]]]
] = MappingProxyType({"v1": v1.resolve, "v2": v2.resolve})


def resolve(
    state_maps: Sequence[StateMap], version: RoomVersion
) -> Fetching[dict[StateKey, EventId]]:
    """The resolution of the state maps; their order does not matter.

    Conflicted events that are not found are left out. No event is asked for when there is
    nothing to resolve.
    """
    return _ALGORITHMS[version.stateres.algorithm](state_maps, version)
