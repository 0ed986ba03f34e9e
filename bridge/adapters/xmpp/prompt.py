"""`jabber:iq:gateway`: nobody can guess the syntax of our addresses, so clients ask us.

A client shows our prompt, sends what the person typed, and adds the address that we answer.
Spec: XEP-0100, 6.3.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.namespaces import GATEWAY, add
from bridge.adapters.xmpp.xmltext import xml_text
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.identity.addresses import WHAT_MAY_BE_TYPED
from bridge.identity.resolver import Resolver


async def answer_prompt(request: Stanza, resolver: Resolver) -> ET.Element:
    """A get is answered with the prompt, a set with the address."""
    if request.type == "get":
        return _prompt(request)
    typed = request.xml.findtext(f"{{{GATEWAY}}}query/{{{GATEWAY}}}prompt")
    if not (typed or "").strip():
        return outbound.error_for(request, "bad-request", f"Please {WHAT_MAY_BE_TYPED}.")
    try:
        found = await resolver.resolve(typed or "")
    except BadInput as exc:
        return outbound.error_for(request, "not-acceptable", exc.reason)
    except NotFound as exc:
        return outbound.error_for(request, "item-not-found", exc.reason)
    except Refused as exc:
        return outbound.error_for(request, "forbidden", exc.reason)
    except Unavailable as exc:
        return outbound.error_for(request, "remote-server-timeout", exc.reason)
    if found.address is None:
        return outbound.error_for(request, "item-not-found", "This has no address on XMPP.")
    answer = outbound.result_of(request)
    add(add(answer, GATEWAY, "query"), GATEWAY, "jid", xml_text(found.address))
    return answer


def _prompt(request: Stanza) -> ET.Element:
    answer = outbound.result_of(request)
    query = add(answer, GATEWAY, "query")
    text = WHAT_MAY_BE_TYPED[:1].upper() + WHAT_MAY_BE_TYPED[1:]
    add(query, GATEWAY, "desc", f"Whom or what would you like to reach? {text}.")
    add(query, GATEWAY, "prompt", "Address or phone number")
    return answer
