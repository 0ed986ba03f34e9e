"""One gateway and the Matrix servers of its users, in memory, moved on step by step.

`gateway` is a server of the in-memory network with the portals over it and the loopback adapter as
its chat side; people of other servers act through their own back ends. Nothing runs by itself:
`settle` carries, tells and delivers until nothing is left to do now; `later` lets time pass first.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bridge.adapters.loopback import LoopbackAdapter, LoopbackAddresses
from bridge.backends.native.values import to_room_event
from bridge.bot.dispatch import Dispatch
from bridge.bot.rooms import BackendRooms
from bridge.delivery.queue import DurableQueue
from bridge.errors import Unavailable
from bridge.ids import EventId, RoomId, ServerName, TraceId, UserId, server_of
from bridge.media.links import LinkSigner
from bridge.net.client import HttpRequest
from bridge.portals.assembly import build_portals
from bridge.portals.media import Files, FileSettings
from bridge.ports.chat import DELIVERIES, BotNotice, Delivery, DirectMessage
from bridge.ports.codec import from_tagged
from bridge.ports.matrix import Acceptance
from bridge.storage import events as event_rows
from bridge.storage import journal, queues, streams
from bridge.storage import rooms as room_rows
from bridge.storage.database import Transaction, Unit
from bridge.storage.queues import INBOX, OUTBOX, QueueItem, QueueTable
from bridge.storage.schema import stream_acceptances, stream_events
from tests.support.clock import FakeClock
from tests.support.network import Network, Server, open_network

D = TypeVar("D", bound=Delivery)

HOME = "matrix.example"
GATEWAY = "gw.example"
GIVE_UP_S = 3 * 24 * 3600.0
MOST_ROUNDS = 50
ALICE = UserId(f"@alice:{HOME}")
BOB = UserId(f"@bob:{HOME}")
JULIET = "juliet@capulet.lit"
ROMEO = "romeo@montague.lit"


@dataclass
class WebFile:
    """What is at a URL: an error, or bytes."""

    status: int = 200
    content_type: str = "image/png"
    data: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        return {"content-type": self.content_type}

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.data


class Web:
    """Fits `portals.media.Fetcher`: files by URL, and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, WebFile] = {}
        self.asked: list[str] = []

    @asynccontextmanager
    async def open(self, request: HttpRequest) -> AsyncIterator[WebFile]:
        self.asked.append(request.url)
        if request.url not in self.files:
            raise Unavailable("nobody answers")
        yield self.files[request.url]


class World:
    def __init__(self, network: Network, gateway: Server, home: Server, clock: FakeClock) -> None:
        self.network = network
        self.clock = clock
        self.home = home
        self.gateway = gateway
        self.told_to = self.accepted_to = 0
        self.sent_to: dict[ServerName, int] = {}
        self.refused_by_peer: Mapping[str, str] = {}
        """Texts that the other servers refuse, and their words."""
        self._numbers = iter(range(1, 1_000_000))
        self.starts = 1
        self.web = Web()
        self._build(gateway)

    def _build(self, gateway: Server) -> None:
        self.gateway = gateway
        # The network carries for everybody but us: what waits for a server that is down, waits.
        gateway.carried_to = 1 << 60
        database, clock = gateway.database, self.clock
        backend = gateway.backend
        self.database = database
        addresses = LoopbackAddresses(server_name=gateway.name)
        commands = Dispatch(rooms=BackendRooms(backend=backend, addresses=[]))
        self.portals = portals = build_portals(
            files=Files(
                house=gateway.house,
                backend=backend,
                client=self.web,
                signer=LinkSigner(b"k" * 32),
                clock=clock,
                settings=FileSettings(public_url="https://gw.example"),
            ),
            database=database,
            backend=backend,
            addresses=addresses,
            clock=clock,
            random=random.Random(self.starts),
            on_command=commands.run,
            house=gateway.house,
        )
        self.starts += 1
        self.from_chat, self.from_matrix = portals.from_chat, portals.from_matrix
        self.notices, self.directory, self.ghosts = (
            portals.notices,
            portals.directory,
            portals.ghosts,
        )
        gateway.lookups.attach(self.from_matrix)
        self.chat = LoopbackAdapter(listener=self.from_chat)
        portals.attach(self.chat)
        self.inbox = self._queue(
            INBOX,
            deliver=self.from_chat.deliver,
            on_parked=self.from_chat.on_parked,
            on_waiting=self.from_chat.on_waiting,
        )
        self.outbox = self._queue(
            OUTBOX,
            deliver=self._deliver,
            on_parked=self.notices.on_parked,
            on_waiting=self.notices.tell_waiting,
        )

    def _queue(self, queue: QueueTable, **callables: Any) -> DurableQueue:
        return DurableQueue(
            database=self.database,
            clock=self.clock,
            queue=queue,
            random=random.Random(1),
            give_up_after_s=GIVE_UP_S,
            **callables,
        )

    async def _deliver(self, item: QueueItem) -> Unit[None] | None:
        delivery: Delivery = from_tagged(DELIVERIES, item.payload)
        chat_id = await self.chat.deliver(delivery, outbox_id=item.id, trace=item.trace_id)
        return self.portals.to_chat.proved(item, chat_id)

    async def crash(self) -> None:
        """`kill -9` and a new start; what was delivered is remembered by the chat side. Told again
        is everything, as if the cursor had never been saved."""
        delivered, chats = self.chat.delivered, self.chat.chats
        gateway = await self.network.restart(self.gateway)
        self._build(gateway)
        self.chat.delivered, self.chat.chats = delivered, chats
        self.told_to = self.accepted_to = 0

    # --- moving on --------------------------------------------------------------------------

    async def settle(self) -> None:
        for _ in range(MOST_ROUNDS):
            steps = (self.carry, self.tell, self.tell_acceptances, self.work_off)
            if not any([await step() for step in steps]):
                return
        raise AssertionError("it does not come to rest")

    async def later(self, seconds: float) -> None:
        self.clock.shift(seconds)
        await self.settle()

    async def carry(self) -> bool:
        """What is outgoing goes to the servers that are up; each answer is an acceptance."""
        before = {server.name: server.carried_to for server in self.network.servers.values()}
        await self.network.deliver()
        moved = before != {one.name: one.carried_to for one in self.network.servers.values()}
        for server in list(self.network.servers.values()):
            if server is not self.gateway and not server.down:
                moved = await self._carry_to(server) or moved
        return moved

    async def _carry_to(self, server: Server) -> bool:
        after = self.sent_to.get(server.name, 0)

        def unit(tx: Transaction) -> list[tuple[int, EventId, Any]]:
            rows = streams.read_since(tx, stream_events, after, 1000)
            found = event_rows.find(tx, [EventId(row["event_id"]) for row in rows])
            return [
                (row["position"], EventId(row["event_id"]), found.get(EventId(row["event_id"])))
                for row in rows
                if row["outgoing"]
            ]

        rows = await self.database.read(unit)
        for position, event_id, row in rows:
            self.sent_to[server.name] = position
            if row is None:
                continue
            if server.name not in await self.gateway.rooms.queries.destinations(event_id):
                continue
            pdu = json.loads(row.json)
            error = self.refused_by_peer.get(str(pdu["content"].get("body")))
            if error is None:
                await self.network.hand_over(self.gateway.name, server.name, [pdu])
            await self.accept(event_id, RoomId(row.room_id), server.name, error)
        return bool(rows)

    async def accept(
        self, event_id: EventId, room_id: RoomId, server: ServerName, error: str | None = None
    ) -> None:
        values = {"event_id": event_id, "room_id": room_id, "server": server, "error": error}
        await self.database.write(lambda tx: streams.append(tx, stream_acceptances, values))

    async def tell(self) -> bool:
        """Events to the bridge side, in order per room, until one room cannot go on."""
        after = self.told_to
        rows = await self.database.read(
            partial(streams.read_since, table=stream_events, after=after, limit=1000)
        )
        found = await self.gateway.rooms.queries.streamed([EventId(r["event_id"]) for r in rows])
        for row in rows:
            one = found.get(EventId(row["event_id"]))
            if one is not None and one.applies and not row["historic"]:
                try:
                    await self.patiently(
                        self.from_matrix.on_event(to_room_event(one, self.gateway.name))
                    )
                except Unavailable:
                    return self.told_to > after
            self.told_to = row["position"]
        return bool(rows)

    async def tell_again(self) -> None:
        """Everything from the beginning: nothing may happen twice."""
        self.told_to = self.accepted_to = 0
        await self.settle()

    async def tell_acceptances(self) -> bool:
        rows = await self.database.read(
            partial(
                streams.read_since, table=stream_acceptances, after=self.accepted_to, limit=1000
            )
        )
        for row in rows:
            await self.from_matrix.on_acceptance(
                Acceptance(
                    position=row["position"],
                    event_id=EventId(row["event_id"]),
                    room_id=RoomId(row["room_id"]),
                    server=ServerName(row["server"]),
                    error=row["error"],
                )
            )
            self.accepted_to = row["position"]
        return bool(rows)

    async def work_off(self) -> bool:
        worked = False
        for table, queue in ((INBOX, self.inbox), (OUTBOX, self.outbox)):
            due = await self.database.read(
                partial(queues.lanes_due, queue=table, now_ms=self.clock.now_ms(), limit=1000)
            )
            for lane in due.lanes:
                worked = True
                await self.patiently(queue._run_lane(lane))
        return worked

    async def tidy(self) -> None:
        """What the portals do now and then."""
        await self.portals.chats.tidy()
        await self.portals.occupants.tidy()
        await self.settle()

    async def remind(self) -> int:
        """What the long-running parts do now and then."""
        for table, told in (
            (INBOX, self.from_chat.on_waiting),
            (OUTBOX, self.notices.tell_waiting),
        ):
            before_ms = self.clock.now_ms() - 60_000
            waiting = await self.database.read(
                partial(queues.long_waiting, queue=table, before_ms=before_ms, limit=100)
            )
            for item in waiting:
                await told(item, 60.0)
                await self.database.write(
                    partial(queues.told_waiting, queue=table, item_id=item.id)
                )
        return await self.notices.remind_waiting(after_s=60.0, again_after_s=86_400.0)

    async def patiently(self, call: Awaitable[None]) -> None:
        """Short pauses on the way end by themselves."""

        async def run() -> Unavailable | None:
            try:
                await call
            except Unavailable as exc:
                return exc
            return None

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(run())
            while not task.done():
                await asyncio.sleep(0.0005)
                if not task.done() and self.clock.sleeper_count:
                    await self.clock.advance(0.5)
        problem = task.result()
        if problem is not None:
            raise problem

    # --- what people do ---------------------------------------------------------------------

    def ghost(self, address: str) -> UserId:
        return self.ghosts.user_of(address)

    async def say(self, room_id: RoomId, text: str, user: str = "alice", **content: Any) -> EventId:
        """Somebody of the other server writes."""
        kind = content.pop("type", "m.room.message")
        return await self.home.backend.send(
            room_id=room_id,
            sender=self.home.user(user),
            type=kind,
            content={"msgtype": "m.text", "body": text, **content},
            txn=f"say-{next(self._numbers)}",
            trace=TraceId("t"),
        )

    async def state(self, room_id: RoomId, type: str, content: Mapping[str, Any]) -> None:
        await self.home.backend.send(
            room_id=room_id,
            sender=ALICE,
            type=type,
            state_key="",
            content=content,
            txn=f"state-{next(self._numbers)}",
            trace=TraceId("t"),
        )

    async def direct_room(self, address: str = JULIET, *, encrypted: bool = False) -> RoomId:
        """Alice makes a direct room with a ghost."""
        room_id = await self.home.backend.create_room(
            creator=ALICE, txn=f"direct-{next(self._numbers)}"
        )
        if encrypted:
            await self.state(room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
        await self.invite(room_id, self.ghost(address), is_direct=True)
        return room_id

    async def invite(
        self, room_id: RoomId, target: UserId, *, is_direct: bool = False, by: UserId = ALICE
    ) -> None:
        await self.home.backend.invite(
            room_id=room_id,
            sender=by,
            target=target,
            txn=f"invite-{next(self._numbers)}",
            is_direct=is_direct,
        )

    async def join(self, room_id: RoomId, user: UserId = ALICE) -> None:
        await self.home.backend.join(
            user_id=user, room_id=room_id, via=[ServerName(GATEWAY), ServerName(HOME)]
        )

    async def leave(self, room_id: RoomId, user: UserId = ALICE) -> None:
        await self.home.backend.leave(user_id=user, room_id=room_id)

    # --- what is seen -----------------------------------------------------------------------

    async def invited(self, user: UserId = ALICE) -> list[RoomId]:
        """Rooms where a user of the other server is invited."""

        return sorted(
            await self.home.database.read(lambda tx: room_rows.rooms_of(tx, user, ("invite",)))
        )

    async def bodies(self, room_id: RoomId, user: UserId | None = None) -> list[str]:
        """What stands in the room as the other server has it."""
        return [
            str(one.pdu.content.get("body"))
            for one in await self.home.timeline(room_id)
            if one.pdu.type == "m.room.message" and user in (None, one.pdu.sender)
        ]

    def delivered(self, kind: type[D], to: str | None = None) -> list[D]:
        return [
            one.delivery
            for one in self.chat.delivered
            if isinstance(one.delivery, kind) and to in (None, getattr(one.delivery, "to", None))
        ]

    def heard(self, address: str = JULIET) -> list[tuple[UserId, str]]:
        return [(one.sender, one.message.text) for one in self.delivered(DirectMessage, address)]

    def notices_to(self, address: str = JULIET) -> list[str]:
        return [one.text for one in self.delivered(BotNotice, address)]

    async def membership(self, room_id: RoomId, user_id: UserId) -> str | None:
        """As the user's own server has it."""
        server = self.network.servers[server_of(user_id)]
        member = await server.backend.member(room_id, user_id)
        return None if member is None else member.membership

    async def journal_of(self, trace: str) -> list[tuple[str, str]]:
        rows = await self.database.read(lambda tx: journal.read(tx, TraceId(trace)))
        return [(row.step, row.decision) for row in rows]


@asynccontextmanager
async def open_world(clock: FakeClock, folder: Path, template: Path) -> AsyncIterator[World]:
    """`template`: a SQLite file with all tables."""
    async with open_network(clock, folder, template) as network:
        gateway = await network.add(GATEWAY)
        home = await network.add(HOME)
        home.software = "Synapse"
        yield World(network, gateway, home, clock)
