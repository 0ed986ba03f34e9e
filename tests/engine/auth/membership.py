"""Tables of the rule about `m.room.member`: 5 until version 5, 4 from 6 to 11, 5 from 12."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.engine.keys import SigningKey
from bridge.engine.signing import sign_json
from bridge.ids import ServerName, UserId
from tests.engine.auth.cases import EVE, Event, Expect, Row, Table, member, row, some
from tests.engine.rooms import ALICE, BOB, CAROL, DAVE

KNOWN_SINCE = {"knock": 7, "restricted": 8, "knock_restricted": 10}
"""Join rules and memberships that older versions do not know."""


def since_known(join_rule: object, expect: str, before: str) -> Expect:
    """`before` in the versions that do not know the join rule."""
    number = KNOWN_SINCE.get(str(join_rule), 1)
    return expect if number == 1 else {1: before, number: expect}


# 1


SHAPE = (
    Table(
        rule="member.state_key",
        spec="v1 5.1, v6 4.1, v12 5.1",
        rows=(
            row("state", member(BOB, BOB, "join")),
            row(
                "a message",
                Event(type="m.room.member", sender=BOB, content={"membership": "join"}),
                "member.state_key",
            ),
        ),
    ),
    Table(
        rule="member.membership",
        spec="v1 5.1, v6 4.1, v12 5.1",
        rows=(
            row("a membership", member(BOB, BOB, "join", reason="hungry")),
            row("none", member(BOB, BOB, None, reason="hungry"), "member.membership"),
        ),
    ),
    Table(
        rule="member.unknown",
        spec="v1 5.6, v7 4.7, v8 4.8, v12 5.8",
        rows=(
            row("known", member(BOB, BOB, "join")),
            *(
                row(f"{odd!r}", member(BOB, BOB, odd), "member.unknown")
                for odd in some("lurk", "JOIN", "", 5, [], {}, True, ["join"])
            ),
            row(
                "a knock",
                member(BOB, BOB, "knock"),
                {1: "member.unknown", 7: ""},
                join_rule="knock",
            ),
        ),
    ),
    Table(
        rule="member.voucher",
        spec="v8 4.2, v12 5.2",
        first=8,
        rows=(
            row("nobody", member(BOB, BOB, "join")),
            row("somebody", member(BOB, BOB, "join", join_authorised_via_users_server=ALICE)),
            *(
                row(
                    f"{odd!r}",
                    member(BOB, BOB, "join", join_authorised_via_users_server=odd),
                    {1: "", 8: "member.voucher"},
                )
                for odd in some("alice", "@alice", "", 5, {}, [ALICE])
            ),
            row(
                "of whatever membership",
                member(BOB, BOB, "leave", join_authorised_via_users_server="alice"),
                {1: "", 8: "member.voucher"},
                members={BOB: "join"},
            ),
        ),
    ),
)


# join


def first_join(user: UserId) -> Event:
    return Event(
        type="m.room.member",
        sender=user,
        content={"membership": "join"},
        state_key=user,
        right_after_create=True,
    )


def joins(join_rule: str, expect: str, *before: object) -> list[Row]:
    """Bob joins by the rule, whatever he was before."""
    return [
        row(
            f"{join_rule}, {membership or 'a stranger'}",
            member(BOB, BOB, "join"),
            since_known(join_rule, expect, "member.join.rule"),
            join_rule=join_rule,
            members={} if membership is None else {BOB: membership},
        )
        for membership in before
    ]


def vouched(
    name: str, voucher: object, expect: str, join_rule: str = "restricted", **state: Any
) -> Row:
    before = {1: "member.join.rule"}
    if expect == "member.voucher":
        before = {1: "member.join.rule", 8: expect}
    return row(
        f"{name}, {join_rule}",
        member(BOB, BOB, "join", join_authorised_via_users_server=voucher),
        {**before, KNOWN_SINCE[join_rule]: expect},
        join_rule=join_rule,
        **state,
    )


NEW: dict[str, Any] = {"members": {ALICE: "leave"}, "levels": None, "join_rule": None}
"""Nobody is in the room, and nothing is set."""
INVITED_50: dict[str, Any] = {"levels": {"invite": 50}}

JOIN = (
    Table(
        rule="member.join.uninvited",
        spec="v1 5.2.1, v6 4.2.1, v8 4.3.1, v12 5.3.1: the first join",
        rows=(
            row("the creator", first_join(ALICE), **NEW),
            row("not the creator", first_join(BOB), "member.join.uninvited", **NEW),
            row("not the first", member(ALICE, ALICE, "join"), "member.join.uninvited", **NEW),
            row(
                "the creator is the one named until 10",
                first_join(DAVE),
                {1: "", 11: "member.join.uninvited"},
                create={"creator": DAVE},
                **NEW,
            ),
            row(
                "and then the sender",
                first_join(ALICE),
                {1: "member.join.uninvited", 11: ""},
                create={"creator": DAVE},
                **NEW,
            ),
            row(
                "no further creator",
                first_join(BOB),
                "member.join.uninvited",
                create={"additional_creators": [BOB]},
                **NEW,
            ),
        ),
    ),
    Table(
        rule="member.join.other",
        spec="v1 5.2.2, v6 4.2.2, v8 4.3.2, v12 5.3.2",
        rows=(
            row("oneself", member(BOB, BOB, "join")),
            row("somebody else", member(ALICE, BOB, "join"), "member.join.other"),
            row(
                "the invited",
                member(ALICE, BOB, "join"),
                "member.join.other",
                members={BOB: "invite"},
            ),
        ),
    ),
    Table(
        rule="member.join.banned",
        spec="v1 5.2.3, v6 4.2.3, v8 4.3.3, v12 5.3.3",
        rows=(
            row("not banned", member(BOB, BOB, "join"), members={BOB: "leave"}),
            *(
                row(
                    f"banned, {rule}",
                    member(BOB, BOB, "join"),
                    "member.join.banned",
                    join_rule=rule,
                    members={BOB: "ban"},
                )
                for rule in ("public", "invite", "knock", "restricted", "knock_restricted", "odd")
            ),
            row(
                "banned and vouched for",
                member(BOB, BOB, "join", join_authorised_via_users_server=ALICE),
                "member.join.banned",
                join_rule="restricted",
                members={BOB: "ban"},
            ),
        ),
    ),
    Table(
        rule="member.join.uninvited",
        spec="v1 5.2.4, v6 4.2.4, v8 4.3.4, v12 5.3.4",
        rows=(
            *joins("invite", "", "invite", "join"),
            *joins("invite", "member.join.uninvited", None, "leave", "knock", "odd"),
            *joins("knock", "", "invite", "join"),
            *joins("knock", "member.join.uninvited", None, "leave", "knock"),
            row("no join rules", member(BOB, BOB, "join"), "member.join.uninvited", join_rule=None),
            row(
                "no join rules, invited",
                member(BOB, BOB, "join"),
                join_rule=None,
                members={BOB: "invite"},
            ),
            row(
                "unset join rules",
                member(BOB, BOB, "join"),
                "member.join.uninvited",
                join_rule="unset",
            ),
        ),
    ),
    Table(
        rule="member.join.restricted",
        spec="v8 4.3.5, v12 5.3.5",
        first=8,
        rows=(
            *joins("restricted", "", "invite", "join"),
            *joins("restricted", "member.join.restricted", None, "leave", "knock"),
            *joins("knock_restricted", "", "invite", "join"),
            *joins("knock_restricted", "member.join.restricted", None, "leave", "knock"),
            *(
                line
                for rule in ("restricted", "knock_restricted")
                for line in (
                    vouched("by Alice", ALICE, "", rule, **INVITED_50),
                    vouched(
                        "at the invite level",
                        CAROL,
                        "",
                        rule,
                        members={CAROL: "join"},
                        users={CAROL: 50},
                        **INVITED_50,
                    ),
                    vouched(
                        "below it",
                        CAROL,
                        "member.join.restricted",
                        rule,
                        members={CAROL: "join"},
                        users={CAROL: 49},
                        **INVITED_50,
                    ),
                    vouched(
                        "by one who has left",
                        CAROL,
                        "member.join.restricted",
                        rule,
                        members={CAROL: "leave"},
                    ),
                    vouched(
                        "by one who is invited",
                        CAROL,
                        "member.join.restricted",
                        rule,
                        members={CAROL: "invite"},
                    ),
                    vouched("by a stranger", EVE, "member.join.restricted", rule),
                    vouched("by nobody's ID", "alice", "member.voucher", rule),
                )
            ),
        ),
    ),
    Table(
        rule="member.join.rule",
        spec="v1 5.2.5 and 6, v6 4.2.5 and 6, v8 4.3.6 and 7, v12 5.3.6 and 7",
        rows=(
            *joins("public", "", None, "invite", "join", "leave", "knock", "odd"),
            *joins("private", "member.join.rule", None, "invite", "join"),
            *joins("odd", "member.join.rule", None, "invite", "join"),
            *(
                row(f"rule {odd!r}", member(BOB, BOB, "join"), "member.join.rule", join_rule=odd)
                for odd in some(5, [], {}, True, "", ["public"])
            ),
            *(
                row(
                    f"{rule} is unknown before {number}",
                    member(BOB, BOB, "join"),
                    {1: "member.join.rule", number: ""},
                    join_rule=rule,
                    members={BOB: "invite"},
                )
                for rule, number in KNOWN_SINCE.items()
            ),
        ),
    ),
)


# invite


INVITE = (
    Table(
        rule="member.invite.sender",
        spec="v1 5.3.2, v6 4.3.2, v8 4.4.2, v12 5.4.2",
        rows=(
            row("from within", member(CAROL, BOB, "invite"), members={CAROL: "join"}),
            row("from outside", member(CAROL, BOB, "invite"), "member.invite.sender"),
            *(
                row(
                    before,
                    member(CAROL, BOB, "invite"),
                    "member.invite.sender",
                    members={CAROL: before},
                )
                for before in ("invite", "leave", "ban", "knock")
            ),
            row("oneself", member(BOB, BOB, "invite"), "member.invite.sender"),
        ),
    ),
    Table(
        rule="member.invite.target",
        spec="v1 5.3.3, v6 4.3.3, v8 4.4.3, v12 5.4.3",
        rows=(
            row("a stranger", member(ALICE, BOB, "invite")),
            *(
                row(before, member(ALICE, BOB, "invite"), members={BOB: before})
                for before in ("leave", "invite", "knock")
            ),
            *(
                row(
                    before,
                    member(ALICE, BOB, "invite"),
                    "member.invite.target",
                    members={BOB: before},
                )
                for before in ("join", "ban")
            ),
            row("oneself, within", member(ALICE, ALICE, "invite"), "member.invite.target"),
        ),
    ),
    Table(
        rule="member.invite.level",
        spec="v1 5.3.4 and 5, v6 4.3.4 and 5, v8 4.4.4 and 5, v12 5.4.4 and 5",
        rows=(
            row("0 is enough by default", member(CAROL, BOB, "invite"), members={CAROL: "join"}),
            row(
                "at the level",
                member(CAROL, BOB, "invite"),
                members={CAROL: "join"},
                users={CAROL: 50},
                **INVITED_50,
            ),
            row(
                "below",
                member(CAROL, BOB, "invite"),
                "member.invite.level",
                members={CAROL: "join"},
                users={CAROL: 49},
                **INVITED_50,
            ),
            row(
                "less than nothing",
                member(CAROL, BOB, "invite"),
                "member.invite.level",
                members={CAROL: "join"},
                users={CAROL: -1},
            ),
            row(
                "state_default is no matter",
                member(CAROL, BOB, "invite"),
                members={CAROL: "join"},
                levels={"state_default": 100, "events": {"m.room.member": 100}},
            ),
            row(
                "without power levels",
                member(CAROL, BOB, "invite"),
                members={CAROL: "join"},
                levels=None,
            ),
        ),
    ),
)

IDENTITY = SigningKey.from_seed("0", b"i" * 32)
EPHEMERAL = SigningKey.from_seed("1", b"e" * 32)
STRANGE = SigningKey.from_seed("0", b"x" * 32)
OFFERS = {
    "t": {
        "display_name": "b",
        "public_key": IDENTITY.verify_key_base64,
        "public_keys": [{"public_key": EPHEMERAL.verify_key_base64}, "odd", {"public_key": 5}],
    },
    "one": {"display_name": "b", "public_key": IDENTITY.verify_key_base64},
    "list": {"public_keys": [{"public_key": IDENTITY.verify_key_base64}]},
    "none": {"display_name": "b"},
}


def signed_by(key: SigningKey, **changes: Any) -> dict[str, Any]:
    signed = {"mxid": BOB, "token": "t", **changes}
    signed = {name: value for name, value in signed.items() if value is not None}
    return sign_json(signed, server=ServerName("id.example"), key=key)


def exchanged(
    name: str,
    signed: object,
    expect: Expect = "",
    sender: UserId = ALICE,
    **state: Any,
) -> Row:
    """Bob is invited because somebody has bound his address to him."""
    invite = {"display_name": "b", "signed": signed}
    event = member(sender, BOB, "invite", third_party_invite=invite)
    return row(name, event, expect, join_rule="invite", offers=OFFERS, **state)


GOOD = signed_by(IDENTITY)
THIRD_PARTY = (
    Table(
        rule="member.third_party.banned",
        spec="v1 5.3.1.1, v6 4.3.1.1, v8 4.4.1.1, v12 5.4.1.1",
        rows=(
            exchanged("not banned", GOOD, members={BOB: "leave"}),
            exchanged("already in", GOOD, members={BOB: "join"}),
            exchanged("banned", GOOD, "member.third_party.banned", members={BOB: "ban"}),
        ),
    ),
    Table(
        rule="member.third_party.signed",
        spec="v1 5.3.1.2 and 3, v6 4.3.1.2 and 3, v8 4.4.1.2 and 3, v12 5.4.1.2 and 3",
        rows=(
            exchanged("signed", GOOD),
            exchanged("no object", "x", "member.third_party.signed"),
            exchanged("null", None, "member.third_party.signed"),
            exchanged("empty", {}, "member.third_party.signed"),
            exchanged("no token", signed_by(IDENTITY, token=None), "member.third_party.signed"),
            exchanged("an odd token", signed_by(IDENTITY, token=5), "member.third_party.signed"),
            *(
                row(
                    f"third_party_invite is {odd!r}",
                    member(ALICE, BOB, "invite", third_party_invite=odd),
                    "member.third_party.signed",
                    offers=OFFERS,
                )
                for odd in some("x", {}, None, [])
            ),
        ),
    ),
    Table(
        rule="member.third_party.mxid",
        spec="v1 5.3.1.3 and 4, v6 4.3.1.3 and 4, v8 4.4.1.3 and 4, v12 5.4.1.3 and 4",
        rows=(
            exchanged("Bob's", GOOD),
            exchanged("nobody's", signed_by(IDENTITY, mxid=None), "member.third_party.mxid"),
            exchanged("Carol's", signed_by(IDENTITY, mxid=CAROL), "member.third_party.mxid"),
            exchanged("odd", signed_by(IDENTITY, mxid=5), "member.third_party.mxid"),
        ),
    ),
    Table(
        rule="member.third_party.token",
        spec="v1 5.3.1.5, v6 4.3.1.5, v8 4.4.1.5, v12 5.4.1.5",
        rows=(
            exchanged("offered", signed_by(IDENTITY, token="one")),
            exchanged("not offered", signed_by(IDENTITY, token="u"), "member.third_party.token"),
        ),
    ),
    Table(
        rule="member.third_party.sender",
        spec="v1 5.3.1.6, v6 4.3.1.6, v8 4.4.1.6, v12 5.4.1.6",
        rows=(
            exchanged("who offered", GOOD),
            exchanged("who offered, though gone", GOOD, members={ALICE: "leave"}),
            exchanged("though without level", GOOD, levels={"invite": 2**53 - 1}),
            exchanged("another", GOOD, "member.third_party.sender", CAROL, members={CAROL: "join"}),
        ),
    ),
    Table(
        rule="member.third_party.signature",
        spec="v1 5.3.1.7 and 8, v6 4.3.1.7 and 8, v8 4.4.1.7 and 8, v12 5.4.1.7 and 8",
        rows=(
            exchanged("by public_key", signed_by(IDENTITY, token="one")),
            exchanged("by one of public_keys", signed_by(IDENTITY, token="list")),
            exchanged("by the second key", signed_by(EPHEMERAL)),
            exchanged("no key", signed_by(IDENTITY, token="none"), "member.third_party.signature"),
            exchanged("another key", signed_by(STRANGE), "member.third_party.signature"),
            exchanged("changed later", {**GOOD, "more": 1}, "member.third_party.signature"),
            exchanged("unsigned", {"mxid": BOB, "token": "t"}, "member.third_party.signature"),
            *(
                exchanged(
                    f"signatures {odd!r}",
                    {"mxid": BOB, "token": "t", "signatures": odd},
                    "member.third_party.signature",
                )
                for odd in some(5, [], {"a": 5}, {"a": {"ed25519:1": 5}}, {"a": {"ed25519:1": "x"}})
            ),
        ),
    ),
)


# leave, kick, lifting a ban, ban


def acts(
    membership: str,
    name: str,
    own: int,
    other: int,
    before: str,
    expect: str = "",
    **levels: int,
) -> Row:
    """Carol at level `own` does it to Bob at level `other`."""
    return row(
        name,
        member(CAROL, BOB, membership),
        expect,
        members={CAROL: "join", BOB: before},
        users={CAROL: own, BOB: other},
        levels=levels,
    )


def above_all(membership: str, rule: str) -> list[Row]:
    """What creators of version 12 stand above."""
    return [
        row(
            f"{sender} on {target}, a further creator is Bob",
            member(sender, target, membership),
            {12: expect},
            members={BOB: "join", CAROL: "join"},
            create={"additional_creators": [BOB]},
            users={CAROL: 2**53 - 1},
        )
        for sender, target, expect in (
            (CAROL, ALICE, rule),
            (CAROL, BOB, rule),
            (ALICE, BOB, rule),
            (BOB, ALICE, rule),
            (BOB, CAROL, ""),
        )
    ]


LEAVE = (
    Table(
        rule="member.leave.absent",
        spec="v1 5.4.1, v6 4.4.1, v8 4.5.1, v12 5.5.1",
        rows=(
            *(
                row(before, member(BOB, BOB, "leave"), expect, members={BOB: before})
                for before, expect in (
                    ("join", ""),
                    ("invite", ""),
                    ("knock", {1: "member.leave.absent", 7: ""}),
                    ("leave", "member.leave.absent"),
                    ("ban", "member.leave.absent"),
                    ("odd", "member.leave.absent"),
                )
            ),
            row("a stranger", member(BOB, BOB, "leave"), "member.leave.absent"),
        ),
    ),
    Table(
        rule="member.kick.sender",
        spec="v1 5.4.2, v6 4.4.2, v8 4.5.2, v12 5.5.2",
        rows=(
            row("from within", member(ALICE, BOB, "leave"), members={BOB: "join"}),
            *(
                row(
                    before,
                    member(EVE, BOB, "leave"),
                    "member.kick.sender",
                    members={BOB: "join", EVE: before},
                    users={EVE: 100},
                )
                for before in ("invite", "leave", "ban", "knock")
            ),
        ),
    ),
    Table(
        rule="member.unban.level",
        spec="v1 5.4.3, v6 4.4.3, v8 4.5.3, v12 5.5.3",
        rows=(
            acts("leave", "at both levels", 50, 0, "ban"),
            acts("leave", "below the ban level", 50, 0, "ban", "member.unban.level", ban=60),
            acts("leave", "below the kick level", 50, 0, "ban", "member.kick.level", kick=60),
            acts("leave", "the ban level is for the banned alone", 50, 0, "join", ban=60),
        ),
    ),
    Table(
        rule="member.kick.level",
        spec="v1 5.4.4 and 5, v6 4.4.4 and 5, v8 4.5.4 and 5, v12 5.5.4 and 5",
        rows=(
            acts("leave", "at the level", 50, 0, "join"),
            acts("leave", "an invite taken back", 50, 49, "invite"),
            acts("leave", "who was never there", 50, 0, "leave"),
            acts("leave", "an equal", 50, 50, "join", "member.kick.level"),
            acts("leave", "one above", 50, 60, "join", "member.kick.level"),
            acts("leave", "below the level", 49, 0, "join", "member.kick.level"),
            acts("leave", "a named level", 10, 0, "join", kick=10),
            acts("leave", "below a named level", 9, 0, "join", "member.kick.level", kick=10),
            *above_all("leave", "member.kick.level"),
        ),
    ),
)

BAN = (
    Table(
        rule="member.ban.sender",
        spec="v1 5.5.1, v6 4.5.1, v8 4.6.1, v12 5.6.1",
        rows=(
            row("from within", member(ALICE, BOB, "ban")),
            *(
                row(
                    before,
                    member(EVE, BOB, "ban"),
                    "member.ban.sender",
                    members={EVE: before},
                    users={EVE: 100},
                )
                for before in ("invite", "leave", "ban", "knock")
            ),
        ),
    ),
    Table(
        rule="member.ban.level",
        spec="v1 5.5.2 and 3, v6 4.5.2 and 3, v8 4.6.2 and 3, v12 5.6.2 and 3",
        rows=(
            *(
                acts("ban", before, 50, 49, before)
                for before in ("join", "invite", "leave", "ban", "knock")
            ),
            acts("ban", "an equal", 50, 50, "join", "member.ban.level"),
            acts("ban", "one above", 50, 60, "leave", "member.ban.level"),
            acts("ban", "below the level", 49, 0, "join", "member.ban.level"),
            acts("ban", "a named level", 0, -1, "join", ban=0),
            acts("ban", "below a named level", 60, 0, "join", "member.ban.level", ban=61),
            row("oneself", member(ALICE, ALICE, "ban"), "member.ban.level"),
            *above_all("ban", "member.ban.level"),
        ),
    ),
)


# knock


def knocks(name: str, join_rule: object, expect: str = "", **more: Any) -> Row:
    """`more`: the sender and the members."""
    sender: UserId = more.pop("sender", BOB)
    known: Mapping[int, str] = {7: "member.knock.rule", KNOWN_SINCE.get(str(join_rule), 7): expect}
    return row(
        f"{name}, {join_rule}",
        member(sender, BOB, "knock"),
        {1: "member.unknown", **known},
        join_rule=join_rule,
        **more,
    )


KNOCK = (
    Table(
        rule="member.knock.rule",
        spec="v7 4.6.1, v8 4.7.1, v12 5.7.1",
        first=7,
        rows=(
            knocks("a stranger", "knock"),
            knocks("a stranger", "knock_restricted"),
            *(
                knocks("a stranger", rule, "member.knock.rule")
                for rule in some("public", "invite", "restricted", "odd", None, 5, [])
            ),
        ),
    ),
    Table(
        rule="member.knock.other",
        spec="v7 4.6.2, v8 4.7.2, v12 5.7.2",
        first=7,
        rows=(
            knocks("oneself", "knock"),
            knocks("somebody else", "knock", "member.knock.other", sender=ALICE),
        ),
    ),
    Table(
        rule="member.knock.membership",
        spec="v7 4.6.3 and 4, v8 4.7.3 and 4, v12 5.7.3 and 4",
        first=7,
        rows=tuple(
            knocks(before, rule, expect, members={BOB: before})
            for rule in ("knock", "knock_restricted")
            for before, expect in (
                ("leave", ""),
                ("knock", ""),
                ("odd", ""),
                ("ban", "member.knock.membership"),
                ("invite", "member.knock.membership"),
                ("join", "member.knock.membership"),
            )
        ),
    ),
)

TABLES = (*SHAPE, *JOIN, *INVITE, *THIRD_PARTY, *LEAVE, *BAN, *KNOCK)
