"""What happens in a foreign chat, shown in its room (`ChatChange`).

Nothing is said twice: what the room shows already makes no event.
Spec: XEP-0045, 7 to 10; CONTENT sections 22 and 23.
"""

from __future__ import annotations

from bridge.errors import NotFound, Refused
from bridge.ids import RoomId, TraceId, UserId
from bridge.portals.chats import Chats
from bridge.portals.ghosts import Ghosts
from bridge.portals.notices import Notices
from bridge.portals.occupants import Occupants
from bridge.ports.chat import (
    ChatChange,
    ChatDestroyed,
    ChatRenamed,
    GuestEntered,
    GuestRemoved,
    OccupantCame,
    OccupantGone,
    OccupantRoll,
    SubjectChanged,
)
from bridge.ports.matrix import MatrixBackend
from bridge.storage.portals import PORTAL, Portal
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
MAX_REASON = 500
REMOVED = {
    "kicked": "Kicked from {chat}",
    "banned": "Banned from {chat}",
    "not-a-member": "{chat} is for members only now",
}


class Changes:
    def __init__(
        self,
        *,
        backend: MatrixBackend,
        ghosts: Ghosts,
        notices: Notices,
        chats: Chats,
        occupants: Occupants,
    ) -> None:
        self._backend = backend
        self._ghosts = ghosts
        self._notices = notices
        self._chats = chats
        self._occupants = occupants

    async def show(
        self, change: ChatChange, portal: Portal, room_id: RoomId, *, txn: str, trace: TraceId
    ) -> str:
        """Carries one change into the room; what came of it, in a word for the journal. Hold the
        chat."""
        match change:
            case OccupantCame():
                await self._occupants.came(portal, room_id, change.occupant)
            case OccupantGone():
                await self._occupants.gone(portal, room_id, change)
            case OccupantRoll():
                await self._occupants.reconcile(portal, room_id, change.occupants)
            case SubjectChanged():
                return await self._set_topic(change, room_id, txn, trace)
            case ChatRenamed():
                return await self._set_name(change, portal, room_id, txn, trace)
            case GuestEntered():
                return await self._tell_nickname(change, room_id, trace)
            case GuestRemoved():
                return await self._remove(change, portal, room_id, txn, trace)
            case ChatDestroyed():
                await self._end(change, portal, room_id, txn, trace)
        return "shown"

    async def _set_topic(
        self, change: SubjectChanged, room_id: RoomId, txn: str, trace: TraceId
    ) -> str:
        info = await self._backend.room(room_id)
        if (info.topic or "") == change.text:
            return "unchanged"
        power = await self._backend.power(room_id)
        setters = [self._backend.bot]
        if change.occupant is not None:
            setters.insert(0, self._ghosts.user_of(change.occupant.address))
        for setter in setters:
            member = await self._backend.member(room_id, setter)
            is_in = member is not None and member.membership == "join"
            if is_in and power.may(setter, "state:m.room.topic"):
                await self._backend.send(
                    room_id=room_id,
                    sender=setter,
                    type="m.room.topic",
                    state_key="",
                    content={"topic": change.text},
                    txn=txn,
                    trace=trace,
                )
                return "shown"
        return "may-not"

    async def _set_name(
        self, change: ChatRenamed, portal: Portal, room_id: RoomId, txn: str, trace: TraceId
    ) -> str:
        """Only of a room that is the chat's own."""
        name = change.name or portal.chat
        if portal.kind != PORTAL or (await self._backend.room(room_id)).name == name:
            return "unchanged"
        await self._backend.send(
            room_id=room_id,
            sender=self._backend.bot,
            type="m.room.name",
            state_key="",
            content={"name": name},
            txn=txn,
            trace=trace,
        )
        return "shown"

    async def _tell_nickname(self, change: GuestEntered, room_id: RoomId, trace: TraceId) -> str:
        if change.nickname == change.wanted:
            return "unchanged"
        await self._notices.tell_room(
            room_id=room_id,
            sender=self._backend.bot,
            text=f"{change.wanted} is called {change.nickname} in {change.chat}, because the name "
            "is taken there.",
            cause=f"nickname/{room_id}/{change.chat}/{change.user_id}/{change.nickname}",
            trace=trace,
        )
        return "told"

    async def _remove(
        self, change: GuestRemoved, portal: Portal, room_id: RoomId, txn: str, trace: TraceId
    ) -> str:
        reason = REMOVED.get(change.how, "Removed from {chat}").format(chat=change.chat)
        if change.actor:
            reason += f" by {change.actor}"
        if change.reason:
            reason += f": {change.reason}"
        return await self.turn_out(
            change.user_id, portal, room_id, reason[:MAX_REASON], cause=txn, trace=trace
        )

    async def turn_out(
        self,
        user_id: UserId,
        portal: Portal,
        room_id: RoomId,
        reason: str,
        *,
        cause: str,
        trace: TraceId,
    ) -> str:
        """Who is not in the chat is not in its room either, with the reason; where the bot may not
        see to that, the room is told."""
        member = await self._backend.member(room_id, user_id)
        if member is None or member.membership != "join":
            return "gone"
        try:
            power = await self._backend.power(room_id)
            if power.may(self._backend.bot, "kick", user_id):
                await self._backend.kick(
                    room_id=room_id, sender=self._backend.bot, target=user_id, reason=reason
                )
                return "removed"
        except (Refused, NotFound) as exc:
            log.info("not removed", room_id=room_id, user_id=user_id, reason=exc.reason)
        name = member.displayname or user_id
        await self._notices.tell_room(
            room_id=room_id,
            sender=self._backend.bot,
            text=f"{name}: {reason.rstrip('.')}. They are not in {portal.chat} now.",
            cause=f"removed/{cause}",
            trace=trace,
        )
        return "told"

    async def _end(
        self, change: ChatDestroyed, portal: Portal, room_id: RoomId, txn: str, trace: TraceId
    ) -> None:
        text = f"{change.chat} exists no more"
        if change.reason:
            text += f": {change.reason}"
        text = text[:MAX_REASON].rstrip(".") + "."
        if change.alternative:
            text += f" It goes on at {change.alternative}."
        await self._notices.tell_room(
            room_id=room_id,
            sender=self._backend.bot,
            text=text,
            cause=f"destroyed/{txn}",
            trace=trace,
        )
        await self._chats.let_go(portal, reason="The chat exists no more.")
