"""Media of other servers, fetched into the media store and found there again.

1. what the store has is not asked for; one fetch at a time per file, the others wait for it;
2. the authenticated endpoint: two parts, of which the second is the file or names where it is;
3. such a location is followed without our signature, to public addresses only;
4. a server that does not know the endpoint is asked by the older one, for its own files alone.

Errors: NotFound, Refused (by the peer, by a rule of the house, or kept back here), BadInput (too
large, no media answer), Unavailable. Spec: S2S, content repository.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.federation.client.memory import Turns
from bridge.federation.client.requests import V1
from bridge.federation.client.transport import Transport, encode_path
from bridge.federation.multipart import TwoParts, boundary_of
from bridge.ids import ServerName
from bridge.media.serving import name_in
from bridge.media.store import MediaStore
from bridge.media.thumbnails import Wish
from bridge.net.client import HttpClient, HttpRequest
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.storage.media import MediaRow

OLD = "/_matrix/media/v3"
TIMEOUT_S = 600.0
"""For a whole file; one that stops coming is given up sooner."""
PATIENCE_MS = 20_000
"""How long the peer may wait for an upload that is still under way."""
MAX_THUMBNAIL_BYTES = 16 << 20
MAX_REDIRECTS = 3
MAX_WAITING = 200
MAX_WAITING_PER_PEER = 100
"""Who wait for files that are being fetched: whoever has a link may ask, and each waiting request
is one that other servers cannot make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """What a peer answers, its bytes still to be read."""

    chunks: AsyncIterator[bytes]
    content_type: str | None
    name: str | None


class RemoteMedia:
    """Asks once; retrying is `delivery`'s."""

    def __init__(
        self, *, transport: Transport, client: HttpClient, store: MediaStore, house: House
    ) -> None:
        self._transport = transport
        self._client = client
        self._store = store
        self._house = house
        self._turns: Turns[tuple[ServerName, str]] = Turns()
        self._waiting: Counter[ServerName] = Counter()

    async def get(self, origin: ServerName, media_id: str) -> MediaRow:
        """From the store, fetched first where it is not there yet. What a rule denies is not shown
        either where it was fetched before."""
        self._house.check_server(origin, Scope.MEDIA, door="media")
        found = await self._store.find(origin, media_id)
        if found is not None:
            return found
        if origin == self._store.own_name:
            raise NotFound("there is no such media")
        with self._counted(origin):
            return await self._fetch(origin, media_id)

    @contextmanager
    def _counted(self, origin: ServerName) -> Iterator[None]:
        """Raises `Unavailable`."""
        is_too_much = self._waiting[origin] >= MAX_WAITING_PER_PEER
        if is_too_much or self._waiting.total() >= MAX_WAITING:
            raise Unavailable("too many files are being fetched", retry_after_s=5.0)
        self._waiting[origin] += 1
        try:
            yield
        finally:
            self._waiting[origin] -= 1
            if not self._waiting[origin]:
                del self._waiting[origin]

    async def _fetch(self, origin: ServerName, media_id: str) -> MediaRow:
        async with self._turns.turn((origin, media_id)):
            found = await self._store.find(origin, media_id)
            if found is not None:
                return found
            if await self._store.is_quarantined(origin, media_id):
                raise Refused("this file is not shown here", rule="quarantined")
            async with self.download(origin, media_id) as file:
                return await self._store.put_cached(
                    file.chunks,
                    origin=origin,
                    media_id=media_id,
                    content_type=file.content_type,
                    name=file.name,
                )

    @asynccontextmanager
    async def download(self, origin: ServerName, media_id: str) -> AsyncIterator[RemoteFile]:
        """Straight from the peer."""
        async with self._ask(
            origin,
            "download",
            media_id,
            [("timeout_ms", str(PATIENCE_MS))],
            max_bytes=self._store.limits.max_bytes,
        ) as file:
            yield file

    @asynccontextmanager
    async def thumbnail(
        self, origin: ServerName, media_id: str, wish: Wish
    ) -> AsyncIterator[RemoteFile]:
        """Straight from the peer, as it makes it."""
        query = [
            ("width", str(wish.width)),
            ("height", str(wish.height)),
            ("method", wish.method),
            ("animated", "true" if wish.animated else "false"),
            ("timeout_ms", str(PATIENCE_MS)),
        ]
        async with self._ask(
            origin, "thumbnail", media_id, query, max_bytes=MAX_THUMBNAIL_BYTES
        ) as file:
            yield file

    @asynccontextmanager
    async def _ask(
        self,
        origin: ServerName,
        what: str,
        media_id: str,
        query: Sequence[tuple[str, str]],
        *,
        max_bytes: int,
    ) -> AsyncIterator[RemoteFile]:
        self._house.check_server(origin, Scope.MEDIA, door="media")
        is_asked = False
        try:
            async with self._transport.open(
                origin,
                V1 + encode_path("media", what, media_id),
                endpoint=f"media_{what}",
                query=query,
                timeout_s=TIMEOUT_S,
                max_bytes=max_bytes + (128 << 10),
            ) as answer:
                is_asked = True
                parts = TwoParts(answer, boundary_of(answer.headers.get("content-type")))
                headers = await parts.headers()
                location = headers.get("location")
                if location is None:
                    yield _file(parts.body(), headers)
                    return
        except Refused as exc:
            if is_asked or exc.errcode != "M_UNRECOGNIZED":
                raise
            location = None
        if location is not None:
            async with self._elsewhere(location, max_bytes) as file:
                yield file
        else:
            async with self._transport.open(
                origin,
                OLD + encode_path(what, origin, media_id),
                endpoint=f"media_{what}_old",
                query=[*query, ("allow_remote", "false")],
                timeout_s=TIMEOUT_S,
                max_bytes=max_bytes,
                signed=False,
            ) as answer:
                yield _file(aiter(answer), answer.headers)

    @asynccontextmanager
    async def _elsewhere(self, location: str, max_bytes: int) -> AsyncIterator[RemoteFile]:
        """Where the peer says it is: its store in a network of its own, seldom a secret."""
        if not location.lower().startswith("https://"):
            raise BadInput("the media is said to be where no https leads")
        async with self._client.open(
            HttpRequest(
                method="GET",
                url=location,
                max_redirects=MAX_REDIRECTS,
                max_bytes=max_bytes,
                timeout_s=TIMEOUT_S,
            )
        ) as answer:
            if answer.status in (403, 404, 410):
                raise NotFound("the media is not where it is said to be")
            if answer.status != 200:
                raise Unavailable(f"status {answer.status} where the media is said to be")
            yield _file(aiter(answer), answer.headers)


def _file(chunks: AsyncIterator[bytes], headers: dict[str, str]) -> RemoteFile:
    return RemoteFile(
        chunks=chunks,
        content_type=headers.get("content-type"),
        name=name_in(headers.get("content-disposition")),
    )
