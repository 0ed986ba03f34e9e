"""Is this guest still in the chat? It pings itself through the room. Spec: XEP-0410.

`item-not-found` is said for another nickname of somebody who is in, and also for a room that does
not exist any more; so the room itself is asked then.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import COMPONENT, DISCO_INFO, PING, element
from bridge.adapters.xmpp.occupant.questions import NOT_NOW, Questions
from bridge.errors import NotFound, Refused, Unavailable

_STILL_IN = frozenset({"feature-not-implemented", "service-unavailable"})
"""The room passed the ping on to a client that knows none. Spec: XEP-0410, 3.2."""


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
    if condition in NOT_NOW or _is_passing(answer):
        return None
    return not condition or condition in _STILL_IN


def _is_passing(answer: ET.Element) -> bool:
    """A component that is away is `service-unavailable`, too, for some servers: type `wait`."""
    error = answer.find(f"{{{COMPONENT}}}error")
    return error is not None and error.get("type") == "wait"


async def _exists(questions: Questions, session: Jid, chat: Jid, timeout_s: float) -> bool:
    info = element(DISCO_INFO, "query")
    try:
        await questions.ask(sender=session, to=chat, type="get", payload=info, timeout_s=timeout_s)
    except NotFound:
        return False
    except Refused:
        return True  # whatever it refuses, it is there
    return True
