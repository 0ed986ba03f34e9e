"""What a foreign chat says about itself, before anybody of ours enters it.

Asking creates nothing: a room that does not exist answers `item-not-found`.
Spec: XEP-0030, 3; XEP-0045, 6.4 and 15.3; XEP-0313, 4; XEP-0421, 3.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import DATA_FORMS, DISCO_INFO, MAM, OCCUPANT_ID, element
from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.errors import NotFound, Refused
from bridge.ports.chat import ChatInfo

_NO_ROOM = "no chat room has this address"
_NO_ACCOUNT = frozenset({"feature-not-implemented", "service-unavailable", "subscription-required"})
"""What servers answer for an account that does not exist or that hides."""
_NAME_CHARACTERS = 255


async def describe(questions: Questions, *, asker: Jid, chat: Jid, timeout_s: float) -> ChatInfo:
    """NotFound: it is no chat room. Refused: it tells us nothing."""
    if not chat.local or chat.resource:
        raise NotFound(_NO_ROOM)
    try:
        answer = await questions.ask(
            sender=asker,
            to=chat,
            type="get",
            payload=element(DISCO_INFO, "query"),
            timeout_s=timeout_s,
        )
    except NotFound as exc:
        raise NotFound(_NO_ROOM) from exc
    except Refused as exc:
        if exc.rule in _NO_ACCOUNT:
            raise NotFound(_NO_ROOM) from exc
        raise
    query = answer.find(f"{{{DISCO_INFO}}}query")
    if query is None:
        raise NotFound(_NO_ROOM)
    return _read(query, chat)


def _read(query: ET.Element, chat: Jid) -> ChatInfo:
    identity = next(
        (
            found
            for found in query.iterfind(f"{{{DISCO_INFO}}}identity")
            if (found.get("category"), found.get("type")) == ("conference", "text")
        ),
        None,
    )
    if identity is None:
        raise NotFound(_NO_ROOM)
    features = {found.get("var", "") for found in query.iterfind(f"{{{DISCO_INFO}}}feature")}
    name = " ".join((identity.get("name") or _form_name(query)).split())
    return ChatInfo(
        chat=str(chat),
        name=name[:_NAME_CHARACTERS] or None,
        is_open=features.isdisjoint({"muc_membersonly", "muc_passwordprotected"}),
        is_hidden="muc_hidden" in features,
        shows_addresses="muc_nonanonymous" in features,
        has_occupant_ids=OCCUPANT_ID in features,
        has_archive=MAM in features,
    )


def _form_name(query: ET.Element) -> str:
    for field in query.iterfind(f"{{{DATA_FORMS}}}x/{{{DATA_FORMS}}}field"):
        if field.get("var") == "muc#roomconfig_roomname":
            return field.findtext(f"{{{DATA_FORMS}}}value") or ""
    return ""
