"""A wire whose far end answers questions at once, as a test scripts it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.adapters.xmpp.stream import serialise
from tests.support.wire import RecordingWire

Script = Callable[[ET.Element], Iterable[str]]


def raw(text: str) -> ET.Element:
    """A stanza as the component gets it; the namespace is put in."""
    head, space, rest = text.partition(" ")
    return ET.fromstring(f"{head} xmlns='jabber:component:accept'{space}{rest}")


def answer_to(iq: ET.Element, content: str = "", *, type: str = "result", **other: str) -> str:
    """The answer, from where the question went, unless `other` says so (`sender`, `to`, `id`)."""
    sender = other.get("sender", iq.get("to", ""))
    to, name = other.get("to", iq.get("from", "")), other.get("id", iq.get("id", ""))
    return f"<iq type='{type}' from='{sender}' to='{to}' id='{name}'>{content}</iq>"


def error_to(iq: ET.Element, condition: str, *, type: str = "cancel", text: str = "") -> str:
    namespace = "urn:ietf:params:xml:ns:xmpp-stanzas"
    said = f"<text xmlns='{namespace}'>{text}</text>" if text else ""
    content = f"<error type='{type}'><{condition} xmlns='{namespace}'/>{said}</error>"
    return answer_to(iq, content, type="error")


class AnsweringWire(RecordingWire):
    """Each question gets the stanzas that `script` makes of it, in their order."""

    def __init__(self, script: Script = lambda _: ()) -> None:
        super().__init__()
        self.script = script
        self.questions = Questions(wire=self, random=random.Random(1), pending=3)
        self.not_taken: list[ET.Element] = []

    async def send(self, elements: Sequence[ET.Element]) -> None:
        await super().send(elements)
        for element in elements:
            # As the server reads it.
            iq = ET.fromstring(
                serialise(element).replace(" ", " xmlns='jabber:component:accept' ", 1)
            )
            for text in self.script(iq):
                stanza = raw(text)
                if not self.questions.take(stanza):
                    self.not_taken.append(stanza)
