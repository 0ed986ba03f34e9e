"""What the author of a message on the chat side gets back: a receipt, or an error on it."""

from __future__ import annotations

from bridge.ids import TraceId
from bridge.ports.chat import ChatMessage, Failure, Receipt
from bridge.ports.codec import to_tagged
from bridge.storage import journal, queues
from bridge.storage.database import Transaction
from bridge.storage.messages import MappedMessage

MAX_REASON = 500


def put_receipt(
    tx: Transaction,
    *,
    adapter: str,
    session: str,
    sent_to: str,
    stanza_id: str,
    trace: TraceId,
    now_ms: int,
) -> None:
    """The author's receipt as an outbox row; one per message."""
    queues.put_outbox(
        tx,
        lane=f"{adapter}:person:{session.partition('/')[0]}",
        adapter=adapter,
        cause=f"receipt/{session}/{stanza_id}/{trace}",
        payload=to_tagged(Receipt(to=session, sent_from=sent_to, stanza_id=stanza_id)),
        trace_id=trace,
        now_ms=now_ms,
    )


def put_failure(
    tx: Transaction,
    message: ChatMessage,
    *,
    reason: str,
    errcode: str,
    cause: str,
    now_ms: int,
) -> None:
    """An error on the author's message as an outbox row; one per cause."""
    failure = Failure(
        to=message.session,
        sent_from=message.sent_to,
        stanza_id=message.stanza_id,
        in_room=message.to_room is not None,
        errcode=errcode,
        text=reason,
    )
    queues.put_outbox(
        tx,
        lane=f"{message.adapter}:person:{message.sender}",
        adapter=message.adapter,
        cause=cause,
        payload=to_tagged(failure),
        trace_id=message.trace,
        now_ms=now_ms,
    )


def put_refusal(
    tx: Transaction, message: MappedMessage, *, error: str, trace: TraceId, now_ms: int
) -> None:
    """The other's server did not take an event: an error on the message it was written as."""
    if message.origin != "chat" or not message.session:
        return
    failure = Failure(
        to=message.session,
        sent_from=message.sent_to,
        stanza_id=message.stanza_id,
        in_room=False,
        errcode="M_FORBIDDEN",
        text=f"Their server refused it: {error[:MAX_REASON]}",
    )
    queues.put_outbox(
        tx,
        lane=f"{message.adapter}:person:{message.sender}",
        adapter=message.adapter,
        cause=f"refused/{message.event_id}",
        payload=to_tagged(failure),
        trace_id=trace,
        now_ms=now_ms,
    )
    journal.record(
        tx,
        trace_id=trace,
        step="accepted",
        decision="refused",
        detail=error,
        now_ms=now_ms,
    )
