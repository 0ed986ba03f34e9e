"""What the tables of the authorisation rules are made of.

A table is one sub-rule: the word with which the engine refuses by it, its number in the texts of
the room versions, and rows. A row is a state, an event and what is expected, which may change from
one version on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bridge.engine.auth import check_auth, check_auth_events
from bridge.engine.pdu import Pdu
from bridge.engine.state import AuthState, StateKey
from bridge.errors import Refused
from bridge.ids import EventId, UserId
from tests.engine.rooms import ALICE, RoomBuilder, since

EVE = UserId("@eve:e.example")
LAST = 99

Expect: TypeAlias = str | Mapping[int, str]
"""The word of the refusal, empty when allowed; or by the first version from which it is so. A row
does not exist before its first version."""


def expected(expect: Expect, version_id: str) -> str | None:
    """None where the row says nothing about the version."""
    if isinstance(expect, str):
        return expect
    found = [number for number in expect if since(version_id, number)]
    return expect[max(found)] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A room of Alice's, as the rules see it."""

    create: Mapping[str, Any] = field(default_factory=dict)
    """More content of the create event."""
    users: Mapping[str, Any] = field(default_factory=dict)
    """Beside Alice, who has 100 or stands above all."""
    levels: Mapping[str, Any] | None = field(default_factory=dict)
    """The other power levels; None: there is no such event."""
    join_rule: Any = "public"
    """None: there is no such event; `unset`: there is, and it says nothing."""
    members: Mapping[UserId, Any] = field(default_factory=dict)
    """Beside Alice, who is joined unless it says otherwise."""
    offers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Alice's third-party invites by their tokens."""
    create_rejected: bool = False
    without_create: bool = False
    create_of_other_room: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The one that is judged."""

    type: str
    sender: UserId
    content: Mapping[str, Any] = field(default_factory=dict)
    state_key: str | None = None
    redacts: EventId | None = None
    right_after_create: bool = False
    creator_level: bool = False
    """Power levels in which Alice keeps her level, where she has a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case of one table."""

    name: str
    expect: Expect = ""
    verdict: Callable[[str], str]
    """Version -> the word of the refusal, empty when allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One sub-rule."""

    rule: str
    spec: str
    """Its number from a version on: `v1 2.1, v12 3.1`."""
    rows: Sequence[Row]
    first: int = 1
    """The versions that have the rule. In the others the rows tell what happens instead."""
    last: int = LAST

    def is_in(self, version_id: str) -> bool:
        return since(version_id, self.first) and not since(version_id, self.last + 1)


def row(name: str, event: Event, expect: Expect = "", **state: Any) -> Row:
    """An event judged by a state."""
    return Row(name=name, expect=expect, verdict=lambda one: _judge(one, State(**state), event))


def create_row(name: str, expect: Expect = "", **changes: Any) -> Row:
    """The create event itself with other top-level keys or `content`; None takes one away."""
    return Row(name=name, expect=expect, verdict=lambda one: _judge_create(one, changes))


def selection_row(name: str, auth_events: Sequence[str], expect: Expect = "") -> Row:
    """Bob's message that names these: `create`, `levels`, `own`, or wrong ones (`_Named`)."""
    return Row(name=name, expect=expect, verdict=lambda one: _judge_selection(one, auth_events))


def _judge(version_id: str, state: State, event: Event) -> str:
    room = RoomBuilder(version_id, create_content=state.create)
    auth_state = _auth_state(room, state)
    return _word(lambda: check_auth(_pdu(room, event), auth_state))


def _auth_state(room: RoomBuilder, state: State) -> AuthState:
    found: dict[StateKey, Pdu] = {}
    create = room.create
    room.join(ALICE)  # so that the create event is no longer the last

    def put(event: Event) -> None:
        pdu = _pdu(room, event)
        assert pdu.key is not None
        found[pdu.key] = pdu

    for user, membership in {ALICE: "join", **state.members}.items():
        put(Event(type="m.room.member", sender=user, content=said(membership), state_key=user))
    if state.levels is not None:
        put(power(ALICE, users=state.users, **state.levels))
    if state.join_rule is not None:
        rule = {} if state.join_rule == "unset" else {"join_rule": state.join_rule}
        put(Event(type="m.room.join_rules", sender=ALICE, content=rule, state_key=""))
    for token, offer in state.offers.items():
        put(Event(type=OFFER, sender=ALICE, content=offer, state_key=token))
    if state.create_of_other_room:
        create = RoomBuilder(room.version.id, creator=EVE).create
    if state.create_rejected:
        create = Pdu.trusted(create.json, create.version, create.event_id, rejected=True)
    if not state.without_create:
        found["m.room.create", ""] = create
    return found


def _pdu(room: RoomBuilder, event: Event) -> Pdu:
    content = dict(event.content)
    if event.creator_level and not room.version.auth.privileged_creators:
        content["users"] = {ALICE: 100, **content.get("users", {})}
    after = [room.create.event_id] if event.right_after_create else None
    draft = room.draft(
        event.type,
        event.sender,
        {},
        event.state_key,
        after=after,
        redacts=event.redacts,
        auth_events=[],
    )
    # Put in afterwards, so that it may hold what we would not send.
    return Pdu.parse({**draft.json, "content": {**draft.content, **content}}, room.version)


def _judge_create(version_id: str, changes: Mapping[str, Any]) -> str:
    room = RoomBuilder(version_id)
    json = {**room.create.json, **changes}
    if "prev_events" in changes:  # its own child, in the form of the version
        room.join(ALICE)
        json["prev_events"] = room.draft("x", ALICE).json["prev_events"]
    json["content"] = {**room.create.content, **changes.get("content", {})}
    json["content"] = {key: value for key, value in json["content"].items() if value is not None}
    return _word(lambda: check_auth(Pdu.parse(json, room.version), {}))


def _judge_selection(version_id: str, names: Sequence[str]) -> str:
    """Bob, whose member event is `own`, says something."""
    bob = UserId("@bob:b.example")
    room = RoomBuilder(version_id)
    room.join(ALICE)
    old_levels = room.power(ALICE, room.levels(ban=60))
    levels = room.power(ALICE, room.levels())
    join_rules = room.join_rule(ALICE, "public")
    own = room.join(bob)
    message = room.send("m.room.message", ALICE, {"body": "x"})
    other = RoomBuilder(version_id, creator=EVE)
    other.join(EVE)
    known = {
        "create": room.create,
        "levels": levels,
        "old levels": old_levels,
        "own": own,
        "alice": room.draft("m.room.member", ALICE, {"membership": "join"}, ALICE),
        "join rules": join_rules,
        "message": message,
        "rejected": Pdu.trusted(levels.json, levels.version, levels.event_id, rejected=True),
        "levels of another room": other.power(EVE, other.levels()),
    }
    unknown = room.draft("m.room.power_levels", ALICE, {"ban": 70}, "").event_id
    ids = [known[name].event_id if name in known else unknown for name in names]
    pdu = room.draft("m.room.message", bob, {"body": "x"}, auth_events=ids)
    found = {known[name].event_id: known[name] for name in names if name in known}
    return _word(lambda: check_auth_events(pdu, found))


def _word(check: Callable[[], None]) -> str:
    try:
        check()
    except Refused as exc:
        return exc.rule
    return ""


OFFER = "m.room.third_party_invite"


def some(*values: Any) -> tuple[Any, ...]:
    """Values of any type."""
    return values


def said(membership: object) -> dict[str, Any]:
    return {} if membership is None else {"membership": membership}


def member(sender: UserId, target: UserId, membership: object, **content: Any) -> Event:
    """A change of a membership."""
    return Event(
        type="m.room.member",
        sender=sender,
        content={**said(membership), **content},
        state_key=target,
    )


def message(sender: UserId) -> Event:
    return Event(type="m.room.message", sender=sender, content={"body": "x"})


def power(sender: UserId, *, users: Any = None, **named: Any) -> Event:
    """Power levels, with Alice's own where she has a number."""
    return Event(
        type="m.room.power_levels",
        sender=sender,
        content={**({"users": users} if users else {}), **named},
        state_key="",
        creator_level=True,
    )
