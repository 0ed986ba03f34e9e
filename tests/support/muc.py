"""A foreign chat service as our occupants see it, in memory: answers each stanza at once.

`Muc` is one room. It fills `connection.Wire`; what it says to people of our component goes to
`deliver`, in the order of XEP-0045. Tests act as its other people (`join`, `say`, `kick`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

from bridge.adapters.xmpp.namespaces import (
    COMPONENT,
    DISCO_INFO,
    MAM,
    MUC,
    MUC_ADMIN,
    MUC_OWNER,
    MUC_USER,
    PING,
    RSM,
)
from bridge.adapters.xmpp.stream import serialise
from bridge.errors import Unavailable

ROOM = "garden@muc.test"
OURS = "@gw.test"
_STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"


@dataclass
class Person:
    nickname: str
    jid: str
    affiliation: str = "none"
    role: str = "participant"

    @property
    def bare(self) -> str:
        return self.jid.partition("/")[0]


@dataclass
class Said:
    archive_id: str
    at_ms: int
    sender: str
    jid: str
    inner: str
    id: str


def stamp(at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


@dataclass
class Muc:
    now_ms: Callable[[], int]
    deliver: Callable[[ET.Element], object] = lambda _: None
    features: set[str] = field(
        default_factory=lambda: {"urn:xmpp:occupant-id:0", MAM, "muc_semianonymous"}
    )
    name: str = "The garden"
    exists: bool = True
    subject: str = "Roses"
    people: dict[str, Person] = field(default_factory=dict)
    affiliations: dict[str, str] = field(default_factory=dict)
    archive: list[Said] = field(default_factory=list)
    sent: list[ET.Element] = field(default_factory=list)
    is_up: bool = True
    is_deaf: bool = False
    """Nothing is answered, nothing happens."""
    shows_nothing: bool = False
    """Messages are taken, and their reflection is lost on the way to us."""
    refuses: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Condition and type of the error, by kind of stanza: `enter`, `message`, `archive`."""
    shows_lists: bool = False
    number: int = 0

    # --- the wire -------------------------------------------------------------------------------

    async def send(self, elements: Sequence[ET.Element]) -> None:
        if not self.is_up:
            raise Unavailable("not connected")
        for element in elements:
            text = serialise(element).replace(" ", f" xmlns='{COMPONENT}' ", 1)
            xml = ET.fromstring(text)
            self.sent.append(xml)
            if not self.is_deaf:
                self._on_stanza(xml)

    async def fenced(self, key: str, write: Callable[[], Awaitable[None]]) -> None:
        await write()

    def take(self, kind: str = "") -> list[ET.Element]:
        """What was sent since the last look."""
        sent, self.sent = self.sent, []
        return [xml for xml in sent if xml.tag.endswith("}" + kind) or not kind]

    # --- what the others do ---------------------------------------------------------------------

    def join(self, nickname: str, jid: str, affiliation: str = "none") -> Person:
        person = self.people[nickname] = Person(nickname, jid, affiliation)
        self._show(person)
        return person

    def say(self, nickname: str, text: str, *, id: str = "", extra: str = "") -> str:
        """The archive's ID."""
        person = self.people[nickname]
        id = id or f"s{self.number}"
        body = f"<body>{escape(text)}</body>" if text else ""
        return self._broadcast(person, body + extra, id)

    def part(self, nickname: str, *statuses: int, reason: str = "", actor: str = "") -> None:
        self._remove(self.people[nickname], statuses, reason=reason, actor=actor)

    def rename(self, nickname: str, new: str) -> None:
        person = self.people[nickname]
        inner = self._item(person, [303], new=new)
        self._to_all(f"<presence from='{ROOM}/{nickname}' type='unavailable' to='%s'>", inner)
        del self.people[nickname]
        person.nickname = new
        self.people[new] = person
        self._show(person)

    def forget_us(self) -> None:
        """As a service does that was restarted, or to which we were unreachable."""
        for nickname in [n for n, p in self.people.items() if p.jid.endswith(OURS)]:
            del self.people[nickname]

    def configure(self, *statuses: int) -> None:
        self._to_all(f"<message from='{ROOM}' type='groupchat' to='%s'>", self._x(statuses))

    def destroy(self, jid: str = "", reason: str = "") -> None:
        where = f" jid='{jid}'" if jid else ""
        inner = (
            f"<x xmlns='{MUC_USER}'><item affiliation='none' role='none'/>"
            f"<destroy{where}><reason>{reason}</reason></destroy></x>"
        )
        for person in self._ours():
            head = f"<presence from='{ROOM}/{person.nickname}' type='unavailable' to='%s'>"
            self._to(person.jid, head, inner)
        self.people.clear()

    # --- stanzas from us ------------------------------------------------------------------------

    def _on_stanza(self, xml: ET.Element) -> None:
        to, kind = xml.get("to", ""), xml.tag.rpartition("}")[2]
        bare, _, nickname = to.partition("/")
        if bare != ROOM:
            return
        if kind == "presence":
            self._on_presence(xml, nickname)
        elif kind == "message":
            self._on_message(xml)
        elif xml.get("type") in ("get", "set"):
            self._on_question(xml, nickname)

    def _of(self, jid: str) -> Person | None:
        return next((p for p in self.people.values() if p.jid == jid), None)

    def _on_presence(self, xml: ET.Element, nickname: str) -> None:
        jid = xml.get("from", "")
        person = self._of(jid)
        join = xml.find(f"{{{MUC}}}x")
        if xml.get("type") == "unavailable":
            if person is not None:
                self._remove(person, ())
            return
        if "enter" in self.refuses:
            self._error(xml, *self.refuses["enter"])
            return
        if self.affiliations.get(jid) == "outcast":
            self._error(xml, "forbidden", "auth")
            return
        holder = self.people.get(nickname)
        if holder is not None and holder.jid != jid:
            self._error(xml, "conflict", "cancel")
        elif person is not None and join is None and person.nickname != nickname:
            self.rename(person.nickname, nickname)
        elif join is not None:
            affiliation = self.affiliations.get(jid, "none")
            person = person or Person(nickname, jid, affiliation)
            is_new = person.nickname not in self.people
            self.people[nickname] = person
            for other in list(self.people.values()):
                if other is not person:
                    self._show_to(other, person)
            if is_new:
                for other in self._ours():
                    if other is not person:
                        self._show_to(person, other)
            extra = [] if self.exists else [201]
            self.exists = True
            self._show_to(person, person, extra)
            self._show_past(person, join)

    def _show_past(self, person: Person, join: ET.Element) -> None:
        history = join.find(f"{{{MUC}}}history")
        asked = {} if history is None else dict(history.attrib)
        since = asked.get("since")
        past = self.archive if since is not None else []
        for said in past:
            if stamp(said.at_ms)[:19] + "Z" >= (since or ""):
                delay = f"<delay xmlns='urn:xmpp:delay' from='{ROOM}' stamp='{stamp(said.at_ms)}'/>"
                self._to(person.jid, self._head(said), said.inner + delay)
        head = f"<message from='{ROOM}' type='groupchat' to='%s'>"
        self._to(person.jid, head, f"<subject>{self.subject}</subject>")

    def _on_message(self, xml: ET.Element) -> None:
        if xml.get("type") != "groupchat":
            return
        person = self._of(xml.get("from", ""))
        if person is None:
            self._error(xml, "not-acceptable", "modify")
        elif "message" in self.refuses:
            self._error(xml, *self.refuses["message"])
        else:
            inner = "".join(ET.tostring(child, encoding="unicode") for child in xml)
            inner = inner.replace("ns0:", "").replace(":ns0", "")
            self._broadcast(person, inner, xml.get("id", ""))

    def _broadcast(self, person: Person, inner: str, id: str) -> str:
        self.number += 1
        said = Said(f"a{self.number}", self.now_ms(), person.nickname, person.bare, inner, id)
        if "urn:xmpp:occupant-id:0" in self.features:
            said.inner += self._mark(person)
        if "<subject" not in inner:
            self.archive.append(said)
        if self.shows_nothing:
            return said.archive_id
        mark = ""
        if MAM in self.features:
            mark = f"<stanza-id xmlns='urn:xmpp:sid:0' by='{ROOM}' id='{said.archive_id}'/>"
        self._to_all(self._head(said), said.inner + mark)
        return said.archive_id

    def _head(self, said: Said) -> str:
        id = quoteattr(said.id)
        return f"<message from='{ROOM}/{said.sender}' type='groupchat' id={id} to='%s'>"

    def _on_question(self, xml: ET.Element, nickname: str) -> None:
        payload = xml[0].tag
        if payload == f"{{{DISCO_INFO}}}query":
            if not self.exists:
                self._error(xml, "item-not-found", "cancel")
                return
            features = "".join(f"<feature var='{f}'/>" for f in sorted(self.features))
            identity = f"<identity category='conference' type='text' name='{self.name}'/>"
            self._answer(xml, f"<query xmlns='{DISCO_INFO}'>{identity}{features}</query>")
        elif payload == f"{{{PING}}}ping":
            person = self._of(xml.get("from", ""))
            if person is None:
                self._error(xml, "not-acceptable", "cancel")
            else:
                self._answer(xml, "")
        elif payload == f"{{{MAM}}}query":
            self._on_query(xml)
        elif payload == f"{{{MUC_ADMIN}}}query" and self.shows_lists:
            wanted = xml[0][0].get("affiliation", "")
            items = "".join(
                f"<item affiliation='{wanted}' jid='{jid}'/>"
                for jid, affiliation in self.affiliations.items()
                if affiliation == wanted
            )
            self._answer(xml, f"<query xmlns='{MUC_ADMIN}'>{items}</query>")
        elif payload == f"{{{MUC_OWNER}}}query":
            self._answer(xml, "")
        else:
            self._error(xml, "forbidden", "auth")

    def _on_query(self, xml: ET.Element) -> None:
        if "archive" in self.refuses:
            self._error(xml, *self.refuses["archive"])
            return
        query = xml[0]
        after = query.findtext(f"{{{RSM}}}set/{{{RSM}}}after")
        count = int(query.findtext(f"{{{RSM}}}set/{{{RSM}}}max") or "50")
        start = next(
            (v.text or "" for v in query.iter() if v.tag.endswith("}value") and v.text != MAM), ""
        )
        ids = [said.archive_id for said in self.archive]
        if after is not None and after not in ids:
            self._error(xml, "item-not-found", "cancel")
            return
        rest = self.archive[ids.index(after) + 1 :] if after is not None else self.archive
        rest = [said for said in rest if stamp(said.at_ms) >= start]
        page = rest[:count]
        for said in page:
            item = ""
            if "muc_nonanonymous" in self.features:
                item = f"<x xmlns='{MUC_USER}'><item jid='{said.jid}'/></x>"
            head = self._head(said).replace("<message ", "<message xmlns='jabber:client' ")
            self._to(
                xml.get("from", ""),
                f"<message from='{ROOM}' to='%s'>",
                f"<result xmlns='{MAM}' id='{said.archive_id}' queryid='{query.get('queryid')}'>"
                "<forwarded xmlns='urn:xmpp:forward:0'>"
                f"<delay xmlns='urn:xmpp:delay' stamp='{stamp(said.at_ms)}'/>"
                f"{head % ''}{said.inner}{item}</message></forwarded></result>",
            )
        last = f"<last>{page[-1].archive_id}</last>" if page else ""
        complete = "true" if len(page) == len(rest) else "false"
        self._answer(
            xml, f"<fin xmlns='{MAM}' complete='{complete}'><set xmlns='{RSM}'>{last}</set></fin>"
        )

    # --- stanzas to us --------------------------------------------------------------------------

    def _ours(self) -> list[Person]:
        return [person for person in self.people.values() if person.jid.endswith(OURS)]

    def _show(self, person: Person) -> None:
        for other in self._ours():
            self._show_to(person, other)

    def _show_to(self, person: Person, other: Person, more: Sequence[int] = ()) -> None:
        statuses = list(more)
        if person is other:
            statuses += [110]
            if "muc_nonanonymous" in self.features:
                statuses += [100]
        sees = "muc_nonanonymous" in self.features or other.affiliation in ("owner", "admin")
        inner = self._item(person, statuses, sees=sees)
        self._to(other.jid, f"<presence from='{ROOM}/{person.nickname}' to='%s'>", inner)

    def _remove(
        self, person: Person, statuses: Sequence[int], *, reason: str = "", actor: str = ""
    ) -> None:
        del self.people[person.nickname]
        for other in [*self._ours(), *([person] if person.jid.endswith(OURS) else [])]:
            codes = [*statuses, *([110] if other is person else [])]
            inner = self._item(person, codes, reason=reason, actor=actor, is_gone=True)
            head = f"<presence from='{ROOM}/{person.nickname}' type='unavailable' to='%s'>"
            self._to(other.jid, head, inner)

    def _item(
        self,
        person: Person,
        statuses: Sequence[int],
        *,
        sees: bool | None = None,
        new: str = "",
        reason: str = "",
        actor: str = "",
        is_gone: bool = False,
    ) -> str:
        sees = "muc_nonanonymous" in self.features if sees is None else sees
        jid = f" jid={quoteattr(person.jid)}" if sees else ""
        nick = f" nick={quoteattr(new)}" if new else ""
        role = "none" if is_gone else person.role
        by = f"<actor nick={quoteattr(actor)}/>" if actor else ""
        why = f"<reason>{escape(reason)}</reason>" if reason else ""
        codes = "".join(f"<status code='{code}'/>" for code in statuses)
        mark = self._mark(person) if "urn:xmpp:occupant-id:0" in self.features else ""
        return (
            f"<x xmlns='{MUC_USER}'><item affiliation='{person.affiliation}' role='{role}'"
            f"{jid}{nick}>{by}{why}</item>{codes}</x>{mark}"
        )

    def _mark(self, person: Person) -> str:
        return f"<occupant-id xmlns='urn:xmpp:occupant-id:0' id='id-{person.bare}'/>"

    def _x(self, statuses: Sequence[int]) -> str:
        codes = "".join(f"<status code='{code}'/>" for code in statuses)
        return f"<x xmlns='{MUC_USER}'>{codes}</x>"

    def _to_all(self, head: str, inner: str) -> None:
        for person in self._ours():
            self._to(person.jid, head, inner)

    def _to(self, jid: str, head: str, inner: str) -> None:
        kind = head[1:].partition(" ")[0]
        text = f"{head % jid}{inner}</{kind}>".replace("<message ", "<message ", 1)
        first = head.partition(" ")[0]
        self.deliver(ET.fromstring(text.replace(first, f"{first} xmlns='{COMPONENT}'", 1)))

    def _answer(self, iq: ET.Element, inner: str) -> None:
        head = f"<iq type='result' from='{iq.get('to')}' id='{iq.get('id')}' to='%s'>"
        self._to(iq.get("from", ""), head, inner)

    def _error(self, xml: ET.Element, condition: str, type: str) -> None:
        kind = xml.tag.rpartition("}")[2]
        id = quoteattr(xml.get("id", ""))
        head = f"<{kind} type='error' from={quoteattr(xml.get('to', ''))} id={id} to='%s'>"
        inner = f"<error type='{type}'><{condition} xmlns='{_STANZAS}'/></error>"
        self._to(xml.get("from", ""), head, inner)
