"""So many events each way between a gateway and the load server, under fire, and the reckoning.

On XMPP two people are in the load server's room. They write as clients do that lose nothing: no
more than a few lines wait for their reflection (XEP-0045, by the stanza-id of XEP-0359). A line is
sent again with the same id when it came back as an error, when one that was sent after it is
acknowledged, and when nothing is acknowledged any more. Both servers
die by `kill -9` at moments of progress that the seed decides, and start again at once.

What must hold in the end:

* every event that the load server pushed is stored and accepted by the gateway, stands once in its
  arrival order, those of one sender in their order, and reached each person on XMPP once, told by
  its stanza-id, in that order;
* every line that was acknowledged on XMPP is one event at the load server, none is two, and those
  of one person are in order;
* the load server has exactly the events that the gateway says it has written: none is missing, none
  was sent that was not durable;
* neither side saw the other do what it must not: a refused event, a bad signature, one transaction
  ID with two contents.
"""

from __future__ import annotations

import asyncio
import json
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from bridge.demo.people import Stanza, XmppPerson
from bridge.demo.people.stanza import STANZA_ID, client_tag
from tests.support.gateway import Gateway
from tests.support.load.peer import LoadPeer
from tests.support.load.program import SENDERS
from tests.support.traffic import disorder, doubles

SHARE = 0.2
"""Of the connections break."""
WINDOW = 30
"""Lines of one person that wait for their reflection."""
SILENT_AFTER_S = 5.0
RESEND_REFUSED_AFTER_S = 1.0
LOOK_S = 0.05
SETTLE_S = 3.0


@dataclass(slots=True)
class Line:
    """What a person writes."""

    body: str
    message_id: str
    transmissions: list[int] = field(default_factory=list)
    last_s: float = 0.0
    refused: bool = False


class Writer:
    """One person in the room: writes lines until all are acknowledged, and notes what comes."""

    def __init__(self, person: XmppPerson, name: str, room: str, count: int) -> None:
        self._person = person
        self._room = room
        self.name = name
        self.lines = [
            Line(body=f"{name} says {number}", message_id=f"load-{name}-{number}")
            for number in range(count)
        ]
        self._by_id = {line.message_id: line for line in self.lines}
        self._waiting: dict[str, Line] = {}
        self._next = 0
        self._transmissions = 0
        self._acknowledged_to = 0
        """Of the transmissions: what was sent before and is not acknowledged is lost."""
        self._progress_s = time.monotonic()
        self._read_to = person.position
        self.acknowledged: set[str] = set()
        self.heard: list[tuple[str, str]] = []
        """Body and stanza-id of what was said in the room, in order of arrival."""
        self.copies = 0
        self._seen: set[tuple[str, str]] = set()

    @property
    def is_done(self) -> bool:
        return self._next == len(self.lines) and not self._waiting

    async def run(self) -> None:
        while not self.is_done:
            self.look()
            self._repeat()
            while self._next < len(self.lines) and len(self._waiting) < WINDOW:
                line = self.lines[self._next]
                self._next += 1
                self._waiting[line.message_id] = line
                self._transmit(line)
            await asyncio.sleep(LOOK_S)

    def _repeat(self) -> None:
        now_s = time.monotonic()
        for line in self._waiting.values():
            is_refused = line.refused and now_s - line.last_s > RESEND_REFUSED_AFTER_S
            if is_refused or line.transmissions[-1] < self._acknowledged_to:
                self._transmit(line)
        if now_s - self._progress_s > SILENT_AFTER_S:
            self._progress_s = now_s
            for line in self._waiting.values():
                self._transmit(line)

    def _transmit(self, line: Line) -> None:
        line.last_s, line.refused = time.monotonic(), False
        xml = ET.Element(
            client_tag("message"), {"to": self._room, "type": "groupchat", "id": line.message_id}
        )
        ET.SubElement(xml, client_tag("body")).text = line.body
        ET.SubElement(xml, f"{{{STANZA_ID}}}origin-id", {"id": line.message_id})
        self._person.send(xml)
        line.transmissions.append(self._transmissions)
        self._transmissions += 1

    def look(self) -> None:
        """At what has come since the last look."""
        for stanza in self._person.transcript.since(self._read_to):
            self._read_to += 1
            if stanza.kind == "message":
                self._see(stanza)

    def _see(self, stanza: Stanza) -> None:
        if stanza.type == "error":
            if stanza.id in self._by_id:
                self._by_id[stanza.id].refused = True
            return
        stanza_id = stanza.stanza_ids.get(self._room)
        if stanza.type != "groupchat" or stanza.body is None or stanza_id is None:
            return
        if stanza.nickname == self.name and stanza.id in self._by_id:
            self.acknowledged.add(stanza.id)
            line = self._waiting.pop(stanza.id, None)
            if line is not None:
                self._progress_s = time.monotonic()
                # Whichever of its transmissions it was.
                self._acknowledged_to = max(self._acknowledged_to, line.transmissions[0])
        one = (stanza.body, stanza_id)
        self.copies += one in self._seen
        self._seen.add(one)
        self.heard.append(one)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kills:
    """At which shares of the progress who is killed."""

    moments: Sequence[tuple[float, str]]

    @classmethod
    def drawn(cls, random: Random, each: int) -> Kills:
        """Never in the last tenth: there must be something left to be lost."""
        names = ["gateway", "load server"] * each
        return cls(moments=sorted((random.uniform(0.03, 0.9), name) for name in names))


class LoadRun:
    def __init__(
        self,
        *,
        gateway: Gateway,
        peer: LoadPeer,
        people: Mapping[str, XmppPerson],
        count: int,
        pause_s: float,
    ) -> None:
        """`people` by nickname, each in the room; `count` events each way."""
        self._gateway = gateway
        self._peer = peer
        self._count = count
        self._pause_s = pause_s
        room = gateway.address(peer.settings.alias)
        self.writers = [
            Writer(person, name, room, count // len(people)) for name, person in people.items()
        ]
        self._begin_s = time.monotonic()
        self._took_s = 0.0
        self._killed: Counter[str] = Counter()

    # --- the run -----------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        written = sum(len(one.acknowledged) for one in self.writers)
        return (written + self._peer.pushed) / (2 * self._count)

    async def play(self, kills: Kills, *, timeout_s: float) -> None:
        """Until everything that was acknowledged has arrived, or the time is over: what is missing
        then is among the findings."""
        peer = self._peer
        peer.begin(goal=self._count, share=SHARE, pause_s=self._pause_s)
        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as tasks:
                tasks.create_task(self._kill(kills))
                for writer in self.writers:
                    tasks.create_task(writer.run())
            async with asyncio.timeout(timeout_s - (time.monotonic() - self._begin_s)):
                await self._until(lambda: peer.pushed >= self._count)
                await self._until(lambda: not self._missing())
        except TimeoutError:
            print(f"not done after {timeout_s:g} s: {self._missing()}", flush=True)
        self._took_s = time.monotonic() - self._begin_s
        await asyncio.sleep(SETTLE_S)  # Whatever comes too much has its chance.
        for writer in self.writers:
            writer.look()

    async def _kill(self, kills: Kills) -> None:
        for moment, name in kills.moments:
            await self._until(lambda at=moment: self.progress >= at)  # type: ignore[misc]
            print(
                f"  {time.monotonic() - self._begin_s:.1f} s: kill -9 of the {name}"
                f" at {self.progress:.2f}",
                flush=True,
            )
            self._killed[name] += 1
            if name == "gateway":
                await self._gateway.kill()
                self._gateway.spawn()
            else:
                await self._peer.kill_and_start()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            for writer in self.writers:
                writer.look()
            await asyncio.sleep(4 * LOOK_S)

    def _missing(self) -> str:
        """What is still on its way."""
        parts: list[str] = []
        pushed = self._pushed_bodies()
        for writer in self.writers:
            heard = {body for body, _ in writer.heard}
            if left := len(pushed - heard):
                parts.append(f"{left} not heard by {writer.name}")
        if left := len(self._written().keys() - set(self._peer.store.ids(own=False))):
            parts.append(f"{left} not at the load server")
        return ", ".join(parts)

    def _pushed_bodies(self) -> set[str]:
        each = self._count // len(SENDERS)
        return {f"{name} says {number}" for name in SENDERS for number in range(each)}

    def _written(self) -> dict[str, str]:
        """Event ID -> body of the messages that the gateway has written."""
        rows = self._gateway.query(
            "SELECT e.event_id, e.json FROM stream_events AS s"
            " JOIN events AS e ON e.event_id = s.event_id"
            " WHERE s.outgoing AND e.type = 'm.room.message' ORDER BY s.position"
        )
        return {event_id: json.loads(text)["content"]["body"] for event_id, text in rows}

    # --- the reckoning -----------------------------------------------------------------------

    def findings(self) -> list[str]:
        """Everything that breaks a promise."""
        logs = (("gateway", self._gateway), ("load server", self._peer))
        raised = [f"the {name} raised" for name, one in logs if "Traceback" in one.log_tail(10**9)]
        faults = self._peer.store.faults()
        return [*faults, *raised, *self._inbound(), *self._outbound(), *self._queues()]

    def _inbound(self) -> list[str]:
        """From the load server to XMPP."""
        found: list[str] = []
        events = self._peer.store.rows(
            "SELECT event_id, json FROM events WHERE own = 1 ORDER BY number"
        )
        pushed = [
            (event_id, event["content"]["body"])
            for event_id, event in ((event_id, json.loads(text)) for event_id, text in events)
            if event["type"] == "m.room.message"
        ]
        if len(pushed) != self._count:
            found.append(f"the load server made {len(pushed)} events, not {self._count}")
        verdicts = dict(self._gateway.query("SELECT event_id, verdict FROM events"))
        streamed = [
            one
            for (one,) in self._gateway.query(
                "SELECT event_id FROM stream_events ORDER BY position"
            )
        ]
        times = Counter(streamed)
        for event_id, body in pushed:
            if verdicts.get(event_id) != "accepted":
                found.append(f"{body}: {event_id} is {verdicts.get(event_id, 'lost')}")
            if times[event_id] != 1:
                found.append(f"{body}: {event_id} stands {times[event_id]} times in the stream")
        bodies = dict(pushed)
        arrived = [bodies[event_id] for event_id in streamed if event_id in bodies]
        found += self._disorder("in the stream", arrived)
        for writer in self.writers:
            where = f"heard by {writer.name}:"
            heard = [one for one in writer.heard if one[0] in set(bodies.values())]
            lost = set(bodies.values()) - {body for body, _ in heard}
            found += [f"{where} lost: {body}" for body in sorted(lost)]
            found += [f"{where} doubled: {one}" for one in doubles(heard)]
            found += self._disorder(where, list(dict.fromkeys(body for body, _ in heard)))
        return found

    def _disorder(self, where: str, bodies: Sequence[str]) -> list[str]:
        found: list[str] = []
        for name in SENDERS:
            mine = [body for body in bodies if body.startswith(f"{name} ")]
            places = {body: [int(body.rpartition(" ")[2])] for body in mine}
            found += disorder(where, mine, places)
        return found

    def _outbound(self) -> list[str]:
        """From XMPP to the load server."""
        found: list[str] = []
        rows = self._peer.store.rows(
            "SELECT event_id, json FROM events WHERE own = 0 ORDER BY number"
        )
        events = [(event_id, json.loads(text)) for event_id, text in rows]
        arrived = [
            (event["content"]["body"], event_id)
            for event_id, event in events
            if event["type"] == "m.room.message"
        ]
        written = self._written()
        have = {event_id for _, event_id in arrived}
        found += [f"written and not sent: {written[one]} {one}" for one in written.keys() - have]
        found += [f"sent and not kept: {one}" for one in have - written.keys()]
        found += [f"at the load server doubled: {one}" for one in doubles(arrived)]
        for writer in self.writers:
            mine = [body for body, _ in arrived if body.startswith(f"{writer.name} ")]
            there = set(mine)
            for line in writer.lines:
                if line.message_id not in writer.acknowledged:
                    found.append(f"never acknowledged: {line.body}")
                elif line.body not in there:
                    found.append(f"acknowledged and lost: {line.body}")
            places = {line.body: line.transmissions for line in writer.lines}
            found += disorder("at the load server", mine, places)
        return found

    def _queues(self) -> list[str]:
        """What the gateway has not worked off, or has given up."""
        found: list[str] = []
        for table in ("inbox", "outbox"):
            rows = self._gateway.query(
                f"SELECT status, count(*) FROM {table} WHERE status IN ('waiting', 'parked')"
                " GROUP BY status"
            )
            found += [f"{count} {status} in {table}" for status, count in rows]
        outcomes = self._gateway.query(
            "SELECT outcome, count(*) FROM inbound_pdus WHERE outcome IS NULL OR outcome != ''"
            " GROUP BY outcome"
        )
        return found + [f"{count} inbound PDUs ended with {text!r}" for text, count in outcomes]

    def summary(self) -> str:
        """What happened, in numbers."""
        store = self._peer.store
        counts = store.counts()
        again = sum(len(line.transmissions) - 1 for one in self.writers for line in one.lines)
        copies = sum(one.copies for one in self.writers)
        ((transactions, attempts),) = store.rows("SELECT count(*), sum(attempts) FROM outgoing")
        ((taken, times),) = store.rows("SELECT count(*), sum(times) FROM incoming")
        lines = [
            f"{self._count} events each way in {self._took_s:.0f} s; kill -9: "
            + ", ".join(f"{name} {count}" for name, count in sorted(self._killed.items())),
            f"in: {transactions} transactions in {attempts} attempts",
            f"out: {taken} transactions that came {times} times",
            f"XMPP: {again} lines sent again, {copies} stanzas that came again",
            ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())),
        ]
        return "\n".join(f"  {line}" for line in lines)


async def enter_all(gateway: Gateway, peer: LoadPeer, people: Mapping[str, XmppPerson]) -> None:
    """Everybody into the load server's room, before anything breaks."""
    peer.meet(gateway.server_name)
    for name, person in people.items():
        await person.enter(gateway.address(peer.settings.alias), name, timeout_s=60)
