"""Stanzas of the chats that we visit. All copies but the listener's are dropped unread.

Each message in a chat comes once for every guest of ours. One guest, the listener, is heard; the
others only in what concerns themselves: their own presence, errors, a post they wait for. `drops`
says so at the start tag of a stanza, `take` reads what is left; both are called at the arrival and
in its order, so that they see the same, and must stay cheap: two look-ups by raw address.

Nothing is ever answered with an error to a room: some remove an occupant for that.
Spec: XEP-0045, 7 to 10.
"""

from __future__ import annotations

from typing import Final, Protocol
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound
from bridge.adapters.xmpp.namespaces import COMPONENT, MUC_USER
from bridge.adapters.xmpp.occupant import entering, presences
from bridge.adapters.xmpp.occupant.chat import Guest, VisitedChat
from bridge.adapters.xmpp.occupant.posting import error_from
from bridge.adapters.xmpp.occupant.presences import MucPresence, read_presence
from bridge.adapters.xmpp.occupant.reading import Reading
from bridge.clock import Clock
from bridge.errors import Unavailable
from bridge.ports.chat import SubjectChanged
from bridge.ports.ephemeral import ChatRead, ChatTyping

_MESSAGE: Final = "{jabber:component:accept}message"
_PRESENCE: Final = "{jabber:component:accept}presence"
_RECENT_KEPT: Final = 500
_OWN_POSTS: Final = 100


class Keeper(Protocol):
    """What the chats' keeper does about what is heard; nothing here waits for it."""

    def find(self, chat: str) -> VisitedChat | None: ...

    def on_told(self, chat: VisitedChat) -> None:
        """Something waits to be told, or may be caught up on."""

    def on_removed(self, chat: VisitedChat, guest: Guest, presence: MucPresence) -> None: ...

    def on_lost(self, chat: VisitedChat) -> None:
        """Somebody is out without anybody's decision."""

    def on_destroyed(self, chat: VisitedChat, presence: MucPresence) -> None: ...

    def on_configured(self, chat: VisitedChat) -> None: ...

    def on_created(self, chat: VisitedChat, guest: Guest) -> None: ...

    def on_private(self, xml: ET.Element) -> None:
        """Somebody writes to one of ours inside the room, and nobody else sees it."""

    def on_renamed(self, chat: VisitedChat, guest: Guest) -> None:
        """The room gave one of ours another nickname."""

    def on_read(self, chat: VisitedChat, archive_id: str) -> None:
        """Up to here everything is stored: only posts of ours came behind it."""

    def on_identity(self, chat: VisitedChat) -> None: ...

    def is_small(self, chat: VisitedChat) -> bool:
        """Whether it matters there who types."""
        ...

    def on_state(self, change: ChatTyping | ChatRead) -> None:
        """Somebody of the chat types, or has read."""


class Listening:
    def __init__(
        self,
        *,
        keeper: Keeper,
        reading: Reading,
        clock: Clock,
        component: str,
    ) -> None:
        self._keeper = keeper
        self._reading = reading
        self._clock = clock
        self._component = component

    def drops(self, kind: str, sender: str, to: str, type: str) -> bool:
        """Whether `take` would take the stanza and make nothing of it, whatever it contains."""
        bare, _, nickname = sender.partition("/")
        chat = self._keeper.find(bare)
        if chat is None:
            return False
        guest = chat.by_address.get(to)
        if kind == "message":
            if type != "groupchat":
                return False
            return guest is None or (guest is not chat.listener and nickname != guest.nickname)
        if kind != "presence" or type not in ("", "unavailable"):
            return False
        if guest is None:
            return True
        is_at_rest = guest.asked is None and guest is not chat.listener
        return is_at_rest and nickname != guest.nickname

    def take(self, xml: ET.Element) -> bool:
        """Whether the stanza belongs to a chat that we visit; it goes nowhere else then."""
        bare, _, nickname = xml.get("from", "").partition("/")
        chat = self._keeper.find(bare)
        if chat is None:
            return False
        guest = chat.by_address.get(xml.get("to", ""))
        type = xml.get("type", "")
        if xml.tag == _MESSAGE:
            if type == "groupchat":
                if guest is None:
                    return True
                if guest is chat.listener:
                    self._on_group_message(chat, xml, nickname)
                elif nickname == guest.nickname:
                    mark = presences.archive_id(xml, chat.name) if chat.has_archive else None
                    chat.reflections.see(presences.ids_of(xml), mark)
                return True
            if guest is None:
                return False  # an invitation, perhaps
            if type == "error":
                chat.reflections.fail(xml.get("id", ""), error_from(xml))
            elif nickname and type in ("", "normal", "chat"):
                self._keeper.on_private(xml)
            return True
        if xml.tag != _PRESENCE:
            return False
        if guest is not None:
            self._on_presence(chat, guest, xml, nickname, type)
        return True

    # --- presence -------------------------------------------------------------------------------

    def _on_presence(
        self, chat: VisitedChat, guest: Guest, xml: ET.Element, nickname: str, type: str
    ) -> None:
        if type == "error":
            if guest.asked is not None and nickname in (guest.asked, ""):
                self._on_refused(chat, guest, guest.asked, xml)
            return
        if type not in ("", "unavailable"):
            return
        is_own = bool(nickname) and (
            nickname == (guest.asked if guest.state == "entering" else guest.nickname)
        )
        is_told = guest is chat.listener or (guest.asked is not None and _is_self(xml))
        if not is_own and not is_told:
            return
        presence = read_presence(xml, nickname)
        if is_own or presences.SELF in presence.statuses:
            if presence.is_gone:
                self._on_own_gone(chat, guest, presence)
            else:
                self._on_own(chat, guest, presence)
        elif guest is chat.listener and nickname:
            self._on_other(chat, presence)

    def _on_refused(self, chat: VisitedChat, guest: Guest, asked: str, xml: ET.Element) -> None:
        guest.resolve(entering.error_from(xml))
        if inbound.condition_of(xml) != entering.TAKEN:
            return
        guest.asked = None
        if guest.nickname == asked and not guest.is_in:
            guest.nickname = ""  # somebody else's now
        presence = chat.undecided.pop(asked, None)
        if presence is not None:
            self._on_other(chat, presence)

    def _on_own(self, chat: VisitedChat, guest: Guest, presence: MucPresence) -> None:
        guest.affiliation = presence.affiliation
        if guest.is_in and presence.nickname != guest.nickname:
            guest.nickname = presence.nickname  # what told us so was lost
            guest.resolve()
        if guest.state != "entering":
            return  # nothing new, or too late an answer: they ask again
        guest.nickname = presence.nickname
        guest.state = "in"
        chat.undecided.pop(presence.nickname, None)
        if presences.CREATED in presence.statuses:
            self._keeper.on_created(chat, guest)
        if guest is chat.listener:
            chat.heard_s = self._clock.monotonic_s()
            chat.in_history = True
            chat.table, chat.coming = chat.coming, {}
            chat.table.pop(guest.nickname, None)
            # Who enters while still in is not told so by every service; it was asked just now, too.
            says_so = chat.info is not None and chat.info.shows_addresses
            shows = presences.SHOWS_ADDRESSES in presence.statuses or says_so
            if chat.identify(shows_addresses=shows):
                self._keeper.on_identity(chat)
            chat.needs_roll = False
            chat.tell_roll()
            self._keeper.on_told(chat)
        guest.resolve()

    def _on_own_gone(self, chat: VisitedChat, guest: Guest, presence: MucPresence) -> None:
        if presences.RENAMED in presence.statuses and presence.new_nickname:
            guest.nickname = presence.new_nickname
            if guest.asked is None:
                self._keeper.on_renamed(chat, guest)
            chat.undecided.pop(guest.nickname, None)
            guest.resolve()
            return
        was = guest.state
        chat.lose(guest)
        guest.affiliation = None
        if presence.destroyed is not None:
            self._keeper.on_destroyed(chat, presence)
        elif was == "in" and presence.how != "left":
            self._keeper.on_removed(chat, guest, presence)
        elif was == "in":
            self._keeper.on_lost(chat)
        if was == "entering":
            guest.resolve(Unavailable("the room put them out again"))
        else:
            guest.resolve()
        self._keeper.on_told(chat)

    def _on_other(self, chat: VisitedChat, presence: MucPresence) -> None:
        if self._is_ours(chat, presence):
            return
        listener = chat.listener
        if listener is not None and listener.state == "entering":
            if not presence.is_gone:
                chat.expect(chat.seen(presence))
            return
        if not presence.is_gone:
            chat.see(chat.seen(presence))
        elif presences.RENAMED in presence.statuses and presence.new_nickname:
            seen = chat.table.get(presence.nickname)
            if seen is not None:
                chat.rename(seen, presence.new_nickname)
        else:
            chat.unsee(presence)
        self._keeper.on_told(chat)

    def _is_ours(self, chat: VisitedChat, presence: MucPresence) -> bool:
        """By the real address where it is shown, else by the nickname that a guest holds. One that
        a guest is just asking for, or held before we were away, may be a stranger's by now: that
        is told by the answer to the guest.
        """
        nickname = presence.nickname
        if presence.address is not None:
            return presence.address.domain == self._component
        if chat.guest_named(nickname) is not None:
            return True
        if nickname in chat.shown or not chat.is_hoped_for(nickname):
            return False
        if presence.is_gone:
            chat.undecided.pop(nickname, None)
        else:
            chat.undecided[nickname] = presence
        return True

    # --- messages -------------------------------------------------------------------------------

    def _on_group_message(self, chat: VisitedChat, xml: ET.Element, nickname: str) -> None:
        chat.heard_s = self._clock.monotonic_s()
        if not nickname:
            self._on_room(chat, xml)
            return
        mark = presences.archive_id(xml, chat.name) if chat.has_archive else None
        at_ms = presences.delayed_ms(xml, chat.name) if chat.in_history else None
        is_own = chat.guest_named(nickname) is not None
        subject = _subject(xml)
        if subject is not None:
            self._on_subject(chat, nickname, subject, at_ms, is_own=is_own)
        elif at_ms is not None:
            self._on_history(chat, xml, nickname, at_ms)
        elif is_own:
            chat.reflections.see(presences.ids_of(xml), mark)
            self._count(chat, mark)
        else:
            chat.in_history = False
            self._watch(chat, xml, nickname)
            self._on_live(chat, xml, nickname, mark)

    def _count(self, chat: VisitedChat, mark: str | None) -> None:
        """A room where we alone write would have to be read from its beginning else."""
        chat.own_posts += 1
        is_still = not (chat.waiting or chat.is_behind or chat.is_worked or chat.is_silent)
        if mark is not None and chat.own_posts >= _OWN_POSTS and is_still:
            chat.own_posts = 0
            self._keeper.on_read(chat, mark)

    def _on_live(self, chat: VisitedChat, xml: ET.Element, nickname: str, mark: str | None) -> None:
        if chat.is_silent:
            return
        for change in self._reading.to_states(chat, xml, nickname):
            if isinstance(change, ChatRead) or self._keeper.is_small(chat):
                self._keeper.on_state(change)
        message = self._reading.to_message(
            chat, xml, nickname, archive_id=mark, at_ms=None, source="live"
        )
        if message is None:
            return
        if mark is None:
            while len(chat.recent) >= _RECENT_KEPT:
                del chat.recent[next(iter(chat.recent))]
            chat.recent[message.stanza_id, message.fingerprint] = None
        chat.tell(message)
        self._keeper.on_told(chat)

    def _on_history(self, chat: VisitedChat, xml: ET.Element, nickname: str, at_ms: int) -> None:
        """With an archive that is read instead. Spec: XEP-0045, 7.2.14."""
        if self._reading.see_own(chat, xml, nickname, None):
            return
        if chat.is_silent or chat.has_archive or not chat.wants_history:
            return
        message = self._reading.to_message(
            chat, xml, nickname, archive_id=None, at_ms=at_ms, source="history"
        )
        if message is None or (message.stanza_id, message.fingerprint) in chat.recent:
            return
        chat.tell(message)
        self._keeper.on_told(chat)

    def _on_room(self, chat: VisitedChat, xml: ET.Element) -> None:
        """The chat speaks itself: about its configuration, or its subject. Anything else that it
        says is for clients to show, and nobody's message."""
        statuses = presences.message_statuses(xml)
        if statuses & presences.SEMI_ANONYMOUS and chat.identify(shows_addresses=False):
            self._keeper.on_identity(chat)
            chat.tell_roll()
        if statuses:
            self._keeper.on_configured(chat)
        subject = _subject(xml)
        if subject is not None:
            at_ms = presences.delayed_ms(xml, chat.name) if chat.in_history else None
            self._on_subject(chat, "", subject, at_ms, is_own=False)
        self._keeper.on_told(chat)

    def _on_subject(
        self, chat: VisitedChat, nickname: str, text: str, at_ms: int | None, *, is_own: bool
    ) -> None:
        """It is shown at the end of each entering: news only when it differs."""
        chat.in_history = False
        asked = chat.subject_asked
        if is_own and asked is not None and asked[1] == text:
            chat.reflections.see([asked[0]], None)
        is_news = text != chat.subject
        chat.subject = text
        if not is_news or is_own:
            return
        seen = chat.table.get(nickname)
        chat.tell(
            SubjectChanged(
                chat=chat.name,
                occupant=None if seen is None else seen.occupant,
                text=text,
                at_ms=at_ms,
            )
        )
        self._keeper.on_told(chat)

    def _watch(self, chat: VisitedChat, xml: ET.Element, nickname: str) -> None:
        """An owner or admin says what somebody waits for. The room vouches for both."""
        if not chat.watches:
            return
        seen = chat.table.get(nickname)
        if seen is None or seen.affiliation not in ("owner", "admin"):
            return
        text = presences.body_of(xml).strip()
        for watch in chat.watches:
            # Nothing more: who asks what it means has not agreed.
            if watch.code == text and not watch.found.done():
                watch.found.set_result(nickname)


def _is_self(xml: ET.Element) -> bool:
    path = f"{{{MUC_USER}}}x/{{{MUC_USER}}}status"
    return any(status.get("code") == "110" for status in xml.iterfind(path))


def _subject(xml: ET.Element) -> str | None:
    """Spec: XEP-0045, 8.1: a subject and no body."""
    found = xml.find(f"{{{COMPONENT}}}subject")
    if found is None or xml.find(f"{{{COMPONENT}}}body") is not None:
        return None
    return None if xml.find(f"{{{COMPONENT}}}thread") is not None else found.text or ""
