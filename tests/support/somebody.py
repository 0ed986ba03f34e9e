"""People of a room whatever server they are on: what they do, and what their client shows them.

`OnMatrix` has an account on a Synapse and speaks its client-server API. `OnXmpp` has a client on
the XMPP server beside a gateway, where a room is a MUC: comes, goes, talks and sees who is in by
that. What has no face on XMPP yet (making rooms, moderating, knocking) goes through the gateway's
Matrix port, and so do looks at what the gateway has stored.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp

from bridge.demo.people import MatrixPerson, Muc, Stanza, XmppPerson
from bridge.demo.people.seen import MatrixFailed
from bridge.demo.people.stanza import MUC_USER, client_tag
from bridge.demo.people.xmpp import Entry
from bridge.demo.servers import Synapse
from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomAlias, RoomId, ServerName, UserId, server_of
from tests.support.matrix_side import until
from tests.support.port import DrivenGateway

PATIENCE_S = 40.0
"""For what needs several servers of a busy machine."""
MEMBER = "m.room.member"
CHAT_STATES = "http://jabber.org/protocol/chatstates"
MARKERS = "urn:xmpp:chat-markers:0"
UPLOAD = "urn:xmpp:http:upload:0"
OOB = "jabber:x:oob"
PNG = "image/png"
_WEB_TIMEOUT = aiohttp.ClientTimeout(total=30.0)
Content = Mapping[str, Any]
StateIds = dict[tuple[str, str], str]


class Somebody(Protocol):
    """Verbs raise `Refused` where a server says no. `see_...` waits for it."""

    user_id: UserId

    @property
    def server(self) -> ServerName: ...

    # Rooms and who is in them.
    async def create_room(
        self,
        *,
        version: str,
        public: bool = False,
        alias: str | None = None,
        name: str | None = None,
    ) -> RoomId: ...

    async def invite(self, room: RoomId, user_id: UserId) -> None: ...

    async def see_invite(self, room: RoomId) -> None: ...

    async def refuse(self, room: RoomId) -> None:
        """An invite that was seen."""

    async def join(
        self,
        room: RoomId,
        *,
        alias: RoomAlias | None = None,
        via: ServerName | None = None,
    ) -> None: ...

    async def leave(self, room: RoomId) -> None: ...

    async def knock(self, room: RoomId, via: ServerName, reason: str) -> None: ...

    async def remove(
        self, room: RoomId, user_id: UserId, reason: str, membership: str = "leave"
    ) -> None:
        """Kick (also: let no ban stand any more), or with `ban` that."""

    async def see_removed(self, room: RoomId, reason: str, membership: str = "leave") -> None:
        """That they themselves are kicked or banned."""

    async def see_membership(self, room: RoomId, user_id: UserId, membership: str) -> None: ...

    # What is said and set.
    async def say(self, room: RoomId, text: str) -> EventId: ...

    async def hear(self, room: RoomId, text: str) -> None: ...

    async def past(self, room: RoomId, count: int) -> list[str]:
        """The newest of what was said before they came, at most `count`, the oldest first."""

    async def redact(self, room: RoomId, event_id: EventId) -> None: ...

    async def see_redacted(self, room: RoomId, event_id: EventId) -> None: ...

    async def set_state(
        self, room: RoomId, type: str, content: Content, *, state_key: str = ""
    ) -> None: ...

    async def see_state(
        self, room: RoomId, type: str, content: Content, *, state_key: str = ""
    ) -> None:
        """At least these fields."""

    async def content(self, room: RoomId, type: str) -> dict[str, Any]:
        """Of the current state event of this type."""

    async def upgrade(self, room: RoomId, version: str) -> RoomId: ...

    # Names.
    async def set_name(self, name: str) -> None: ...

    async def see_name(self, room: RoomId, user_id: UserId, name: str) -> None: ...

    async def profile_name(self, user_id: UserId) -> str | None: ...

    async def resolve(self, alias: RoomAlias) -> RoomId: ...

    # What passes.
    async def watch(self, user_id: UserId) -> None:
        """Do what is needed to be shown that person's presence."""

    async def set_typing(self, room: RoomId) -> None: ...

    async def see_typing(self, room: RoomId, user_id: UserId) -> None: ...

    async def mark_read(self, room: RoomId, event_id: EventId) -> None: ...

    async def see_read(self, room: RoomId, user_id: UserId, event_id: EventId) -> None: ...

    async def set_status(self, room: RoomId, status: str) -> None:
        """Present, with these words."""

    async def see_status(self, user_id: UserId, status: str) -> None: ...

    # Lists and files.
    async def list_room(self, room: RoomId) -> None: ...

    async def see_listed(self, server: ServerName, room: RoomId, words: str) -> None: ...

    async def show(self, room: RoomId, data: bytes, name: str) -> None:
        """A picture (PNG)."""

    async def see_shown(self, room: RoomId, user_id: UserId, name: str) -> bytes:
        """That picture of that person, opened."""

    # Everything.
    async def state_ids(self, room: RoomId) -> StateIds: ...

    async def event_ids(self, room: RoomId) -> list[EventId]:
        """What the room shows them, the newest first."""


def _has(content: Content, wanted: Content) -> bool:
    return all(content.get(key) == value for key, value in wanted.items())


async def _comes(
    look: Callable[[], Awaitable[bool]], what: str, *, timeout_s: float = PATIENCE_S
) -> None:
    """Until it is so. Polled: each look asks a server."""
    try:
        await until(look, timeout_s=timeout_s)
    except AssertionError as exc:
        raise AssertionError(f"{what}: {exc}") from exc


# --- on a Synapse -----------------------------------------------------------------------------


def _refused(failed: MatrixFailed) -> Exception:
    kind = {403: Refused, 404: NotFound}.get(failed.status)
    return failed if kind is None else kind(failed.reason, errcode=failed.errcode)


class OnMatrix:
    """Fills `Somebody`."""

    def __init__(self, person: MatrixPerson, synapse: Synapse) -> None:
        self.person = person
        self.user_id = UserId(person.user_id)
        self._synapse = synapse

    @property
    def server(self) -> ServerName:
        return ServerName(self._synapse.server_name)

    async def _post(self, path: str, body: Content, **query: str) -> dict[str, Any]:
        try:
            return await self.person.request("POST", "/_matrix/client/v3" + path, body, query=query)
        except MatrixFailed as exc:
            raise _refused(exc) from exc

    async def _act(self, room: RoomId, verb: str, **body: str) -> None:
        await self._post(f"/rooms/{quote(room, safe='')}/{verb}", body)

    async def create_room(
        self,
        *,
        version: str,
        public: bool = False,
        alias: str | None = None,
        name: str | None = None,
    ) -> RoomId:
        preset = "public_chat" if public else "private_chat"
        return RoomId(
            await self.person.create_room(preset=preset, version=version, alias=alias, name=name)
        )

    async def invite(self, room: RoomId, user_id: UserId) -> None:
        await self._act(room, "invite", user_id=user_id)

    async def see_invite(self, room: RoomId) -> None:
        await self.person.wait_for(
            lambda seen: (
                seen.section == "invite"
                and seen.room_id == room
                and seen.state_key == self.user_id
                and seen.membership == "invite"
            ),
            what=f"an invite into {room}",
            timeout_s=PATIENCE_S,
        )

    async def refuse(self, room: RoomId) -> None:
        await self._act(room, "leave")

    async def join(
        self,
        room: RoomId,
        *,
        alias: RoomAlias | None = None,
        via: ServerName | None = None,
    ) -> None:
        try:
            joined = await self.person.join(alias or room, via=[] if via is None else [via])
        except MatrixFailed as exc:
            raise _refused(exc) from exc
        assert joined == room

    async def leave(self, room: RoomId) -> None:
        await self._act(room, "leave")

    async def knock(self, room: RoomId, via: ServerName, reason: str) -> None:
        path = f"/knock/{quote(room, safe='')}"
        await self._post(path, {"reason": reason}, via=via, server_name=via)

    async def remove(
        self, room: RoomId, user_id: UserId, reason: str, membership: str = "leave"
    ) -> None:
        now = (await self.person.members(room)).get(user_id)
        verb = "ban" if membership == "ban" else "unban" if now == "ban" else "kick"
        await self._act(room, verb, user_id=user_id, reason=reason)

    async def see_removed(self, room: RoomId, reason: str, membership: str = "leave") -> None:
        await self.person.wait_for(
            lambda seen: (
                seen.room_id == room
                and seen.section == "left"
                and seen.state_key == self.user_id
                and seen.membership == membership
                and seen.content.get("reason") == reason
            ),
            what=f"{membership} of ourselves because of {reason!r}",
            timeout_s=PATIENCE_S,
        )

    async def see_membership(self, room: RoomId, user_id: UserId, membership: str) -> None:
        await self.see_state(room, MEMBER, {"membership": membership}, state_key=user_id)

    async def say(self, room: RoomId, text: str) -> EventId:
        try:
            return EventId(await self.person.say(room, text))
        except MatrixFailed as exc:
            raise _refused(exc) from exc

    async def hear(self, room: RoomId, text: str) -> None:
        await self.person.hear(text, room=room, timeout_s=PATIENCE_S)

    async def past(self, room: RoomId, count: int) -> list[str]:
        path = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/messages"
        found: list[str] = []
        query, is_before = {"dir": "b", "limit": "100"}, False
        while len(found) < count:
            page = await self.person.request("GET", path, query=query)
            for event in page["chunk"]:
                if event.get("state_key") == self.user_id:
                    is_before = True
                elif is_before and isinstance(event["content"].get("body"), str):
                    found.append(event["content"]["body"])
            if "end" not in page:
                break
            query["from"] = str(page["end"])
        return found[:count][::-1]

    async def redact(self, room: RoomId, event_id: EventId) -> None:
        try:
            await self.person.redact(room, event_id)
        except MatrixFailed as exc:
            raise _refused(exc) from exc

    async def see_redacted(self, room: RoomId, event_id: EventId) -> None:
        async def look() -> bool:
            event = await self.person.event(room, event_id)
            return "redacted_because" in event.get("unsigned", {}) and not event["content"]

        await _comes(look, f"{event_id} redacted")

    async def set_state(
        self, room: RoomId, type: str, content: Content, *, state_key: str = ""
    ) -> None:
        try:
            await self.person.set_state(room, type, content, state_key=state_key)
        except MatrixFailed as exc:
            raise _refused(exc) from exc

    async def see_state(
        self, room: RoomId, type: str, content: Content, *, state_key: str = ""
    ) -> None:
        path = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/state/{type}/"

        async def look() -> bool:
            try:
                found = await self.person.request("GET", path + quote(state_key, safe=""))
            except MatrixFailed as exc:
                if exc.status != 404:
                    raise
                return False
            except Unavailable:
                return False  # it is down just now
            return _has(found, content)

        await _comes(look, f"{type} {state_key} {dict(content)} at {self.server}")

    async def content(self, room: RoomId, type: str) -> dict[str, Any]:
        path = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/state/{type}/"
        return await self.person.request("GET", path)

    async def upgrade(self, room: RoomId, version: str) -> RoomId:
        return RoomId(await self.person.upgrade(room, version))

    async def set_name(self, name: str) -> None:
        await self.person.set_display_name(name)

    async def see_name(self, room: RoomId, user_id: UserId, name: str) -> None:
        await self.see_state(
            room, MEMBER, {"membership": "join", "displayname": name}, state_key=user_id
        )

    async def profile_name(self, user_id: UserId) -> str | None:
        return (await self.person.profile(user_id)).get("displayname")

    async def resolve(self, alias: RoomAlias) -> RoomId:
        return RoomId(await self.person.resolve_alias(alias))

    async def watch(self, user_id: UserId) -> None:
        """Whoever shares a room is shown."""

    async def set_typing(self, room: RoomId) -> None:
        await self.person.set_typing(room, True)

    async def see_typing(self, room: RoomId, user_id: UserId) -> None:
        await self.person.wait_for(
            lambda seen: (
                seen.type == "m.typing"
                and seen.room_id == room
                and user_id in seen.content["user_ids"]
            ),
            what=f"{user_id} typing",
            timeout_s=PATIENCE_S,
        )

    async def mark_read(self, room: RoomId, event_id: EventId) -> None:
        await self.person.mark_read(room, event_id)

    async def see_read(self, room: RoomId, user_id: UserId, event_id: EventId) -> None:
        await self.person.wait_for(
            lambda seen: (
                seen.type == "m.receipt"
                and seen.room_id == room
                and user_id in seen.content.get(event_id, {}).get("m.read", {})
            ),
            what=f"{user_id} has read {event_id}",
            timeout_s=PATIENCE_S,
        )

    async def set_status(self, room: RoomId, status: str) -> None:
        await self.person.set_presence("online", status)

    async def see_status(self, user_id: UserId, status: str) -> None:
        await self.person.wait_for(
            lambda seen: (
                seen.section == "presence"
                and seen.sender == user_id
                and seen.content.get("presence") == "online"
                and seen.content.get("status_msg") == status
            ),
            what=f"{user_id}: {status}",
            timeout_s=PATIENCE_S,
        )

    async def list_room(self, room: RoomId) -> None:
        await self.person.list_room(room)

    async def see_listed(self, server: ServerName, room: RoomId, words: str) -> None:
        async def look() -> bool:
            listed = await self.person.public_rooms(server, words)
            return [one["room_id"] for one in listed] == [room]

        await _comes(look, f"{room} in the list of {server}")

    async def show(self, room: RoomId, data: bytes, name: str) -> None:
        mxc = await self.person.upload(data, PNG)
        content = {"msgtype": "m.image", "body": name, "url": mxc, "info": {"mimetype": PNG}}
        await self.person.send_event(room, "m.room.message", content)

    async def see_shown(self, room: RoomId, user_id: UserId, name: str) -> bytes:
        seen = await self.person.wait_for(
            lambda seen: (
                seen.room_id == room
                and seen.sender == user_id
                and seen.content.get("msgtype") == "m.image"
                and seen.body == name
            ),
            what=f"{name} of {user_id}",
            timeout_s=PATIENCE_S,
        )
        mxc = str(seen.content["url"])
        small = await self.person.download(mxc, thumbnail={"width": "8", "height": "8"})
        assert small.startswith(b"\x89PNG")
        return await self.person.download(mxc)

    async def state_ids(self, room: RoomId) -> StateIds:
        state = await self.person.state(room)
        return {key: str(event["event_id"]) for key, event in state.items()}

    async def event_ids(self, room: RoomId) -> list[EventId]:
        return [EventId(event["event_id"]) for event in await self.person.messages(room)]


# --- beside a gateway -------------------------------------------------------------------------


class OnXmpp:
    """Fills `Somebody`: a person on XMPP, in Matrix rooms as their ghost."""

    def __init__(self, person: XmppPerson, gateway: DrivenGateway) -> None:
        self.person = person
        self.gateway = gateway
        self.user_id = gateway.ghost(person.address)
        self._nickname = person.address.partition("@")[0]
        self._inside: dict[RoomId, Muc] = {}
        self._entries: dict[RoomId, Entry] = {}
        self._invites: dict[RoomId, str] = {}

    @property
    def server(self) -> ServerName:
        return self.gateway.server_name

    async def _call(self, method: str, **given: Any) -> Any:
        return await self.gateway.call(method, **given)

    def muc(self, room: RoomId) -> Muc:
        """The room as they have entered it."""
        return self._inside[room]

    async def create_room(
        self,
        *,
        version: str,
        public: bool = False,
        alias: str | None = None,
        name: str | None = None,
    ) -> RoomId:
        """And enters it."""
        full = None if alias is None else RoomAlias(f"#{alias}:{self.server}")
        room = RoomId(
            await self._call(
                "create_room",
                creator=self.user_id,
                version=version,
                public=public,
                alias=full,
                name=name,
            )
        )
        await self.join(room)
        return room

    async def invite(self, room: RoomId, user_id: UserId) -> None:
        await self._call("invite", room_id=room, sender=self.user_id, target=user_id)

    async def see_invite(self, room: RoomId) -> None:
        address = self.gateway.address(room)
        path = f"{{{MUC_USER}}}x/{{{MUC_USER}}}invite"
        start = 0

        async def look() -> bool:
            for stanza in self.person.transcript.since(start):
                if stanza.find(path) is None:
                    continue
                # By its alias where it has one: ask the gateway which room that is.
                if stanza.bare_sender in (address, await self._named(room)):
                    self._invites[room] = stanza.bare_sender
                    return True
            return False

        await _comes(look, f"an invitation into {room}")

    async def _named(self, room: RoomId) -> str | None:
        """The address by the room's alias."""
        try:
            info = await self._call("room", room_id=room)
        except NotFound:
            return None
        alias = info["canonical_alias"]
        return None if alias is None else self.gateway.address(alias)

    async def refuse(self, room: RoomId) -> None:
        answer = ET.Element(client_tag("message"), {"to": self._invites[room]})
        ET.SubElement(
            ET.SubElement(answer, f"{{{MUC_USER}}}x"),
            f"{{{MUC_USER}}}decline",
            {"to": self._invites[room]},
        )
        self.person.send(answer)

    async def join(
        self,
        room: RoomId,
        *,
        alias: RoomAlias | None = None,
        via: ServerName | None = None,
    ) -> None:
        if via is not None:
            await self._call("join", user_id=self.user_id, room_id=room, via=[via])
        address = self.gateway.address(room if alias is None else alias)
        muc = Muc(self.person, address)
        self._entries[room] = await muc.enter(self._nickname, timeout_s=PATIENCE_S)
        self._inside[room] = muc

    async def leave(self, room: RoomId) -> None:
        """The room, by its command for that; or a knock is taken back."""
        muc = self._inside.pop(room, None)
        if muc is not None:
            await self.person.run_command(muc.address, "leave")
        else:
            await self._call("leave", user_id=self.user_id, room_id=room)

    async def knock(self, room: RoomId, via: ServerName, reason: str) -> None:
        await self._call("knock", user_id=self.user_id, room_id=room, via=[via], reason=reason)

    async def remove(
        self, room: RoomId, user_id: UserId, reason: str, membership: str = "leave"
    ) -> None:
        content = {"membership": membership, "reason": reason}
        await self.set_state(room, MEMBER, content, state_key=user_id)

    async def see_removed(self, room: RoomId, reason: str, membership: str = "leave") -> None:
        muc = self._inside.pop(room)
        gone = await muc.see_go(self._nickname, timeout_s=PATIENCE_S)
        assert {110, 301 if membership == "ban" else 307} <= gone.statuses
        assert gone.reason == reason

    async def see_membership(self, room: RoomId, user_id: UserId, membership: str) -> None:
        await self.see_state(room, MEMBER, {"membership": membership}, state_key=user_id)
        muc = self._inside.get(room)
        if muc is not None and user_id != self.user_id:
            address = self.gateway.address(user_id)

            async def look() -> bool:
                inside = {(one.address or "").partition("/")[0] for one in muc.occupants().values()}
                return (address in inside) == (membership == "join")

            await _comes(look, f"{address} as {membership} of the MUC")

    async def say(self, room: RoomId, text: str) -> EventId:
        muc = self._inside[room]
        reflected = await self.person.reflection(muc.say(text), timeout_s=PATIENCE_S)
        return EventId(reflected.stanza_ids[muc.address])

    async def hear(self, room: RoomId, text: str) -> None:
        await self.person.hear(text, sender=self._inside[room].address, timeout_s=PATIENCE_S)

    async def past(self, room: RoomId, count: int) -> list[str]:
        """As the MUC showed it on entering."""
        history = [stanza.body or "" for stanza in self._entries[room].history]
        return history[-count:]

    async def redact(self, room: RoomId, event_id: EventId) -> None:
        await self._call(
            "redact", room_id=room, sender=self.user_id, target=event_id, reason="a slip"
        )

    async def see_redacted(self, room: RoomId, event_id: EventId) -> None:
        async def look() -> bool:
            found = await self._call("event", event_id=event_id)
            return found is not None and found["redacted_by"] and not found["pdu"]["content"]

        await _comes(look, f"{event_id} redacted")

    async def set_state(
        self, room: RoomId, type: str, content: Content, *, state_key: str = ""
    ) -> None:
        await self._call(
            "send",
            room_id=room,
            sender=self.user_id,
            type=type,
            content=content,
            state_key=state_key,
        )

    async def see_state(
        self, room: RoomId, type: str, content: Content, *, state_key: str = ""
    ) -> None:
        async def look() -> bool:
            try:
                entries = await self._call("state", room_id=room, type=type)
            except (NotFound, Unavailable):
                return False
            there = {one["state_key"]: one["content"] for one in entries}
            return state_key in there and _has(there[state_key], content)

        await _comes(look, f"{type} {state_key} {dict(content)} at {self.server}")

    async def content(self, room: RoomId, type: str) -> dict[str, Any]:
        (entry,) = await self._call("state", room_id=room, type=type)
        return dict(entry["content"])

    async def upgrade(self, room: RoomId, version: str) -> RoomId:
        return RoomId(
            await self._call("upgrade", room_id=room, sender=self.user_id, version=version)
        )

    async def see_moved(self, room: RoomId, successor: RoomId) -> None:
        """That the room goes on elsewhere, and enters there, as a client does."""
        await self.see_state(successor, MEMBER, {"membership": "join"}, state_key=self.user_id)
        self._inside.pop(room, None)
        await self.join(successor)

    async def set_name(self, name: str) -> None:
        await self._call("set_profile", user_id=self.user_id, profile={"displayname": name})

    async def see_name(self, room: RoomId, user_id: UserId, name: str) -> None:
        await self.see_state(
            room, MEMBER, {"membership": "join", "displayname": name}, state_key=user_id
        )
        muc, address = self._inside[room], self.gateway.address(user_id)
        if server_of(user_id) == self.server:
            return  # on XMPP they go by the nickname that they chose

        async def look() -> bool:
            return any(
                name in one.nickname and (one.address or "").partition("/")[0] == address
                for one in muc.occupants().values()
            )

        await _comes(look, f"{name!r} in the MUC")

    async def profile_name(self, user_id: UserId) -> str | None:
        found = await self._call("profile", user_id=user_id)
        name: str | None = found["displayname"]
        return name

    async def resolve(self, alias: RoomAlias) -> RoomId:
        room, _ = await self._call("resolve_alias", alias=alias)
        return RoomId(room)

    async def watch(self, user_id: UserId) -> None:
        """By a subscription; the roster must be asked for, or requests are not shown."""
        address = self.gateway.address(user_id)
        await self.person.ask(None, ET.Element("{jabber:iq:roster}query"))
        self.person.set_presence(to=address, type="subscribe")
        await self.person.wait_for(
            lambda stanza: stanza.bare_sender == address and stanza.type == "subscribed",
            what=f"{address} to be seen",
            timeout_s=PATIENCE_S,
        )

    def _send_state(self, room: RoomId, name: str, **attributes: str) -> None:
        message = ET.Element(client_tag("message"), {"type": "groupchat"})
        message.set("to", self._inside[room].address)
        ET.SubElement(message, name, attributes)
        self.person.send(message)

    async def _see_state(self, room: RoomId, user_id: UserId, name: str, **wanted: str) -> Stanza:
        """In a stanza of that person's occupant."""
        muc, address = self._inside[room], self.gateway.address(user_id)

        def is_it(stanza: Stanza) -> bool:
            found = stanza.find(name)
            one = muc.occupants().get(stanza.nickname)
            return (
                found is not None
                and stanza.bare_sender == muc.address
                and all(found.get(key) == value for key, value in wanted.items())
                and one is not None
                and (one.address or "").partition("/")[0] == address
            )

        return await self.person.wait_for(is_it, what=f"{name} of {address}", timeout_s=PATIENCE_S)

    async def set_typing(self, room: RoomId) -> None:
        self._send_state(room, f"{{{CHAT_STATES}}}composing")

    async def see_typing(self, room: RoomId, user_id: UserId) -> None:
        await self._see_state(room, user_id, f"{{{CHAT_STATES}}}composing")

    async def mark_read(self, room: RoomId, event_id: EventId) -> None:
        self._send_state(room, f"{{{MARKERS}}}displayed", id=event_id)

    async def see_read(self, room: RoomId, user_id: UserId, event_id: EventId) -> None:
        await self._see_state(room, user_id, f"{{{MARKERS}}}displayed", id=event_id)

    async def set_status(self, room: RoomId, status: str) -> None:
        occupant = f"{self._inside[room].address}/{self._nickname}"
        self.person.set_presence(to=occupant, status=status)

    async def see_status(self, user_id: UserId, status: str) -> None:
        address = self.gateway.address(user_id)
        await self.person.wait_for(
            lambda stanza: (
                stanza.kind == "presence"
                and stanza.type == ""
                and stanza.bare_sender == address
                and stanza.element.findtext(client_tag("status")) == status
            ),
            what=f"{address}: {status}",
            timeout_s=PATIENCE_S,
        )

    async def list_room(self, room: RoomId) -> None:
        await self._call("publish", room_id=room, by=self.user_id)

    async def see_listed(self, server: ServerName, room: RoomId, words: str) -> None:
        async def look() -> bool:
            page = await self._call("public_rooms", server=server, words=words)
            return [one["room_id"] for one in page["rooms"]] == [room]

        await _comes(look, f"{room} in the list of {server}")

    async def show(self, room: RoomId, data: bytes, name: str) -> None:
        """Uploaded to their own server, and shown by its address."""
        attributes = {"filename": name, "size": str(len(data)), "content-type": PNG}
        request = ET.Element(f"{{{UPLOAD}}}request", attributes)
        slot = await self.person.ask(self.gateway.upload_service, request)
        put, get = slot.find(f".//{{{UPLOAD}}}put"), slot.find(f".//{{{UPLOAD}}}get")
        assert put is not None
        assert get is not None
        headers = {str(one.get("name")): one.text or "" for one in put} | {"Content-Type": PNG}
        await self._web("PUT", str(put.get("url")), data=data, headers=headers)
        url, address = str(get.get("url")), self._inside[room].address
        message = ET.Element(client_tag("message"), {"to": address, "type": "groupchat"})
        ET.SubElement(message, client_tag("body")).text = url
        ET.SubElement(ET.SubElement(message, f"{{{OOB}}}x"), f"{{{OOB}}}url").text = url
        self.person.send(message)

    async def see_shown(self, room: RoomId, user_id: UserId, name: str) -> bytes:
        path = f"{{{OOB}}}x/{{{OOB}}}url"
        stanza = await self._see_state(room, user_id, path)
        url = stanza.element.findtext(path) or ""
        assert url.endswith(f"/{name}")
        return await self._web("GET", url)

    async def _web(self, method: str, url: str, **more: Any) -> bytes:
        async with (
            aiohttp.ClientSession(timeout=_WEB_TIMEOUT) as session,
            session.request(method, url, ssl=self.gateway.tls, **more) as answer,
        ):
            assert answer.status in (200, 201), f"{method} {url}: {answer.status}"
            return await answer.read()

    async def state_ids(self, room: RoomId) -> StateIds:
        found = await self._call("state_ids", room_id=room)
        return {(type, key): event_id for type, key, event_id in found}

    async def event_ids(self, room: RoomId) -> list[EventId]:
        found = await self._call("timeline", room_id=room, limit=1000)
        return [EventId(event["event_id"]) for event in reversed(found)]


# --- several ----------------------------------------------------------------------------------


async def agree(people: list[Somebody], room: RoomId, *, since: EventId | None = None) -> None:
    """Their servers come to have the same state, and the same events after `since`."""
    shown: list[Any] = []

    async def look() -> bool:
        shown.clear()
        for one in people:
            try:
                events = await one.event_ids(room)
                state = await one.state_ids(room)
            except Unavailable:
                return False
            if since is not None:
                if since not in events:
                    return False
                events = events[: events.index(since)]
            shown.append((state, frozenset(events)))
        return all(one == shown[0] for one in shown)

    try:
        await _comes(look, f"the servers agree about {room}")
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{_differences(people, shown)}") from exc


def _differences(people: list[Somebody], shown: list[Any]) -> str:
    lines = []
    for one, (state, events) in zip(people[1:], shown[1:], strict=False):
        first_state, first_events = shown[0]
        keys = {key for key in {*state, *first_state} if state.get(key) != first_state.get(key)}
        lines.append(
            f"{one.server} beside {people[0].server}: state differs at {sorted(keys)}; "
            f"only there {sorted(events - first_events)}, only here {sorted(first_events - events)}"
        )
    return "\n".join(lines)
