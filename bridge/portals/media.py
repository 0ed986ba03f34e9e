"""Files between the two sides.

Matrix to chat: a message gets a link to our own media endpoint, signed and expiring, that opens
without an account. Chat to Matrix: what a message shares by its URL is fetched, within limits, into
the media store; what cannot be fetched stays a link in the text, since that is what was said.

Fetching is part of an inbox row's work: the upload's transaction ID comes from the row, so that a
repetition finds what is there. It is tried a few times where it may yet work, and bounded in time,
so that others in the chat do not wait for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

from bridge.clock import Clock
from bridge.content.files import look_of
from bridge.content.model import File, Message, Outcome
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import ServerName, UserId, parse_media_id, parse_mxc, parse_server_name
from bridge.media.links import LinkSigner
from bridge.media.serving import (
    DEFAULT_TYPE,
    INLINE_TYPES,
    SAFE_HEADERS,
    bare_type,
    clean_name,
    clean_type,
    disposition,
    name_in,
)
from bridge.net.client import HttpRequest
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.ports.matrix import MatrixBackend, Media
from bridge.storage.queues import QueueItem
from bridge.telemetry.log import get_logger
from bridge.web.ranges import requested
from bridge.web.routing import Request, Response, Route

log = get_logger(__name__)

PATH = "/_isthmus/media"
DAY_S = 24 * 3600
MAX_REDIRECTS = 3
ATTEMPTS = 4
"""Fetching is tried so often where it may yet work."""
AT_ONCE = 16
MAX_NAME_IN_LINK = 80
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
"""What is linked to and not shared."""
_CARRIED_OUT = ("html", "xml", "script", "flash")
_EXTENSIONS = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "audio/ogg": ".ogg",
    "audio/mpeg": ".mp3",
    "audio/mp4": ".m4a",
    "application/pdf": ".pdf",
}


class Fetched(Protocol):
    """What is used of `net.client.HttpStream`."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Fetcher(Protocol):
    """What is used of `net.client.HttpClient`."""

    def open(self, request: HttpRequest) -> AbstractAsyncContextManager[Fetched]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSettings:
    """`public_url`: of our web server, as people reach it; None: no links are made."""

    public_url: str | None = None
    link_days: int = 30
    max_bytes: int = 100 << 20
    fetch_timeout_s: float = 120.0


class Files:
    def __init__(
        self,
        *,
        backend: MatrixBackend,
        client: Fetcher,
        signer: LinkSigner,
        clock: Clock,
        settings: FileSettings,
        house: House | None = None,
    ) -> None:
        self._backend = backend
        self._house = house or House(own_name=backend.server_name, bot=backend.bot)
        self._client = client
        self._signer = signer
        self._clock = clock
        self._settings = settings
        self._places = asyncio.Semaphore(AT_ONCE)

    # --- Matrix to chat ------------------------------------------------------------------------

    def shown(self, message: Message, sender: UserId) -> Message:
        """With a link in place of what only Matrix clients can open."""
        file = message.file
        if file is None or file.mxc is None:
            return message
        link = self._link(file) if self._may_share(sender) else None
        if link is None:
            return replace(message, file=None)
        text = f"{file.caption}\n{link}" if file.caption else link
        return Message(text=text, language=message.language, file=replace(file, url=link))

    def _may_share(self, user_id: UserId) -> bool:
        """Whether no rule of the house keeps this person's files back."""
        try:
            self._house.check_user(user_id, Scope.MEDIA, door="media")
        except Refused as exc:
            log.info("files kept back", user_id=user_id, rule=exc.rule)
            return False
        return True

    def _link(self, file: File) -> str | None:
        """The same one all day, so that clients need not fetch the file again."""
        if self._settings.public_url is None or file.mxc is None:
            return None
        origin, media_id = parse_mxc(file.mxc)
        today = self._clock.now_ms() // (1000 * DAY_S)
        token = self._signer.sign(
            origin, media_id, until_s=(today + 1 + self._settings.link_days) * DAY_S
        )
        name = _name_with_extension(file)
        base = self._settings.public_url.rstrip("/")
        return f"{base}{PATH}/{token}/{quote(origin, safe=':[]')}/{media_id}/{quote(name, safe='')}"

    def routes(self) -> tuple[Route, ...]:
        """Open to anybody who has a link."""
        path = f"{PATH}/{{token}}/{{server}}/{{media_id}}/{{name}}"
        return tuple(
            Route(method=method, path=path, endpoint=self._serve) for method in ("GET", "HEAD")
        )

    async def _serve(self, request: Request) -> Response:
        origin, media_id = self._checked(request)
        mxc = f"mxc://{origin}/{media_id}"
        media = await self._backend.media(mxc)
        tag = f'"{media.sha256[:32]}"'
        headers = {
            **SAFE_HEADERS,
            "Accept-Ranges": "bytes",
            "Access-Control-Allow-Origin": "*",
            "Cache-Control": "private, max-age=86400, immutable",
            "Content-Disposition": disposition(media.content_type, media.name),
            "ETag": tag,
        }
        content_type = _harmless(media.content_type)
        if tag in request.headers.get("if-none-match", ""):
            return Response(status=304, body=b"", content_type=content_type, headers=headers)
        is_same = request.headers.get("if-range", tag) == tag
        size = media.size_bytes
        part = requested(request.headers.get("range"), size) if is_same else None
        if part is not None and not part:
            return Response(
                status=416,
                json={"errcode": "M_INVALID_PARAM", "error": "there are no such bytes"},
                headers={"Content-Range": f"bytes */{size}"},
            )
        start, length = (0, size) if part is None else (part.start, len(part))
        if part is not None:
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
        return Response(
            status=200 if part is None else 206,
            stream=await self._backend.open_media(mxc, start=start, length=length),
            length=length,
            content_type=content_type,
            headers=headers,
        )

    def _checked(self, request: Request) -> tuple[ServerName, str]:
        """Nothing is looked up, and nothing fetched, without a link of ours."""
        try:
            origin = parse_server_name(request.params["server"])
            media_id = parse_media_id(request.params["media_id"])
        except BadInput as exc:
            raise NotFound("there is no such file") from exc
        self._signer.check(
            request.params["token"], origin, media_id, now_s=self._clock.now_ms() // 1000
        )
        return origin, media_id

    # --- chat to Matrix ------------------------------------------------------------------------

    async def fetched(
        self, message: Message, *, uploader: UserId, txn: str, attempts: int
    ) -> Message:
        """With the file in our store, or as the link that it is. Unavailable where it should be
        tried again; `attempts`: how often that was done."""
        file = message.file
        if file is None or file.url is None or file.mxc is not None:
            return message
        if not self._may_share(uploader):
            return replace(message, file=None)
        try:
            media = await self._backend.find_upload(txn)
            if media is None:
                async with self._place():
                    media = await self._fetch(file.url, uploader=uploader, txn=txn)
        except (BadInput, Refused, NotFound) as exc:
            log.info("file not fetched", txn=txn, errcode=exc.errcode, reason=exc.reason)
            return replace(message, file=None)
        except Unavailable as exc:
            if attempts + 1 < ATTEMPTS:
                raise
            log.info("file not fetched", txn=txn, attempts=attempts + 1, reason=exc.reason)
            return replace(message, file=None)
        made = File(
            look=look_of(media.content_type),
            mxc=media.mxc,
            name=media.name,
            content_type=media.content_type,
            size_bytes=media.size_bytes,
            width=media.width,
            height=media.height,
        )
        return replace(message, file=replace(made, url=self._link(made)))

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Servers that dawdle on purpose hold up nobody else for longer than for one file."""
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                await self._places.acquire()
        except TimeoutError as exc:
            raise Unavailable("too many files are being fetched") from exc
        try:
            yield
        finally:
            self._places.release()

    async def _fetch(self, url: str, *, uploader: UserId, txn: str) -> Media:
        request = HttpRequest(
            method="GET",
            url=_encoded(url),
            headers={"Accept": "*/*", "Accept-Encoding": "identity"},
            max_redirects=MAX_REDIRECTS,
            max_bytes=self._settings.max_bytes,
            timeout_s=self._settings.fetch_timeout_s,
        )
        async with self._client.open(request) as answer:
            if answer.status in (408, 425, 429) or answer.status >= 500:
                raise Unavailable(f"status {answer.status}")
            if answer.status != 200:
                raise NotFound(f"status {answer.status}")
            content_type = clean_type(answer.headers.get("content-type"))
            if bare_type(content_type) in _PAGES:
                raise Refused("a page, and no file", rule="page")
            name = name_in(answer.headers.get("content-disposition")) or _last_of(url)
            return await self._backend.upload(
                chunks=_whole(answer),
                uploader=uploader,
                content_type=content_type,
                name=name,
                txn=txn,
            )


def shown(outcome: Outcome, files: Files | None, sender: UserId) -> Outcome:
    """What an event says, with its file as a link."""
    if files is None or not isinstance(outcome, Message):
        return outcome
    return files.shown(outcome, sender)


async def fetched(
    message: Message, files: Files | None, item: QueueItem, ghost: UserId, *, epoch: str
) -> Message:
    """What an inbox row says, with its file in our store."""
    if files is None or message.file is None:
        return message
    txn = f"{epoch}.file.{item.id}"
    return await files.fetched(message, uploader=ghost, txn=txn, attempts=item.attempts)


async def _whole(answer: Fetched) -> AsyncIterator[bytes]:
    """Empty files are shared by nobody: something else went wrong."""
    size = 0
    async for chunk in answer:
        size += len(chunk)
        yield chunk
    if not size:
        raise NotFound("an empty file")


def _encoded(url: str) -> str:
    """As it is sent: clients write what people read."""
    return quote(url, safe="!#$%&'()*+,/:;=?@[]~")


def _last_of(url: str) -> str | None:
    try:
        path = urlsplit(url).path
    except ValueError:
        return None
    return clean_name(unquote(path.rpartition("/")[2], errors="replace"))


def _name_with_extension(file: File) -> str:
    """Clients go by it."""
    name = clean_name(file.name) or file.look
    stem, dot, extension = name.rpartition(".")
    if dot and stem and 0 < len(extension) <= 5:
        return f"{stem[:MAX_NAME_IN_LINK]}.{extension}"
    return name[:MAX_NAME_IN_LINK] + _EXTENSIONS.get(bare_type(file.content_type or ""), "")


def _harmless(content_type: str) -> str:
    """What a browser might carry out is bytes, whatever else it is."""
    bare = bare_type(content_type)
    is_shown = bare in INLINE_TYPES
    return DEFAULT_TYPE if not is_shown and any(w in bare for w in _CARRIED_OUT) else content_type
