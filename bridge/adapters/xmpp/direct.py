"""One-to-one chats, the bot, and who sees whose presence.

Nothing is acknowledged here that is not stored: `accept` commits, and receipts come back as
deliveries. Bounces find their cause by the id that we gave (outbox row and epoch).
Subscriptions are a table of ours: after a restart a probe is answered as before. A probe for which
there is no row is answered `unavailable`, not `unsubscribed`, which would empty people's rosters.
Deviates: RFC 6121, 4.3.2, for that reason.
Spec: RFC 6121, 3 and 5; XEP-0184.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.states import States
from bridge.clock import Clock
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import RoomId, TraceId, UserId
from bridge.ports.chat import (
    BotNotice,
    ChatListener,
    ChatMessage,
    DirectMessage,
    Failure,
    Receipt,
)
from bridge.storage import subscriptions
from bridge.storage.database import Database, Transaction
from bridge.storage.subscriptions import Subscription
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.direct")

PersonDelivery = DirectMessage | Receipt | Failure | BotNotice
_IN_WORDS: Final = {
    "item-not-found": "there is no such address",
    "recipient-unavailable": "the connection to their server broke (it may have arrived even so)",
    "remote-server-not-found": "their server cannot be found",
    "remote-server-timeout": "their server does not answer",
    "service-unavailable": "there is no such account, or it takes no messages from strangers",
}
"""What a bounce means, for servers that do not say. Spec: RFC 6120, 8.3.3."""
_COMMAND_TIMEOUT_S: Final = 120
_LINES_PER_MINUTE: Final = 60
"""That the bot answers one person."""
_ASKERS_KEPT: Final = 1000
_OLD_MS: Final = 60_000
"""A message that is older than this when it is sent says when it was written."""
_WITH_TO: dict[Subscription, Subscription] = {
    "none": "to", "to": "to", "from": "both", "both": "both"
}  # fmt: skip
_WITH_FROM: dict[Subscription, Subscription] = {
    "none": "from", "from": "from", "to": "both", "both": "both"
}  # fmt: skip
_WITHOUT_TO: dict[Subscription, Subscription] = {
    "none": "none", "to": "none", "from": "from", "both": "from"
}  # fmt: skip
_WITHOUT_FROM: dict[Subscription, Subscription] = {
    "none": "none", "from": "none", "to": "to", "both": "to"
}  # fmt: skip


class Direct:
    def __init__(
        self,
        *,
        adapter: str,
        wire: Wire,
        database: Database,
        listener: ChatListener,
        jid_of: Callable[[UserId], Jid],
        bot: Jid,
        clock: Clock,
        new_trace: Callable[[], TraceId],
        states: States,
    ) -> None:
        self._states = states
        self._adapter = adapter
        self._wire = wire
        self._database = database
        self._listener = listener
        self._jid_of = jid_of
        self._bot = bot
        self._clock = clock
        self._new_trace = new_trace
        self._lines: dict[Jid, tuple[int, int]] = {}
        """The minute in which somebody wrote to the bot last, and how many lines in it."""

    # --- messages in ----------------------------------------------------------------------------

    async def on_message(self, stanza: Stanza, user_id: UserId) -> None:
        if stanza.type == "error":
            await self._on_bounce(stanza)
        elif stanza.type == "groupchat":
            await self._refuse(stanza, "service-unavailable", "This is not a room.")
        else:
            self._states.on_message(stanza, to_user=user_id)
            await self.accept(stanza, to_user=user_id)

    async def accept(
        self, stanza: Stanza, *, to_user: UserId | None = None, to_room: RoomId | None = None
    ) -> None:
        """Commits what the person wrote, or answers why not."""
        flaw = inbound.unreadable(stanza)
        if flaw is not None:
            await self._refuse(stanza, "feature-not-implemented", flaw)
            return
        message = inbound.to_message(stanza)
        if message is None:
            return
        # Answers come from there: not from a resource that we may not send as ours.
        sent_to = stanza.to if stanza.to.is_prepared(strict=True) else stanza.to.bare
        trace = self._new_trace()
        chat_message = ChatMessage(
            adapter=self._adapter,
            sender=str(stanza.sender.bare),
            session=str(stanza.sender),
            to_user=to_user,
            to_room=to_room,
            sent_to=str(sent_to),
            stanza_id=stanza.id or str(trace),
            origin_id=inbound.origin_id(stanza),
            fingerprint=inbound.fingerprint(stanza),
            wants_receipt=to_user is not None and inbound.wants_receipt(stanza),
            message=message,
            trace=trace,
            wants_marker=inbound.wants_marker(stanza),
        )
        try:
            await self._listener.accept(chat_message)
        except (Refused, BadInput, NotFound) as exc:
            await self._refuse(stanza, outbound.condition_for(exc.errcode), exc.reason)
        except Unavailable as exc:
            await self._refuse(stanza, "resource-constraint", exc.reason)

    async def _on_bounce(self, stanza: Stanza) -> None:
        outbox_id = outbound.find_outbox_id(self._database.epoch, stanza.id)
        condition, text = inbound.error_of(stanza)
        if outbox_id is None:
            log.info("bounce of nothing we know", sender=str(stanza.sender), condition=condition)
            return
        await self._listener.on_bounced(
            address=str(stanza.sender.bare),
            outbox_id=outbox_id,
            condition=condition,
            text=text or _IN_WORDS.get(condition),
        )

    async def on_command(self, stanza: Stanza) -> None:
        """A line to the bot."""
        if stanza.type in ("error", "groupchat"):
            if stanza.type == "error":
                await self._on_bounce(stanza)
            return
        message = inbound.to_message(stanza)
        if message is None:
            return
        if not self._may_ask(stanza.sender.bare):
            await self._refuse(stanza, "resource-constraint", "Please write more slowly.")
            return
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                answer = await self._listener.on_command(
                    address=str(stanza.sender.bare), text=message.text
                )
        except TimeoutError:
            await self._refuse(stanza, "remote-server-timeout", "It takes too long.")
            return
        await self.say_as_bot(stanza, answer)

    def _may_ask(self, person: Jid) -> bool:
        """Two machines that answer each other come to an end: errors are not answered."""
        minute = self._clock.now_ms() // 60_000
        before, count = self._lines.pop(person, (minute, 0))
        count = count + 1 if before == minute else 1
        while len(self._lines) >= _ASKERS_KEPT:
            del self._lines[next(iter(self._lines))]
        self._lines[person] = (minute, count)
        return count <= _LINES_PER_MINUTE

    # --- deliveries -----------------------------------------------------------------------------

    async def deliver(self, delivery: PersonDelivery, *, key: str, own_id: str) -> None:
        xml = self._to_stanza(delivery, own_id)
        await self._wire.fenced(key, lambda: self._wire.send([xml]))

    def _to_stanza(self, delivery: PersonDelivery, own_id: str) -> ET.Element:
        to = Jid.parse(delivery.to)
        match delivery:
            case DirectMessage():
                is_old = self._clock.now_ms() - delivery.at_ms > _OLD_MS
                return outbound.direct_message(
                    sender=self._jid_of(delivery.sender),
                    to=to,
                    id=own_id,
                    message=delivery.message,
                    delayed_ms=delivery.at_ms if is_old else None,
                )
            case Receipt():
                return outbound.receipt(
                    sender=Jid.parse(delivery.sent_from),
                    to=to,
                    received=delivery.stanza_id,
                    id=own_id,
                )
            case Failure():
                return outbound.failure(
                    sender=Jid.parse(delivery.sent_from),
                    to=to,
                    id=delivery.stanza_id,
                    condition=outbound.condition_for(delivery.errcode),
                    text=delivery.text,
                )
            case BotNotice():
                return outbound.notice(sender=self._bot, to=to, text=delivery.text, id=own_id)

    # --- presence -------------------------------------------------------------------------------

    async def on_presence(self, stanza: Stanza, user_id: UserId) -> None:
        person, ghost = stanza.sender.bare, stanza.to.bare
        match stanza.type:
            case "subscribe":
                before = await self._change(person, user_id, _WITH_TO)
                answers = [
                    _presence(ghost, person, "subscribed"),
                    self._states.presence(user_id, person, sender=ghost),
                ]
                if before in ("none", "to"):
                    answers.append(_presence(ghost, person, "subscribe"))
                await self._wire.send(answers)
            case "unsubscribe":
                await self._change(person, user_id, _WITHOUT_TO)
                await self._wire.send(
                    [
                        _presence(ghost, person, "unsubscribed"),
                        _presence(ghost, person, "unavailable"),
                    ]
                )
            case "subscribed":
                await self._change(person, user_id, _WITH_FROM)
            case "unsubscribed":
                await self._change(person, user_id, _WITHOUT_FROM)
            case "probe":
                state = await self._database.read(
                    lambda tx: subscriptions.find(tx, str(person), user_id)
                )
                if state in ("to", "both"):
                    answer = self._states.presence(user_id, stanza.sender, sender=ghost)
                else:
                    answer = _presence(ghost, stanza.sender, "unavailable")
                await self._wire.send([answer])
            case "" | "unavailable" if ghost.local and ghost != self._bot:
                self._states.on_presence(stanza)

    async def meets(self, person: Jid, user_id: UserId) -> bool:
        """True the first time."""
        return await self._database.write(lambda tx: subscriptions.meet(tx, str(person), user_id))

    async def say_as_bot(self, stanza: Stanza, text: str) -> None:
        """A line to whoever sent the stanza, from the bot's address that it was sent to."""
        to = stanza.sender.bare if stanza.kind == "presence" else stanza.sender
        await self._wire.send([outbound.notice(sender=stanza.to.bare, to=to, text=text)])

    async def _change(
        self, person: Jid, user_id: UserId, table: dict[Subscription, Subscription]
    ) -> Subscription:
        """Returns the state before."""

        def unit(tx: Transaction) -> Subscription:
            before = subscriptions.find(tx, str(person), user_id)
            if table[before] != before:
                subscriptions.put(tx, str(person), user_id, table[before])
            return before

        return await self._database.write(unit)

    async def _refuse(self, stanza: Stanza, condition: str, text: str) -> None:
        await self._wire.send([outbound.error_for(stanza, condition, text)])


def _presence(sender: Jid, to: Jid, type: str = "") -> ET.Element:
    return outbound.stanza("presence", sender=sender, to=to, type=type)
