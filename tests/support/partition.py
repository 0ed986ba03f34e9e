"""Servers of one room behind links that can be cut: each direction between two of them is its own.

A `Member` is a server of the room as a test drives it: our own in this process, or a Synapse. What
it shows, what it hides and why is read from its own database; what it serves is asked over
federation.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from bridge.demo.people import MatrixPerson
from bridge.demo.people.seen import MatrixFailed
from bridge.demo.servers import CertificateAuthority, Relay, Synapse
from bridge.engine.canonical import parse_json
from bridge.errors import NotFound, Refused
from bridge.ids import EventId, RoomId, ServerName, UserId
from bridge.storage import events as event_rows
from bridge.storage.schema import events as event_table
from tests.support.matrix_side import MatrixSide, matrix_sides

PASSWORD = "correct horse"
SHOWN, HIDDEN, SOFT_FAILED, REJECTED = "shown", "hidden", "soft-failed", "rejected"
REDUNDANT = "redundant"
"""A redaction of what another one has redacted before: there is nothing to show."""
WITHHELD = "withheld"
"""A redaction that is not applied, since its sender lacked the power to, or when it came had lost
it by what the server knew then."""
SYNAPSE_SETTINGS = {
    "federation": {
        "destination_min_retry_interval": 200,
        "destination_max_retry_interval": 500,
        "destination_retry_multiplier": 1,
        "client_timeout": "10s",
        "max_short_retry_delay": 50,
        "max_long_retry_delay": 50,
        "max_short_retries": 1,
        "max_long_retries": 1,
    }
}
"""A Synapse that tries again soon."""

StateIds = dict[tuple[str, str], str]


class RefusedHere(Exception):
    """The server of whoever wanted to do something does not let them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a server makes of an event. `rule`: why it is hidden."""

    verdict: str
    rule: str
    type: str
    sender: str
    redacts: str | None = None
    redacted: bool = False


class Member(Protocol):
    """A server of the room. `act` raises `RefusedHere`."""

    @property
    def name(self) -> ServerName: ...

    async def act(
        self,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
        redacts: EventId | None = None,
    ) -> EventId: ...

    async def enter(self, user: UserId, via: ServerName | None) -> None: ...

    async def state(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """Contents of the current state."""

    async def state_ids(self) -> StateIds:
        """Event IDs of the current state."""

    async def extremities(self) -> frozenset[EventId]: ...

    async def known(self) -> frozenset[EventId]:
        """Every event of the room that has its place in the graph here."""

    async def views(self) -> dict[EventId, View]:
        """The same, and what became of each."""


class OurMember:
    """Fills `Member` by a server in this process."""

    def __init__(self, side: MatrixSide) -> None:
        self.side = side
        self.room_id = RoomId("")

    @property
    def name(self) -> ServerName:
        return self.side.name

    async def act(
        self,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
        redacts: EventId | None = None,
    ) -> EventId:
        try:
            return await self.side.rooms.sender.send(
                room_id=self.room_id,
                sender=sender,
                type=type,
                content=content,
                state_key=state_key,
                redacts=redacts,
                trace_id=self.side.rooms.receiver._new_trace(),
            )
        except Refused as exc:
            raise RefusedHere(exc.rule) from exc

    async def enter(self, user: UserId, via: ServerName | None) -> None:
        await self.side.join(self.room_id, user, *([] if via is None else [via]))

    async def state(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        ids = await self.state_ids()
        states = self.side.rooms.sender._states
        known = await states.events(EventId(one) for one in ids.values())
        return {key: known[EventId(one)].pdu.content for key, one in ids.items()}

    async def state_ids(self) -> StateIds:
        room = await self.side.rooms.sender._states.joined_room(self.room_id)
        return {key: str(event_id) for key, event_id in room.state.items()}

    async def extremities(self) -> frozenset[EventId]:
        room = await self.side.rooms.sender._states.joined_room(self.room_id)
        return frozenset(room.extremities)

    async def known(self) -> frozenset[EventId]:
        return frozenset(EventId(row.event_id) for row in await self._rows())

    async def _rows(self) -> list[Any]:
        query = event_table.select().where(
            event_table.c.room_id == self.room_id, event_table.c.outlier.is_(False)
        )
        return await self.side.database.read(lambda tx: list(tx.execute(query)))

    async def views(self) -> dict[EventId, View]:
        shown: set[EventId] = set()
        without_effect: set[EventId] = set()
        before: int | None = None
        while page := await self.side.rooms.queries.timeline(
            self.room_id, limit=1_000, before=before
        ):
            shown |= {one.pdu.event_id for one in page if one.applies}
            without_effect |= {one.pdu.event_id for one in page if not one.applies}
            before = page[0].position - 1
        rows = {EventId(row.event_id): row for row in await self._rows()}
        views: dict[EventId, View] = {}
        for event_id, row in rows.items():
            redacts = _redacts(parse_json(row.json.encode(), max_bytes=1 << 20))
            verdict = _VERDICTS.get(row.verdict, SHOWN if event_id in shown else HIDDEN)
            target = None if redacts is None else rows.get(EventId(redacts))
            if verdict == HIDDEN and event_id in without_effect and target is not None:
                verdict = WITHHELD if target.redacted_by is None else REDUNDANT
            views[event_id] = View(
                verdict=verdict,
                rule=row.rule or ("redaction.level" if verdict == WITHHELD else ""),
                type=row.type,
                sender=row.sender,
                redacts=redacts,
                redacted=row.redacted_by is not None,
            )
        return views


_VERDICTS = {event_rows.SOFT_FAILED: SOFT_FAILED, event_rows.REJECTED: REJECTED}


def _redacts(pdu: Mapping[str, Any]) -> str | None:
    if pdu["type"] != "m.room.redaction":
        return None
    found = pdu.get("redacts", pdu["content"].get("redacts"))
    return None if found is None else str(found)


class SynapseMember:
    """Fills `Member` by a Synapse on SQLite; every person of it has logged in."""

    def __init__(self, synapse: Synapse, people: Mapping[UserId, MatrixPerson]) -> None:
        self.synapse = synapse
        self.room_id = RoomId("")
        self._people = people

    @property
    def name(self) -> ServerName:
        return ServerName(self.synapse.server_name)

    def person(self, user: UserId) -> MatrixPerson:
        return self._people[user]

    @property
    def _anchor(self) -> MatrixPerson:
        return next(iter(self._people.values()))

    async def act(
        self,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
        redacts: EventId | None = None,
    ) -> EventId:
        person = self._people[sender]
        try:
            if redacts is not None:
                return EventId(await person.redact(self.room_id, redacts))
            if state_key is None:
                return EventId(await person.send_event(self.room_id, type, content))
            return EventId(await person.set_state(self.room_id, type, content, state_key=state_key))
        except MatrixFailed as exc:
            if exc.status not in (400, 403, 404):
                raise
            raise RefusedHere(f"{exc.errcode} {exc.reason}") from exc

    async def enter(self, user: UserId, via: ServerName | None) -> None:
        await self._people[user].join(self.room_id, via=[] if via is None else [via])

    async def state(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        found = await self._anchor.state(self.room_id)
        return {key: event["content"] for key, event in found.items()}

    async def state_ids(self) -> StateIds:
        found = await self._anchor.state(self.room_id)
        return {key: str(event["event_id"]) for key, event in found.items()}

    async def query(self, text: str) -> list[Any]:
        return await asyncio.to_thread(
            _query, self.synapse.folder / "homeserver.db", text, self.room_id
        )

    async def extremities(self) -> frozenset[EventId]:
        rows = await self.query("SELECT event_id FROM event_forward_extremities WHERE room_id = ?")
        return frozenset(EventId(row[0]) for row in rows)

    async def known(self) -> frozenset[EventId]:
        rows = await self.query("SELECT event_id FROM events WHERE room_id = ? AND NOT outlier")
        return frozenset(EventId(row[0]) for row in rows)

    async def views(self) -> dict[EventId, View]:
        shown: dict[str, dict[str, Any]] = {}
        async for event in self._timeline():
            shown[event["event_id"]] = event
        rows = await self.query(
            "SELECT event_id, json, rejection_reason, internal_metadata"
            " FROM events JOIN event_json USING (event_id)"
            " WHERE events.room_id = ? AND NOT outlier"
        )
        views: dict[EventId, View] = {}
        for event_id, text, rejection, metadata in rows:
            there, pdu, marks = shown.get(event_id), json.loads(text), json.loads(metadata)
            verdict = HIDDEN if there is None else SHOWN
            if rejection is not None:
                verdict = REJECTED
            elif marks.get("soft_failed", False):
                verdict = SOFT_FAILED
            elif verdict == HIDDEN and marks.get("recheck_redaction", False):
                verdict = WITHHELD
            views[EventId(event_id)] = View(
                verdict=verdict,
                rule=rejection or "",
                type=pdu["type"],
                sender=pdu["sender"],
                redacts=_redacts(pdu),
                redacted="redacted_because" in (there or {}).get("unsigned", {}),
            )
        return views

    async def _timeline(self) -> AsyncIterator[dict[str, Any]]:
        """All that its clients may see, newest first."""
        path = f"/_matrix/client/v3/rooms/{self.room_id.replace('#', '%23')}/messages"
        query = {"dir": "b", "limit": "500"}
        while True:
            page = await self._anchor.request("GET", path, query=query)
            for event in page["chunk"]:
                yield event
            if not page["chunk"] or "end" not in page:
                return
            query = {**query, "from": str(page["end"])}


def _query(file: Path, text: str, room_id: str) -> list[Any]:
    uri = f"file:{file}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10.0)) as connection:
        return connection.execute(text, (room_id,)).fetchall()


class Links:
    """`(dialler, dialled)` -> the relay between them; all up at the beginning."""

    def __init__(self, relays: Mapping[tuple[ServerName, ServerName], Relay]) -> None:
        self._relays = relays
        self._down: frozenset[tuple[ServerName, ServerName]] = frozenset()

    @property
    def all(self) -> Collection[tuple[ServerName, ServerName]]:
        return self._relays.keys()

    async def cut(self, links: Iterable[tuple[ServerName, ServerName]]) -> None:
        """These are down, all others up."""
        down = frozenset(links)
        for link in down - self._down:
            await self._relays[link].down()
        for link in self._down - down:
            await self._relays[link].up()
        self._down = down

    async def heal(self) -> None:
        await self.cut(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """The members of a room and the links between them."""

    ours: list[OurMember]
    synapse: SynapseMember | None
    links: Links

    @property
    def members(self) -> list[Member]:
        others: list[Member] = [] if self.synapse is None else [self.synapse]
        return [*self.ours, *others]

    def enter_room(self, room_id: RoomId) -> None:
        for one in self.ours:
            one.room_id = room_id
        if self.synapse is not None:
            self.synapse.room_id = room_id

    def member(self, name: ServerName) -> Member:
        return next(one for one in self.members if one.name == name)

    async def served(self, name: ServerName, event_id: EventId) -> bool:
        """Whether one of our servers gets the event from that server."""
        asker = next(one for one in self.ours if one.name != name)
        try:
            answer = await asker.side.requests.event(name, event_id)
        except (NotFound, Refused):
            return False
        return bool(answer)

    async def state_ids_at(self, name: ServerName, event_id: EventId) -> frozenset[str]:
        """The state before an event, as one of our servers is told by that server."""
        asker = next(one for one in self.ours if one.name != name)
        ids, _ = await asker.side.requests.state_ids(name, asker.room_id, event_id)
        return frozenset(ids)

    async def events_by_id(self, event_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Type and state key of state events, from whichever of our servers has them."""
        wanted = [EventId(one) for one in event_ids]
        found: dict[str, tuple[str, str]] = {}
        for one in self.ours:
            rows = await one.side.database.read(partial(event_rows.find, event_ids=wanted))
            for row in rows.values():
                found[row.event_id] = (row.type, str(row.state_key))
        return found


@asynccontextmanager
async def party(
    authority: CertificateAuthority,
    folder: Path,
    template: Path,
    *,
    ours: int,
    synapse: Synapse | None = None,
    people: Mapping[UserId, MatrixPerson] | None = None,
) -> AsyncIterator[Party]:
    """`ours` of our servers and, if given, a running Synapse.

    Ours reach the others by their `routes`; a Synapse reaches ours by the port in their names.
    """
    relays: dict[tuple[ServerName, ServerName], Relay] = {}
    entrances = [Relay(0) for _ in range(ours)] if synapse is not None else []
    named = [one.port for one in entrances]
    async with matrix_sides(authority, folder, template, ours, named_ports=named) as sides:
        for relay, side in zip(entrances, sides, strict=False):
            assert synapse is not None
            relay.target_port = side.port
            relays[ServerName(synapse.server_name), side.name] = relay
        ports = {side.name: side.port for side in sides}
        if synapse is not None:
            ports[ServerName(synapse.server_name)] = synapse.port
        for side in sides:
            for name, port in ports.items():
                if name != side.name:
                    relays[side.name, name] = Relay(port)
                    side.routes[name] = relays[side.name, name].port
        try:
            for relay in relays.values():
                await relay.up()
            yield Party(
                ours=[OurMember(side) for side in sides],
                synapse=None if synapse is None else SynapseMember(synapse, people or {}),
                links=Links(relays),
            )
        finally:
            for relay in relays.values():
                await relay.down()
