"""A message that comes a second time: its author has not heard what became of the first.

People's clients send again what was not acknowledged, when they come back. It is never bridged
twice; but the acknowledgement, or the error, went to a client that was gone, and is given again.
Nothing is said while the first one is still on its way. Spec: XEP-0184, XEP-0359.
"""

from __future__ import annotations

from bridge.ids import UserId
from bridge.portals.receipts import MAX_REASON, put_failure, put_receipt
from bridge.ports.chat import ChatMessage, Reflection
from bridge.ports.codec import from_json, to_tagged
from bridge.storage import messages, queues
from bridge.storage.database import Transaction
from bridge.storage.queues import QueueItem


def answer_again(
    tx: Transaction, message: ChatMessage, first: QueueItem, *, ghost: UserId, now_ms: int
) -> None:
    """`first` is the inbox row of the same message; `ghost` its author on the Matrix side."""
    if first.status == "parked":
        put_failure(
            tx,
            message,
            reason=first.reason or "",
            errcode="M_UNKNOWN",
            cause=f"failure/{first.id}/{message.trace}",
            now_ms=now_ms,
        )
        return
    if first.status != "done":
        return
    original = from_json(ChatMessage, first.payload)
    sent = messages.of_stanza(
        tx,
        adapter=message.adapter,
        chat=original.to_user or original.to_room or "",
        sender=message.sender,
        stanza_id=original.stanza_id,
    )
    if sum(one.part == 0 for one in sent) != 1:
        return  # A client that gives one id to several texts: which is meant cannot be told.
    if message.to_room is None:
        last = sent[-1]
        refusal = None if last.pending else messages.find_refusal(tx, last.event_id)
        if refusal is not None:
            put_failure(
                tx,
                message,
                reason=f"Their server refused it: {refusal[:MAX_REASON]}",
                errcode="M_FORBIDDEN",
                cause=f"refused/{last.event_id}/{message.trace}",
                now_ms=now_ms,
            )
        elif message.wants_receipt and not last.pending:
            put_receipt(
                tx,
                adapter=message.adapter,
                session=message.session,
                sent_to=message.sent_to,
                stanza_id=message.stanza_id,
                trace=message.trace,
                now_ms=now_ms,
            )
        return
    queues.put_outbox(
        tx,
        lane=f"{message.adapter}:person:{message.sender}",
        adapter=message.adapter,
        cause=f"reflection/{sent[0].event_id}/{message.trace}",
        payload=to_tagged(
            Reflection(
                to=message.session,
                room_id=message.to_room,
                event_id=sent[0].event_id,
                sender=ghost,
                message=message.message,
                stanza_id=message.stanza_id,
                origin_id=message.origin_id,
            )
        ),
        trace_id=message.trace,
        now_ms=now_ms,
    )
