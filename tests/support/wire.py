"""What stands below the adapter's parts in tests: keeps what was sent, breaks when told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp.inbound import Stanza, read_stanza
from bridge.errors import Unavailable


def incoming(text: str) -> Stanza:
    """A stanza as the component gets it; the namespace is put in."""
    head, space, rest = text.partition(" ")
    return read_stanza(ET.fromstring(f"{head} xmlns='jabber:component:accept'{space}{rest}"))


class RecordingWire:
    """Fills `connection.Wire`. `is_up` False: nothing is sent; `lost_fences` fences get lost."""

    def __init__(self) -> None:
        self.sent: list[ET.Element] = []
        self.is_up = True
        self.lost_fences = 0

    async def send(self, elements: Sequence[ET.Element]) -> None:
        if not self.is_up:
            raise Unavailable("not connected")
        self.sent.extend(elements)

    async def fenced(self, key: str, write: Callable[[], Awaitable[None]]) -> None:
        await write()
        if self.lost_fences:
            self.lost_fences -= 1
            raise Unavailable("the stream closed before the fence")

    def take(self) -> list[ET.Element]:
        """What was sent since the last look."""
        sent, self.sent = self.sent, []
        return sent


def brief(xml: ET.Element) -> str:
    """One line that says what matters: kind, type, from, to, status codes, body or condition."""
    kind = xml.tag.rpartition("}")[2]
    words = [kind, xml.get("type", "-"), f"{xml.get('from')} > {xml.get('to')}"]
    for node in xml.iter():
        name = node.tag.rpartition("}")[2]
        if name in ("body", "subject"):
            words.append(f"{name}={node.text or ''}")
        elif name == "status":
            words.append(node.get("code", ""))
        elif "xmpp-stanzas" in node.tag and name != "text":
            words.append(name)
    return " ".join(words)
