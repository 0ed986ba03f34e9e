"""What is told to clients beside deliveries: nobody waits for a proof of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.roomservice.occupants import ServedRoom, Session
from bridge.errors import Refused
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.rooms")


class Telling:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def send(self, elements: list[ET.Element]) -> None:
        """One stanza that may not be sent does not keep the others back."""
        if not elements:
            return
        try:
            await self._wire.send(elements)
        except Refused:
            for xml in elements:
                with _logged_refusal():
                    await self._wire.send([xml])

    async def others(
        self, room: ServedRoom, session: Session, make: Callable[[Session], list[ET.Element]]
    ) -> None:
        """To all who are in the room but this session."""
        await self.send([xml for s in room.present() if s is not session for xml in make(s)])

    async def refuse(
        self, stanza: Stanza, condition: str, text: str = "", *, uri: str = ""
    ) -> None:
        by = stanza.to.bare
        await self.send([outbound.error_for(stanza, condition, text, uri=uri, by=by)])


@contextmanager
def _logged_refusal() -> Iterator[None]:
    try:
        yield
    except Refused as exc:
        log.warning("stanza not sent", reason=exc.reason, rule=exc.rule)
