"""Messages to devices: taken from other servers, sent to them, and passed between our own users.

They are opaque, and never answered by an error: what is for nobody is dropped, counted and noted in
the journal; where none of it is for a device of ours, a few an hour for each server. The rest
is stored once, however often it comes, and waits until its device has it.
Spec: S2S, send-to-device messaging; client-server API, send-to-device messaging.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject, encode_canonical
from bridge.errors import BadInput, Refused
from bridge.ids import (
    MAX_ID_BYTES,
    DeviceId,
    ServerName,
    TraceId,
    UserId,
    fits,
    parse_user_id,
    server_of,
)
from bridge.people.checks import from_text, to_text
from bridge.people.sharing import TO_DEVICE, Told, put_edus
from bridge.storage import devices, journal
from bridge.storage import to_device as rows
from bridge.storage.database import Database, Transaction
from bridge.storage.to_device import DeviceMessage
from bridge.telemetry.log import get_logger
from bridge.telemetry.metrics import TO_DEVICE_MESSAGES

log = get_logger("people")

ALL = "*"
MAX_CONTENT_BYTES = 65_536
MAX_EDU_BYTES = 60_000
"""What one EDU of ours is filled up to; a single message may be larger."""
MAX_NAMED = 1_000
"""Devices that one EDU may name."""
NOTED_S = 3_600.0
MAX_NOTED = 20
"""Messages of one server within that time that are for nobody and noted all the same."""
MAX_SERVERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parcel:
    """What is for one user: device ID or `*` -> JSON."""

    user_id: UserId
    by_device: Mapping[str, str]


class ToDevice:
    """Fits `rooms.network.EduTaker` for m.direct_to_device."""

    def __init__(
        self,
        *,
        own_name: ServerName,
        database: Database,
        clock: Clock,
        wake: Callable[[ServerName], None],
        new_trace: Callable[[], TraceId],
    ) -> None:
        self._own_name = own_name
        self._database = database
        self._clock = clock
        self._wake = wake
        self._new_trace = new_trace
        self._noted: OrderedDict[ServerName, tuple[float, int]] = OrderedDict()
        """Since when, and how often, servers sent something for nobody."""

    # --- from other servers -----------------------------------------------------------------------

    async def take(self, origin: ServerName, content: JsonObject) -> None:
        """Stored before it returns. A repetition changes nothing."""
        sender = parse_user_id(content.get("sender"))
        if server_of(sender) != origin:
            raise Refused(f"{origin} may not speak for {sender}", rule="edu_sender")
        type = _short(content.get("type"), "type")
        message_id = _short(content.get("message_id"), "message_id")
        parcels, outcomes = self._parcels(content.get("messages"))
        now_ms, trace = self._clock.now_ms(), self._new_trace()
        if not await self._database.read(partial(_is_for_somebody, parcels=parcels)):
            # Where only ghosts are: whoever sends much of it fills nothing here.
            outcomes["no_device"] += sum(len(one.by_device) for one in parcels)
            for outcome, count in outcomes.items():
                TO_DEVICE_MESSAGES.labels(outcome=outcome).inc(count)
            if outcomes.total() and self._is_to_be_noted(origin):
                lost = _detail(type, sender, message_id, outcomes)
                await self._database.write(
                    lambda tx: journal.record(tx, trace, "to-device", "dropped", lost, now_ms)
                )
                log.info("to-device message for nobody", peer=origin, trace_id=trace, **outcomes)
            return

        def unit(tx: Transaction) -> Counter[str]:
            if not rows.take_once(
                tx, origin=origin, sender=sender, message_id=message_id, now_ms=now_ms
            ):
                return Counter(repeated=1)
            counted = outcomes + _store(tx, sender, type, parcels, now_ms)
            if counted.keys() - {"stored"}:
                detail = _detail(type, sender, message_id, counted)
                journal.record(tx, trace, "to-device", "dropped", detail, now_ms)
            return counted

        counted = await self._database.write(unit)
        for outcome, count in counted.items():
            TO_DEVICE_MESSAGES.labels(outcome=outcome).inc(count)
        if counted.keys() - {"stored", "repeated"}:
            log.info("to-device message dropped", peer=origin, trace_id=trace, **counted)

    def _is_to_be_noted(self, origin: ServerName) -> bool:
        """A few of a server within an hour."""
        now_s = self._clock.monotonic_s()
        since_s, count = self._noted.get(origin, (now_s, 0))
        if now_s - since_s >= NOTED_S:
            since_s, count = now_s, 0
        self._noted[origin] = (since_s, count + 1)
        self._noted.move_to_end(origin)
        while len(self._noted) > MAX_SERVERS:
            self._noted.popitem(last=False)
        return count < MAX_NOTED

    def _parcels(self, messages: object) -> tuple[list[_Parcel], Counter[str]]:
        """What is well-formed and for our users, and how many messages are not."""
        if not isinstance(messages, dict):
            raise BadInput("messages are an object")
        found: list[_Parcel] = []
        outcomes: Counter[str] = Counter()
        named = 0
        for user, by_device in messages.items():
            if not isinstance(by_device, dict):
                raise BadInput("messages are by user and device")
            named += len(by_device)
            if named > MAX_NAMED:
                raise BadInput(f"messages to more than {MAX_NAMED} devices")
            user_id = parse_user_id(user)
            if server_of(user_id) != self._own_name:
                outcomes["not_ours"] += len(by_device)
                continue
            good: dict[str, str] = {}
            for device_id, message in by_device.items():
                try:
                    good[device_id] = _content_text(message)
                except BadInput:
                    outcomes["bad"] += 1
            found.append(_Parcel(user_id=user_id, by_device=good))
        return found, outcomes

    # --- from our users ---------------------------------------------------------------------------

    async def send(
        self,
        *,
        sender: UserId,
        type: str,
        messages: Mapping[UserId, Mapping[str, JsonObject]],
        txn: str,
    ) -> None:
        """All of it in one commit, once for each `txn` of the sender. `*`: all devices of the user.

        Devices of ours that do not exist are passed over, as other servers do with theirs.
        """
        if server_of(sender) != self._own_name:
            raise BadInput("not a user of this server", errcode="M_INVALID_PARAM")
        _short(type, "type")
        ours: list[_Parcel] = []
        theirs: dict[ServerName, list[_Parcel]] = {}
        for user_id, by_device in messages.items():
            texts = {device_id: _content_text(one) for device_id, one in by_device.items()}
            parcel = _Parcel(user_id=user_id, by_device=texts)
            server = server_of(user_id)
            (ours if server == self._own_name else theirs.setdefault(server, [])).append(parcel)
        now_ms, epoch = self._clock.now_ms(), self._database.epoch

        def unit(tx: Transaction) -> tuple[Counter[str], Told]:
            if not rows.take_once(
                tx, origin=self._own_name, sender=sender, message_id=txn, now_ms=now_ms
            ):
                return Counter(repeated=1), Told()
            counted = _store(tx, sender, type, ours, now_ms)
            told = Told()
            for server, parcels in sorted(theirs.items()):
                for number, chunk in enumerate(_chunks(parcels)):
                    message_id = _message_id(epoch, sender, txn, server, number)
                    content = {
                        "sender": sender,
                        "type": type,
                        "message_id": message_id,
                        "messages": chunk,
                    }
                    text = encode_canonical(content).decode()
                    told |= put_edus(tx, {server: text}, TO_DEVICE, message_id, now_ms)
            return counted, told

        counted, told = await self._database.write(unit)
        for outcome, count in counted.items():
            TO_DEVICE_MESSAGES.labels(outcome=outcome).inc(count)
        told.settle(self._wake, TO_DEVICE)


def _detail(type: str, sender: UserId, message_id: str, counted: Mapping[str, int]) -> str:
    lost = [f"{count} {name}" for name, count in sorted(counted.items()) if name != "stored"]
    return f"{type} of {sender}, message {message_id}: {', '.join(lost)}"


def _is_for_somebody(tx: Transaction, parcels: Sequence[_Parcel]) -> bool:
    return bool(devices.of_users(tx, [one.user_id for one in parcels]))


def _store(
    tx: Transaction, sender: UserId, type: str, parcels: list[_Parcel], now_ms: int
) -> Counter[str]:
    """For devices that exist, in the order of the message; how many of what outcome."""
    there = devices.of_users(tx, [one.user_id for one in parcels])
    targets: list[tuple[UserId, DeviceId, str]] = []
    counted: Counter[str] = Counter()
    for parcel in parcels:
        known = [row.device_id for row in there.get(parcel.user_id, ())]
        for name, text in parcel.by_device.items():
            wanted = [one for one in known if name in (ALL, one)]
            if not wanted:
                counted["no_device"] += 1
            targets += [(parcel.user_id, one, text) for one in wanted]
    waiting = rows.waiting(tx, [(user, device) for user, device, _ in targets]) if targets else {}
    stored: list[DeviceMessage] = []
    for user_id, device_id, text in targets:
        before = waiting.get((user_id, device_id), 0)
        if before >= rows.MAX_WAITING:
            counted["full"] += 1
            continue
        waiting[user_id, device_id] = before + 1
        counted["stored"] += 1
        stored.append(
            DeviceMessage(
                user_id=user_id, device_id=device_id, sender=sender, type=type, content=text
            )
        )
    rows.add(tx, stored, now_ms)
    return counted


def _chunks(parcels: list[_Parcel]) -> Iterator[dict[str, dict[str, JsonObject]]]:
    """EDUs that a server takes, the same ones whenever the same is sent.

    `*` stands alone: some servers take it for a device's name where others stand beside it.
    """
    chunk: dict[str, dict[str, JsonObject]] = {}
    size = named = 0
    for parcel in parcels:
        for device_id, text in parcel.by_device.items():
            cost = len(text.encode()) + len(parcel.user_id.encode()) + len(device_id.encode())
            beside = chunk.get(parcel.user_id, {})
            is_mixed = bool(beside) and (device_id == ALL or ALL in beside)
            if chunk and (is_mixed or size + cost > MAX_EDU_BYTES or named == MAX_NAMED):
                yield chunk
                chunk, size, named = {}, 0, 0
            chunk.setdefault(parcel.user_id, {})[device_id] = from_text(text)
            size += cost
            named += 1
    if chunk:
        yield chunk


def _message_id(epoch: str, sender: UserId, txn: str, server: ServerName, number: int) -> str:
    """32 characters, as many as the specification allows."""
    cause = encode_canonical([epoch, sender, txn, server, number])
    return hashlib.sha256(cause).hexdigest()[:32]


def _content_text(message: object) -> str:
    if not isinstance(message, dict):
        raise BadInput("a message to a device is an object")
    return to_text(message, max_bytes=MAX_CONTENT_BYTES)


def _short(value: object, name: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadInput(f"{name} is no text", errcode="M_INVALID_PARAM")
    if not fits(value, MAX_ID_BYTES):
        raise BadInput(f"{name} over {MAX_ID_BYTES} bytes", errcode="M_INVALID_PARAM")
    return value
