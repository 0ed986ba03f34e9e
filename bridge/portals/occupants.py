"""People of a foreign chat as members of its room.

A row says what Matrix was told of somebody; it is written before their ghost joins, so that a
crash in between is made good by the next attempt. `joined` is a ghost that is in the room for this
chat's sake alone: only such a one leaves when its person does, and not at once, because clients
come and go. What the chat says again after a restart changes no row and so makes no event.
Spec: XEP-0045, 7; CONTENT section 22.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bridge.clock import Clock
from bridge.errors import IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import RoomId, UserId
from bridge.portals.chats import Chats
from bridge.portals.ghosts import Ghosts
from bridge.ports.chat import Occupant, OccupantGone
from bridge.ports.matrix import MatrixBackend
from bridge.storage import occupants
from bridge.storage.database import Database, Transaction
from bridge.storage.occupants import StoredOccupant
from bridge.storage.portals import Portal
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
LOOK_S = 30.0
LEAVING_A_LOOK = 100


class Occupants:
    """Call everything with the chat held, `run` excepted."""

    def __init__(
        self,
        *,
        database: Database,
        backend: MatrixBackend,
        ghosts: Ghosts,
        chats: Chats,
        adapter: str,
        clock: Clock,
        most_shown: int = 200,
        absent_after_s: float = 300.0,
    ) -> None:
        self._database = database
        self._backend = backend
        self._ghosts = ghosts
        self._chats = chats
        self._adapter = adapter
        self._clock = clock
        self._most_shown = most_shown
        self._absent_after_ms = round(absent_after_s * 1000)

    # --- who speaks -------------------------------------------------------------------------

    async def speaker(
        self, portal: Portal, room_id: RoomId, address: str, name: str | None
    ) -> UserId:
        """The ghost of somebody who has written, in the room. Refused: it may not be there."""
        ghost = await self._ghosts.ensure(address, name=name)
        row = await self._find(portal.chat, address)
        if row is not None and name is not None and row.nickname != name:
            row = await self._rename(row, name)
        if row is None:
            # Nobody has said that they are in the chat: they may have gone long ago.
            row = StoredOccupant(
                adapter=self._adapter,
                chat=portal.chat,
                address=address,
                nickname=name or "",
                joined=False,
                absent_ms=self._clock.now_ms(),
            )
            await self._put(row)
        elif row.absent_ms is not None:
            await self._put(replace(row, absent_ms=self._clock.now_ms()))
        member = await self._backend.member(room_id, ghost)
        if member is None or member.membership != "join":
            if not row.joined:
                await self._put(replace(row, joined=True))
            await self._join(room_id, ghost)
        return ghost

    # --- who is there -----------------------------------------------------------------------

    async def came(self, portal: Portal, room_id: RoomId, occupant: Occupant) -> None:
        row = await self._find(portal.chat, occupant.address)
        if row is None:
            await self._add(portal, room_id, [occupant])
            return
        if row.nickname != occupant.nickname:
            row = await self._rename(row, occupant.nickname)
        if row.absent_ms is not None:
            row = replace(row, absent_ms=None)
            await self._put(row)
        await self._show(room_id, [row])

    async def gone(self, portal: Portal, room_id: RoomId, change: OccupantGone) -> None:
        address = change.occupant.address
        row = await self._find(portal.chat, address)
        if row is None:
            return
        if change.how == "left" and row.joined:
            if row.absent_ms is None:
                await self._put(replace(row, absent_ms=self._clock.now_ms()))
            return
        if row.joined:
            await self._chats.leave(self._ghosts.user_of(address), room_id, removal(change))
        await self._remove(row)

    async def reconcile(self, portal: Portal, room_id: RoomId, present: Sequence[Occupant]) -> None:
        """Everybody who is in the chat: whoever is not named has gone in the meantime."""
        rows = await self._database.read(
            lambda tx: occupants.of_chat(tx, adapter=self._adapter, chat=portal.chat)
        )
        known = {row.address: row for row in rows}
        named = {one.address: one for one in present}
        for address, row in known.items():
            if address not in named and row.absent_ms is None:
                if row.joined:
                    await self._put(replace(row, absent_ms=self._clock.now_ms()))
                else:
                    await self._remove(row)
        for address, one in named.items():
            if address in known:
                await self.came(portal, room_id, one)
        await self._add(portal, room_id, [o for a, o in named.items() if a not in known])

    async def _add(self, portal: Portal, room_id: RoomId, new: Sequence[Occupant]) -> None:
        """New ones: shown as members while there is room for them."""
        shown = await self._database.read(
            lambda tx: occupants.count_joined(tx, adapter=self._adapter, chat=portal.chat)
        )
        rows: list[StoredOccupant] = []
        for occupant in new:
            joined = False
            if shown < self._most_shown:
                ghost = self._ghosts.user_of(occupant.address)
                member = await self._backend.member(room_id, ghost)
                there = None if member is None else member.membership
                joined = there not in ("join", "ban")
            shown += joined
            rows.append(
                StoredOccupant(
                    adapter=self._adapter,
                    chat=portal.chat,
                    address=occupant.address,
                    nickname=occupant.nickname,
                    joined=joined,
                )
            )

        def unit(tx: Transaction) -> None:
            for row in rows:
                occupants.put(tx, row)

        await self._database.write(unit)
        await self._show(room_id, rows)

    async def _show(self, room_id: RoomId, rows: Sequence[StoredOccupant]) -> None:
        for row in rows:
            if not row.joined:
                continue
            try:
                ghost = await self._ghosts.ensure(row.address, name=row.nickname)
                await self._join(room_id, ghost)
            except (Refused, NotFound) as exc:
                log.info("not shown", room_id=room_id, reason=exc.reason)
                await self._put(replace(row, joined=False))

    async def _join(self, room_id: RoomId, ghost: UserId) -> None:
        """Joins; where that needs an invite the bot gives one, if it may."""
        member = await self._backend.member(room_id, ghost)
        if member is not None and member.membership == "join":
            return
        if member is not None and member.membership == "ban":
            raise Refused("they are banned from the Matrix room", rule="banned")
        try:
            await self._backend.join(user_id=ghost, room_id=room_id, via=[])
        except Refused:
            power = await self._backend.power(room_id)
            if not power.may(self._backend.bot, "invite"):
                raise
            await self._backend.invite(
                room_id=room_id,
                sender=self._backend.bot,
                target=ghost,
                txn=f"{self._database.epoch}.show.{self._chats.new_number()}",
            )
            await self._backend.join(user_id=ghost, room_id=room_id, via=[])

    async def on_ghost_gone(self, portal: Portal, room_id: RoomId, ghost: UserId) -> None:
        """A ghost has left the room, or was made to: it does not come back before it speaks."""
        address = await self._ghosts.find_address(ghost)
        row = None if address is None else await self._find(portal.chat, address)
        member = await self._backend.member(room_id, ghost)
        if row is not None and row.joined and (member is None or member.membership != "join"):
            await self._put(replace(row, joined=False))

    # --- rows -------------------------------------------------------------------------------

    async def _find(self, chat: str, address: str) -> StoredOccupant | None:
        return await self._database.read(
            lambda tx: occupants.find(tx, adapter=self._adapter, chat=chat, address=address)
        )

    async def _put(self, row: StoredOccupant) -> None:
        await self._database.write(lambda tx: occupants.put(tx, row))

    async def _remove(self, row: StoredOccupant) -> None:
        await self._database.write(
            lambda tx: occupants.remove(tx, adapter=row.adapter, chat=row.chat, address=row.address)
        )

    async def _rename(self, row: StoredOccupant, nickname: str) -> StoredOccupant:
        """Whoever has a real address keeps their name: they are in many chats, under many
        nicknames. An occupant of this chat alone is called as they are here."""
        if row.address.startswith(f"{row.chat}/"):
            await self._ghosts.ensure(row.address, name=nickname)
            await self._ghosts.rename(row.address, nickname)
        renamed = replace(row, nickname=nickname)
        await self._put(renamed)
        return renamed

    # --- now and then -----------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            try:
                await self.tidy()
            except Unavailable as exc:
                log.warning("absent ghosts stay for now", reason=exc.reason)
            await self._clock.sleep(LOOK_S)

    async def tidy(self) -> None:
        """Whose person has been away for long is no member any more."""
        before_ms = self._clock.now_ms() - self._absent_after_ms
        rows = await self._database.read(
            lambda tx: occupants.absent_since(tx, before_ms=before_ms, limit=LEAVING_A_LOOK)
        )
        for row in rows:
            if row.adapter != self._adapter:
                continue
            try:
                async with self._chats.holding(row.chat):
                    await self._take_out(row)
            except IsthmusError as exc:
                log.warning("an absent ghost stays for now", chat=row.chat, reason=exc.reason)

    async def _take_out(self, seen: StoredOccupant) -> None:
        row = await self._find(seen.chat, seen.address)
        if row is None or row.absent_ms != seen.absent_ms:
            return  # they are back, or have spoken
        portal = await self._chats.find(row.chat)
        if portal is not None and portal.room_id is not None and row.joined:
            await self._chats.leave(self._ghosts.user_of(row.address), portal.room_id, None)
        if portal is not None:
            await self._remove(row)


def removal(change: OccupantGone) -> str:
    """Why their ghost leaves, in words."""
    what = "Banned" if change.how == "banned" else "Kicked"
    by = f" by {change.actor}" if change.actor else ""
    why = f": {change.reason}" if change.reason else ""
    return f"{what}{by}{why}"
