"""Who has which affiliation in a foreign chat, as far as the asker may know.

Spec: XEP-0045, 9.5 (members), 10.5 (owners), 10.8 (admins).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import MUC_ADMIN, add, element
from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.errors import BadInput

Affiliation = Literal["owner", "admin", "member", "outcast"]


async def affiliated(
    questions: Questions, *, asker: Jid, chat: Jid, affiliation: Affiliation, timeout_s: float
) -> Sequence[Jid]:
    """Bare addresses. Refused where the room does not tell the asker, which is usual."""
    query = element(MUC_ADMIN, "query")
    add(query, MUC_ADMIN, "item").set("affiliation", affiliation)
    answer = await questions.ask(
        sender=asker, to=chat, type="get", payload=query, timeout_s=timeout_s
    )
    found: list[Jid] = []
    for item in answer.iterfind(f"{{{MUC_ADMIN}}}query/{{{MUC_ADMIN}}}item"):
        if item.get("affiliation") != affiliation:
            continue
        try:
            found.append(Jid.parse(item.get("jid")).bare)
        except BadInput:
            continue
    return found
