"""A network that exists in memory: the worked example of the chat port, and the tests' double.

Addresses look like `juliet@capulet.lit`. What people do is a method (`say`, `enter`, `leave`);
what reaches them is in `delivered`, once per outbox row however often it is handed over, as a real
network's ids would show. `refuse_next` makes the next deliveries fail.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from bridge.content.model import Message
from bridge.errors import BadInput, IsthmusError
from bridge.identity import localparts
from bridge.ids import RoomAlias, RoomId, ServerName, TraceId, UserId
from bridge.ports.chat import ChatListener, ChatMessage, Delivery, RoomView

NAME = "loopback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    outbox_id: int
    trace: TraceId
    delivery: Delivery


class LoopbackAddresses:
    """Fills `ports.chat.AddressMap` by the reversible mapping, without any preparation."""

    def __init__(self, *, server_name: ServerName) -> None:
        self._server_name = server_name

    @property
    def adapter(self) -> str:
        return NAME

    def address_of(self, user_id: UserId) -> str | None:
        try:
            return localparts.address_for(user_id, self._server_name)
        except BadInput:
            return None

    def user_of(self, address: str) -> UserId:
        return localparts.user_id_for(address, self._server_name).user_id

    def default_name(self, address: str) -> str:
        return address.partition("@")[0]


class LoopbackAdapter:
    """Fills `ports.chat.ChatAdapter`."""

    NAME: ClassVar[str] = NAME

    def __init__(self, *, listener: ChatListener) -> None:
        self._listener = listener
        self._numbers = itertools.count(1)
        self._failures: deque[IsthmusError] = deque()
        self.delivered: list[Delivered] = []
        self.attempts = 0

    @property
    def name(self) -> str:
        return NAME

    # --- what people do -------------------------------------------------------------------------

    async def say(
        self,
        sender: str,
        text: str,
        *,
        to: UserId | RoomId,
        stanza_id: str | None = None,
        wants_receipt: bool = False,
    ) -> bool:
        """One message. The same `stanza_id` and text again is the same message: False."""
        number = next(self._numbers)
        return await self._listener.accept(
            ChatMessage(
                adapter=NAME,
                sender=sender,
                session=f"{sender}/here",
                to_user=UserId(to) if to.startswith("@") else None,
                to_room=RoomId(to) if to.startswith("!") else None,
                sent_to=to,
                stanza_id=stanza_id or f"s{number}",
                origin_id=None,
                fingerprint=text,
                wants_receipt=wants_receipt,
                message=Message(text=text),
                trace=TraceId(f"loopback-{number}"),
            )
        )

    async def enter(
        self, address: str, target: RoomAlias | RoomId, *, history_limit: int = 20
    ) -> RoomView:
        return await self._listener.enter(
            address=address,
            target=target,
            nickname=address.partition("@")[0],
            history_limit=history_limit,
        )

    async def leave(self, address: str, room_id: RoomId, *, reason: str | None = None) -> None:
        await self._listener.leave(address=address, room_id=room_id, reason=reason)

    async def bounce(self, address: str, outbox_id: int, condition: str = "item-not-found") -> None:
        """`address` returns something that the network had taken."""
        await self._listener.on_bounced(
            address=address, outbox_id=outbox_id, condition=condition, text=None
        )

    # --- what reaches them ----------------------------------------------------------------------

    def refuse_next(self, *failures: IsthmusError) -> None:
        """Each of the next deliveries raises one of these, in order."""
        self._failures.extend(failures)

    async def deliver(self, delivery: Delivery, *, outbox_id: int, trace: TraceId) -> None:
        self.attempts += 1
        if self._failures:
            raise self._failures.popleft()
        if all(seen.outbox_id != outbox_id for seen in self.delivered):
            self.delivered.append(Delivered(outbox_id=outbox_id, trace=trace, delivery=delivery))

    async def run(self) -> None:
        await asyncio.Event().wait()
