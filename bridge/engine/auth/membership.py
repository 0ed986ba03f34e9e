"""The rule about `m.room.member` (5 until version 5, 4 from 6 to 11, 5 from 12), by membership.

1. No `state_key` or no `membership`: reject.
2. `join_authorised_via_users_server`: that user's server must have signed; `engine.receipt` drops
   the event otherwise, before these rules. Here only: the value is a user ID.
3. join   4. invite   5. leave   6. ban   7. knock   8. anything else: reject.

2 is from version 8 and 7 from version 7: before, a knock is an unknown membership.
Spec: rooms/v3, v7, v8, v10, v11 and v12, authorisation rules.
"""

from __future__ import annotations

from typing import Any

from bridge.engine.auth.selection import third_party_token
from bridge.engine.auth.view import AuthView, refuse
from bridge.engine.canonical import JsonObject
from bridge.engine.pdu import Pdu
from bridge.engine.power import creators_of
from bridge.engine.signing import check_json_signature, signatures_of
from bridge.engine.state import THIRD_PARTY_INVITE
from bridge.errors import BadInput
from bridge.ids import ServerName, parse_user_id


def check_member(pdu: Pdu, view: AuthView) -> None:
    """Raise `Refused` unless the membership change is allowed."""
    target = pdu.state_key
    if target is None:  # 1
        refuse("member.state_key", "a member event is a state event")
    if "membership" not in pdu.content:
        refuse("member.membership", "a member event has a membership")
    _check_voucher(pdu)  # 2
    match pdu.content["membership"]:
        case "join":
            _check_join(pdu, target, view)
        case "invite":
            _check_invite(pdu, target, view)
        case "leave":
            _check_leave(pdu, target, view)
        case "ban":
            _check_ban(pdu, target, view)
        case "knock" if pdu.version.auth.knock_rules:
            _check_knock(pdu, target, view)
        case _:  # 8
            refuse("member.unknown", "the membership is unknown")


def _check_voucher(pdu: Pdu) -> None:
    if not pdu.version.auth.restricted_rules:
        return
    voucher = pdu.content.get("join_authorised_via_users_server", _ABSENT)
    if voucher is _ABSENT:
        return
    try:
        parse_user_id(voucher)
    except BadInput as exc:
        refuse("member.voucher", f"join_authorised_via_users_server: {exc.reason}")


_ABSENT = object()


def _check_join(pdu: Pdu, target: str, view: AuthView) -> None:
    rules, rule = pdu.version.auth, view.join_rule
    if list(pdu.prev_events) == [view.create.event_id] and target in _first_joiners(view):  # 3.1
        return
    if pdu.sender != target:  # 3.2
        refuse("member.join.other", "nobody joins for somebody else")
    current = view.membership(target)
    if current == "ban":  # 3.3
        refuse("member.join.banned", "the sender is banned")
    if rule in rules.invite_rules:  # 3.4
        if current not in ("invite", "join"):
            refuse("member.join.uninvited", "the room is joined by invitation")
        return
    if rule in rules.restricted_rules:  # 3.5
        if current not in ("invite", "join"):
            _check_restricted(pdu, view)
        return
    if rule != "public":  # 3.6, 3.7
        refuse("member.join.rule", f"join rule {rule!r} lets nobody join")


def _first_joiners(view: AuthView) -> frozenset[str]:
    # From version 12 there are more creators, but only the sender of the create event may do this.
    if view.create.version.auth.privileged_creators:
        return frozenset({view.create.sender})
    return frozenset(creators_of(view.create))


def _check_restricted(pdu: Pdu, view: AuthView) -> None:
    voucher = pdu.content.get("join_authorised_via_users_server")
    if not isinstance(voucher, str):
        refuse("member.join.restricted", "nobody vouches for the join")
    if view.membership(voucher) != "join":
        refuse("member.join.restricted", "who vouches for the join is not in the room")
    if not view.power.may_invite(voucher):
        refuse("member.join.restricted", "who vouches for the join may not invite")


def _check_invite(pdu: Pdu, target: str, view: AuthView) -> None:
    if "third_party_invite" in pdu.content:  # 4.1
        _check_third_party(pdu, target, view)
        return
    _check_joined(pdu, view, "member.invite.sender")  # 4.2
    if view.membership(target) in ("join", "ban"):  # 4.3
        refuse("member.invite.target", "the invited user is in the room or banned")
    if not view.power.may_invite(pdu.sender):  # 4.4, 4.5
        refuse("member.invite.level", "the sender may not invite")


def _check_third_party(pdu: Pdu, target: str, view: AuthView) -> None:
    if view.membership(target) == "ban":  # 4.1.1
        refuse("member.third_party.banned", "the invited user is banned")
    invite = pdu.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, dict) else None
    token = third_party_token(pdu.content)
    if not isinstance(signed, dict) or token is None:  # 4.1.2, 4.1.3
        refuse("member.third_party.signed", "third_party_invite is not signed")
    if signed.get("mxid") != target:  # 4.1.4
        refuse("member.third_party.mxid", "the signed user is not the invited one")
    offer = view.state.get((THIRD_PARTY_INVITE, token))
    if offer is None:  # 4.1.5
        refuse("member.third_party.token", "no third-party invite has this token")
    if offer.sender != pdu.sender:  # 4.1.6
        refuse("member.third_party.sender", "somebody else made the third-party invite")
    if not _is_signed_by_any(signed, _public_keys(offer.content)):  # 4.1.7, 4.1.8
        refuse("member.third_party.signature", "no key of the third-party invite has signed")


def _public_keys(content: JsonObject) -> list[str]:
    more: Any = content.get("public_keys")
    entries = more if isinstance(more, list) else []
    keys = [entry.get("public_key") for entry in entries if isinstance(entry, dict)]
    return [key for key in (content.get("public_key"), *keys) if isinstance(key, str)]


def _is_signed_by_any(signed: JsonObject, keys: list[str]) -> bool:
    signatures = signed.get("signatures")
    servers = [ServerName(name) for name in signatures] if isinstance(signatures, dict) else []
    return any(
        check_json_signature(signed, server=server, key_id=key_id, verify_key=key)
        for server in servers
        for key_id in signatures_of(signed, server)
        for key in keys
    )


_PRESENT = ("invite", "join")


def _check_leave(pdu: Pdu, target: str, view: AuthView) -> None:
    if pdu.sender == target:  # 5.1
        present = ("invite", "join", "knock") if pdu.version.auth.knock_rules else _PRESENT
        if view.membership(target) not in present:
            refuse("member.leave.absent", "who is not in the room cannot leave it")
        return
    _check_joined(pdu, view, "member.kick.sender")  # 5.2
    if view.membership(target) == "ban" and view.power.user(pdu.sender) < view.power.ban:  # 5.3
        refuse("member.unban.level", "the sender may not lift bans")
    if not view.power.may_kick(pdu.sender, target):  # 5.4, 5.5
        refuse("member.kick.level", "the sender may not kick this user")


def _check_ban(pdu: Pdu, target: str, view: AuthView) -> None:
    _check_joined(pdu, view, "member.ban.sender")  # 6.1
    if not view.power.may_ban(pdu.sender, target):  # 6.2, 6.3
        refuse("member.ban.level", "the sender may not ban this user")


def _check_knock(pdu: Pdu, target: str, view: AuthView) -> None:
    if view.join_rule not in pdu.version.auth.knock_rules:  # 7.1
        refuse("member.knock.rule", f"join rule {view.join_rule!r} takes no knocks")
    if pdu.sender != target:  # 7.2
        refuse("member.knock.other", "nobody knocks for somebody else")
    if view.membership(target) in ("ban", "invite", "join"):  # 7.3, 7.4
        refuse("member.knock.membership", "who is banned, invited or joined cannot knock")


def _check_joined(pdu: Pdu, view: AuthView, rule: str) -> None:
    if view.membership(pdu.sender) != "join":
        refuse(rule, "the sender is not in the room")
