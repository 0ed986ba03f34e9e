"""The past of a foreign chat, read from its archive in pages.

Only what the chat itself sends is believed (`Questions` sees to that). Archived stanzas come back
in the component's namespace, so that `inbound` reads them like live ones.
Spec: XEP-0313, 4 and 6; XEP-0059, 2; XEP-0203; XEP-0297.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import (
    CLIENT,
    COMPONENT,
    DATA_FORMS,
    DELAY,
    FORWARD,
    MAM,
    MUC_USER,
    RSM,
    add,
    element,
)
from bridge.adapters.xmpp.occupant.questions import Collected, Questions
from bridge.errors import NotFound

PAGE = 50
"""Messages that are asked for at once."""
_SKEW_MS = 24 * 3600 * 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STANZAS = {
    f"{{{namespace}}}{kind}": f"{{{COMPONENT}}}{kind}"
    for namespace in (CLIENT, COMPONENT)
    for kind in ("message", "presence", "iq")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedMessage:
    archive_id: str
    at_ms: int | None
    """None where the stamp cannot be read."""
    element: ET.Element
    """The stanza as it would have come live: in the component's namespace, `from` the occupant,
    `to` who asked. Of what only a server may say, `<delay/>` is left out (`at_ms`) and one
    `<x/>` of muc#user is in it, the last: Prosody adds its own behind what an author forged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    messages: Sequence[ArchivedMessage]
    last: str | None
    """Where the next page goes on."""
    is_complete: bool


async def read(
    questions: Questions,
    *,
    asker: Jid,
    chat: Jid,
    after: str | None,
    start_ms: int | None,
    limit: int,
    timeout_s: float,
) -> AsyncIterator[ArchivedMessage]:
    """Group messages from the oldest on: those after `after`, else from `start_ms`, else all.

    At most `limit` entries are looked at; `timeout_s` is for each page. NotFound: the archive
    knows no `after` any more (it was cleaned up, or the room made anew); ask again from `start_ms`.
    Some servers then begin with the oldest entry instead of an error: that is noticed where
    `start_ms` tells about when `after` was. Refused: the archive is not for us.
    """
    is_first = True
    left = limit
    while left > 0:
        page = await read_page(
            questions,
            asker=asker,
            chat=chat,
            after=after,
            start_ms=None if after is not None else start_ms,
            count=min(PAGE, left),
            timeout_s=timeout_s,
        )
        if is_first and after is not None and _begins_before(page, start_ms):
            raise NotFound("the archive knows no such place")
        is_first = False
        left -= max(1, len(page.messages))
        for archived in page.messages:
            if _is_group_message(archived.element, chat):
                yield archived
        if page.is_complete or page.last is None or page.last == after:
            return
        after = page.last


async def newest(
    questions: Questions, *, asker: Jid, chat: Jid, timeout_s: float
) -> ArchivedMessage | None:
    """The last entry, whatever it is: where reading goes on later. None: the archive is empty."""
    page = await read_page(
        questions, asker=asker, chat=chat, before="", count=1, timeout_s=timeout_s
    )
    return page.messages[-1] if page.messages else None


async def read_page(
    questions: Questions,
    *,
    asker: Jid,
    chat: Jid,
    after: str | None = None,
    before: str | None = None,
    start_ms: int | None = None,
    count: int = PAGE,
    timeout_s: float,
) -> Page:
    """Entries of the archive, oldest first. `before` empty: the last page. Spec: XEP-0059, 2.5."""
    query = element(MAM, "query")
    if start_ms is not None:
        _add_form(query, start_ms)
    window = add(query, RSM, "set")
    add(window, RSM, "max", str(count))
    if after is not None:
        add(window, RSM, "after", after)
    if before is not None:
        add(window, RSM, "before", before or None)
    collected = await questions.collect(
        sender=asker, to=chat, payload=query, results_max=count, timeout_s=timeout_s
    )
    return _to_page(collected, asker)


def stamp_ms(text: str | None) -> int | None:
    """A date and time of XEP-0082 in milliseconds; None where it is none."""
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return (at - _EPOCH) // timedelta(milliseconds=1)


def delay_ms(parent: ET.Element) -> int | None:
    """The first readable stamp of XEP-0203 on a stanza or a forwarded element."""
    stamps = (stamp_ms(found.get("stamp")) for found in parent.iterfind(f"{{{DELAY}}}delay"))
    return next((stamp for stamp in stamps if stamp is not None), None)


def _add_form(query: ET.Element, start_ms: int) -> None:
    start = (_EPOCH + timedelta(milliseconds=max(start_ms, 0))).isoformat("T", "milliseconds")
    form = add(query, DATA_FORMS, "x")
    form.set("type", "submit")
    for name, type, value in (
        ("FORM_TYPE", "hidden", MAM),
        ("start", "text-single", start.replace("+00:00", "Z")),
    ):
        field = add(form, DATA_FORMS, "field")
        field.attrib.update({"var": name, "type": type})
        add(field, DATA_FORMS, "value", value)


def _begins_before(page: Page, start_ms: int | None) -> bool:
    """Clocks may differ; nobody's by a day."""
    at_ms = page.messages[0].at_ms if page.messages else None
    return start_ms is not None and at_ms is not None and at_ms < start_ms - _SKEW_MS


def _to_page(collected: Collected, asker: Jid) -> Page:
    """Results that were cut off come again with the next page."""
    fin = collected.answer.find(f"{{{MAM}}}fin")
    last = None if fin is None else fin.findtext(f"{{{RSM}}}set/{{{RSM}}}last")
    is_complete = fin is None or fin.get("complete") in ("true", "1")
    if collected.is_cut or not last:
        last = collected.results[-1].get("id") if collected.results else None
    return Page(
        messages=tuple(_to_messages(collected.results, asker)),
        last=last or None,
        is_complete=is_complete and not collected.is_cut,
    )


def _to_messages(results: Sequence[ET.Element], asker: Jid) -> Iterator[ArchivedMessage]:
    for result in results:
        archive_id = result.get("id")
        forwarded = result.find(f"{{{FORWARD}}}forwarded")
        if not archive_id or forwarded is None:
            continue
        stanza = next((child for child in forwarded if child.tag in _STANZAS), None)
        if stanza is not None:
            _normalise(stanza)
            stanza.set("to", str(asker))
            yield ArchivedMessage(archive_id=archive_id, at_ms=delay_ms(forwarded), element=stanza)


def _normalise(stanza: ET.Element) -> None:
    """`<body/>` and its like stand in the namespace of the stanza."""
    stanza.tag = _STANZAS[stanza.tag]
    stanza.tail = None
    for forged in (*stanza.findall(f"{{{MUC_USER}}}x")[:-1], *stanza.findall(f"{{{DELAY}}}delay")):
        stanza.remove(forged)
    for child in stanza:
        namespace, _, name = child.tag.removeprefix("{").rpartition("}")
        if namespace == CLIENT:
            child.tag = f"{{{COMPONENT}}}{name}"


def _is_group_message(stanza: ET.Element, chat: Jid) -> bool:
    return (
        stanza.tag == f"{{{COMPONENT}}}message"
        and stanza.get("type") == "groupchat"
        and stanza.get("from", "").partition("/")[0] == str(chat)
    )
