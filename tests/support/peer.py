"""A Matrix server that is nothing but a test: it serves its keys and the few answers of a room's
only resident, and says exactly the bytes that a test wants to have said.

Its rooms are built with the engine, event on event in one line. What the gateway sends is kept.
"""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import pytest_asyncio
from yarl import URL

from bridge.clock import SystemClock
from bridge.demo.servers import CertificateAuthority
from bridge.engine.auth.selection import auth_event_keys
from bridge.engine.build import Draft, PrevEvent, build_pdu, countersign, event_template
from bridge.engine.canonical import JsonObject
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.policy_server import POLICY_KEY, STABLE
from bridge.engine.signing import sign_event
from bridge.engine.state import StateKey
from bridge.engine.versions import RoomVersion, get_version
from bridge.errors import NotFound, Refused
from bridge.federation.own_keys import OwnKeys
from bridge.federation.server.keys import Keys
from bridge.federation.xmatrix import XMatrix, sign_request
from bridge.ids import EventId, RoomId, ServerName, UserId
from bridge.web.application import Listener, Request, Response, Route, WebServer

_TLS_GOODBYE_S = 0.1
"""Closed TLS connections end when the other side has said good-bye, too."""
_TIMEOUT = aiohttp.ClientTimeout(total=30.0)
_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"


def path(*parts: str) -> str:
    """Joined and percent-encoded."""
    return "".join("/" + quote(part, safe="") for part in parts)


@dataclass(slots=True, kw_only=True)
class PeerRoom:
    """One line of events, and the state at its end."""

    room_id: RoomId
    version: RoomVersion
    events: list[Pdu] = field(default_factory=list)
    state: dict[StateKey, Pdu] = field(default_factory=dict)

    def add(self, pdu: Pdu) -> Pdu:
        self.events.append(pdu)
        if pdu.key is not None:
            self.state[pdu.key] = pdu
        return pdu

    @property
    def tip(self) -> tuple[PrevEvent, ...]:
        last = self.events[-1]
        return (PrevEvent(event_id=last.event_id, depth=last.depth),)

    def auth_events(self, draft: Draft) -> list[EventId]:
        keys = auth_event_keys(
            draft.type, draft.sender, draft.state_key, draft.content, self.version
        )
        return [self.state[key].event_id for key in sorted(keys) if key in self.state]

    def auth_chain(self, pdus: Sequence[Pdu]) -> list[Pdu]:
        """What these rest on."""
        by_id = {pdu.event_id: pdu for pdu in self.events}
        chain: dict[EventId, Pdu] = {}
        waiting = [event_id for pdu in pdus for event_id in pdu.auth_events]
        while waiting:
            event_id = waiting.pop()
            if event_id not in chain:
                chain[event_id] = by_id[event_id]
                waiting.extend(by_id[event_id].auth_events)
        return list(chain.values())


class FakePeer:
    """A server on loopback; its name is known once it has started."""

    def __init__(self, authority: CertificateAuthority) -> None:
        self._authority = authority
        self.key = SigningKey.from_seed("test", secrets.token_bytes(32))
        self.name = ServerName("")
        self.rooms: dict[str, PeerRoom] = {}
        self.aliases: dict[str, RoomId] = {}
        self.received: list[JsonObject] = []
        """PDUs out of transactions, in order."""
        self.lets_in = asyncio.Event()
        """While it is not set, the answer to a join is awaited."""
        self.lets_in.set()
        self.refuses_joins = False
        self.policy_key = SigningKey.from_seed("policy_server", secrets.token_bytes(32))
        self.policy_asked: list[JsonObject] = []
        """Events that it was to sign as a policy server, in order."""
        self.recommends: Callable[[JsonObject], bool] = lambda pdu: True
        self._keys: Keys | None = None
        self._server: WebServer | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        files = self._authority.issue(label="peer")
        self._server = WebServer(
            routes=[
                Route(method="GET", path="/_matrix/key/v2/server", endpoint=self._own_keys),
                Route(method="GET", path=f"{_V1}/version", endpoint=self._version),
                Route(method="GET", path=f"{_V1}/query/profile", endpoint=self._profile),
                Route(method="GET", path=f"{_V1}/query/directory", endpoint=self._alias),
                Route(
                    method="GET",
                    path=f"{_V1}/make_join/{{room_id}}/{{user_id}}",
                    endpoint=self._make_join,
                ),
                Route(
                    method="PUT",
                    path=f"{_V2}/send_join/{{room_id}}/{{event_id}}",
                    endpoint=self._send_join,
                ),
                Route(method="GET", path=f"{_V1}/event/{{event_id}}", endpoint=self._event),
                Route(
                    method="POST",
                    path=f"{_V1}/get_missing_events/{{room_id}}",
                    endpoint=self._missing,
                ),
                Route(method="PUT", path=f"{_V1}/send/{{txn_id}}", endpoint=self._transaction),
                Route(method="POST", path=STABLE.sign_path, endpoint=self._policy_sign),
            ],
            listeners=[
                Listener(host="127.0.0.1", port=0, certificate=files.chain, private_key=files.key)
            ],
        )
        await self._server.start()
        self.name = ServerName(f"localhost:{self._server.addresses[0][1]}")
        self._keys = Keys(own_name=self.name, keys=OwnKeys.of(self.key), clock=SystemClock())
        trust = ssl.create_default_context(cafile=str(self._authority.certificate_file))
        self._session = aiohttp.ClientSession(
            timeout=_TIMEOUT, connector=aiohttp.TCPConnector(ssl=trust)
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
        if self._server is not None:
            await self._server.stop()
        await asyncio.sleep(_TLS_GOODBYE_S)

    def user(self, localpart: str) -> UserId:
        return UserId(f"@{localpart}:{self.name}")

    # --- what it asks --------------------------------------------------------------------------

    async def ask(
        self,
        server: str,
        method: str,
        target: str,
        *,
        content: JsonObject | None = None,
        raw: bytes | None = None,
        authorization: str | None = "",
    ) -> tuple[int, dict[str, Any]]:
        """Status and body. `raw` is sent instead of `content`, which stays what is signed.

        `authorization` replaces our signature; None sends none.
        """
        assert self._session is not None
        headers: dict[str, str] = {}
        if authorization == "":
            authorization = self.signature(server, method, target, content).header()
        if authorization is not None:
            headers["Authorization"] = authorization
        data = raw
        if data is None and content is not None:
            data = json.dumps(content).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        async with self._session.request(
            method,
            URL(f"https://{server}{target}", encoded=True),
            data=None if data is None else io.BytesIO(data),
            headers=headers,
        ) as response:
            return response.status, json.loads(await response.read())

    def signature(
        self, server: str, method: str, target: str, content: JsonObject | None = None
    ) -> XMatrix:
        return sign_request(
            method=method,
            target=target,
            origin=self.name,
            destination=ServerName(server),
            content=content,
            key=self.key,
        )

    def false_signature(self, server: str, method: str, target: str) -> str:
        """A header in our name, signed with a key that is not ours."""
        false = SigningKey.from_seed("test", secrets.token_bytes(32))
        good = self.signature(server, method, target)
        return replace(good, signature=false.sign(b"something else")).header()

    async def send(self, server: str, *pdus: JsonObject, txn: str | None = None) -> dict[str, Any]:
        """One transaction; the verdicts by event ID."""
        status, answer = await self.send_raw(server, self.transaction(*pdus), txn=txn)
        assert status == 200, answer
        return dict(answer["pdus"])

    async def send_raw(
        self, server: str, body: JsonObject, *, raw: bytes | None = None, txn: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        target = f"{_V1}/send/{txn or secrets.token_hex(8)}"
        return await self.ask(server, "PUT", target, content=body, raw=raw)

    def transaction(self, *pdus: JsonObject) -> JsonObject:
        return {"origin": self.name, "origin_server_ts": now_ms(), "pdus": list(pdus)}

    async def invite(
        self, server: str, room: PeerRoom, pdu: Pdu, *, version: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """The invite is added to the room when the answer has it with their signature."""
        target = f"{_V2}/invite{path(room.room_id, pdu.event_id)}"
        create = room.events[0]
        stripped = {
            "type": create.type,
            "state_key": "",
            "sender": create.sender,
            "content": create.content,
        }
        content: JsonObject = {
            "event": pdu.wire(),
            "room_version": version or room.version.id,
            "invite_room_state": [stripped],
        }
        status, answer = await self.ask(server, "PUT", target, content=content)
        if status == 200:
            room.add(Pdu.parse(answer["event"], room.version))
        return status, answer

    # --- its rooms -----------------------------------------------------------------------------

    def make_room(self, creator: UserId, *, version: str = "11") -> PeerRoom:
        """A private room of the versions whose room IDs have a server."""
        room = PeerRoom(
            room_id=RoomId(f"!{secrets.token_hex(8)}:{self.name}"), version=get_version(version)
        )
        self.rooms[room.room_id] = room
        content: JsonObject = {"room_version": version}
        if room.version.auth.creator_in_content:
            content["creator"] = creator
        self.extend(room, creator, "m.room.create", content, state_key="")
        self.extend(room, creator, "m.room.member", {"membership": "join"}, state_key=creator)
        levels = {"users": {creator: 100}}
        self.extend(room, creator, "m.room.power_levels", levels, state_key="")
        self.extend(room, creator, "m.room.join_rules", {"join_rule": "invite"}, state_key="")
        return room

    def build(
        self,
        room: PeerRoom,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
    ) -> Pdu:
        """A good event on the room's end, which it does not yet belong to."""
        draft = Draft(
            room_id=room.room_id, type=type, sender=sender, content=content, state_key=state_key
        )
        return build_pdu(
            draft,
            prev_events=room.tip if room.events else (),
            auth_events=room.auth_events(draft),
            version=room.version,
            key=self.key,
            server=self.name,
            origin_server_ts=now_ms(),
        )

    def extend(
        self,
        room: PeerRoom,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
    ) -> Pdu:
        return room.add(self.build(room, sender, type, content, state_key=state_key))

    def message(self, room: PeerRoom, sender: UserId, body: str) -> Pdu:
        """Built, not added."""
        return self.build(room, sender, "m.room.message", {"msgtype": "m.text", "body": body})

    # --- what it answers -----------------------------------------------------------------------

    async def _own_keys(self, request: Request) -> Response:
        assert self._keys is not None
        return await self._keys.own(request)

    async def _version(self, _: Request) -> Response:
        return Response(json={"server": {"name": "Fake", "version": "1"}})

    async def _profile(self, request: Request) -> Response:
        return Response(json={"displayname": request.query_one("user_id")})

    async def _alias(self, request: Request) -> Response:
        room_id = self.aliases.get(request.query_one("room_alias") or "")
        if room_id is None:
            raise NotFound("no such alias")
        return Response(json={"room_id": room_id, "servers": [self.name]})

    async def _make_join(self, request: Request) -> Response:
        room = self._room(request)
        user_id = UserId(request.params["user_id"])
        draft = Draft(
            room_id=room.room_id,
            type="m.room.member",
            sender=user_id,
            content={"membership": "join"},
            state_key=user_id,
        )
        template = event_template(
            draft,
            prev_events=room.tip,
            auth_events=room.auth_events(draft),
            version=room.version,
            origin_server_ts=now_ms(),
        )
        return Response(json={"room_version": room.version.id, "event": template})

    async def _send_join(self, request: Request) -> Response:
        room = self._room(request)
        await self.lets_in.wait()
        if self.refuses_joins:
            raise Refused("nobody comes in any more", errcode="M_FORBIDDEN")
        state = list(room.state.values())
        chain = room.auth_chain(state)
        pdu = Pdu.parse(request.json_object(), room.version)
        signed = countersign(pdu, key=self.key, server=self.name)
        room.add(signed)
        return Response(
            json={
                "event": signed.wire(),
                "state": [one.wire() for one in state],
                "auth_chain": [one.wire() for one in chain],
                "members_omitted": False,
                "origin": self.name,
            }
        )

    async def _event(self, request: Request) -> Response:
        for room in self.rooms.values():
            for pdu in room.events:
                if pdu.event_id == request.params["event_id"]:
                    return Response(
                        json={
                            "origin": self.name,
                            "origin_server_ts": now_ms(),
                            "pdus": [pdu.wire()],
                        }
                    )
        raise NotFound("no such event")

    async def _missing(self, _: Request) -> Response:
        return Response(json={"events": []})

    async def _transaction(self, request: Request) -> Response:
        pdus = request.json_object().get("pdus", [])
        self.received.extend(pdus)
        for pdu in pdus:
            room = self.rooms.get(str(pdu.get("room_id")))
            if room is not None:
                room.add(Pdu.parse(pdu, room.version))
        return Response(json={"pdus": {}})

    async def _policy_sign(self, request: Request) -> Response:
        json = request.json_object()
        self.policy_asked.append(json)
        if not self.recommends(json):
            raise Refused("the policy server calls this spam", errcode="M_FORBIDDEN")
        version = self.rooms[json["room_id"]].version
        signed = sign_event(json, version, server=self.name, key=self.policy_key)
        signature = signed["signatures"][self.name][POLICY_KEY]
        return Response(json={self.name: {POLICY_KEY: signature}})

    def _room(self, request: Request) -> PeerRoom:
        room = self.rooms.get(request.params["room_id"])
        if room is None:
            raise NotFound("no such room")
        return room


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest_asyncio.fixture
async def peer(certificates: CertificateAuthority) -> AsyncIterator[FakePeer]:
    """A server of this test alone."""
    async with FakePeer(certificates) as server:
        yield server
