"""Our questions to foreign chats: an iq goes out, its answer comes back, or an error, or nothing.

An answer is believed only from where the question went, to who asked it. Ids carry a nonce of this
process, so that an answer to an earlier one finds no question. What an archive sends ahead of its
answer (`<result/>` messages) belongs to the question and is kept with it, in the order of arrival.
Spec: RFC 6120, 8.2.3 and 8.3.3; XEP-0313, 4.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import COMPONENT, MAM, STANZA_ERRORS
from bridge.adapters.xmpp.stream import serialise
from bridge.errors import IsthmusError, NotFound, Refused, Unavailable

_PENDING = 1000
_RESULTS_BYTES = 2 * 1024 * 1024
_TEXT_CHARACTERS = 300

_GONE = {
    "gone": "It exists no more",
    "item-not-found": "There is nothing at this address",
}
NOT_NOW: Final = {
    "internal-server-error": "Its server has a fault",
    "recipient-unavailable": "It cannot be reached at the moment",
    "remote-server-not-found": "Its server cannot be found",
    "remote-server-timeout": "Its server does not answer",
    "resource-constraint": "Its server is too busy",
}
"""Conditions that say nothing about what was asked, but of the way there."""
_NO = {
    "bad-request": "Its server does not understand the question",
    "conflict": "This is taken already",
    "feature-not-implemented": "Its server cannot do this",
    "forbidden": "It does not allow this",
    "jid-malformed": "Its server cannot read the address",
    "not-acceptable": "It does not accept this",
    "not-allowed": "It does not allow this",
    "not-authorized": "It wants a password",
    "policy-violation": "It breaks a rule of its server",
    "registration-required": "It is for members only",
    "service-unavailable": "Its server does not do this",
    "subscription-required": "It is for subscribers only",
}


def error_from(xml: ET.Element) -> IsthmusError:
    """What a stanza of type error means for whoever asked. `Refused.rule` is the condition."""
    condition = inbound.condition_of(xml)
    said = xml.findtext(f"{{{COMPONENT}}}error/{{{STANZA_ERRORS}}}text") or ""
    said = " ".join(said.split())[:_TEXT_CHARACTERS]
    for words, kind in ((_GONE, NotFound), (NOT_NOW, Unavailable)):
        if condition in words:
            return kind(_sentence(words[condition], said))
    return Refused(_sentence(_NO.get(condition, f"It refuses: {condition}"), said), rule=condition)


def _sentence(words: str, said: str) -> str:
    return f"{words} ({said})" if said else words


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The answer to a question to an archive. `is_cut`: there were more results than we keep, and
    the last ones are left out."""

    answer: ET.Element
    results: Sequence[ET.Element]
    """The `<result/>` elements, in the order of arrival."""
    is_cut: bool


@dataclass(slots=True, kw_only=True)
class _Question:
    asked_by: str
    asked_of: str
    answer: asyncio.Future[ET.Element]
    results: list[ET.Element] = field(default_factory=list)
    results_max: int = 0
    bytes_left: int = _RESULTS_BYTES
    is_cut: bool = False


class Questions:
    """`take` sees every stanza first, in the order of arrival."""

    def __init__(
        self, *, wire: Wire, random: random_module.Random, pending: int = _PENDING
    ) -> None:
        self._wire = wire
        self._nonce = f"{random.getrandbits(64):016x}"
        self._number = 0
        self._pending_max = pending
        self._pending: dict[str, _Question] = {}

    async def ask(
        self,
        *,
        sender: Jid,
        to: Jid,
        type: Literal["get", "set"],
        payload: ET.Element,
        timeout_s: float,
    ) -> ET.Element:
        """The result. NotFound, Refused (`rule` is the condition) or Unavailable by the error;
        Unavailable without an answer."""
        answer = await self.exchange(
            sender=sender, to=to, type=type, payload=payload, timeout_s=timeout_s
        )
        return _checked(answer)

    async def exchange(
        self,
        *,
        sender: Jid,
        to: Jid,
        type: Literal["get", "set"],
        payload: ET.Element,
        timeout_s: float,
    ) -> ET.Element:
        """The answer as it is, result or error. Unavailable without one."""
        return await self._send(self._new(sender, to), sender, to, type, payload, timeout_s)

    async def collect(
        self, *, sender: Jid, to: Jid, payload: ET.Element, results_max: int, timeout_s: float
    ) -> Collected:
        """Asks an archive: `payload` gets our `queryid`. Errors as of `ask`."""
        name = self._new(sender, to, results_max=results_max)
        question = self._pending[name]
        payload.set("queryid", name)
        answer = _checked(await self._send(name, sender, to, "set", payload, timeout_s))
        return Collected(answer=answer, results=question.results, is_cut=question.is_cut)

    def take(self, element: ET.Element) -> bool:
        """Whether this raw stanza belongs to a question of ours; it goes nowhere else then."""
        kind = element.tag.rpartition("}")[2]
        if kind == "iq":
            return self._take_answer(element)
        return kind == "message" and bool(self._pending) and self._take_result(element)

    def on_disconnected(self) -> None:
        """Answers that were under way are lost with the stream."""
        pending = list(self._pending.values())
        self._pending.clear()
        for question in pending:
            if not question.answer.done():
                question.answer.set_exception(Unavailable("the XMPP server went away"))
                question.answer.exception()  # nobody waiting any more is no news

    # --- one question ---------------------------------------------------------------------------

    def _new(self, sender: Jid, to: Jid, *, results_max: int = 0) -> str:
        if len(self._pending) >= self._pending_max:
            raise Unavailable("too many questions are open")
        self._number += 1
        name = f"ask.{self._nonce}.{self._number}"
        self._pending[name] = _Question(
            asked_by=str(sender),
            asked_of=str(to),
            answer=asyncio.get_running_loop().create_future(),
            results_max=results_max,
        )
        return name

    async def _send(
        self,
        name: str,
        sender: Jid,
        to: Jid,
        type: Literal["get", "set"],
        payload: ET.Element,
        timeout_s: float,
    ) -> ET.Element:
        question = self._pending[name]
        iq = outbound.stanza("iq", sender=sender, to=to, type=type, id=name)
        iq.append(payload)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wire.send([iq])
                return await question.answer
        except TimeoutError as exc:
            raise Unavailable(f"{to.domain} does not answer") from exc
        finally:
            self._pending.pop(name, None)

    def _take_answer(self, iq: ET.Element) -> bool:
        name = iq.get("id", "")
        question = self._pending.get(name)
        if question is None or iq.get("type") not in ("result", "error"):
            return False
        if not _is_between(iq, question):
            return False
        del self._pending[name]  # whatever comes after the answer is no part of it
        if not question.answer.done():
            question.answer.set_result(iq)
        return True

    def _take_result(self, message: ET.Element) -> bool:
        result = message.find(f"{{{MAM}}}result")
        if result is None:
            return self._is_emptied(message)
        question = self._pending.get(result.get("queryid", ""))
        if question is None or not question.results_max or not _is_between(message, question):
            return False
        question.bytes_left -= len(serialise(message).encode("utf-8", "surrogatepass"))
        if (
            question.is_cut
            or question.bytes_left < 0
            or (len(question.results) >= question.results_max)
        ):
            question.is_cut = True
        else:
            question.results.append(result)
        return True

    def _is_emptied(self, message: ET.Element) -> bool:
        """A result that was too big lost its content on the way in: an error for it would come
        from an occupant, who may be removed for that."""
        if len(message) or message.get("type") == "error":
            return False
        return any(q.results_max and _is_between(message, q) for q in self._pending.values())


def _is_between(xml: ET.Element, question: _Question) -> bool:
    return xml.get("from") == question.asked_of and xml.get("to") == question.asked_by


def _checked(answer: ET.Element) -> ET.Element:
    if answer.get("type") == "error":
        raise error_from(answer)
    return answer
