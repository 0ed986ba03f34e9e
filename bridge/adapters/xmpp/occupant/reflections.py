"""What proves that a post has arrived: the chat shows it to everybody, to us as well.

A post may be proved by any copy: live, in the archive, or in the history at entering; also before
anybody waits for it (a post that an earlier process sent). Spec: XEP-0045, 7.4; XEP-0359, 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from bridge.adapters.xmpp import outbound
from bridge.errors import IsthmusError, Unavailable

_SEEN_KEPT = 2000


class Reflections:
    """Of one chat. Names are the stanza ids that we gave."""

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._seen: dict[str, str | None] = {}
        self._waiting: dict[str, asyncio.Future[str | None]] = {}

    def is_own_id(self, name: str) -> bool:
        return outbound.find_outbox_id(self._epoch, name) is not None

    def has_seen(self, name: str) -> bool:
        return name in self._seen

    def seen_as(self, name: str) -> str | None:
        """The chat's own ID of a post that was seen."""
        return self._seen[name]

    def see(self, names: Iterable[str], archive_id: str | None) -> None:
        """The chat shows a message of a guest of ours."""
        for name in names:
            if not self.is_own_id(name):
                continue
            archive_id = archive_id or self._seen.pop(name, None)
            self._seen[name] = archive_id
            while len(self._seen) > _SEEN_KEPT:
                del self._seen[next(iter(self._seen))]
            waiting = self._waiting.get(name)
            if waiting is not None and not waiting.done():
                waiting.set_result(archive_id)

    def expect(self, name: str) -> asyncio.Future[str | None]:
        """Forget it when done with it."""
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting[name] = future
        return future

    def forget(self, name: str) -> None:
        self._waiting.pop(name, None)

    def fail(self, name: str, error: IsthmusError) -> None:
        waiting = self._waiting.get(name)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
            waiting.exception()  # nobody waiting any more is no news

    def on_disconnected(self) -> None:
        for name in list(self._waiting):
            self.fail(name, Unavailable("the XMPP server went away"))
