"""Giving a room up: our users leave where somebody else is there to be told, then its rows go."""

from __future__ import annotations

from collections.abc import Callable

from bridge.engine.state import MEMBER
from bridge.errors import NotFound, Refused
from bridge.ids import RoomId, ServerName, TraceId
from bridge.rooms.append import Appender
from bridge.rooms.create import member_content
from bridge.rooms.load import RoomStates
from bridge.rooms.send import Sender
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from bridge.telemetry.log import get_logger

MAX_USERS = 10_000

log = get_logger("rooms")


class Purger:
    """Forgets rooms."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        states: RoomStates,
        appender: Appender,
        sender: Sender,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._states = states
        self._appender = appender
        self._sender = sender

    async def purge(
        self,
        room_id: RoomId,
        *,
        trace_id: TraceId,
        also: Callable[[Transaction], None] | None = None,
    ) -> None:
        """Idempotent. `also` is written in the commit that takes the rows.

        While other servers are in the room its rows stay, until they were told: then it is a room
        that we left, like any other.
        """
        others = (await self._database.read(lambda tx: room_rows.servers(tx, room_id))) - {
            self._server_name
        }
        if others:
            await self._leave(room_id, trace_id)
            if also is not None:
                await self._database.write(also)
            return
        async with self._appender.locked(room_id):

            def unit(tx: Transaction) -> None:
                room_rows.purge(tx, room_id)
                if also is not None:
                    also(tx)

            await self._database.write(unit)
            self._states.forget_room(room_id)
        log.info("room purged", room_id=room_id)

    async def _leave(self, room_id: RoomId, trace_id: TraceId) -> None:
        rows = await self._database.read(
            lambda tx: room_rows.members(tx, room_id, ("join", "invite"), limit=MAX_USERS)
        )
        for row in rows:
            if row.server != self._server_name:
                continue
            try:
                await self._sender.send(
                    room_id=room_id,
                    sender=row.user_id,
                    type=MEMBER,
                    state_key=row.user_id,
                    content=member_content("leave", None),
                    trace_id=trace_id,
                )
            except (NotFound, Refused) as exc:
                log.info("leave refused", room_id=room_id, reason=exc.reason)
