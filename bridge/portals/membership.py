"""Members on the Matrix side: invites accepted or passed on, rooms opened and closed.

A ghost takes an `is_direct` invite at once; any other invite becomes an invitation on the chat
side, and is accepted when the person enters. The bot takes every invite. When either side of a
direct chat leaves, its portal closes.
"""

from __future__ import annotations

from bridge.clock import Clock
from bridge.errors import NotFound, Refused
from bridge.ids import RoomAlias, RoomId, ServerName, UserId, server_of
from bridge.portals.directory import Directory, direct_lane
from bridge.portals.ghosts import Ghosts
from bridge.portals.notices import Notices
from bridge.ports.chat import RoomInvite
from bridge.ports.codec import to_tagged
from bridge.ports.matrix import MatrixBackend, RoomEvent
from bridge.storage import queues
from bridge.storage.database import Database
from bridge.storage.portals import DIRECT, ENCRYPTED, Portal
from bridge.telemetry.log import get_logger

log = get_logger(__name__)

_JOIN_PAUSES_S = (0.1, 0.3, 1.0, 3.0, 10.0)
ENCRYPTED_TEXT = (
    "This chat is encrypted, and {address} is on XMPP: the gateway between us cannot read what you "
    "write here, so nothing of it is delivered. I have invited you to another chat without "
    "encryption. Please write there; it will be used from now on."
)


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
    ) -> None:
        self._database = database
        self._backend = backend
        self._directory = directory
        self._ghosts = ghosts
        self._notices = notices
        self._adapter = adapter
        self._clock = clock

    async def on_member(self, event: RoomEvent) -> None:
        """One m.room.member event; idempotent."""
        user_id = UserId(event.state_key or "")
        membership = event.content.get("membership")
        if membership == "invite" and server_of(user_id) == self._backend.server_name:
            await self._on_invite(event, user_id)
        if membership in ("leave", "ban"):
            for portal in await self._directory.of_room(event.room_id):
                await self._on_gone(event, portal, user_id)
        elif membership == "join":
            for portal in await self._directory.of_room(event.room_id):
                if portal.kind == DIRECT and portal.user_id == user_id:
                    await self._hasten(portal)

    async def _hasten(self, portal: Portal) -> None:
        """Messages that waited for this person to come are due now."""
        lane = direct_lane(portal.adapter, portal.chat, portal.user_id)
        await self._database.write(
            lambda tx: queues.hasten(tx, queues.INBOX, lane, now_ms=self._clock.now_ms())
        )

    async def _on_invite(self, event: RoomEvent, user_id: UserId) -> None:
        via = [server_of(event.sender)]
        if user_id == self._backend.bot:
            await self._join(user_id, event.room_id, via)
            await self._directory.bind_management(user_id=event.sender, room_id=event.room_id)
            return
        address = await self._ghosts.find_address(user_id)
        if address is None:
            log.info("an invite for nobody", room_id=event.room_id, user_id=user_id)
            return
        await self._ghosts.ensure(address)
        if event.content.get("is_direct") is True:
            if await self._join(user_id, event.room_id, via):
                await self.adopt_direct(event, address=address, user_id=event.sender)
            return
        await self._invite_address(event, address)

    async def _join(self, user_id: UserId, room_id: RoomId, via: list[ServerName]) -> bool:
        """An invite reaches us before the inviter's server has stored it, so that a first join may
        be refused: it is tried again."""
        for pause_s in (*_JOIN_PAUSES_S, None):
            try:
                await self._backend.join(user_id=user_id, room_id=room_id, via=via)
            except (Refused, NotFound) as exc:
                if pause_s is None:
                    log.warning(
                        "an invite could not be accepted", room_id=room_id, reason=exc.reason
                    )
                    return False
                await self._clock.sleep(pause_s)
            else:
                break
        return True

    async def adopt_direct(self, event: RoomEvent, *, address: str, user_id: UserId) -> None:
        """A direct room that somebody made with a ghost: the chat's room from now on.

        Where it is encrypted, the person is told and gets another one.
        """
        info = await self._backend.room(event.room_id)
        if not info.encrypted:
            await self._directory.bind_direct(
                address=address, user_id=user_id, room_id=event.room_id
            )
            return
        await self.refuse_encrypted(event, address=address, user_id=user_id)

    async def refuse_encrypted(self, event: RoomEvent, *, address: str, user_id: UserId) -> None:
        """Says in plain words that the room is unreadable, and opens a readable one."""
        for portal in await self._directory.of_room(event.room_id):
            if portal.kind == DIRECT:
                await self._directory.close(portal)
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
        try:
            await self._directory.open_direct(
                address=address, user_id=user_id, trace=event.trace_id
            )
        except (Refused, NotFound) as exc:
            log.warning("no readable room could be opened", user_id=user_id, reason=exc.reason)

    async def _invite_address(self, event: RoomEvent, address: str) -> None:
        alias = name = None
        for state in event.invite_state:
            content = state.get("content")
            if not isinstance(content, dict):
                continue
            if state.get("type") == "m.room.canonical_alias":
                alias = content.get("alias")
            elif state.get("type") == "m.room.name":
                name = content.get("name")
        reason = event.content.get("reason")
        invite = RoomInvite(
            to=address,
            room_id=event.room_id,
            alias=RoomAlias(alias) if isinstance(alias, str) and alias.startswith("#") else None,
            name=name if isinstance(name, str) else None,
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

    async def _on_gone(self, event: RoomEvent, portal: Portal, user_id: UserId) -> None:
        """Somebody left a room that has a portal."""
        if portal.kind not in (DIRECT, ENCRYPTED):
            return
        ghost = await self._ghosts.ensure(portal.chat)
        if user_id not in (portal.user_id, ghost):
            return
        refused = (
            user_id == portal.user_id
            and event.previous_membership == "invite"
            and portal.kind == DIRECT
        )
        await self._directory.close(portal, refused=refused)
        if refused:
            await self._hasten(portal)
        if user_id == portal.user_id:
            await self._backend.leave(user_id=ghost, room_id=event.room_id)
