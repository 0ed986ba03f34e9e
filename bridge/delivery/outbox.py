"""The outbox: what is to be said in chats, each row made by one cause; a lane is a chat."""

from __future__ import annotations

from functools import partial

from bridge.delivery.queue import DurableQueue
from bridge.storage.queues import OUTBOX

Outbox = partial(DurableQueue, queue=OUTBOX)
