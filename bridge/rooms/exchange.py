"""Third-party invites of our users, turned into invites when the invited one has an address here.

1. The partial event names our user, who made the offer, and the invited user of the server that
   asks; of its content only the signed block counts.
2. The name to show is the offer's in the room, not what the asking server says.
3. The auth rules check the signed block against the offer's keys, while the event is built.
4. Then it is an invite like any other, given to the invited server before it is appended.
Whether the identity server has withdrawn its key is not asked: the check rests on nobody outside
the room. Spec: S2S, third-party invites.
"""

from __future__ import annotations

from typing import Any, Protocol

from bridge.engine.auth.selection import third_party_token
from bridge.engine.build import Draft
from bridge.engine.state import MEMBER, THIRD_PARTY_INVITE
from bridge.errors import BadInput, Refused
from bridge.ids import ServerName, TraceId, UserId, parse_user_id, server_of
from bridge.rooms.load import Room, RoomStates
from bridge.rooms.network import Json


class InviteDrafted(Protocol):
    """`Handshake.invite_drafted`."""

    async def __call__(
        self, room: Room, draft: Draft, *, transaction_id: str | None, trace_id: TraceId
    ) -> None: ...


class Exchange:
    """One method: the caller has checked that the origin may ask about the room."""

    def __init__(
        self, *, server_name: ServerName, states: RoomStates, invite_drafted: InviteDrafted
    ) -> None:
        self._server_name = server_name
        self._states = states
        self._invite_drafted = invite_drafted

    async def invite(
        self, origin: ServerName, room: Room, event: Json, *, trace_id: TraceId
    ) -> None:
        """Done when the invite stands in the room; who is invited or in already needs none."""
        content = event.get("content")
        if (
            event.get("type") != MEMBER
            or event.get("room_id") != room.room_id
            or not isinstance(content, dict)
            or content.get("membership") != "invite"
        ):
            raise BadInput("no invite into this room", errcode="M_INVALID_PARAM")
        token = third_party_token(content)
        if token is None:
            raise BadInput("no third-party invite", errcode="M_INVALID_PARAM")
        sender = parse_user_id(event.get("sender"))
        target = parse_user_id(event.get("state_key"))
        if server_of(sender) != self._server_name:
            raise Refused(f"{sender} is no user of ours", rule="sender")
        if server_of(target) != origin:
            raise Refused(f"{target} is no user of {origin}", rule="origin")
        if await self._is_here(room, target):
            return
        draft = Draft(
            room_id=room.room_id,
            type=MEMBER,
            sender=sender,
            content={
                "membership": "invite",
                "third_party_invite": {
                    "display_name": await self._display_name(room, token, content),
                    "signed": content["third_party_invite"]["signed"],
                },
            },
            state_key=target,
        )
        await self._invite_drafted(room, draft, transaction_id=None, trace_id=trace_id)

    async def _is_here(self, room: Room, target: UserId) -> bool:
        key = (MEMBER, target)
        member = (await self._states.pick(room.state, (key,))).get(key)
        return member is not None and member.membership in ("join", "invite")

    async def _display_name(self, room: Room, token: str, content: dict[str, Any]) -> str:
        key = (THIRD_PARTY_INVITE, token)
        offer = (await self._states.pick(room.state, (key,))).get(key)
        said = content["third_party_invite"].get("display_name")
        shown = said if offer is None else offer.content.get("display_name")
        return shown if isinstance(shown, str) else ""
