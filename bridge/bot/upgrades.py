"""Upgrades on somebody's word, over the Matrix port: who may ask, what I need, who stays behind.

Whoever may send the room's tombstone may ask, and admins of this gateway may; it is the bot that
does it, with its own power in the room, and that becomes the creator of the successor.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from bridge.bot.words import count_of, first_of
from bridge.errors import NotFound, Refused
from bridge.ids import RoomId, RoomVersionId, UserId
from bridge.ports.matrix import MatrixBackend, Power

ACTION = "state:m.room.tombstone"
MAX_NAMED = 10
"""Servers and people that one answer names."""


class RoomUpgrades:
    """Fills `bot.context.Upgrades`."""

    def __init__(self, *, backend: MatrixBackend) -> None:
        self._backend = backend

    async def upgrade(
        self,
        *,
        caller: UserId,
        is_admin: bool,
        room_id: RoomId,
        version: RoomVersionId,
        creators: Sequence[UserId],
        anyway: bool,
    ) -> str:
        await self._check(caller, room_id, is_admin=is_admin)
        if creators and not is_admin:
            await self._check_namer(caller, room_id)
        if not anyway:
            await self._check_servers(room_id, version)
        successor = await self._backend.upgrade(
            room_id=room_id,
            sender=self._backend.bot,
            version=version,
            # Asked again, it is the same upgrade: it goes on where it ended.
            txn=f"bot.upgrade.{room_id}.{version}",
            additional_creators=creators,
        )
        return await self._describe(room_id, successor)

    async def _check(self, caller: UserId, room_id: RoomId, *, is_admin: bool) -> None:
        """Nothing about the room is told to whoever has no power there."""
        bot = self._backend.bot
        if not await self._is_in(bot, room_id):
            raise Refused(f"I am not in {room_id}: invite {bot} there first")
        power = await self._backend.power(room_id)
        if not is_admin and not await self._may(caller, room_id, power):
            raise Refused(
                f"only members of {room_id} who may send m.room.tombstone there can have it "
                "upgraded; you may not"
            )
        if not power.may(bot, ACTION):
            raise Refused(
                f"I need power level {power.needed(ACTION)} in {room_id} to replace it and have "
                f"{power.level(bot):g}: please give it to {bot}"
            )

    async def _check_namer(self, caller: UserId, room_id: RoomId) -> None:
        """Creators may stand above everybody: whoever stands below somebody makes none."""
        power = await self._backend.power(room_id)
        others = [one.user_id for one in await self._backend.members(room_id)]
        highest = max((power.level(one) for one in others if one != self._backend.bot), default=0)
        if power.level(caller) < highest:
            raise Refused(f"there are members of {room_id} above you: you cannot name its creators")

    async def _may(self, caller: UserId, room_id: RoomId, power: Power) -> bool:
        return power.may(caller, ACTION) and await self._is_in(caller, room_id)

    async def _is_in(self, user_id: UserId, room_id: RoomId) -> bool:
        try:
            member = await self._backend.member(room_id, user_id)
        except NotFound:
            return False
        return member is not None and member.membership == "join"

    async def _check_servers(self, room_id: RoomId, version: RoomVersionId) -> None:
        behind = await self._backend.left_behind(room_id, version)
        if behind:
            raise Refused(
                f"{first_of(behind, MAX_NAMED)} cannot take part in rooms of version {version}: "
                "the people there would stay behind. Write `anyway` behind it if that is meant"
            )

    async def _describe(self, room_id: RoomId, successor: RoomId) -> str:
        info = await self._backend.room(successor)
        power = await self._backend.power(successor)
        lines = [f"{room_id} is replaced by {successor}, of version {info.version}."]
        if info.canonical_alias is not None:
            lines.append(f"Its alias {info.canonical_alias} leads there now.")
        if power.level(self._backend.bot) == inf:
            lines.append("I am its creator, which cannot be taken away from me.")
        if info.join_rule != "public":
            lines += await self._stranded(room_id, successor)
        return "\n".join(lines)

    async def _stranded(self, room_id: RoomId, successor: RoomId) -> list[str]:
        """Who is neither in nor invited. (The invites of who came and left again were used.)"""
        known = {
            member.user_id
            for member in await self._backend.members(
                successor, ("join", "invite", "knock", "leave", "ban")
            )
        }
        members = [member.user_id for member in await self._backend.members(room_id)]
        missing = [user_id for user_id in members if user_id not in known]
        if not missing:
            return ["Its members are invited there."]
        shown = first_of(missing, MAX_NAMED)
        many = count_of(len(missing), "member")
        return [f"{many} could not be invited yet ({shown}): write the same again to try anew."]
