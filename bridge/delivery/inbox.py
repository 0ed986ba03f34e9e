"""The inbox: what chats said, stored before it is understood; a lane is a portal."""

from __future__ import annotations

from functools import partial

from bridge.delivery.queue import DurableQueue
from bridge.storage.queues import INBOX

Inbox = partial(DurableQueue, queue=INBOX)
