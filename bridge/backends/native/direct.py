"""Direct chats: which room version a peer gets, and trying again when it refuses.

`I.1` for a server that is known to speak it; otherwise the configured versions in order. A refused
version is remembered for the server, and the room that nobody will join is purged in the same
commit. DESIGN of the house: which version a new room gets. Spec: S2S, inviting to a room.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.clock import Clock
from bridge.engine.versions import VERSIONS, RoomVersion, get_version
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import RoomId, RoomVersionId, ServerName, TraceId, UserId, server_of
from bridge.rooms.assembly import Rooms
from bridge.rooms.network import Peers, UserProfile
from bridge.storage import events as event_rows
from bridge.storage import version_hints
from bridge.storage.database import Database, Transaction
from bridge.telemetry.log import get_logger

SOFTWARE = "Isthmus"
"""The name in the version answer of servers like this one."""
SOFTWARE_AGE_MS = 24 * 3600 * 1000
"""How long such an answer is believed."""
VERSION_REFUSALS = frozenset({"M_UNSUPPORTED_ROOM_VERSION", "M_INCOMPATIBLE_ROOM_VERSION"})

log = get_logger("backend")


class DirectRooms:
    """Opens rooms for two."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        rooms: Rooms,
        peers: Peers,
        database: Database,
        clock: Clock,
        versions: Sequence[RoomVersionId],
        extensible: bool = True,
    ) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._peers = peers
        self._database = database
        self._clock = clock
        self._versions = versions
        self._extensible = extensible

    async def open(
        self,
        *,
        creator: UserId,
        target: UserId,
        transaction_id: str,
        trace_id: TraceId,
        name: str | None,
        profile: UserProfile,
    ) -> RoomId:
        """Made once per transaction ID; returns when the target's server took the invite."""
        done = await self._database.read(
            lambda tx: event_rows.find_local_transaction(tx, transaction_id)
        )
        if done is not None:
            return done[0]
        peer = server_of(target)
        refusal: IsthmusError | None = None
        for version in await self._candidates(peer, transaction_id):
            room_transaction = _room_transaction(transaction_id, version)
            room_id = await self._rooms.creator.create(
                creator=creator,
                version=version,
                transaction_id=room_transaction,
                trace_id=trace_id,
                name=name,
                trusted=(target,),
                profile=profile,
                is_direct=True,
            )
            try:
                await self._rooms.handshake.invite(
                    room_id=room_id,
                    sender=creator,
                    target=target,
                    transaction_id=f"{transaction_id}.invite.{version.id}",
                    trace_id=trace_id,
                    is_direct=True,
                )
            except (Refused, NotFound, BadInput) as exc:
                for_version = exc.errcode in VERSION_REFUSALS
                await self._give_up(
                    room_id, room_transaction, peer, version, trace_id, for_version=for_version
                )
                if not for_version:
                    raise
                refusal = exc
                continue
            await self._record(transaction_id, room_id)
            return room_id
        raise refusal or Refused(f"{peer} takes none of our room versions", rule="room_version")

    async def _candidates(self, peer: ServerName, transaction_id: str) -> list[RoomVersion]:
        begun = await self._database.read(lambda tx: _begun(tx, transaction_id))
        if begun is not None:
            # A room was made and the invite's answer never came.
            return [begun, *(one for one in await self._choose(peer) if one.id != begun.id)]
        return await self._choose(peer)

    async def _choose(self, peer: ServerName) -> list[RoomVersion]:
        configured = [get_version(one) for one in self._versions]
        if peer == self._server_name:
            return configured[:1]
        hints = await self._database.read(lambda tx: version_hints.find(tx, peer))
        extensible = next(one for one in VERSIONS.values() if one.extensible_events)
        wanted = list(configured)
        spoken = hints.get(extensible.id) if self._extensible else False
        if spoken or (spoken is None and await self._is_isthmus(peer)):
            wanted = [extensible, *(one for one in configured if one.id != extensible.id)]
        # All refused once: maybe it learned one since.
        return [one for one in wanted if hints.get(one.id) is not False] or configured

    async def speaks(self, peer: ServerName, version: RoomVersion) -> bool | None:
        """Whether a server takes part in rooms of a version; None: nobody knows."""
        hints = await self._database.read(lambda tx: version_hints.find(tx, peer))
        if version.id in hints:
            return hints[version.id]
        if not version.extensible_events:
            return None
        try:
            return await self._is_isthmus(peer)
        except Unavailable:
            return None

    async def _is_isthmus(self, peer: ServerName) -> bool:
        known = await self._database.read(lambda tx: version_hints.find_software(tx, peer))
        now_ms = self._clock.now_ms()
        if known is not None and now_ms - known[1] < SOFTWARE_AGE_MS:
            return known[0] == SOFTWARE
        try:
            answer = await self._peers.version(peer)
        except (Refused, NotFound, BadInput) as exc:
            # Unavailable passes: the invite would not get through either, and the choice is final.
            log.info("version unknown", peer=peer, reason=exc.reason)
            answer = {}
        name = answer.get("name")
        software = name[:100] if isinstance(name, str) else None
        await self._database.write(
            lambda tx: version_hints.put_software(tx, peer, software, now_ms)
        )
        return software == SOFTWARE

    async def _give_up(
        self,
        room_id: RoomId,
        room_transaction: str,
        peer: ServerName,
        version: RoomVersion,
        trace_id: TraceId,
        *,
        for_version: bool,
    ) -> None:
        """The room goes, and with it what would have found it again."""

        def also(tx: Transaction) -> None:
            event_rows.forget_local_transaction(tx, room_transaction)
            if for_version:
                version_hints.put(tx, peer, {version.id: False})

        await self._rooms.purger.purge(room_id, trace_id=trace_id, also=also)
        log.info("invite refused", peer=peer, version=version.id, for_version=for_version)

    async def _record(self, transaction_id: str, room_id: RoomId) -> None:
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            if event_rows.find_local_transaction(tx, transaction_id) is None:
                event_rows.insert_local_transaction(
                    tx, transaction_id, room_id=room_id, event_id=None, at_ms=now_ms
                )

        await self._database.write(unit)


def _room_transaction(transaction_id: str, version: RoomVersion) -> str:
    return f"{transaction_id}.room.{version.id}"


def _begun(tx: Transaction, transaction_id: str) -> RoomVersion | None:
    """The version of the room that this transaction made before."""
    for version in VERSIONS.values():
        wanted = _room_transaction(transaction_id, version)
        if event_rows.find_local_transaction(tx, wanted) is not None:
            return version
    return None
