"""Tables of the rules about the create event: 1, and from 12 also 2."""

from __future__ import annotations

from tests.engine.auth.cases import Table, create_row, message, row, some
from tests.engine.rooms import ALICE, BOB, CAROL

TABLES = (
    Table(
        rule="create.prev_events",
        spec="v1 1.1",
        rows=(
            create_row("a create event stands at the beginning"),
            create_row("with a previous event", "create.prev_events", prev_events=()),
        ),
    ),
    Table(
        rule="create.room_id",
        spec="v1 1.2",
        rows=(
            create_row("as its server made it"),
            create_row("a room ID of another server", "create.room_id", room_id="!r:b.example"),
            create_row(
                "a room ID of the sender's server",
                {1: "", 12: "create.room_id"},
                room_id="!r:a.example",
            ),
            create_row(
                "of the same host at another port", "create.room_id", room_id="!r:a.example:1"
            ),
        ),
    ),
    Table(
        rule="create.room_version",
        spec="v1 1.3",
        rows=(
            create_row("no version is named", content={"room_version": None}),
            create_row("a known one", content={"room_version": "6"}),
            *(
                create_row(f"{named!r}", "create.room_version", content={"room_version": named})
                for named in some("i.1", "I.", "I.1a", "99", "", 10, {}, [])
            ),
        ),
    ),
    Table(
        rule="create.creator",
        spec="v1 1.4",
        last=10,
        rows=(
            create_row("the creator is named", content={"creator": ALICE}),
            create_row("whoever it is", content={"creator": 5}),
            create_row("nobody is", {1: "create.creator", 11: ""}, content={"creator": None}),
        ),
    ),
    Table(
        rule="create.additional_creators",
        spec="v12 1.4",
        first=12,
        rows=(
            create_row("none are named", content={"additional_creators": None}),
            create_row("an empty array", content={"additional_creators": []}),
            create_row("user IDs", content={"additional_creators": [BOB, CAROL]}),
            *(
                create_row(
                    f"{named!r}",
                    {1: "", 12: "create.additional_creators"},
                    content={"additional_creators": named},
                )
                for named in some("x", {}, 5, [5], ["bob"], ["@bob"], [BOB, None])
            ),
        ),
    ),
    Table(
        rule="room_id",
        spec="v1 2.5 and v12 2: whose create event it is",
        rows=(
            row("the room's own create event", message(ALICE)),
            row("another room's", message(ALICE), "room_id", create_of_other_room=True),
        ),
    ),
    Table(
        rule="create.missing",
        spec="v1 2.4, v12 2: no create event at all",
        rows=(
            row("there is one", message(ALICE)),
            row("there is none", message(ALICE), "create.missing", without_create=True),
        ),
    ),
    Table(
        rule="create.rejected",
        spec="v12 2",
        first=12,
        rows=(
            row("the create event was accepted", message(ALICE)),
            row(
                "it was rejected",
                message(ALICE),
                {1: "", 12: "create.rejected"},
                create_rejected=True,
            ),
        ),
    ),
)
