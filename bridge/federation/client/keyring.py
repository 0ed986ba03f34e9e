"""Keys of other servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.ids import KeyId, ServerName


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKey:
    """`public_key` is unpadded base64. `expired_ts` is set for an old key."""

    server: ServerName
    key_id: KeyId
    public_key: str
    valid_until_ts: int
    expired_ts: int | None = None


class KeyStore(Protocol):
    """Where fetched keys survive a restart."""

    async def find(self, server: ServerName, key_id: KeyId) -> ServerKey | None: ...

    async def put(self, keys: Sequence[ServerKey]) -> None: ...
