"""What we ask of peers: one function per endpoint. Fits `rooms.network.Peers` structurally.

Errors of all: `Refused` (the peer's error code), `NotFound`, `Unavailable`, and `BadInput` for an
answer whose shape is wrong. PDUs in answers are raw: nothing about them has been checked but that
they are objects. Spec: S2S, at each function.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.engine.versions import UNNAMED, get_version
from bridge.errors import BadInput, NotFound, Refused
from bridge.federation.client.transport import Transport, encode_path
from bridge.ids import (
    EventId,
    RoomAlias,
    RoomId,
    RoomVersionId,
    ServerName,
    UserId,
    parse_event_id,
    parse_room_id,
    parse_server_name,
)

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"

MAX_TRANSACTION_PDUS = 50
MAX_TRANSACTION_EDUS = 100
MAX_DIRECTORY_SERVERS = 500

JOIN_LISTS = ("state", "auth_chain")
STATE_LISTS = ("pdus", "auth_chain")
CHAIN_LISTS = ("auth_chain",)
"""What may be long in the answers about a room: parsed as it arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLimits:
    """Bytes of an answer. `room_bytes` is for answers that hold a room's state or auth chain."""

    usual_bytes: int = 16 << 20
    room_bytes: int = 200 << 20
    small_bytes: int = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTimeouts:
    usual_s: float = 30.0
    room_s: float = 300.0
    transaction_s: float = 60.0


class PeerRequests:
    """Asks once; retrying is `delivery`'s."""

    def __init__(
        self,
        *,
        transport: Transport,
        clock: Clock,
        limits: AnswerLimits | None = None,
        timeouts: AnswerTimeouts | None = None,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._limits = limits or AnswerLimits()
        self._timeouts = timeouts or AnswerTimeouts()

    # Joining, knocking, leaving. Spec: S2S, joining rooms, knocking upon a room, leaving rooms.

    async def make_join(
        self, peer: ServerName, room_id: RoomId, user_id: UserId, versions: Sequence[RoomVersionId]
    ) -> tuple[RoomVersionId, JsonObject]:
        """The room's version and a template. Which version it is, the caller must check."""
        answer = await self._get(
            peer,
            V1 + encode_path("make_join", room_id, user_id),
            "make_join",
            query=[("ver", version) for version in versions],
        )
        return _template(answer)

    async def send_join(
        self,
        peer: ServerName,
        room_id: RoomId,
        event_id: EventId,
        pdu: JsonObject,
        *,
        omit_members: bool = False,
    ) -> JsonObject:
        """`state` and `auth_chain`: lists of PDUs; `event`, `members_omitted`, `servers_in_room`.

        A peer without v2 is asked by v1, whose answer is the same one in a list.
        """
        query = [("omit_members", "true")] if omit_members else []
        try:
            answer = await self._put_room(
                peer,
                V2 + encode_path("send_join", room_id, event_id),
                "send_join",
                pdu,
                query,
                JOIN_LISTS,
            )
        except Refused as exc:
            if exc.errcode != "M_UNRECOGNIZED":
                raise
            answer = _of_pair(
                await self._put_room(
                    peer, V1 + encode_path("send_join", room_id, event_id), "send_join_v1", pdu, ()
                )
            )
        joined = _object(answer)
        _pdus(joined, "state")
        _pdus(joined, "auth_chain")
        if joined.get("event") is not None and not isinstance(joined["event"], dict):
            raise BadInput("the answer's event is not an object")
        if joined.get("members_omitted", False) is not False and not omit_members:
            raise BadInput("the answer leaves out members, which was not asked for")
        return joined

    async def make_knock(
        self, peer: ServerName, room_id: RoomId, user_id: UserId, versions: Sequence[RoomVersionId]
    ) -> tuple[RoomVersionId, JsonObject]:
        """As `make_join`."""
        answer = await self._get(
            peer,
            V1 + encode_path("make_knock", room_id, user_id),
            "make_knock",
            query=[("ver", version) for version in versions],
        )
        return _template(answer)

    async def send_knock(
        self, peer: ServerName, room_id: RoomId, event_id: EventId, pdu: JsonObject
    ) -> list[JsonObject]:
        """`knock_room_state`: what of it is an object. The peer has taken the knock already, so
        nothing about its answer is an error."""
        answer = await self._put(
            peer, V1 + encode_path("send_knock", room_id, event_id), "send_knock", pdu
        )
        state = answer.get("knock_room_state") if isinstance(answer, dict) else None
        entries = state if isinstance(state, list) else []
        return [entry for entry in entries if isinstance(entry, dict)]

    async def make_leave(
        self, peer: ServerName, room_id: RoomId, user_id: UserId
    ) -> tuple[RoomVersionId, JsonObject]:
        answer = await self._get(
            peer, V1 + encode_path("make_leave", room_id, user_id), "make_leave"
        )
        return _template(answer)

    async def send_leave(
        self, peer: ServerName, room_id: RoomId, event_id: EventId, pdu: JsonObject
    ) -> None:
        """By v1 where the peer has no v2. Both answer nothing of interest."""
        try:
            await self._put(
                peer, V2 + encode_path("send_leave", room_id, event_id), "send_leave", pdu
            )
        except Refused as exc:
            if exc.errcode != "M_UNRECOGNIZED":
                raise
            await self._put(
                peer, V1 + encode_path("send_leave", room_id, event_id), "send_leave_v1", pdu
            )

    # Invites. Spec: S2S, inviting to a room.

    async def invite(
        self,
        peer: ServerName,
        room_id: RoomId,
        event_id: EventId,
        pdu: JsonObject,
        room_version: RoomVersionId,
        invite_room_state: Sequence[JsonObject],
    ) -> JsonObject:
        """The invite as the peer signed it; the caller checks that nothing else changed.

        v1 is tried only where the room version is one that v1 can mean; for any other a peer
        without v2 cannot take part, which is M_UNSUPPORTED_ROOM_VERSION.
        """
        state = list(invite_room_state)
        try:
            answer = await self._put(
                peer,
                V2 + encode_path("invite", room_id, event_id),
                "invite",
                {"event": pdu, "room_version": room_version, "invite_room_state": state},
            )
        except Refused as exc:
            if exc.errcode != "M_UNRECOGNIZED":
                raise
            if not get_version(room_version).invited_by_v1:
                raise Refused(
                    f"{peer} knows only the invites of room versions 1 and 2",
                    errcode="M_UNSUPPORTED_ROOM_VERSION",
                    rule="invite_v1",
                ) from exc
            unsigned = {**_object(pdu.get("unsigned", {})), "invite_room_state": state}
            answer = _of_pair(
                await self._put(
                    peer,
                    V1 + encode_path("invite", room_id, event_id),
                    "invite_v1",
                    {**pdu, "unsigned": unsigned},
                )
            )
        return _object(_object(answer).get("event"))

    # Transactions. Spec: S2S, transactions.

    async def send_transaction(
        self,
        peer: ServerName,
        txn_id: str,
        pdus: Sequence[JsonObject],
        edus: Sequence[JsonObject],
        *,
        origin_server_ts: int | None = None,
    ) -> Mapping[EventId, str]:
        """Reasons by event ID of the PDUs that the peer refused. Only a 200 in JSON has arrived.

        A repetition must have the same `txn_id` and the same contents. The time is now by default.
        """
        if len(pdus) > MAX_TRANSACTION_PDUS or len(edus) > MAX_TRANSACTION_EDUS:
            raise ValueError("a transaction over the limits of the specification")
        body: JsonObject = {
            "origin": self._transport.own_name,
            "origin_server_ts": self._clock.now_ms()
            if origin_server_ts is None
            else origin_server_ts,
            "pdus": list(pdus),
        }
        if edus:
            body["edus"] = list(edus)
        answer = await self._transport.request(
            peer,
            "PUT",
            V1 + encode_path("send", txn_id),
            endpoint="send",
            body=body,
            timeout_s=self._timeouts.transaction_s,
            max_bytes=self._limits.small_bytes,
        )
        results = answer.get("pdus") if isinstance(answer, dict) else None
        if not isinstance(results, dict):
            return {}  # It was taken; what became of each PDU the peer does not say.
        return {
            EventId(event_id): str(result.get("error"))[:500]
            for event_id, result in results.items()
            if isinstance(result, dict) and result.get("error")
        }

    # Events and the graph. Spec: S2S, retrieving events, backfilling and retrieving missing events.

    async def event(self, peer: ServerName, event_id: EventId) -> JsonObject:
        """`NotFound` also for the 404 without an error code with which Synapse says so."""
        try:
            answer = _object(await self._get(peer, V1 + encode_path("event", event_id), "event"))
        except Refused as exc:
            if exc.errcode != "M_UNRECOGNIZED":
                raise
            raise NotFound(exc.reason) from exc
        pdus = _pdus(answer, "pdus")
        if len(pdus) != 1:
            raise BadInput(f"{len(pdus)} events where one was asked for")
        return pdus[0]

    async def state(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> tuple[list[JsonObject], list[JsonObject]]:
        """The state before the event, and its auth chain."""
        answer = _object(
            await self._get_room(
                peer,
                V1 + encode_path("state", room_id),
                "state",
                [("event_id", event_id)],
                STATE_LISTS,
            )
        )
        return _pdus(answer, "pdus"), _pdus(answer, "auth_chain")

    async def state_ids(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> tuple[list[EventId], list[EventId]]:
        """Like `state`, the event IDs only."""
        answer = _object(
            await self._get_room(
                peer, V1 + encode_path("state_ids", room_id), "state_ids", [("event_id", event_id)]
            )
        )
        return _event_ids(answer, "pdu_ids"), _event_ids(answer, "auth_chain_ids")

    async def event_auth(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> list[JsonObject]:
        """The full auth chain of the event."""
        answer = await self._get_room(
            peer, V1 + encode_path("event_auth", room_id, event_id), "event_auth", (), CHAIN_LISTS
        )
        return _pdus(_object(answer), "auth_chain")

    async def backfill(
        self, peer: ServerName, room_id: RoomId, event_ids: Sequence[EventId], limit: int
    ) -> list[JsonObject]:
        """The given events and what came before them; at most `limit`, as the peer counts."""
        query = [("v", event_id) for event_id in event_ids] + [("limit", str(limit))]
        answer = await self._get(
            peer, V1 + encode_path("backfill", room_id), "backfill", query=query
        )
        return _pdus(_object(answer), "pdus", at_most=limit)

    async def get_missing_events(
        self,
        peer: ServerName,
        room_id: RoomId,
        earliest: Sequence[EventId],
        latest: Sequence[EventId],
        limit: int,
        min_depth: int = 0,
    ) -> list[JsonObject]:
        """What lies between `earliest` (known) and `latest`, neither included."""
        answer = await self._transport.request(
            peer,
            "POST",
            V1 + encode_path("get_missing_events", room_id),
            endpoint="get_missing_events",
            body={
                "earliest_events": list(earliest),
                "latest_events": list(latest),
                "limit": limit,
                "min_depth": min_depth,
            },
            timeout_s=self._timeouts.usual_s,
            max_bytes=self._limits.usual_bytes,
        )
        return _pdus(_object(answer), "events", at_most=limit)

    # Queries. Spec: S2S, querying for information.

    async def query_profile(
        self, peer: ServerName, user_id: UserId, field: str | None = None
    ) -> JsonObject:
        """`displayname` and `avatar_url` only where they are text. `NotFound` for no such user."""
        query = [("user_id", user_id)] + ([("field", field)] if field is not None else [])
        answer = _object(
            await self._get(peer, V1 + "/query/profile", "query_profile", query=query, small=True)
        )
        wanted = ("displayname", "avatar_url")
        return {
            name: value
            for name, value in answer.items()
            if name not in wanted or isinstance(value, str)
        }

    async def query_directory(
        self, peer: ServerName, alias: RoomAlias
    ) -> tuple[RoomId, list[ServerName]]:
        """The room and servers in it; what is no server name is left out."""
        answer = _object(
            await self._get(
                peer,
                V1 + "/query/directory",
                "query_directory",
                query=[("room_alias", alias)],
                small=True,
            )
        )
        servers = answer.get("servers")
        if not isinstance(servers, list):
            raise BadInput("a directory answer without servers")
        known = []
        for server in servers[:MAX_DIRECTORY_SERVERS]:
            try:
                known.append(parse_server_name(server))
            except BadInput:
                continue
        return parse_room_id(answer.get("room_id")), list(dict.fromkeys(known))

    # Devices and keys. Spec: S2S, device management, end-to-end encryption.

    async def user_devices(self, peer: ServerName, user_id: UserId) -> JsonObject:
        return _object(
            await self._get(peer, V1 + encode_path("user", "devices", user_id), "user_devices")
        )

    async def query_user_keys(
        self, peer: ServerName, wanted: Mapping[UserId, Sequence[str]]
    ) -> JsonObject:
        """An empty list of devices means all of the user's."""
        body = {"device_keys": {user: list(devices) for user, devices in wanted.items()}}
        return await self._ask_keys(peer, "query", body)

    async def claim_user_keys(
        self, peer: ServerName, wanted: Mapping[UserId, Mapping[str, str]]
    ) -> JsonObject:
        """By user and device, the algorithm. What it gives it gives to nobody else."""
        body = {"one_time_keys": {user: dict(devices) for user, devices in wanted.items()}}
        return await self._ask_keys(peer, "claim", body)

    async def _ask_keys(self, peer: ServerName, what: str, body: JsonObject) -> JsonObject:
        answer = await self._transport.request(
            peer,
            "POST",
            V1 + encode_path("user", "keys", what),
            endpoint=f"{what}_user_keys",
            body=body,
            timeout_s=self._timeouts.usual_s,
            max_bytes=self._limits.usual_bytes,
        )
        return _object(answer)

    # Lists of rooms. Spec: S2S, public room directory.

    async def public_rooms(
        self,
        peer: ServerName,
        *,
        limit: int,
        since: str | None = None,
        term: str | None = None,
        room_types: Sequence[str | None] | None = None,
        all_networks: bool = False,
        network: str | None = None,
    ) -> JsonObject:
        """A page of its list, unread. Asked by POST only where something is searched for: older
        servers know no other list than that of GET."""
        wanted: JsonObject = {"include_all_networks": all_networks}
        if limit > 0:
            wanted["limit"] = limit
        if since is not None:
            wanted["since"] = since
        if network is not None and not all_networks:
            wanted["third_party_instance_id"] = network
        search: JsonObject = {}
        if term:
            search["generic_search_term"] = term
        if room_types is not None:
            search["room_types"] = list(room_types)
        if not search:
            fields = [
                (name, ("false", "true")[value] if isinstance(value, bool) else str(value))
                for name, value in wanted.items()
            ]
            return _object(await self._get(peer, V1 + "/publicRooms", "public_rooms", query=fields))
        return _object(
            await self._transport.request(
                peer,
                "POST",
                V1 + "/publicRooms",
                endpoint="public_rooms",
                body={**wanted, "filter": search},
                timeout_s=self._timeouts.usual_s,
                max_bytes=self._limits.usual_bytes,
            )
        )

    async def hierarchy(
        self, peer: ServerName, room_id: RoomId, *, suggested_only: bool = False
    ) -> JsonObject:
        """A space and its children, unread. Spec: S2S, spaces."""
        return _object(
            await self._get(
                peer,
                V1 + encode_path("hierarchy", room_id),
                "hierarchy",
                query=[("suggested_only", "true" if suggested_only else "false")],
            )
        )

    async def version(self, peer: ServerName) -> JsonObject:
        """The `server` object: `name` and `version` where they are text. Not signed."""
        answer = _object(
            await self._transport.request(
                peer,
                "GET",
                V1 + "/version",
                endpoint="version",
                timeout_s=self._timeouts.usual_s,
                max_bytes=self._limits.small_bytes,
                signed=False,
            )
        )
        server = _object(answer.get("server", {}))
        return {
            name: server[name] for name in ("name", "version") if isinstance(server.get(name), str)
        }

    # The four ways to ask.

    async def policy_sign(
        self, peer: ServerName, path: str, pdu: JsonObject, *, timeout_s: float
    ) -> JsonObject:
        """Spec: S2S, POST /sign. An empty answer is a refusal (MSC4284, from before)."""
        answer = _object(
            await self._transport.request(
                peer,
                "POST",
                path,
                endpoint="policy_sign",
                body=pdu,
                timeout_s=timeout_s,
                max_bytes=self._limits.small_bytes,
            )
        )
        if not answer:
            raise Refused("refused without a word", errcode="M_FORBIDDEN", rule="peer")
        return answer

    async def _get(
        self,
        peer: ServerName,
        path: str,
        endpoint: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        small: bool = False,
    ) -> Any:
        return await self._transport.request(
            peer,
            "GET",
            path,
            endpoint=endpoint,
            query=query,
            timeout_s=self._timeouts.usual_s,
            max_bytes=self._limits.small_bytes if small else self._limits.usual_bytes,
        )

    async def _get_room(
        self,
        peer: ServerName,
        path: str,
        endpoint: str,
        query: Sequence[tuple[str, str]],
        long_lists: Collection[str] = (),
    ) -> Any:
        return await self._transport.request(
            peer,
            "GET",
            path,
            endpoint=endpoint,
            query=query,
            timeout_s=self._timeouts.room_s,
            max_bytes=self._limits.room_bytes,
            long_lists=long_lists,
        )

    async def _put(self, peer: ServerName, path: str, endpoint: str, body: JsonObject) -> Any:
        return await self._transport.request(
            peer,
            "PUT",
            path,
            endpoint=endpoint,
            body=body,
            timeout_s=self._timeouts.usual_s,
            max_bytes=self._limits.usual_bytes,
        )

    async def _put_room(
        self,
        peer: ServerName,
        path: str,
        endpoint: str,
        body: JsonObject,
        query: Sequence[tuple[str, str]],
        long_lists: Collection[str] = (),
    ) -> Any:
        return await self._transport.request(
            peer,
            "PUT",
            path,
            endpoint=endpoint,
            query=query,
            body=body,
            timeout_s=self._timeouts.room_s,
            max_bytes=self._limits.room_bytes,
            long_lists=long_lists,
        )


def _object(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise BadInput("the answer is not the object it should be")
    return value


def _of_pair(value: object) -> Any:
    """The second part of `[200, ANSWER]`, the form of v1."""
    if not isinstance(value, list) or len(value) != 2 or value[0] != 200:
        raise BadInput("the answer is not the pair it should be")
    return value[1]


def _template(answer: object) -> tuple[RoomVersionId, JsonObject]:
    """A missing version means 1, by the endpoint's definition."""
    made = _object(answer)
    version = made.get("room_version", UNNAMED.id)
    if not isinstance(version, str) or not isinstance(made.get("event"), dict):
        raise BadInput("a template without its event or room version")
    return RoomVersionId(version), made["event"]


def _pdus(answer: JsonObject, name: str, *, at_most: int | None = None) -> list[JsonObject]:
    """The list of objects under that name; a peer that sends more than was asked is cut short."""
    pdus = answer.get(name)
    if not isinstance(pdus, list) or not all(isinstance(pdu, dict) for pdu in pdus):
        raise BadInput(f"the answer's {name} is not a list of objects")
    return pdus[:at_most]


def _event_ids(answer: JsonObject, name: str) -> list[EventId]:
    ids = answer.get(name)
    if not isinstance(ids, list):
        raise BadInput(f"the answer's {name} is not a list")
    return [parse_event_id(event_id) for event_id in ids]
