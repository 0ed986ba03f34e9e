"""PDUs from other servers: stored first, then understood, one lane per room. Signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridge.ids import EventId, ServerName


class Receiver:
    """Takes transactions' PDUs and works them off. `run()` is its one long-lived task."""

    async def take(
        self,
        origin: ServerName,
        transaction_id: str,
        pdus: Sequence[object],
        *,
        wait_s: float = 5.0,
    ) -> Mapping[EventId, Mapping[str, str]]:
        """Store the PDUs and the transaction in one commit, wait a little for the verdicts.

        The answer's `pdus`: `{}` or `{"error": ...}` per event ID. A replayed transaction ID
        gets the same answer. PDUs of rooms that we are not in, or that the room's ACL forbids,
        are answered with an error and not stored. `Unavailable`: too many wait; nothing stored.
        """
        raise NotImplementedError

    async def run(self) -> None:
        raise NotImplementedError
