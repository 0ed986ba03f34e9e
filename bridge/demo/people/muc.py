"""What a person does with a MUC of their own server: rules, affiliations, who is in, the archive.

Spec: XEP-0045, 8 to 10; XEP-0313.
"""

from __future__ import annotations

import secrets
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

from bridge.demo.people.stanza import DELAY, Stanza, client_tag
from bridge.demo.people.xmpp import Entry, XmppPerson
from bridge.errors import Unavailable

_ADMIN = "http://jabber.org/protocol/muc#admin"
_OWNER = "http://jabber.org/protocol/muc#owner"
_DATA = "jabber:x:data"
_ARCHIVE = "urn:xmpp:mam:2"
_FORWARD = "urn:xmpp:forward:0"
_PAGE = "http://jabber.org/protocol/rsm"
_PAGE_SIZE = 100
_MOST_PAGES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class MucOccupant:
    """As the person who looks sees them; `address` only where it is shown to that person."""

    nickname: str
    affiliation: str
    role: str
    address: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """A message of the archive, in its order."""

    archive_id: str
    nickname: str
    body: str
    stamp: str


class Muc:
    """One person in one room. `address` is the room's."""

    def __init__(self, person: XmppPerson, address: str) -> None:
        self.person = person
        self.address = address
        self._entered_at = person.position

    async def enter(
        self, nickname: str, *, history: int | None = None, timeout_s: float = 20.0
    ) -> Entry:
        """Spec: XEP-0045, 7.2."""
        self._entered_at = self.person.position
        return await self.person.enter(self.address, nickname, history=history, timeout_s=timeout_s)

    async def leave(self) -> None:
        await self.person.exit(self.address)

    def say(self, body: str) -> str:
        """The message's id."""
        return self.person.say_in(self.address, body)

    def set_subject(self, subject: str) -> str:
        return self.person.set_subject(self.address, subject)

    async def rename(self, nickname: str) -> None:
        """Take another nickname. Spec: XEP-0045, 7.6."""
        await self.person.change_nickname(self.address, nickname)

    # --- rules and affiliations ----------------------------------------------------------------

    async def configure(self, settings: Mapping[str, str | bool]) -> None:
        """`settings` (`muc#roomconfig_whois`: `anyone`) over what the room says it has now.

        Spec: XEP-0045, 10.2.
        """
        asked = await self.person.ask(self.address, ET.Element(f"{{{_OWNER}}}query"))
        shown = asked.find(f"{{{_OWNER}}}query/{{{_DATA}}}x")
        if shown is None:
            raise Unavailable(f"{self.address} shows no form")
        fields: dict[str, list[str]] = {}
        for field in shown.findall(f"{{{_DATA}}}field"):
            name = field.get("var")
            if name and field.get("type") != "fixed":
                values = [value.text or "" for value in field.findall(f"{{{_DATA}}}value")]
                fields[name] = values
        for name, value in settings.items():
            if name not in fields:
                raise Unavailable(f"{self.address} has no setting {name}")
            fields[name] = [("1" if value else "0") if isinstance(value, bool) else value]
        query = ET.Element(f"{{{_OWNER}}}query")
        form = ET.SubElement(query, f"{{{_DATA}}}x", {"type": "submit"})
        for name, chosen in fields.items():
            filled = ET.SubElement(form, f"{{{_DATA}}}field", {"var": name})
            for text in chosen:
                ET.SubElement(filled, f"{{{_DATA}}}value").text = text
        await self.person.ask(self.address, query, type="set")

    async def show_addresses(self, to: str = "anyone") -> None:
        """To `anyone`, or to `moderators`."""
        await self.configure({"muc#roomconfig_whois": to})

    async def affiliate(self, address: str, affiliation: str, reason: str | None = None) -> None:
        """`owner`, `admin`, `member`, `none` or `outcast`. Spec: XEP-0045, 9 and 10."""
        await self._administer({"jid": address, "affiliation": affiliation}, reason)

    async def ban(self, address: str, reason: str | None = None) -> None:
        await self.affiliate(address, "outcast", reason)

    async def kick(self, nickname: str, reason: str | None = None) -> None:
        """Spec: XEP-0045, 8.2."""
        await self._administer({"nick": nickname, "role": "none"}, reason)

    async def _administer(self, item: Mapping[str, str], reason: str | None) -> None:
        query = ET.Element(f"{{{_ADMIN}}}query")
        wish = ET.SubElement(query, f"{{{_ADMIN}}}item", dict(item))
        if reason is not None:
            ET.SubElement(wish, f"{{{_ADMIN}}}reason").text = reason
        await self.person.ask(self.address, query, type="set")

    async def destroy(self, reason: str | None = None) -> None:
        """Spec: XEP-0045, 10.9."""
        query = ET.Element(f"{{{_OWNER}}}query")
        end = ET.SubElement(query, f"{{{_OWNER}}}destroy")
        if reason is not None:
            ET.SubElement(end, f"{{{_OWNER}}}reason").text = reason
        await self.person.ask(self.address, query, type="set")

    # --- who is in -----------------------------------------------------------------------------

    def occupants(self) -> dict[str, MucOccupant]:
        """By nickname, as far as the room has told since we entered."""
        inside: dict[str, MucOccupant] = {}
        for stanza in self.person.transcript.since(self._entered_at):
            if stanza.kind != "presence" or stanza.bare_sender != self.address:
                continue
            if not stanza.nickname:
                continue  # the room's own: ejabberd's tells what it can do
            if stanza.type == "unavailable":
                inside.pop(stanza.nickname, None)
            elif stanza.type == "":
                inside[stanza.nickname] = MucOccupant(
                    nickname=stanza.nickname,
                    affiliation=stanza.item.get("affiliation", ""),
                    role=stanza.item.get("role", ""),
                    address=stanza.item.get("jid"),
                )
        return inside

    async def see_arrive(self, nickname: str, *, timeout_s: float = 15.0, since: int = 0) -> Stanza:
        return await self.person.see_arrive(
            self.address, nickname, timeout_s=timeout_s, since=max(since, self._entered_at)
        )

    async def see_go(self, nickname: str, *, timeout_s: float = 15.0, since: int = 0) -> Stanza:
        return await self.person.see_go(
            self.address, nickname, timeout_s=timeout_s, since=max(since, self._entered_at)
        )

    # --- what was said -------------------------------------------------------------------------

    def lines(self, *, since: int = 0) -> list[tuple[str, str]]:
        """Nickname and text of every live message that came to us, in order."""
        return [
            (stanza.nickname, stanza.body)
            for stanza in self.person.transcript.since(max(since, self._entered_at))
            if stanza.type == "groupchat"
            and stanza.bare_sender == self.address
            and stanza.body is not None
            and not stanza.is_delayed
        ]

    async def archive(self) -> list[Archived]:
        """Everything, the oldest first, page by page. Spec: XEP-0313, 4."""
        found: list[Archived] = []
        after: str | None = None
        for _ in range(_MOST_PAGES):
            page, is_last = await self._page(after)
            found += page
            if is_last or not page:
                return found
            after = page[-1].archive_id
        raise Unavailable(f"the archive of {self.address} does not end")

    async def _page(self, after: str | None) -> tuple[list[Archived], bool]:
        query_id = secrets.token_hex(4)
        query = ET.Element(f"{{{_ARCHIVE}}}query", {"queryid": query_id})
        wish = ET.SubElement(query, f"{{{_PAGE}}}set")
        ET.SubElement(wish, f"{{{_PAGE}}}max").text = str(_PAGE_SIZE)
        if after is not None:
            ET.SubElement(wish, f"{{{_PAGE}}}after").text = after
        start = self.person.position
        done = await self.person.ask(self.address, query, type="set")
        fin = done.find(f"{{{_ARCHIVE}}}fin")
        is_last = fin is None or fin.get("complete") in ("true", "1")
        results = (
            result
            for stanza in self.person.transcript.since(start)
            if (result := stanza.find(f"{{{_ARCHIVE}}}result")) is not None
            and result.get("queryid") == query_id
        )
        return [message for result in results if (message := _archived(result))], is_last


def _archived(result: ET.Element) -> Archived | None:
    """None: not a message with text."""
    message = result.find(f"{{{_FORWARD}}}forwarded/{client_tag('message')}")
    delay = result.find(f"{{{_FORWARD}}}forwarded/{{{DELAY}}}delay")
    if message is None:
        return None
    stanza = Stanza(element=message)
    if stanza.body is None:
        return None
    return Archived(
        archive_id=result.get("id", ""),
        nickname=stanza.nickname,
        body=stanza.body,
        stamp="" if delay is None else delay.get("stamp", ""),
    )
