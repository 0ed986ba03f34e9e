"""What people need from outside, as a protocol: other servers' answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bridge.ids import ServerName, UserId

Json = dict[str, Any]


class PeoplePeers(Protocol):
    """Requests to other servers. They raise `Refused`, `NotFound`, `Unavailable`, `BadInput`."""

    async def user_devices(self, peer: ServerName, user_id: UserId) -> Json: ...

    async def query_user_keys(
        self, peer: ServerName, wanted: Mapping[UserId, Sequence[str]]
    ) -> Json:
        """An empty list of devices means all of the user's."""
        ...

    async def claim_user_keys(
        self, peer: ServerName, wanted: Mapping[UserId, Mapping[str, str]]
    ) -> Json:
        """By user and device, the algorithm."""
        ...
