"""Is this guest still in the chat? It pings itself through the room. Spec: XEP-0410.

`item-not-found` is said for another nickname of somebody who is in, and also for a room that does
not exist any more; so the room itself is asked then.
"""

from __future__ import annotations

from bridge.adapters.xmpp import inbound
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import DISCO_INFO, PING, element
from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.errors import NotFound, Refused, Unavailable

_STILL_IN = frozenset({"feature-not-implemented", "service-unavailable"})
"""The room passed the ping on to a client that knows none. Spec: XEP-0410, 3.2."""
_NOBODY_KNOWS = frozenset({"remote-server-not-found", "remote-server-timeout"})


async def is_in(
    questions: Questions, *, session: Jid, occupant: Jid, timeout_s: float
) -> bool | None:
    """None: the room cannot be reached at the moment. `session` is the address that entered,
    `occupant` the room with the nickname."""
    try:
        answer = await questions.exchange(
            sender=session,
            to=occupant,
            type="get",
            payload=element(PING, "ping"),
            timeout_s=timeout_s,
        )
        condition = inbound.condition_of(answer) if answer.get("type") == "error" else ""
        if condition == "item-not-found":
            return await _exists(questions, session, occupant.bare, timeout_s)
    except Unavailable:
        return None
    if condition in _NOBODY_KNOWS:
        return None
    return not condition or condition in _STILL_IN


async def _exists(questions: Questions, session: Jid, chat: Jid, timeout_s: float) -> bool:
    info = element(DISCO_INFO, "query")
    try:
        await questions.ask(sender=session, to=chat, type="get", payload=info, timeout_s=timeout_s)
    except NotFound:
        return False
    except Refused:
        return True  # whatever it refuses, it is there
    return True
