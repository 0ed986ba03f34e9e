"""Plumbing: an existing room and a foreign chat become one, and two again, on somebody's word.

Whoever plumbs needs power in the room *and* must own or administer the chat, or is an admin of
this gateway. What nobody says allows nothing: where the chat does not tell who they are, somebody
who owns or administers it writes a code there. To end it, either side's word is enough.

1. The room: the bot is in it, or comes in. The caller's power there.
2. It is no direct chat, not encrypted, has no other chat, and no other bridge to this one; the
   bot's power there, which puts the bridge into the room's state (MSC2346).
3. The chat: it exists, is none of ours, and has no other room that anybody is in.
4. The caller's standing in the chat, or the code; after a code, 1 to 3 again.
5. The state, the row, a guest for everybody in the room, a word to the room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, TraceId, UserId, server_of
from bridge.portals import bridge_info
from bridge.portals.access import ChatQuestions
from bridge.portals.chats import Chats
from bridge.portals.ghosts import Ghosts
from bridge.portals.notices import Notices
from bridge.ports.chat import AddressMap, ChatInfo
from bridge.ports.matrix import MatrixBackend, Power
from bridge.storage import guests, occupants
from bridge.storage import portals as portal_rows
from bridge.storage.database import Database
from bridge.storage.portals import DIRECT, ENCRYPTED, FORMER, OF_CHAT, PLUMBED, PORTAL, Portal
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
LEAST_POWER = 50
"""Whatever a room lets everybody do: to bridge it is a moderator's decision."""
CONFIRM_S = 600.0
MAX_CONFIRMING = 20
RULERS = ("owner", "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalView:
    """A foreign chat and its room, as `list` shows them."""

    kind: str
    """`portal`: the room was made for the chat; `plumbed`: it was there before."""
    chat: str
    room_id: RoomId
    alias: RoomAlias | None
    name: str | None
    guests: int
    """Our people in the chat."""
    occupants: int
    """The chat's own people who are in it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """A plumbing that waits for a code."""

    caller: UserId
    chat: str
    room_id: RoomId
    code: str


class Plumbing:
    """Answers are words for the caller. What was not done raises Refused, NotFound, BadInput or
    Unavailable, whose reason is the answer."""

    def __init__(
        self,
        *,
        database: Database,
        backend: MatrixBackend,
        addresses: AddressMap,
        ghosts: Ghosts,
        notices: Notices,
        chats: Chats,
        access: ChatQuestions,
        random: Random,
    ) -> None:
        """`random` makes the codes: nobody may guess it."""
        self._database = database
        self._backend = backend
        self._addresses = addresses
        self._adapter = addresses.adapter
        self._ghosts = ghosts
        self._notices = notices
        self._chats = chats
        self._access = access
        self._random = random
        self._wishes: asyncio.Queue[_Wish] = asyncio.Queue(maxsize=MAX_CONFIRMING)
        self._confirming: dict[str, _Wish] = {}

    # --- what there is ----------------------------------------------------------------------

    async def list_portals(self, viewer: UserId | None = None) -> Sequence[PortalView]:
        """In the order of their making; for a `viewer` those that are no secret to them."""
        return [
            await self._view(portal)
            for portal in await self._chats.all()
            if viewer is None or await self._may_know(viewer, portal)
        ]

    async def _may_know(self, viewer: UserId, portal: Portal) -> bool:
        """A room that is not open to everybody is known to its members alone."""
        if portal.kind == PORTAL or portal.room_id is None:
            return portal.kind == PORTAL
        try:
            if (await self._backend.room(portal.room_id)).join_rule == "public":
                return True
            member = await self._backend.member(portal.room_id, viewer)
        except NotFound:
            return False
        return member is not None and member.membership in ("join", "invite")

    async def find(
        self, *, chat: str | None = None, room_id: RoomId | None = None
    ) -> PortalView | None:
        portal: Portal | None = None
        if chat is not None:
            portal = await self._chats.find(chat)
        elif room_id is not None:
            portal = await self._chats.of_room(room_id)
        return None if portal is None else await self._view(portal)

    async def _view(self, portal: Portal) -> PortalView:
        room_id = portal.room_id or RoomId("")
        name: str | None = None
        alias: RoomAlias | None = None
        try:
            info = await self._backend.room(room_id)
            name, alias = info.name, info.canonical_alias
        except NotFound:
            pass  # gone; the next look at it finds that out
        present, ours = await self._database.read(
            lambda tx: (
                occupants.count_present(tx, adapter=self._adapter, chat=portal.chat),
                guests.count_in(tx, adapter=self._adapter, chat=portal.chat),
            )
        )
        return PortalView(
            kind=portal.kind,
            chat=portal.chat,
            room_id=room_id,
            alias=alias,
            name=name,
            guests=ours,
            occupants=present,
        )

    # --- plumb ------------------------------------------------------------------------------

    async def plumb(self, *, caller: UserId, is_admin: bool, chat: str, room_id: RoomId) -> str:
        if self._chats.is_own(chat):
            raise Refused(f"{chat} is a Matrix room already: it needs no other")
        await self._enter(caller, room_id)
        await self._check_room(caller, chat, room_id, is_admin=is_admin)
        await self._check_chat(chat, room_id)
        info = await self._describe(chat)
        if not is_admin:
            standing = await self._access.affiliation(chat, caller)
            if standing is None:
                return self._ask_for_code(caller, chat, room_id)
            if standing not in RULERS:
                raise Refused(f"only who owns or administers {chat} may bridge it; you do not")
        return await self._connect(caller, info, chat, room_id, is_admin=is_admin)

    async def _enter(self, caller: UserId, room_id: RoomId) -> None:
        bot = self._backend.bot
        try:
            member = await self._backend.member(room_id, bot)
        except NotFound:
            member = None
        if member is not None and member.membership == "join":
            return
        try:
            await self._backend.join(user_id=bot, room_id=room_id, via=[server_of(caller)])
        except (Refused, NotFound, BadInput) as exc:
            raise Refused(f"I am not in {room_id}: invite {bot} there first") from exc

    async def _check_room(
        self, caller: UserId, chat: str, room_id: RoomId, *, is_admin: bool
    ) -> None:
        """Nothing about the room is told to whoever has no power there."""
        info = await self._backend.room(room_id)
        power = await self._backend.power(room_id)
        if not is_admin and not await self._has_power(caller, room_id, power):
            raise Refused(
                f"you need power level {_needed(power)} in {room_id} to bridge it, and to be in it"
            )
        if info.encrypted:
            raise Refused(f"{room_id} is encrypted: I could not read what is written there")
        if info.direct:
            raise Refused(f"{room_id} is a direct chat: name the room that is to be bridged")
        for portal in await self._database.read(lambda tx: portal_rows.of_room(tx, room_id)):
            if portal.kind in OF_CHAT:
                raise Refused(f"{room_id} is bridged to {portal.chat} already")
            if portal.kind in (DIRECT, FORMER, ENCRYPTED):
                raise Refused(f"{room_id} is somebody's chat with {portal.chat}")
        others = await self._chats.servers_bridging(room_id, chat)
        if others:
            raise Refused(
                f"{room_id} is bridged to {chat} by {', '.join(sorted(others))} already: with two "
                "bridges everything would come twice"
            )
        own = max(power.needed(f"state:{kind}") for kind in bridge_info.TYPES)
        if power.level(self._backend.bot) < own:
            raise Refused(
                f"I need power level {own} in {room_id} to say there what it is bridged to: please "
                f"give it to {self._backend.bot}"
            )

    async def _has_power(self, user_id: UserId, room_id: RoomId, power: Power) -> bool:
        member = await self._backend.member(room_id, user_id)
        is_in = member is not None and member.membership == "join"
        return is_in and power.level(user_id) >= _needed(power)

    async def _check_chat(self, chat: str, room_id: RoomId) -> None:
        """Refused where it has a room that somebody uses."""
        portal = await self._chats.find(chat)
        if portal is None or portal.room_id is None:
            return
        if portal.kind == PLUMBED:
            raise Refused(f"{chat} is bridged to {portal.room_id} already")
        try:
            people = await self._chats.people_in(portal.room_id)
        except NotFound:
            return
        if people:
            raise Refused(
                f"{chat} has the room {self._addresses.alias_of(chat)} already, with {len(people)} "
                "from Matrix in it"
            )

    async def _describe(self, chat: str) -> ChatInfo:
        try:
            return await self._access.describe(chat)
        except NotFound as exc:
            raise NotFound(f"there is no chat {chat}") from exc

    async def _connect(
        self, caller: UserId, info: ChatInfo, chat: str, room_id: RoomId, *, is_admin: bool
    ) -> str:
        async with self._chats.holding(room_id), self._chats.holding(chat):
            # Somebody may have been quicker.
            await self._check_room(caller, chat, room_id, is_admin=is_admin)
            await self._check_chat(chat, room_id)
            unused = await self._chats.find(chat)
            if unused is not None:
                await self._chats.let_go(unused, reason="The chat has another room now.")
            await self._chats.finish_closing(chat)
            await self._chats.show_bridge(room_id, chat=chat, name=info.name, creator=caller)
            await self._chats.bind(PLUMBED, chat=chat, room_id=room_id)
        await self._say(room_id, f"This room is bridged to {chat} now, by {caller}.")
        log.info("plumbed", chat=chat, room_id=room_id, user_id=caller)
        return f"{chat} and {room_id} are bridged now."

    async def _say(self, room_id: RoomId, text: str) -> None:
        number = self._chats.new_number()
        await self._notices.tell_room(
            room_id=room_id,
            sender=self._backend.bot,
            text=text,
            cause=f"plumbing/{number}",
            trace=TraceId(number),
        )

    # --- by a code --------------------------------------------------------------------------

    def _ask_for_code(self, caller: UserId, chat: str, room_id: RoomId) -> str:
        current = self._confirming.get(chat)
        if current is not None and (current.caller, current.room_id) != (caller, room_id):
            raise Unavailable(f"somebody else is bridging {chat} just now: try again later")
        if current is None:
            # Whoever confirms it sees to which room.
            code = f"bridge {room_id} {self._random.randrange(1_000_000):06}"
            current = _Wish(caller=caller, chat=chat, room_id=room_id, code=code)
            if any(wish.caller == caller for wish in self._confirming.values()):
                raise Refused("you wait for a code in another chat already: one after the other")
            if len(self._confirming) >= MAX_CONFIRMING:
                raise Unavailable("too many wait for a code just now: try again later")
            self._confirming[chat] = current
            self._wishes.put_nowait(current)
        return (
            f"I cannot see whether you own or administer {chat}. Somebody who does must write "
            f"exactly this there within {CONFIRM_S / 60:.0f} minutes: {current.code}"
        )

    async def run(self) -> None:
        """Waits for codes."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self.confirm(await self._wishes.get()))

    async def confirm_next(self) -> None:
        """Waits for one code, if any was given out."""
        if not self._wishes.empty():
            await self.confirm(self._wishes.get_nowait())

    async def confirm(self, wish: _Wish) -> None:
        """Waits for a code, then plumbs; the caller's power in the room counts at that moment."""
        chat, room_id = wish.chat, wish.room_id
        try:
            by = await self._access.await_confirmation(chat, wish.code, timeout_s=CONFIRM_S)
            if by is None:
                raise Refused("nobody has written the code there in time")
            info = await self._describe(chat)
            answer = await self._connect(wish.caller, info, chat, room_id, is_admin=False)
            answer += f" {by} has confirmed it there."
        except IsthmusError as exc:
            answer = f"{chat} and {room_id} are not bridged: {exc.reason}"
            log.info("not plumbed", chat=chat, room_id=room_id, reason=exc.reason)
        except Exception:  # the border of one command, which goes on here
            log.exception("plumbing failed", chat=chat, room_id=room_id)
            answer = f"{chat} and {room_id} are not bridged, because of a fault of mine."
        finally:
            del self._confirming[chat]
        try:
            await self._tell(wish, answer)
        except Unavailable as exc:
            log.warning("nobody told", room_id=room_id, reason=exc.reason)

    async def _tell(self, wish: _Wish, text: str) -> None:
        await self._say(wish.room_id, text)
        address = await self._ghosts.find_address(wish.caller)
        if address is not None:
            number = self._chats.new_number()
            await self._notices.tell_address(
                address=address, text=text, cause=f"plumbing/{number}", trace=TraceId(number)
            )

    # --- the end of it ----------------------------------------------------------------------

    async def unplumb(self, *, caller: UserId, is_admin: bool, chat: str) -> str:
        """Of either kind; a room that was made for the chat is given up."""
        portal = await self._chats.find(chat)
        if portal is None or portal.room_id is None:
            raise NotFound(f"{chat} is not bridged to any room")
        room_id = portal.room_id
        if not is_admin and not await self._may_end(caller, chat, room_id):
            raise Refused(
                f"this takes power level {LEAST_POWER} in {room_id}, or who owns or administers "
                f"{chat}"
            )
        async with self._chats.holding(chat):
            current = await self._chats.find(chat)
            if current is None or current.portal_id != portal.portal_id:
                raise NotFound(f"{chat} is not bridged to {room_id} any more")
            await self._say(room_id, f"This room is not bridged to {chat} any more, by {caller}.")
            await self._chats.let_go(current, reason="This room is not bridged any more.")
        return f"{chat} and {room_id} are not bridged any more."

    async def _may_end(self, caller: UserId, chat: str, room_id: RoomId) -> bool:
        try:
            power = await self._backend.power(room_id)
            if await self._has_power(caller, room_id, power):
                return True
        except NotFound:
            pass
        try:
            return await self._access.affiliation(chat, caller) in RULERS
        except (NotFound, Refused):
            return False


def _needed(power: Power) -> int:
    """What a room asks of whoever bridges it. What it does not name counts as its default, and
    never as less than a moderator's."""
    return max(LEAST_POWER, *(power.needed(f"state:{kind}") for kind in bridge_info.TYPES))
