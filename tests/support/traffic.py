"""Numbered messages between a person on XMPP and a person on Matrix, and the reckoning afterwards.

Several chats at once: a direct one, a room that the gateway serves and, if asked for, a foreign
MUC that it visits. What is promised, and checked:

* no acknowledged message is lost. Acknowledged means: written on XMPP to a person, the receipt
  (XEP-0184); written on XMPP in a room, the reflection with its stanza-id; written on Matrix, the
  event, because its homeserver repeats the transaction until it is answered;
* nothing is doubled. The same id (direct) or stanza-id (room) twice is one message, as it is one
  event; two ids for one text are a double;
* order is kept. A message that was sent again may stand at either place, so an order is right if
  each arrival can be given one of its transmissions such that these ascend;
* what came back as an error, and was not sent again, did not arrive;
* nobody comes or goes in the foreign MUC's room because we died. What is said in that MUC was
  acknowledged by the MUC itself: all of it must come, from its archive if need be.

Half of what is written on XMPP is sent again, with the same id and origin-id, while it is not
acknowledged; the other half never is, so it may be missing, but only without a receipt.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from bridge.demo.people import MatrixPerson, NotSeen, Stanza, XmppPerson
from bridge.demo.people.stanza import RECEIPTS, STANZA_ID, client_tag
from bridge.errors import IsthmusError, Unavailable
from bridge.identity import localparts
from tests.support.gateway import Gateway

RESEND_AFTER_S = 6.0
SETTLE_S = 1.0


@dataclass(slots=True)
class Written:
    """A message that the person on XMPP wrote."""

    number: int
    body: str
    message_id: str
    is_repeated: bool
    transmissions: list[int] = field(default_factory=list)
    last_s: float = 0.0
    """When it was sent last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One of the two, seen from both sides."""

    name: str
    room_id: str
    address: str
    """To whom the person on XMPP writes."""
    is_room: bool


class Traffic:
    """`alice` on Matrix and `juliet` on XMPP. One round at a time. `muc`: the foreign chat and its
    room, in which both are."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        alice: MatrixPerson,
        juliet: XmppPerson,
        direct_room: str,
        room_id: str,
        room_address: str,
        muc: tuple[str, str] | None = None,
    ) -> None:
        self.gateway = gateway
        self.alice = alice
        self.juliet = juliet
        self.chats: tuple[Chat, ...] = (
            Chat(
                name="direct",
                room_id=direct_room,
                address=gateway.address(alice.user_id),
                is_room=False,
            ),
            Chat(name="room", room_id=room_id, address=room_address, is_room=True),
        )
        if muc is not None:
            chat, portal = muc
            self.chats += (Chat(name="muc", room_id=portal, address=chat, is_room=True),)

    def begin(self, label: str, *, random: Random) -> Round:
        """A round is numbered by its label; everything of it is found by that."""
        return Round(self, label, random)


async def make_traffic(
    *,
    gateway: Gateway,
    alice: MatrixPerson,
    juliet: XmppPerson,
    alias: str,
    server_name: str,
    muc: str | None = None,
) -> Traffic:
    """The chats opened: alice's direct chat with juliet's ghost, a room that juliet enters, and a
    foreign MUC that both enter."""
    ghost = gateway.ghost(juliet.address)
    direct_room = await alice.create_direct(ghost)
    await alice.see_membership(direct_room, ghost, "join", timeout_s=30)
    room_id = await alice.create_room(name="Garden", alias=alias, preset="public_chat")
    room_address = gateway.address(f"#{alias}:{server_name}")
    await juliet.enter(room_address, "Juliet", timeout_s=30)
    await alice.see_membership(room_id, ghost, "join", timeout_s=30)
    return Traffic(
        gateway=gateway,
        alice=alice,
        juliet=juliet,
        direct_room=direct_room,
        room_id=room_id,
        room_address=room_address,
        muc=None if muc is None else (muc, await _meet(gateway, alice, juliet, muc)),
    )


async def _meet(gateway: Gateway, alice: MatrixPerson, juliet: XmppPerson, muc: str) -> str:
    """Both in the MUC, each seen by the other; the room of the MUC."""
    await juliet.enter(muc, "Juliet", timeout_s=30)
    portal = await alice.join(localparts.alias_for(muc, gateway.server_name))
    await alice.say(portal, "here I am")
    await juliet.hear("here I am", sender=muc, timeout_s=30)
    juliet.say_in(muc, "so am I")
    await alice.hear("so am I", room=portal, timeout_s=30)
    return portal


class Round:
    """What is written in one round, and what became of it."""

    def __init__(self, traffic: Traffic, label: str, random: Random) -> None:
        self._traffic = traffic
        self._gateway = traffic.gateway
        self._alice = traffic.alice
        self._juliet = traffic.juliet
        self._label = label
        self._random = random
        self._heard_from = traffic.juliet.position
        self._seen_from = traffic.alice.position
        self.written: dict[str, list[Written]] = {chat.name: [] for chat in traffic.chats}
        self._transmissions = {chat.name: 0 for chat in traffic.chats}
        self.said: dict[str, list[tuple[str, str]]] = {chat.name: [] for chat in traffic.chats}
        """On Matrix: body and event ID."""

    # --- writing -------------------------------------------------------------------------------

    async def write(
        self, count: int, *, pause_s: float, others: Sequence[Awaitable[None]] = ()
    ) -> None:
        """`count` messages each way, as many in each chat, at about this pace per chat.

        `others` run beside it, and are waited for.
        """
        async with asyncio.TaskGroup() as group:
            # Looked at all the time: a homeserver shows no more than 100 events at once.
            looking = group.create_task(self._watch())
            async with asyncio.TaskGroup() as writers:
                for other in others:
                    writers.create_task(_as_coroutine(other))
                each = count // len(self._traffic.chats)
                for chat in self._traffic.chats:
                    writers.create_task(self.write_xmpp(chat, each, pause_s=pause_s))
                    writers.create_task(self.write_matrix(chat, each, pause_s=pause_s))
            looking.cancel()

    async def _watch(self) -> None:
        while True:
            await self._look(1.0, long_poll=False)

    async def write_xmpp(self, chat: Chat, count: int, *, pause_s: float) -> None:
        written = self.written[chat.name]
        for _ in range(count):
            number = len(written)
            message = Written(
                number=number,
                body=f"{self._label} {chat.name} from xmpp {number}",
                message_id=f"{self._label}-{chat.name}-{number}",
                # A foreign MUC knows no doubles: what is sent again there is said again.
                is_repeated=number % 2 == 0 and chat.name != "muc",
            )
            written.append(message)
            self._transmit(chat, message)
            self._repeat(chat)
            await asyncio.sleep(pause_s * self._random.uniform(0.3, 1.7))

    async def write_matrix(self, chat: Chat, count: int, *, pause_s: float) -> None:
        said = self.said[chat.name]
        for _ in range(count):
            begin = time.monotonic()
            body = f"{self._label} {chat.name} from matrix {len(said)}"
            said.append((body, await self._alice.say(chat.room_id, body)))
            pause = pause_s * self._random.uniform(0.3, 1.7)
            await asyncio.sleep(max(0.0, pause - (time.monotonic() - begin)))

    def _transmit(self, chat: Chat, message: Written) -> None:
        message.last_s = time.monotonic()
        xml = ET.Element(
            client_tag("message"),
            {
                "to": chat.address,
                "type": "groupchat" if chat.is_room else "chat",
                "id": message.message_id,
            },
        )
        ET.SubElement(xml, client_tag("body")).text = message.body
        ET.SubElement(xml, f"{{{STANZA_ID}}}origin-id", {"id": message.message_id})
        if not chat.is_room:
            ET.SubElement(xml, f"{{{RECEIPTS}}}request")
        try:
            self._juliet.send(xml)
        except Unavailable:
            return  # offline
        message.transmissions.append(self._transmissions[chat.name])
        self._transmissions[chat.name] += 1

    def _repeat(self, chat: Chat) -> bool:
        """Sends again what is due; False: nothing waits for an acknowledgement any more."""
        acknowledged = self.acknowledged(chat)
        open_ones = [
            message
            for message in self.written[chat.name]
            if message.is_repeated and message.message_id not in acknowledged
        ]
        for message in open_ones:
            if time.monotonic() - message.last_s >= RESEND_AFTER_S:
                self._transmit(chat, message)
        return bool(open_ones)

    # --- seeing --------------------------------------------------------------------------------

    def _heard(self) -> list[Stanza]:
        return self._juliet.transcript.since(self._heard_from)

    def acknowledged(self, chat: Chat) -> set[str]:
        """The ids that were acknowledged to the person on XMPP."""
        if not chat.is_room:
            return {s.receipt_for for s in self._heard() if s.receipt_for}
        return {
            stanza.id
            for stanza in self._heard()
            if stanza.type == "groupchat"
            and stanza.bare_sender == chat.address
            and chat.address in stanza.stanza_ids
        }

    def refused(self) -> set[str]:
        """The ids that came back as an error."""
        return {s.id for s in self._heard() if s.type == "error" and s.kind == "message"}

    def heard(self, chat: Chat) -> list[tuple[str, str]]:
        """On XMPP: body and the id that counts, in order of arrival."""
        kind = "groupchat" if chat.is_room else "chat"
        return [
            (stanza.body, stanza.stanza_ids.get(chat.address, "") if chat.is_room else stanza.id)
            for stanza in self._heard()
            if stanza.kind == "message"
            and stanza.type == kind
            and stanza.bare_sender == chat.address
            and stanza.body is not None
            and stanza.body.startswith(f"{self._label} {chat.name} ")
        ]

    def seen(self, chat: Chat) -> list[tuple[str, str]]:
        """On Matrix, written on XMPP: body and event ID, in order of arrival."""
        return [
            (event.body, event.event_id)
            for event in self._alice.transcript.since(self._seen_from)
            if event.section == "timeline"
            and event.room_id == chat.room_id
            and event.body is not None
            and event.body.startswith(f"{self._label} {chat.name} from xmpp ")
        ]

    def backlog(self) -> list[tuple[object, ...]]:
        """What the gateway has not worked off, or has given up."""
        return [
            (table, *row)
            for table in ("inbox", "outbox")
            for row in self._gateway.query(
                f"SELECT {table}_id, lane, status, attempts, reason FROM {table}"
                " WHERE status IN ('waiting', 'parked')"
            )
        ]

    # --- the end of a round --------------------------------------------------------------------

    async def until_quiet(self, *, timeout_s: float = 90.0) -> None:
        """Until all that is still on its way has arrived; `NotSeen` says what has not."""
        deadline = time.monotonic() + timeout_s
        while missing := self._missing():
            if time.monotonic() > deadline:
                raise NotSeen(f"round {self._label}: after {timeout_s:g} s still " + missing)
            await self._look(0.5)
        for _ in range(2):  # whatever comes too much has had its chance
            await self._look(SETTLE_S)

    async def _look(self, wait_s: float, *, long_poll: bool = True) -> None:
        begin = time.monotonic()
        with contextlib.suppress(Unavailable):
            await self._alice.sync(wait_s=wait_s if long_poll else 0.0)
        await asyncio.sleep(max(0.05, wait_s - (time.monotonic() - begin)))

    def _missing(self) -> str:
        for chat in self._traffic.chats:
            if self._repeat(chat):
                return f"unacknowledged on XMPP in the {chat.name}"
            heard = {body for body, _ in self.heard(chat)}
            lost = [body for body, _ in self.said[chat.name] if body not in heard]
            if lost:
                return f"not on XMPP: {len(lost)}, {lost[:5]}"
            seen = {body for body, _ in self.seen(chat)}
            acknowledged = self.acknowledged(chat)
            lost = [
                message.body
                for message in self.written[chat.name]
                if message.message_id in acknowledged and message.body not in seen
            ]
            if lost:
                return f"acknowledged and not on Matrix: {len(lost)}, {lost[:5]}"
        backlog = self.backlog()
        return f"in the queues: {backlog[:5]}" if backlog else ""

    def findings(self, *, was_offline: bool = False) -> list[str]:
        """Everything that breaks a promise. Empty: all is well.

        `was_offline`: the person on XMPP was, so that acknowledgements may have met nobody; then
        only what was sent again must have been acknowledged.
        """
        found: list[str] = []
        refused = self.refused()
        for chat in self._traffic.chats:
            where = f"{self._label} {chat.name}:"
            written = {message.body: message for message in self.written[chat.name]}
            seen, heard = self.seen(chat), self.heard(chat)
            acknowledged = self.acknowledged(chat)
            on_matrix = {body for body, _ in seen}
            from_matrix = [one for one in heard if one[0] not in written]
            found += [f"{where} lost on the way to XMPP: {body}" for body in _lost(self, chat)]
            for message in written.values():
                is_there = message.body in on_matrix
                if message.message_id in acknowledged and not is_there:
                    found.append(f"{where} acknowledged and lost: {message.body}")
                must_know = message.is_repeated or not was_offline
                if is_there and must_know and message.message_id not in acknowledged:
                    found.append(f"{where} arrived and not acknowledged: {message.body}")
                if is_there and message.message_id in refused and not message.is_repeated:
                    found.append(f"{where} refused and arrived: {message.body}")
            found += [f"{where} doubled on Matrix: {one}" for one in doubles(seen)]
            found += [f"{where} doubled on XMPP: {one}" for one in doubles(heard)]
            sent = {body: message.transmissions for body, message in written.items()}
            placed = {body: [number] for number, (body, _) in enumerate(self.said[chat.name])}
            found += disorder(f"{where} on Matrix", _first_places(seen), sent)
            found += disorder(f"{where} on XMPP", _first_places(from_matrix), placed)
        return found + self._moves()

    def _moves(self) -> list[str]:
        """Memberships that changed in the room of the foreign MUC."""
        rooms = {chat.room_id for chat in self._traffic.chats if chat.name == "muc"}
        return [
            f"{self._label} muc: {event.state_key} became {event.content.get('membership')}"
            for event in self._alice.transcript.since(self._seen_from)
            if event.section == "timeline"
            and event.room_id in rooms
            and event.type == "m.room.member"
        ]

    def unanswered(self) -> set[str]:
        """The ids of what was written on XMPP and neither acknowledged nor refused."""
        return {
            message.message_id
            for chat in self._traffic.chats
            for message in self.written[chat.name]
            if message.message_id not in self.acknowledged(chat)
        } - self.refused()

    def summary(self) -> str:
        """One line of numbers."""
        parts: list[str] = []
        for chat in self._traffic.chats:
            written = self.written[chat.name]
            again = sum(max(0, len(message.transmissions) - 1) for message in written)
            ids = {message.message_id for message in written}
            acknowledged, refused = ids & self.acknowledged(chat), ids & self.refused()
            parts.append(
                f"{chat.name}: {len(self.said[chat.name])} from Matrix, {len(written)} from XMPP "
                f"({len(acknowledged)} acknowledged, {len(refused - acknowledged)} refused only, "
                f"{len(ids - acknowledged - refused)} unanswered, {again} sent again)"
            )
        return f"{self._label}: " + "; ".join(parts)


async def _as_coroutine(other: Awaitable[None]) -> None:
    await other


def _lost(of: Round, chat: Chat) -> list[str]:
    heard = {body for body, _ in of.heard(chat)}
    return [body for body, _ in of.said[chat.name] if body not in heard]


def doubles(arrivals: Sequence[tuple[str, str]]) -> list[str]:
    ids: dict[str, set[str]] = {}
    for body, one in arrivals:
        ids.setdefault(body, set()).add(one)
    return [f"{body} {sorted(several)}" for body, several in ids.items() if len(several) > 1]


def _first_places(arrivals: Sequence[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(body for body, _ in arrivals))


def disorder(
    where: str, bodies: Sequence[str], transmissions: Mapping[str, Sequence[int]]
) -> list[str]:
    """Arrivals that cannot be given one of their transmissions above all before them."""
    found: list[str] = []
    last, previous = -1, "nothing"
    for body in bodies:
        later = [number for number in transmissions[body] if number > last]
        if later:
            last, previous = min(later), body
        else:
            found.append(f"{where} out of order: {body} after {previous}")
    return found


async def kill_at_random(
    gateway: Gateway, random: Random, *, longest_s: float, stop: asyncio.Event
) -> int:
    """SIGKILL and a new start at once, again and again, at moments that the seed decides.

    The next kill is counted from the start of the process, so some meet it while it starts. At
    the end it runs and is ready. How many there were.
    """
    kills = 0
    while not stop.is_set():
        after_s = random.uniform(0.3, longest_s)
        try:
            async with asyncio.timeout(after_s):
                await stop.wait()
        except TimeoutError:
            print(f"  kill {kills}: after {after_s:.2f} s", flush=True)
            await gateway.kill()
            gateway.spawn()
            kills += 1
    await gateway.wait_until_ready()
    return kills


async def play_rounds(traffic: Traffic, *, seed: int, rounds: int, messages: int = 300) -> None:
    """Rounds of traffic under fire. Raises with everything that was found, after all rounds."""
    print(f"seed {seed}", flush=True)
    found: list[str] = []
    for number in range(rounds):
        random = Random(f"{seed}/{number}")
        begin = time.monotonic()
        one = traffic.begin(f"r{number}", random=random)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            killer = group.create_task(
                kill_at_random(
                    traffic.gateway, Random(f"{seed}/{number}/kills"), longest_s=14.0, stop=stop
                )
            )
            await one.write(messages, pause_s=0.15)
            stop.set()
        try:
            await one.until_quiet()
        except IsthmusError as exc:
            found.append(str(exc))
        found += one.findings()
        print(
            f"{one.summary()}; {killer.result()} kills; {time.monotonic() - begin:.0f} s; "
            f"findings so far: {len(found)}",
            flush=True,
        )
        if found:
            break
    assert not found, f"seed {seed}:\n" + "\n".join(found)
