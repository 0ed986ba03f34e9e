"""Tables of the rules for all events: auth events, `m.federate`, aliases, levels, state keys."""

from __future__ import annotations

from typing import Any

from bridge.ids import EventId, UserId
from tests.engine.auth.cases import (
    EVE,
    OFFER,
    Event,
    Table,
    member,
    message,
    row,
    selection_row,
    some,
)
from tests.engine.rooms import ALICE, BOB, CAROL, DAVE

NEW_ROOM = {1: "auth_events.create", 12: ""}
"""What lacks the create event, and nothing else."""
OLD_ROOM = {1: "", 12: "auth_events.selection"}


def event(kind: str, sender: UserId, state_key: str | None = None, **more: Any) -> Event:
    return Event(type=kind, sender=sender, state_key=state_key, **more)


AUTH_EVENTS = (
    Table(
        rule="auth_events.duplicate",
        spec="v1 2.1, v12 3.1",
        rows=(
            selection_row("each once", ["create", "levels", "own"], OLD_ROOM),
            selection_row("each once, without create", ["levels", "own"], NEW_ROOM),
            selection_row(
                "two power levels", ["levels", "own", "old levels"], "auth_events.duplicate"
            ),
            selection_row("the same twice", ["own", "levels", "own"], "auth_events.duplicate"),
        ),
    ),
    Table(
        rule="auth_events.selection",
        spec="v1 2.2, v12 3.2",
        rows=(
            selection_row("what is selected", ["create", "own", "levels"], OLD_ROOM),
            selection_row("what is selected from 12", ["own", "levels"], NEW_ROOM),
            selection_row("too few", ["create"], OLD_ROOM),
            selection_row("too few, from 12", [], NEW_ROOM),
            selection_row("join rules", ["own", "join rules"], "auth_events.selection"),
            selection_row("somebody else", ["own", "alice"], "auth_events.selection"),
            selection_row("no state", ["own", "message"], "auth_events.selection"),
        ),
    ),
    Table(
        rule="auth_events.rejected",
        spec="v1 2.3, v12 3.3",
        rows=(
            selection_row("accepted power levels", ["create", "levels"], OLD_ROOM),
            selection_row("accepted power levels from 12", ["levels"], NEW_ROOM),
            selection_row("rejected ones", ["own", "rejected"], "auth_events.rejected"),
        ),
    ),
    Table(
        rule="auth_events.create",
        spec="v1 2.4",
        last=11,
        rows=(
            selection_row("with the create event", ["own", "create"], OLD_ROOM),
            selection_row("without", ["own"], NEW_ROOM),
            selection_row("with nothing at all", [], NEW_ROOM),
        ),
    ),
    Table(
        rule="auth_events.room_id",
        spec="v1 2.5, v12 3.4",
        rows=(
            selection_row("of this room", ["create", "levels"], OLD_ROOM),
            selection_row("of this room, from 12", ["levels"], NEW_ROOM),
            selection_row("of another", ["own", "levels of another room"], "auth_events.room_id"),
        ),
    ),
    Table(
        rule="auth_events.unknown",
        spec="S2S, checks on receipt 4: what is not known cannot be judged by",
        rows=(
            selection_row("known ones", ["create", "levels"], OLD_ROOM),
            selection_row("known ones from 12", ["levels"], NEW_ROOM),
            selection_row("one that nobody has", ["own", "nobody has it"], "auth_events.unknown"),
        ),
    ),
)

JOINED = {BOB: "join"}
IN_AND_INVITED = {BOB: "join", CAROL: "invite"}
CLOSED = {"m.federate": False}

FEDERATE = Table(
    rule="federate",
    spec="v1 3, v12 4",
    rows=(
        row("an open room", message(BOB), members=JOINED),
        row("a closed one", message(BOB), "federate", create=CLOSED, members=JOINED),
        row("a guest joins", member(BOB, BOB, "join"), "federate", create=CLOSED),
        row("a guest leaves", member(BOB, BOB, "leave"), "federate", create=CLOSED, members=JOINED),
        row("one of the server joins", member(DAVE, DAVE, "join"), create=CLOSED),
        row("the creator speaks", message(ALICE), create=CLOSED),
        row(
            "a guest is invited: only the sender counts",
            member(ALICE, BOB, "invite"),
            create=CLOSED,
        ),
        row("a guest is banned", member(ALICE, BOB, "ban"), create=CLOSED),
        *(
            row(
                f"only `false` closes, not {odd!r}",
                message(BOB),
                create={"m.federate": odd},
                members=JOINED,
            )
            for odd in some(True, "false", 0, None, [], {})
        ),
        row(
            "aliases too",
            event("m.room.aliases", BOB, "b.example"),
            "federate",
            create=CLOSED,
            members=JOINED,
            users={BOB: 50},
        ),
    ),
)

ALIASES = (
    Table(
        rule="aliases.state_key",
        spec="v1 4.1",
        last=5,
        rows=(
            row("as state", event("m.room.aliases", ALICE, "a.example")),
            row("as a message", event("m.room.aliases", ALICE), {1: "aliases.state_key", 6: ""}),
        ),
    ),
    Table(
        rule="aliases.server",
        spec="v1 4.2 and 4.3",
        last=5,
        rows=(
            row("its own", event("m.room.aliases", ALICE, "a.example")),
            row("nobody's", event("m.room.aliases", ALICE, ""), {1: "aliases.server", 6: ""}),
            row(
                "another server's",
                event("m.room.aliases", ALICE, "b.example"),
                {1: "aliases.server", 6: ""},
            ),
            row(
                "of a server with nobody in the room",
                event("m.room.aliases", BOB, "b.example"),
                {1: "", 6: "sender.membership"},
            ),
            row(
                "without a level",
                event("m.room.aliases", BOB, "b.example"),
                {1: "", 6: "level"},
                members=JOINED,
            ),
        ),
    ),
)

SENDER = Table(
    rule="sender.membership",
    spec="v1 6, v6 5, v12 6",
    rows=(
        row("who is joined", message(BOB), members=JOINED),
        *(
            row(f"{before}", message(BOB), "sender.membership", members={BOB: before})
            for before in ("invite", "leave", "ban", "knock", "odd", 5, None)
        ),
        row("a stranger", message(BOB), "sender.membership"),
        row("a stranger of great power", message(BOB), "sender.membership", users={BOB: 100}),
        row(
            "the creator, who has left",
            message(ALICE),
            "sender.membership",
            members={ALICE: "leave"},
        ),
    ),
)

OFFERING = Table(
    rule="third_party_invite.level",
    spec="v1 7.1, v6 6.1, v12 7.1",
    rows=(
        row("the invite level is 0", event(OFFER, BOB, "t"), members=JOINED),
        row(
            "exactly the invite level",
            event(OFFER, BOB, "t"),
            members=JOINED,
            users={BOB: 20},
            levels={"invite": 20},
        ),
        row(
            "below it",
            event(OFFER, BOB, "t"),
            "third_party_invite.level",
            members=JOINED,
            users={BOB: 19},
            levels={"invite": 20},
        ),
        row(
            "no other level counts",
            event(OFFER, BOB, "t"),
            members=JOINED,
            levels={"state_default": 100, "events": {OFFER: 100}},
        ),
        row("from outside", event(OFFER, BOB, "t"), "sender.membership"),
    ),
)

LEVEL = Table(
    rule="level",
    spec="v1 8, v6 7, v12 8",
    rows=(
        row("a message", event("x", BOB), members=JOINED),
        row("state", event("x", BOB, ""), "level", members=JOINED),
        *(
            row(name, event("x", BOB, key), expect, members=JOINED, users={BOB: own}, levels=levels)
            for name, key, expect, own, levels in (
                ("state at 50", "", "", 50, {}),
                ("state at 49", "", "level", 49, {}),
                ("events_default reached", None, "", 10, {"events_default": 10}),
                ("events_default not reached", None, "level", 9, {"events_default": 10}),
                ("events_default is not for state", "", "level", 10, {"events_default": 10}),
                ("state_default reached", "", "", 0, {"state_default": 0}),
                ("state_default is not for messages", None, "", 0, {"state_default": 100}),
                ("the type's level", None, "", 30, {"events": {"x": 30}}),
                ("the type's level, as state", "", "", 30, {"events": {"x": 30}}),
                ("below the type's level", None, "level", 29, {"events": {"x": 30}}),
                ("below it, as state", "", "level", 29, {"events": {"x": 30}}),
                ("another type's level", None, "", 0, {"events": {"y": 30}}),
                ("a negative level", None, "level", -1, {}),
                ("and a negative need", None, "", -1, {"events_default": -1}),
            )
        ),
        row("users_default", event("x", BOB, ""), members=JOINED, levels={"users_default": 50}),
        row(
            "the own entry before users_default",
            event("x", BOB, ""),
            "level",
            members=JOINED,
            users={BOB: 0},
            levels={"users_default": 50},
        ),
        row("no power levels: the creator", event("x", ALICE, ""), levels=None),
        row("no power levels: anybody", event("x", BOB, ""), "level", members=JOINED, levels=None),
        row("no power levels: a message", event("x", BOB), members=JOINED, levels=None),
        row(
            "no power levels: the sender of create, who is not the named creator",
            event("x", ALICE, ""),
            {1: "level", 11: ""},
            levels=None,
            create={"creator": DAVE},
        ),
        row(
            "a creator whom nobody can give a level",
            event("x", BOB, ""),
            {1: "level", 12: ""},
            members=JOINED,
            create={"additional_creators": [BOB]},
            levels={"state_default": 2**53 - 1},
        ),
        *(
            row(f"the content of {kind} is no matter", event(kind, BOB), members=JOINED)
            for kind in ("m.room.message", "m.message", "m.sticker", "m.room.encrypted")
        ),
        *(
            row(
                f"levels of {odd!r}: numbers until 9, the defaults from 10",
                event("x", BOB, ""),
                {1: "", 10: "level"},
                members=JOINED,
                levels={"users_default": odd},
            )
            for odd in ("50", " +050 ")
        ),
    ),
)

STATE_KEY = Table(
    rule="state_key",
    spec="v1 9, v6 8, v12 9",
    rows=(
        *(
            row(name, event("x", BOB, key), expect, members=JOINED, levels={"state_default": 0})
            for name, key, expect in (
                ("the own ID", BOB, ""),
                ("another's", ALICE, "state_key"),
                ("what only begins like one", "@other", "state_key"),
                ("a lone sign", "@", "state_key"),
                ("no ID", "other", ""),
                ("a sign within", "x@b", ""),
                ("empty", "", ""),
            )
        ),
        row("also with all power", event("x", ALICE, BOB), "state_key"),
    ),
)

# The target of the redaction is named by an event ID of a.example or b.example.
REDACTION = (
    Table(
        rule="redaction.level",
        spec="v1 11",
        last=2,
        rows=(
            row(
                "at the redact level",
                event("m.room.redaction", BOB, redacts=EventId("$x:a.example")),
                members=JOINED,
                users={BOB: 50},
            ),
            row(
                "an event of the own server",
                event("m.room.redaction", BOB, redacts=EventId("$x:b.example")),
                members=JOINED,
            ),
            row(
                "another server's event",
                event("m.room.redaction", BOB, redacts=EventId("$x:a.example")),
                {1: "redaction.level", 3: ""},
                members=JOINED,
            ),
            row(
                "below a named redact level",
                event("m.room.redaction", BOB, redacts=EventId("$x:a.example")),
                {1: "redaction.level", 3: ""},
                members=JOINED,
                users={BOB: 59},
                levels={"redact": 60},
            ),
            row(
                "an event of the same host at another port",
                event("m.room.redaction", BOB, redacts=EventId("$x:b.example:8448")),
                {1: "redaction.level", 3: ""},
                members=JOINED,
            ),
            row(
                "an event ID without a server",
                event("m.room.redaction", BOB, redacts=EventId("$x")),
                {1: "redaction.level", 3: ""},
                members=JOINED,
            ),
            row(
                "what names no event",
                event("m.room.redaction", BOB),
                {1: "redaction.level", 3: ""},
                members=JOINED,
            ),
        ),
    ),
    Table(
        rule="level",
        spec="v3, authorisation rules, note: a redaction is like any other event",
        rows=(
            row(
                "the redact level is no matter",
                event("m.room.redaction", BOB, redacts=EventId("$x:b.example")),
                members=JOINED,
                levels={"redact": 100},
            ),
            row(
                "the type's is",
                event("m.room.redaction", BOB, redacts=EventId("$x:b.example")),
                "level",
                members=JOINED,
                levels={"events": {"m.room.redaction": 10}},
            ),
            row(
                "from outside",
                event("m.room.redaction", EVE, redacts=EventId("$x:e.example")),
                "sender.membership",
            ),
        ),
    ),
)

TABLES = (*AUTH_EVENTS, FEDERATE, *ALIASES, SENDER, OFFERING, LEVEL, STATE_KEY, *REDACTION)
