"""Members on the Matrix side: invites accepted or passed on, rooms opened and closed.

A ghost takes an `is_direct` invite at once; any other invite becomes an invitation on the chat
side, and is accepted when the person enters. The bot takes every invite. When either side of a
direct chat leaves, its portal closes.

Events are told at least once, and again after a crash: what is not true any more (an invite that
was answered since, somebody who left and came back) changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from bridge.clock import Clock
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomAlias, RoomId, ServerName, UserId, server_of
from bridge.portals.directory import Directory, direct_lane
from bridge.portals.ghosts import Ghosts
from bridge.portals.moves import Moves
from bridge.portals.notices import Notices
from bridge.ports.chat import RoomInvite
from bridge.ports.codec import to_tagged
from bridge.ports.command import Caller
from bridge.ports.matrix import MatrixBackend, RoomEvent
from bridge.storage import queues
from bridge.storage.database import Database
from bridge.storage.portals import DIRECT, ENCRYPTED, FORMER, MANAGEMENT, Portal
from bridge.telemetry.log import get_logger

log = get_logger(__name__)

MAX_REASON = 500
MAX_JOIN_TRIES = 5
MAX_JOINING = 1_000
_JOIN_PAUSES_S = (0.1, 0.3)
ENCRYPTED_TEXT = (
    "This chat is encrypted, and {address} is on XMPP: the gateway between us cannot read what you "
    "write here, so nothing of it is delivered. I have invited you to another chat without "
    "encryption. Please write there; it will be used from now on."
)
HIDDEN_TEXT = (
    "Their address is hidden: they can be written to in the chat {chat} only, by everybody in it."
)


def is_occupant(address: str) -> bool:
    """Whether this stands for somebody of one chat who hides their own address (`ports.chat`)."""
    return "/" in address


Greet = Callable[[Caller], Awaitable[str]]


class Membership:
    def __init__(
        self,
        *,
        database: Database,
        backend: MatrixBackend,
        directory: Directory,
        ghosts: Ghosts,
        notices: Notices,
        adapter: str,
        clock: Clock,
        moves: Moves,
        greet: Greet | None = None,
    ) -> None:
        """`greet`: what the bot says first to whoever invites it."""
        self._database = database
        self._backend = backend
        self._directory = directory
        self._ghosts = ghosts
        self._notices = notices
        self._adapter = adapter
        self._clock = clock
        self._moves = moves
        self._greet = greet
        # How often the join that an invite asks for was refused.
        self._join_tries: dict[EventId, int] = {}

    async def on_member(self, event: RoomEvent) -> None:
        """One m.room.member event; idempotent."""
        user_id = UserId(event.state_key or "")
        membership = event.content.get("membership")
        now = await self._backend.member(event.room_id, user_id)
        is_in = now is not None and now.membership in ("join", "invite")
        if membership == "invite" and server_of(user_id) == self._backend.server_name:
            if is_in:
                await self._on_invite(event, user_id)
        elif membership in ("leave", "ban"):
            if not is_in:
                for portal in await self._directory.of_room(event.room_id):
                    await self._on_gone(event, portal, user_id)
        elif membership == "join":
            for portal in await self._directory.of_room(event.room_id):
                await self._on_come(event, portal, user_id)

    async def _on_come(self, event: RoomEvent, portal: Portal, user_id: UserId) -> None:
        """Somebody is in a room that has a portal."""
        if portal.kind not in (DIRECT, FORMER):
            return
        if portal.user_id == user_id:
            await self._hasten(direct_lane(portal.adapter, portal.chat, portal.user_id))
        elif user_id != await self._ghosts.ensure(portal.chat):
            await self._notices.tell_address(
                address=portal.chat,
                text=f"{await self._name(user_id)} is now in your chat with {portal.user_id} and "
                "can read what you write there.",
                cause=f"third/{event.room_id}/{portal.portal_id}/{user_id}",
                trace=event.trace_id,
            )

    async def _name(self, user_id: UserId) -> str:
        """An address of the chat side as such, everybody else by their user ID."""
        return await self._ghosts.find_address(user_id) or user_id

    async def _hasten(self, lane: str) -> None:
        """Messages that waited for this person to come are due now."""
        await self._database.write(
            lambda tx: queues.hasten(tx, queues.INBOX, lane, now_ms=self._clock.now_ms())
        )

    async def _on_invite(self, event: RoomEvent, user_id: UserId) -> None:
        via = [server_of(event.sender)]
        before = await self._moves.follows(event, user_id)
        if before is not None:
            # They are in the room that this one replaces, and were asked along.
            if await self._join(event, user_id, via):
                await self._moves.hasten(before)
            return
        if user_id == self._backend.bot:
            if await self._join(event, user_id, via):
                await self._directory.bind_management(user_id=event.sender, room_id=event.room_id)
                await self._greet_inviter(event)
            return
        address = await self._ghosts.find_address(user_id)
        if address is None:
            log.info("an invite for nobody", room_id=event.room_id, user_id=user_id)
            await self._directory.leave(
                user_id=user_id, room_id=event.room_id, reason="Nobody has this address."
            )
            return
        if event.sender == self._backend.bot:
            return  # The bot shows somebody of a foreign chat, who comes by themselves.
        if is_occupant(address):
            await self._directory.leave(
                user_id=user_id,
                room_id=event.room_id,
                reason=HIDDEN_TEXT.format(chat=address.partition("/")[0]),
            )
            return
        ghost = await self._ghosts.ensure(address)
        # Between two of our own there is no direct chat: theirs is on the chat side.
        if event.content.get("is_direct") is True and not event.own:
            with self._directory.adopting(address=address, user_id=event.sender):
                if not await self._join(event, ghost, via):
                    return
                is_for_two = await self._is_for_two(event.room_id, ghost, event.sender)
                is_bound = is_for_two and await self._bind_readable(
                    event, address=address, user_id=event.sender
                )
            if is_bound:
                await self._hasten(direct_lane(self._adapter, address, event.sender))
            elif is_for_two:
                await self.refuse_encrypted(event, address=address, user_id=event.sender)
            if is_for_two:
                return
        await self._invite_address(event, address)

    async def _greet_inviter(self, event: RoomEvent) -> None:
        if self._greet is None:
            return
        await self._notices.tell_room(
            room_id=event.room_id,
            sender=self._backend.bot,
            text=await self._greet(Caller(user_id=event.sender, room_id=event.room_id)),
            cause=f"greeting/{event.room_id}",
            trace=event.trace_id,
        )

    async def _is_for_two(self, room_id: RoomId, ghost: UserId, user_id: UserId) -> bool:
        """Whether nobody else is in a room that somebody called direct."""
        members = await self._backend.members(room_id)
        return {member.user_id for member in members} <= {ghost, user_id}

    async def find_again(self, event: RoomEvent) -> Sequence[Portal]:
        """Somebody writes to a ghost in a direct room that is no portal: they were quicker than we,
        or we ended before it became one. The answer goes where the question was asked."""
        try:
            info = await self._backend.room(event.room_id)
            members = await self._backend.members(event.room_id)
        except NotFound:
            return ()
        others = [one.user_id for one in members if one.user_id != event.sender]
        if not info.direct or len(members) != 2 or len(others) != 1:
            return ()
        address = await self._ghosts.find_address(others[0])
        if address is None:
            return ()
        log.info("a direct room found again", room_id=event.room_id, user_id=event.sender)
        await self.adopt_direct(event, address=address, user_id=event.sender)
        return await self._directory.of_room(event.room_id)

    async def _join(self, event: RoomEvent, user_id: UserId, via: list[ServerName]) -> bool:
        """An invite reaches us before the inviter's server has stored it, so that a first join may
        be refused: it is tried again, soon in here and then with the event."""
        problem: Refused | NotFound | BadInput
        for pause_s in (*_JOIN_PAUSES_S, None):
            try:
                await self._backend.join(user_id=user_id, room_id=event.room_id, via=via)
            except (Refused, NotFound, BadInput) as exc:
                problem = exc
                if pause_s is not None:
                    await self._clock.sleep(pause_s)
            else:
                self._join_tries.pop(event.event_id, None)
                return True
        tries = self._join_tries.pop(event.event_id, 0) + 1
        if tries < MAX_JOIN_TRIES:
            if len(self._join_tries) >= MAX_JOINING:
                self._join_tries.pop(next(iter(self._join_tries)))
            self._join_tries[event.event_id] = tries
            raise Unavailable(f"the invite could not be accepted yet: {problem.reason}")
        log.warning("invite not accepted", room_id=event.room_id, reason=problem.reason)
        await self._directory.leave(
            user_id=user_id,
            room_id=event.room_id,
            reason=f"The invite could not be accepted: {problem.reason}",
        )
        return False

    async def adopt_direct(self, event: RoomEvent, *, address: str, user_id: UserId) -> None:
        """A direct room that somebody made with a ghost: the chat's room from now on.

        Where it is encrypted, the person is told and gets another one.
        """
        if not await self._bind_readable(event, address=address, user_id=user_id):
            await self.refuse_encrypted(event, address=address, user_id=user_id)

    async def _bind_readable(self, event: RoomEvent, *, address: str, user_id: UserId) -> bool:
        if (await self._backend.room(event.room_id)).encrypted:
            return False
        await self._directory.bind_direct(address=address, user_id=user_id, room_id=event.room_id)
        return True

    async def refuse_encrypted(self, event: RoomEvent, *, address: str, user_id: UserId) -> bool:
        """Says in plain words, once, that the room is unreadable, and opens a readable one.
        False: they would not have it."""
        await self._directory.bind_encrypted(
            address=address, user_id=user_id, room_id=event.room_id
        )
        await self._notices.tell_room(
            room_id=event.room_id,
            sender=await self._ghosts.ensure(address),
            text=ENCRYPTED_TEXT.format(address=address),
            cause=f"encrypted/{event.room_id}",
            trace=event.trace_id,
        )
        current = await self._directory.find_direct(address=address, user_id=user_id)
        if current is not None and current.status == "refused":
            return False
        try:
            await self._directory.open_direct(
                address=address, user_id=user_id, trace=event.trace_id
            )
        except (Refused, NotFound, BadInput) as exc:
            log.warning("no readable room could be opened", user_id=user_id, reason=exc.reason)
            return False
        return True

    async def _invite_address(self, event: RoomEvent, address: str) -> None:
        alias, name = await self._names(event)
        reason = event.content.get("reason")
        invite = RoomInvite(
            to=address,
            room_id=event.room_id,
            alias=alias,
            name=name,
            inviter=event.sender,
            reason=reason if isinstance(reason, str) else None,
        )
        await self._database.write(
            lambda tx: queues.put_outbox(
                tx,
                lane=f"{self._adapter}:person:{address}",
                adapter=self._adapter,
                cause=f"invite/{event.event_id}",
                payload=to_tagged(invite),
                trace_id=event.trace_id,
                now_ms=self._clock.now_ms(),
            )
        )

    async def _names(self, event: RoomEvent) -> tuple[RoomAlias | None, str | None]:
        """Of the room that somebody is invited to: as we know it, or as the invite says."""
        try:
            info = await self._backend.room(event.room_id)
        except NotFound:
            said = {state.get("type"): state.get("content") for state in event.invite_state}
            alias = _text_of(said.get("m.room.canonical_alias"), "alias")
            name = _text_of(said.get("m.room.name"), "name")
            is_alias = alias is not None and alias.startswith("#") and ":" in alias
            return RoomAlias(alias) if alias is not None and is_alias else None, name
        return info.canonical_alias, info.name

    async def _on_gone(self, event: RoomEvent, portal: Portal, user_id: UserId) -> None:
        """Somebody left a room that has a portal, or was made to."""
        if portal.kind == MANAGEMENT:
            await self._leave_empty(event, portal, user_id)
            return
        if portal.kind not in (DIRECT, FORMER, ENCRYPTED):
            return
        ghost = self._ghosts.user_of(portal.chat)
        if user_id == portal.user_id:
            refused = event.sender == user_id and event.previous_membership == "invite"
            # First we go: once it is closed, nobody would remember to.
            await self._directory.leave(user_id=ghost, room_id=event.room_id)
        elif user_id == ghost:
            refused = event.sender != ghost
            if refused and portal.kind != ENCRYPTED:
                await self._tell_removed(event, portal)
        else:
            return
        await self._directory.close(portal, refused=refused and portal.kind == DIRECT)
        await self._hasten(direct_lane(portal.adapter, portal.chat, portal.user_id))

    async def _tell_removed(self, event: RoomEvent, portal: Portal) -> None:
        reason = _text_of(event.content, "reason")
        what = "banned you from" if event.content.get("membership") == "ban" else "ended"
        await self._notices.tell_address(
            address=portal.chat,
            text=f"{await self._name(event.sender)} has {what} your chat with {portal.user_id}"
            + (f": {reason[:MAX_REASON]}" if reason else "."),
            cause=f"removed/{event.event_id}/{portal.portal_id}",
            trace=event.trace_id,
        )

    async def _leave_empty(self, event: RoomEvent, portal: Portal, user_id: UserId) -> None:
        """The bot does not stay behind alone."""
        bot = self._backend.bot
        if user_id != bot:
            try:
                members = await self._backend.members(event.room_id)
            except NotFound:
                members = []
            if any(member.user_id != bot for member in members):
                return
            await self._directory.leave(user_id=bot, room_id=event.room_id)
        await self._directory.close(portal)


def _text_of(content: object, name: str) -> str | None:
    value = content.get(name) if isinstance(content, Mapping) else None
    return value if isinstance(value, str) else None
