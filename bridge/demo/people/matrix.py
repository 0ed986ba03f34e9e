"""A person on Matrix: speaks the client-server API of a real homeserver and writes down what comes.

No task of its own: whoever waits asks the homeserver (`/sync`), one at a time. `run` does nothing
but that, for a view that wants to see everything at once.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from bridge.demo.people.seen import MatrixFailed, SeenEvent, events_of
from bridge.demo.people.transcript import Transcript
from bridge.errors import Unavailable

_PREFIX: Final = "/_matrix/client/v3"
_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=60.0)
_LONGEST_POLL_S = 10.0
_RETRY_S = 0.2
_MEGOLM: Final = "m.megolm.v1.aes-sha2"
_FILTER = json.dumps({"room": {"timeline": {"limit": 500}}}, separators=(",", ":"))


def _path(*parts: str) -> str:
    return _PREFIX + "".join("/" + quote(part, safe="") for part in parts)


def _query_text(query: Mapping[str, str] | None) -> str:
    if not query:
        return ""
    pairs = (f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in query.items())
    return "?" + "&".join(pairs)


class MatrixPerson:
    """`base_url` is where the homeserver serves clients. Close it, or use it as a context."""

    def __init__(
        self,
        base_url: str,
        user_id: str,
        access_token: str,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.user_id = user_id
        self.transcript: Transcript[SeenEvent] = Transcript(user_id)
        self._token = access_token
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._next_batch: str | None = None
        self._syncing = asyncio.Lock()

    @classmethod
    async def login(
        cls, base_url: str, name: str, password: str, *, tls: ssl.SSLContext | None = None
    ) -> Self:
        """By password."""
        person = cls(base_url, name, "", tls=tls)
        try:
            answer = await person.request(
                "POST",
                _path("login"),
                {
                    "type": "m.login.password",
                    "identifier": {"type": "m.id.user", "user": name},
                    "password": password,
                },
            )
        finally:
            await person.close()
        return cls(base_url, str(answer["user_id"]), str(answer["access_token"]), tls=tls)

    async def close(self) -> None:
        """Close the connections; the account and its token stay."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request; `path` already quoted. `MatrixFailed` or `Unavailable`."""
        answer = await self._ask(method, path, body, query)
        if not isinstance(answer, dict):
            raise Unavailable(f"{method} {path}: not a JSON object")
        return answer

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_REQUEST_TIMEOUT)
        url = URL(self.base_url + path + _query_text(query), encoded=True)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            async with self._session.request(
                method, url, json=body, headers=headers, ssl=self._tls or True
            ) as response:
                status, raw = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise Unavailable(f"{method} {path}: {exc}") from exc
        try:
            answer = json.loads(raw)
        except ValueError as exc:
            raise Unavailable(f"{method} {path}: {status}, not JSON: {raw[:200]!r}") from exc
        if status != 200:
            known = answer if isinstance(answer, dict) else {}
            raise MatrixFailed(
                status,
                str(known.get("errcode", "M_UNKNOWN")),
                str(known.get("error", "")),
                path=f"{method} {path}",
            )
        return answer

    @property
    def authorization(self) -> str:
        """The header for requests that are not JSON."""
        return f"Bearer {self._token}"

    @property
    def position(self) -> int:
        """For `since`: what comes after now."""
        return self.transcript.position

    async def sync(self, *, wait_s: float = 0.0) -> None:
        """One `/sync`; the homeserver answers at once or when something comes within `wait_s`."""
        query = {"timeout": str(int(wait_s * 1000)), "filter": _FILTER}
        if self._next_batch is not None:
            query["since"] = self._next_batch
        answer = await self.request("GET", _path("sync"), query=query)
        self._next_batch = str(answer["next_batch"])
        for event in events_of(answer):
            self.transcript.add(event)

    async def run(self) -> None:
        """Look for ever; ends by cancellation."""
        while True:
            await self._look(_LONGEST_POLL_S)

    async def _look(self, wait_s: float) -> None:
        """One `/sync` by whoever comes first; the others wait for what it brings."""
        position = self.position
        try:
            async with asyncio.timeout(wait_s + 1.0), self._syncing:
                if self.position == position:
                    await self.sync(wait_s=min(wait_s, _LONGEST_POLL_S))
        except TimeoutError:
            return
        except Unavailable:
            await asyncio.sleep(_RETRY_S)

    async def wait_for(
        self,
        wanted: Callable[[SeenEvent], bool],
        *,
        what: str = "an event",
        timeout_s: float = 15.0,
        since: int = 0,
    ) -> SeenEvent:
        """The first event that is wanted, past (from `since` on) or coming.

        Patient while the homeserver is down; `NotSeen` after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        looked = since
        while True:
            upto = self.position
            found = self.transcript.find(wanted, since=looked)
            if found is not None:
                return found
            looked = upto
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise self.transcript.not_seen(what, timeout_s)
            await self._look(remaining_s)

    async def hear(
        self,
        body: str,
        *,
        room: str | None = None,
        sender: str | None = None,
        timeout_s: float = 15.0,
        since: int = 0,
    ) -> SeenEvent:
        """A timeline event whose text is exactly this."""
        return await self.wait_for(
            lambda seen: (
                seen.section in ("timeline", "left")
                and seen.body == body
                and room in (None, seen.room_id)
                and sender in (None, seen.sender)
            ),
            what=f"the message {body!r}",
            timeout_s=timeout_s,
            since=since,
        )

    async def see_invite(
        self, *, sender: str | None = None, timeout_s: float = 15.0, since: int = 0
    ) -> SeenEvent:
        """An invitation of ourselves (the stripped member event)."""
        return await self.wait_for(
            lambda seen: (
                seen.section == "invite"
                and seen.membership == "invite"
                and seen.state_key == self.user_id
                and sender in (None, seen.sender)
            ),
            what=f"an invitation{'' if sender is None else ' from ' + sender}",
            timeout_s=timeout_s,
            since=since,
        )

    async def see_membership(
        self, room: str, user: str, membership: str, *, timeout_s: float = 15.0, since: int = 0
    ) -> SeenEvent:
        """A member event of `user` with this membership."""
        return await self.wait_for(
            lambda seen: (
                seen.room_id == room
                and seen.section != "invite"
                and seen.state_key == user
                and seen.membership == membership
            ),
            what=f"{user} as {membership!r} in {room}",
            timeout_s=timeout_s,
            since=since,
        )

    async def create_room(
        self,
        *,
        name: str | None = None,
        topic: str | None = None,
        alias: str | None = None,
        invite: Sequence[str] = (),
        is_direct: bool = False,
        encrypted: bool = False,
        preset: str | None = None,
        version: str | None = None,
        **more: Any,
    ) -> str:
        """The room's ID. `alias` is a localpart; without `version` the homeserver's default."""
        body: dict[str, Any] = {"invite": list(invite), "is_direct": is_direct, **more}
        body["preset"] = preset or ("trusted_private_chat" if is_direct else "private_chat")
        for key, value in (
            ("name", name),
            ("topic", topic),
            ("room_alias_name", alias),
            ("room_version", version),
        ):
            if value is not None:
                body[key] = value
        if encrypted:
            initial = body.setdefault("initial_state", [])
            initial.append(
                {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": _MEGOLM}}
            )
        return str((await self.request("POST", _path("createRoom"), body))["room_id"])

    async def create_direct(self, user: str, *, encrypted: bool = False) -> str:
        """A direct chat as clients make it: `is_direct`, invited, noted in `m.direct`."""
        room = await self.create_room(invite=[user], is_direct=True, encrypted=encrypted)
        data_path = _path("user", self.user_id, "account_data", "m.direct")
        try:
            direct = await self.request("GET", data_path)
        except MatrixFailed as exc:
            if exc.status != 404:
                raise
            direct = {}
        direct.setdefault(user, []).append(room)
        await self.request("PUT", data_path, direct)
        return room

    async def join(self, room_or_alias: str, *, via: Sequence[str] = ()) -> str:
        """The room's ID."""
        path = _path("join", room_or_alias)
        if via:
            servers = [quote(server, safe="") for server in via]
            path += "?" + "&".join(f"via={name}&server_name={name}" for name in servers)
        return str((await self.request("POST", path, {}))["room_id"])

    async def _act(self, room: str, verb: str, **body: str | None) -> None:
        given = {key: value for key, value in body.items() if value is not None}
        await self.request("POST", _path("rooms", room, verb), given)

    async def invite(self, room: str, user: str) -> None:
        await self._act(room, "invite", user_id=user)

    async def kick(self, room: str, user: str, reason: str | None = None) -> None:
        await self._act(room, "kick", user_id=user, reason=reason)

    async def ban(self, room: str, user: str, reason: str | None = None) -> None:
        await self._act(room, "ban", user_id=user, reason=reason)

    async def leave(self, room: str, reason: str | None = None) -> None:
        await self._act(room, "leave", reason=reason)

    async def send_event(
        self, room: str, type: str, content: Mapping[str, Any], *, txn: str | None = None
    ) -> str:
        """A message event; its ID."""
        path = _path("rooms", room, "send", type, txn or secrets.token_hex(8))
        return str((await self.request("PUT", path, content))["event_id"])

    async def say(self, room: str, body: str) -> str:
        """Plain text; the event's ID."""
        return await self.send_event(room, "m.room.message", {"msgtype": "m.text", "body": body})

    async def say_html(self, room: str, body: str, html: str) -> str:
        """Formatted text; the event's ID."""
        content = {
            "msgtype": "m.text",
            "body": body,
            "format": "org.matrix.custom.html",
            "formatted_body": html,
        }
        return await self.send_event(room, "m.room.message", content)

    async def say_encrypted(self, room: str) -> str:
        """What only holders of keys can read; here nobody. The event's ID."""
        content = {
            "algorithm": _MEGOLM,
            "ciphertext": secrets.token_urlsafe(96),
            "sender_key": secrets.token_urlsafe(32),
            "session_id": secrets.token_urlsafe(32),
            "device_id": "DEMO",
        }
        return await self.send_event(room, "m.room.encrypted", content)

    async def set_state(
        self, room: str, type: str, content: Mapping[str, Any], *, state_key: str = ""
    ) -> str:
        """The event's ID."""
        path = _path("rooms", room, "state", type) + "/" + quote(state_key, safe="")
        return str((await self.request("PUT", path, content))["event_id"])

    async def upgrade(self, room: str, version: str) -> str:
        """The successor's ID."""
        path = _path("rooms", room, "upgrade")
        return str((await self.request("POST", path, {"new_version": version}))["replacement_room"])

    async def state(self, room: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Current state: (type, state key) -> event."""
        events = await self._ask("GET", _path("rooms", room, "state"))
        return {(event["type"], event["state_key"]): event for event in events}

    async def members(self, room: str) -> dict[str, str]:
        """User ID -> membership."""
        answer = await self.request("GET", _path("rooms", room, "members"))
        return {event["state_key"]: event["content"]["membership"] for event in answer["chunk"]}

    async def joined_rooms(self) -> list[str]:
        return list((await self.request("GET", _path("joined_rooms")))["joined_rooms"])

    async def messages(self, room: str, *, limit: int = 1000) -> list[dict[str, Any]]:
        """Newest first."""
        query = {"dir": "b", "limit": str(limit)}
        return list(
            (await self.request("GET", _path("rooms", room, "messages"), query=query))["chunk"]
        )

    async def event(self, room: str, event_id: str) -> dict[str, Any]:
        return await self.request("GET", _path("rooms", room, "event", event_id))

    async def redact(self, room: str, event_id: str, reason: str | None = None) -> str:
        """The redaction's ID."""
        body = {} if reason is None else {"reason": reason}
        path = _path("rooms", room, "redact", event_id, secrets.token_hex(8))
        return str((await self.request("PUT", path, body))["event_id"])

    async def resolve_alias(self, alias: str) -> str:
        """The room's ID."""
        return str((await self.request("GET", _path("directory", "room", alias)))["room_id"])

    async def profile(self, user: str) -> dict[str, Any]:
        return await self.request("GET", _path("profile", user))

    async def set_display_name(self, name: str) -> None:
        await self.request(
            "PUT", _path("profile", self.user_id, "displayname"), {"displayname": name}
        )

    async def set_typing(self, room: str, is_typing: bool) -> None:
        body: dict[str, Any] = {"typing": is_typing}
        if is_typing:
            body["timeout"] = 30_000
        await self.request("PUT", _path("rooms", room, "typing", self.user_id), body)

    async def mark_read(self, room: str, event_id: str) -> None:
        """A public read receipt."""
        await self.request("POST", _path("rooms", room, "receipt", "m.read", event_id), {})

    async def set_presence(self, presence: str, status: str) -> None:
        path = _path("presence", self.user_id, "status")
        await self.request("PUT", path, {"presence": presence, "status_msg": status})

    async def list_room(self, room: str) -> None:
        """In the homeserver's public list."""
        path = _path("directory", "list", "room", room)
        await self.request("PUT", path, {"visibility": "public"})

    async def public_rooms(self, server: str, words: str) -> list[dict[str, Any]]:
        """The first page of a server's list, of rooms with these words."""
        body = {"limit": 50, "filter": {"generic_search_term": words}}
        answer = await self.request("POST", _path("publicRooms"), body, query={"server": server})
        return list(answer["chunk"])

    async def upload(self, data: bytes, content_type: str) -> str:
        """The file's `mxc:` address."""
        raw = await self._raw(
            "POST", "/_matrix/media/v3/upload", data=data, headers={"Content-Type": content_type}
        )
        return str(json.loads(raw)["content_uri"])

    async def download(self, mxc: str, *, thumbnail: Mapping[str, str] | None = None) -> bytes:
        """The file, or a thumbnail by these fields. `MatrixFailed`, `Unavailable`."""
        kind = "download" if thumbnail is None else "thumbnail"
        named = mxc.removeprefix("mxc://")
        path = f"/_matrix/client/v1/media/{kind}/{named}{_query_text(thumbnail)}"
        return await self._raw("GET", path)

    async def _raw(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Where bodies are not JSON."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_REQUEST_TIMEOUT)
        url = URL(self.base_url + path, encoded=True)
        given = {"Authorization": f"Bearer {self._token}", **(headers or {})}
        try:
            async with self._session.request(
                method, url, data=data, headers=given, ssl=self._tls or True
            ) as response:
                status, raw = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise Unavailable(f"{method} {path}: {exc}") from exc
        if status != 200:
            raise MatrixFailed(
                status, "M_UNKNOWN", raw[:200].decode("utf-8", "replace"), path=f"{method} {path}"
            )
        return raw
