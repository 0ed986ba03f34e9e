"""A Matrix server for load, as a program of its own: `python -m tests.support.load.program FOLDER`.

It is the resident server of one public room. When it is told to, it pushes so many events at
another server, a few in a transaction and one transaction at a time, and repeats each under the
same ID until it is answered; and it takes what the other sends. A share of the connections in both
directions breaks (`wire`). It may be killed at any moment and started again: what it has
acknowledged, and what it must repeat, is in its file (`store`). Whatever the other server does
that it must not is written down there as a fault.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs, unquote

from bridge.clock import SystemClock
from bridge.engine.auth.selection import auth_event_keys
from bridge.engine.build import Draft, PrevEvent, build_pdu, countersign, event_template
from bridge.engine.canonical import JsonObject
from bridge.engine.hashes import check_content_hash
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.signing import check_pdu_signature, required_signers
from bridge.engine.state import StateKey
from bridge.engine.versions import get_version
from bridge.errors import IsthmusError
from bridge.federation.own_keys import OwnKeys
from bridge.federation.server.keys import Keys
from bridge.federation.xmatrix import parse_xmatrix, sign_request, verify_request
from bridge.ids import EventId, KeyId, RoomId, ServerName, UserId
from tests.support.load.store import LoadStore, OutgoingTransaction
from tests.support.load.wire import Cut, Dice, FlakyClient, FlakyServer, Lost, Message

SENDERS = ("eve", "mallory")
MOST_PDUS = 10
"""In a transaction: few, so that there are many to break."""
MAX_PREV_EVENTS = 10
LOOK_S = 0.1
LONGEST_PAUSE_S = 2.0
_V1 = "/_matrix/federation/v1"
_NOT_FOUND = 404, {"errcode": "M_NOT_FOUND", "error": "not here"}
_VERSION = get_version("11")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """`settings.json` in the folder of the server."""

    name: str
    port: int
    chain: str
    private_key: str
    authority: str
    seed: int

    @property
    def key(self) -> SigningKey:
        return SigningKey.from_seed("load", Random(f"{self.seed}/{self.name}").randbytes(32))

    @property
    def room_id(self) -> RoomId:
        return RoomId(f"!load:{self.name}")

    @property
    def alias(self) -> str:
        return f"#load:{self.name}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class LoadRoom:
    """The room's graph in memory: events in order of arrival, its ends, its (never disputed)
    state."""

    def __init__(self, settings: LoadSettings) -> None:
        self._settings = settings
        self._key = settings.key
        self.name = ServerName(settings.name)
        self.room_id = settings.room_id
        self.events: dict[EventId, Pdu] = {}
        self.state: dict[StateKey, Pdu] = {}
        self.ends: dict[EventId, None] = {}
        self._followed: set[EventId] = set()

    def add(self, pdu: Pdu) -> None:
        if pdu.event_id in self.events:
            return
        self.events[pdu.event_id] = pdu
        if pdu.key is not None:
            self.state[pdu.key] = pdu
        for before in previous(pdu):
            self._followed.add(before)
            self.ends.pop(before, None)
        if pdu.event_id not in self._followed:
            self.ends[pdu.event_id] = None

    def auth_events(self, draft: Draft) -> list[EventId]:
        keys = auth_event_keys(draft.type, draft.sender, draft.state_key, draft.content, _VERSION)
        return [self.state[key].event_id for key in sorted(keys) if key in self.state]

    def tips(self) -> list[PrevEvent]:
        return [
            PrevEvent(event_id=one, depth=int(self.events[one].json["depth"]))
            for one in list(self.ends)[-MAX_PREV_EVENTS:]
        ]

    def write(
        self, sender: str, kind: str, content: Mapping[str, Any], state_key: str | None = None
    ) -> Pdu:
        """A new event of ours at the ends, added."""
        draft = Draft(
            room_id=self.room_id,
            type=kind,
            sender=UserId(sender),
            content=content,
            state_key=state_key,
        )
        pdu = build_pdu(
            draft,
            prev_events=self.tips(),
            auth_events=self.auth_events(draft),
            version=_VERSION,
            key=self._key,
            server=self.name,
            origin_server_ts=now_ms(),
        )
        self.add(pdu)
        return pdu

    def found(self) -> list[Pdu]:
        """Its first events."""
        first, *others = (f"@{one}:{self.name}" for one in SENDERS)
        join = {"membership": "join"}
        levels = {"users": {first: 100}}
        made = [
            self.write(first, "m.room.create", {"room_version": _VERSION.id}, ""),
            self.write(first, "m.room.member", join, first),
            self.write(first, "m.room.power_levels", levels, ""),
            self.write(first, "m.room.join_rules", {"join_rule": "public"}, ""),
            self.write(first, "m.room.name", {"name": "Load"}, ""),
        ]
        return made + [self.write(one, "m.room.member", join, one) for one in others]

    def template(self, user_id: str) -> JsonObject:
        """Of make_join."""
        draft = Draft(
            room_id=self.room_id,
            type="m.room.member",
            sender=UserId(user_id),
            content={"membership": "join"},
            state_key=user_id,
        )
        return event_template(
            draft,
            prev_events=self.tips(),
            auth_events=self.auth_events(draft),
            version=_VERSION,
            origin_server_ts=now_ms(),
        )

    def behind(
        self, latest: Iterable[str], earliest: Sequence[str], limit: int, *, whole: bool
    ) -> list[JsonObject]:
        """What leads to `latest`, without what `earliest` names; oldest first. `whole`: with the
        latest themselves."""
        found: dict[EventId, Pdu] = {}
        waiting = [EventId(one) for one in latest]
        if not whole:
            waiting = [p for one in waiting if one in self.events for p in self._before(one)]
        while waiting and len(found) < limit:
            event_id = waiting.pop(0)
            if event_id in found or event_id in earliest or event_id not in self.events:
                continue
            found[event_id] = self.events[event_id]
            waiting += self._before(event_id)
        return [pdu.wire() for pdu in sorted(found.values(), key=lambda one: one.json["depth"])]

    def _before(self, event_id: EventId) -> Sequence[EventId]:
        return previous(self.events[event_id])


def previous(pdu: Pdu) -> Sequence[EventId]:
    links: Sequence[EventId] = pdu.json["prev_events"]
    return links


class LoadServer:
    def __init__(self, settings: LoadSettings, store: LoadStore) -> None:
        self._settings = settings
        self._store = store
        self._key = settings.key
        self.name = ServerName(settings.name)
        starts = store.count("starts")
        self._random = Random(f"{settings.seed}/{starts}")
        self._dice = Dice(self._random)
        self._room = LoadRoom(settings)
        for event in store.events():
            self._room.add(Pdu.parse(event, _VERSION))
        if not self._room.events:
            for pdu in self._room.found():
                store.add_event(pdu.event_id, pdu.canonical().decode(), own=True)
        self._said = sum(self._is_said(pdu) for pdu in self._room.events.values())
        self._keys = Keys(own_name=self.name, keys=OwnKeys.of(self._key), clock=SystemClock())
        self._peer_keys: dict[str, str] = {}
        self._trust = ssl.create_default_context(cafile=settings.authority)

    def _is_said(self, pdu: Pdu) -> bool:
        return pdu.type == "m.room.message" and pdu.sender_server == self.name

    async def run(self) -> None:
        show = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        show.load_cert_chain(self._settings.chain, self._settings.private_key)
        server = FlakyServer(answer=self._answer, dice=self._dice, on_cut=self._note_in)
        async with server.listening(self._settings.port, show):
            await self._push()

    def _note_in(self, cut: Cut) -> None:
        self._store.count(f"in: {cut}")

    def _note_out(self, cut: Cut) -> None:
        self._store.count(f"out: {cut}")

    # --- pushing -----------------------------------------------------------------------------

    @property
    def _peer(self) -> ServerName:
        """The other server. The test says who it is before that one says anything."""
        return ServerName(self._store.wishes()["peer"])

    def _client(self) -> FlakyClient:
        host, _, port = self._peer.rpartition(":")
        return FlakyClient(host, int(port), tls=self._trust, dice=self._dice, on_cut=self._note_out)

    async def _push(self) -> None:
        client: FlakyClient | None = None
        while True:
            wishes = self._store.wishes()
            self._dice.share = float(wishes.get("share", 0.0))
            transaction = self._store.open_transaction()
            if transaction is None and self._said < int(wishes.get("goal", 0)):
                self._begin(int(wishes["goal"]))
                transaction = self._store.open_transaction()
            if transaction is None:
                await asyncio.sleep(LOOK_S)
                continue
            client = client or self._client()
            pause_s = await self._try(client, transaction)
            await asyncio.sleep(pause_s or float(wishes.get("pause_s", 0.0)))

    def _begin(self, goal: int) -> None:
        count = min(self._random.randint(1, MOST_PDUS), goal - self._said)
        made: list[Pdu] = []
        for number in range(self._said, self._said + count):
            name = SENDERS[number % len(SENDERS)]
            body = f"{name} says {number // len(SENDERS)}"
            content = {"msgtype": "m.text", "body": body}
            made.append(self._room.write(f"@{name}:{self.name}", "m.room.message", content))
        self._said += count
        pairs = [(pdu.event_id, pdu.canonical().decode()) for pdu in made]
        self._store.begin_transaction(now_ms(), pairs)

    async def _try(self, client: FlakyClient, transaction: OutgoingTransaction) -> float:
        """How long to wait before the next attempt."""
        self._store.attempt(transaction.number)
        pdus = [self._room.events[EventId(one)].wire() for one in transaction.event_ids]
        body = {"origin": self.name, "origin_server_ts": transaction.at_ms, "pdus": pdus}
        target = f"{_V1}/send/load-{transaction.number}"
        signed = sign_request(
            method="PUT",
            target=target,
            origin=self.name,
            destination=self._peer,
            content=body,
            key=self._key,
        )
        headers = {"Authorization": signed.header(), "Content-Type": "application/json"}
        try:
            status, answer = await client.ask("PUT", target, headers, json.dumps(body).encode())
        except Lost:
            return self._random.uniform(0.05, 0.5)
        if status == 429 or status >= 500:
            self._store.count(f"answered {status}")
            return min(LONGEST_PAUSE_S, float(answer.json().get("retry_after_ms", 1000)) / 1000)
        verdicts = answer.json().get("pdus", {}) if status == 200 else {}
        if status != 200:
            self._store.find_fault(f"{target} was answered {status}: {answer.body[:500]!r}")
        for event_id in transaction.event_ids:
            if event_id not in verdicts:
                self._store.find_fault(f"{event_id} has no verdict")
            elif "error" in verdicts[event_id]:
                self._store.find_fault(f"{event_id} was refused: {verdicts[event_id]['error']}")
        self._store.end_transaction(transaction.number, verdicts)
        return 0.0

    # --- answering ---------------------------------------------------------------------------

    async def _answer(self, request: Message) -> tuple[int, Any]:
        method, target, _ = request.first.split(" ")
        path, _, query = target.partition("?")
        parts = [unquote(one) for one in path.split("/")]
        if path.startswith("/_matrix/key/"):
            return 200, self._keys.document()
        if path == f"{_V1}/version":
            return 200, {"server": {"name": "Load", "version": "1"}}
        if not path.startswith("/_matrix/federation/"):
            return _NOT_FOUND
        try:
            await self._check(method, target, request)
        except IsthmusError as exc:
            self._store.find_fault(f"{method} {target}: {exc.reason}")
            return 401, {"errcode": "M_UNAUTHORIZED", "error": exc.reason}
        except Lost:
            return 503, {"errcode": "M_UNKNOWN", "error": "its keys cannot be had now"}
        # /_matrix/federation/vN/WHAT/...
        what, rest = parts[4], parts[5:]
        self._store.count(f"asked: {what}")
        answer = getattr(self, f"_on_{what}", None)
        if answer is None:
            return _NOT_FOUND
        found: tuple[int, Any] = answer(rest, parse_qs(query), request.json())
        return found

    async def _check(self, method: str, target: str, request: Message) -> None:
        header = parse_xmatrix(request.headers.get("authorization", ""))
        if header.key_id not in self._peer_keys:
            _, answer = await self._client().ask("GET", "/_matrix/key/v2/server", {}, b"")
            for key_id, one in answer.json()["verify_keys"].items():
                self._peer_keys[key_id] = one["key"]
        verify_request(
            header,
            method=method,
            target=target,
            own_name=self.name,
            content=request.json(),
            verify_key=self._peer_keys[header.key_id],
        )

    def _on_query(self, rest: list[str], query: Any, _: Any) -> tuple[int, Any]:
        if rest == ["profile"]:
            return 200, {"displayname": query["user_id"][0].partition(":")[0][1:]}
        if rest == ["directory"] and query["room_alias"] == [self._settings.alias]:
            return 200, {"room_id": self._room.room_id, "servers": [self.name]}
        return _NOT_FOUND

    def _on_make_join(self, rest: list[str], _: Any, __: Any) -> tuple[int, Any]:
        return 200, {"room_version": _VERSION.id, "event": self._room.template(rest[1])}

    def _on_send_join(self, _: list[str], __: Any, body: Any) -> tuple[int, Any]:
        state = [pdu.wire() for pdu in self._room.state.values()]
        signed = countersign(Pdu.parse(body, _VERSION), key=self._key, server=self.name)
        self._keep([signed], "a join")
        return 200, {
            "event": signed.wire(),
            "state": state,
            "auth_chain": state,
            "members_omitted": False,
            "origin": self.name,
        }

    def _on_event(self, rest: list[str], _: Any, __: Any) -> tuple[int, Any]:
        pdu = self._room.events.get(EventId(rest[0]))
        if pdu is None:
            return _NOT_FOUND
        return 200, {
            "origin": self.name,
            "origin_server_ts": now_ms(),
            "pdus": [pdu.wire()],
        }

    def _on_get_missing_events(self, _: list[str], __: Any, body: Any) -> tuple[int, Any]:
        earliest, limit = body.get("earliest_events", []), int(body.get("limit", 10))
        found = self._room.behind(body.get("latest_events", []), earliest, limit, whole=False)
        return 200, {"events": found}

    def _on_backfill(self, _: list[str], query: Any, __: Any) -> tuple[int, Any]:
        limit = int(query.get("limit", ["10"])[0])
        found = self._room.behind(query.get("v", []), [], limit, whole=True)
        return 200, {"origin": self.name, "origin_server_ts": now_ms(), "pdus": found}

    def _on_send(self, rest: list[str], _: Any, body: Any) -> tuple[int, Any]:
        verdicts: dict[str, Any] = {}
        good: list[Pdu] = []
        for event in body.get("pdus", []):
            try:
                pdu = Pdu.parse(event, _VERSION)
                self._check_pdu(pdu)
            except IsthmusError as exc:
                self._store.find_fault(f"transaction {rest[0]}: {exc.reason}")
                continue
            good.append(pdu)
            verdicts[pdu.event_id] = {}
        known = {pdu.event_id for pdu in good} | self._room.events.keys()
        for pdu in good:
            self._store.count("events behind a gap", not known.issuperset(previous(pdu)))
        self._keep(good, rest[0])
        self._store.count("edus", len(body.get("edus", [])))
        return 200, {"pdus": verdicts}

    def _check_pdu(self, pdu: Pdu) -> None:
        """What is wrong with it is written down; it is taken all the same."""
        wrong = []
        if not check_content_hash(pdu.json):
            wrong.append("its hash is wrong")
        for server in required_signers(pdu) - {self.name}:
            if not any(
                check_pdu_signature(pdu, server=server, key_id=KeyId(key_id), verify_key=key)
                for key_id, key in self._peer_keys.items()
            ):
                wrong.append(f"no valid signature of {server}")
        for one in wrong:
            self._store.find_fault(f"{pdu.event_id}: {one}")

    def _keep(self, pdus: Sequence[Pdu], txn_id: str) -> None:
        self._store.take(txn_id, [(pdu.event_id, pdu.canonical().decode()) for pdu in pdus])
        for pdu in pdus:
            self._room.add(pdu)


def main(folder: Path) -> None:
    settings = LoadSettings(**json.loads((folder / "settings.json").read_text("utf-8")))
    store = LoadStore(folder / "load.sqlite")
    asyncio.run(LoadServer(settings, store).run())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
