"""Random event graphs: forks and merges, quarrels about everything that the rules look at.

The same version, seed and number of steps make the same graph, and fewer steps its beginning.
Most events are what their senders may send; some are not, and some name wrong auth events or
carry values that nobody expects.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bridge.engine.auth import auth_event_keys
from bridge.engine.build import complete
from bridge.engine.canonical import check_canonical
from bridge.engine.pdu import Pdu
from bridge.engine.receipt import Decision, Verdict, judge
from bridge.engine.signing import sign_json
from bridge.engine.state import StateKey
from bridge.errors import BadInput
from bridge.ids import EventId, ServerName, UserId, server_of
from tests.engine.rooms import ALICE, BOB, CAROL, DAVE, RoomBuilder, key_of

EVE = UserId("@eve:e.example")
USERS = (ALICE, BOB, CAROL, DAVE, EVE)
IDENTITY_SERVER = ServerName("id.example")
LEVELS = (0, 1, 49, 50, 51, 99, 100)
ODD: tuple[Any, ...] = ("50", True, None, [], {}, -1, 2**53 - 1, " 7 ", "x")
ODD_NUMBERS: tuple[Any, ...] = ("50", "+7", "-1", "0049", -1, 2**53 - 1, " 7 ")
"""Before version 10, where the two disagree about everything that is no number."""
NOT_CANONICAL: tuple[Any, ...] = (50.57, 1e2, -0.5, 49.999, 1e-7, 2**53, 2**63, 2**64 - 1)
"""Before version 6, as levels."""
JOIN_RULES = ("public", "public", "invite", "knock", "restricted", "knock_restricted", "private")
NAMED = (
    *("ban", "kick", "redact", "invite"),
    *("users_default", "events_default", "state_default"),
)
MAX_TIPS = 6


@dataclass(kw_only=True)
class Graph:
    """The events in order, what our engine decided about each, and its state after each."""

    version_id: str
    seed: int
    room: RoomBuilder
    events: list[Pdu] = field(default_factory=list)
    decisions: dict[EventId, Decision] = field(default_factory=dict)
    merges: list[list[EventId]] = field(default_factory=list)
    _states: dict[tuple[EventId, ...], Mapping[StateKey, EventId]] = field(default_factory=dict)

    def state(self, event_ids: Sequence[EventId]) -> Mapping[StateKey, EventId]:
        """Ours, after all of the events."""
        key = tuple(event_ids)
        if key not in self._states:
            self._states[key] = self.room.state_before(key)
        return self._states[key]

    @property
    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version_id,
            "algorithm": self.room.version.stateres.algorithm,
            "events": [pdu.wire() for pdu in self.events],
            "resolve": self.merges,
        }


def grow(version_id: str, seed: int, *, steps: int, algorithm: Literal["v1", "v2"] = "v2") -> Graph:
    """A graph of the version; `algorithm` resolves its states, whatever the version's own is."""
    rng = random.Random(f"{version_id}/{seed}")
    room = RoomBuilder(version_id, create_content=_create_content(version_id, rng))
    stateres = replace(room.version.stateres, algorithm=algorithm)
    room.version = replace(room.version, stateres=stateres)
    grower = Grower(graph=Graph(version_id=version_id, seed=seed, room=room), rng=rng)
    grower.start()
    for _ in range(steps):
        grower.step()
    grower.graph.merges += [list(tips) for tips in grower.samples()]
    return grower.graph


def _create_content(version_id: str, rng: random.Random) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if rng.random() < 0.05:
        content["m.federate"] = rng.choice([False, True])
    if version_id == "12" and rng.random() < 0.4:
        content["additional_creators"] = rng.sample(USERS, k=rng.randrange(3))
    return content


class Grower:
    """Lets a graph grow, judging each event by our engine."""

    def __init__(self, *, graph: Graph, rng: random.Random) -> None:
        self.graph, self.room, self.rng = graph, graph.room, rng
        self.tips: list[EventId] = []

    def begin(self) -> None:
        self._judge(self.room.create, {})
        self.tips = [self.room.create.event_id]

    def start(self) -> None:
        """Alice's room with Bob and Carol in it."""
        self.begin()
        levels = self.room.levels({BOB: 50})
        self.send("m.room.member", ALICE, {"membership": "join"}, ALICE)
        self.send("m.room.power_levels", ALICE, levels, "")
        self.send("m.room.join_rules", ALICE, {"join_rule": "public"}, "")
        for user in (BOB, CAROL):
            self.send("m.room.member", user, {"membership": "join"}, user)

    def step(self) -> None:
        """One more event, after one or several tips, which may stay tips."""
        rng = self.rng
        after = rng.sample(self.tips, k=min(len(self.tips), rng.choice([1, 1, 1, 2, 2, 3])))
        if rng.random() < 0.1:
            after = [rng.choice(self.graph.events).event_id]
        before = self.graph.state(after)
        kind, sender, content, state_key = self._event(before)
        if rng.random() < 0.03:
            content = {
                **content,
                rng.choice(["membership", "users", "ban", "x"]): rng.choice(self._odd),
            }
        keys = auth_event_keys(kind, sender, state_key, content, self.room.version)
        unusual = not _is_canonical(content)
        pdu = self.room.draft(
            kind,
            sender,
            {} if unusual else content,
            state_key,
            after=after,
            ts=rng.randrange(5),
            redacts=rng.choice(self.graph.events).event_id if kind == "m.room.redaction" else None,
            auth_events=self._auth_events(keys, before),
            state=before,
        )
        if unusual:  # which we would not send
            server = server_of(sender)
            template = {**pdu.wire(), "content": content}
            pdu = complete(
                template,
                version=pdu.version,
                key=key_of(server),
                server=server,
                event_id=pdu.event_id,
            )
        if pdu.event_id in self.room.events:
            return
        self._judge(pdu, before)
        if len(after) > 1:
            self.graph.merges.append(after)
        if rng.random() < 0.6 or len(self.tips) >= MAX_TIPS:
            self.tips = [tip for tip in self.tips if tip not in after] or self.tips[1:]
        self.tips.append(pdu.event_id)

    def samples(self) -> list[list[EventId]]:
        """What is resolved in the end: all tips, and some events from anywhere."""
        events = [pdu.event_id for pdu in self.graph.events]
        picks = [self.rng.sample(events, k=min(len(events), 1 + n % 4)) for n in range(1, 9)]
        return [self.tips, *picks]

    def send(self, kind: str, sender: UserId, content: Mapping[str, Any], state_key: str) -> None:
        """This event after all tips."""
        before = self.graph.state(self.tips)
        pdu = self.room.draft(kind, sender, content, state_key, after=self.tips, state=before)
        self._judge(pdu, before)
        self.tips = [pdu.event_id]

    def _judge(self, pdu: Pdu, before: Mapping[StateKey, EventId]) -> None:
        room = self.room
        decision = judge(
            pdu,
            create=None if pdu is room.create else room.create,
            auth_events=room.lookup(pdu.auth_events),
            state_before={key: room.events[one] for key, one in before.items()},
            current_state=None,
        )
        after = dict(before)
        if decision.verdict is not Verdict.ACCEPTED:
            pdu = Pdu.trusted(pdu.json, pdu.version, pdu.event_id, rejected=True)
        elif pdu.key is not None:
            after[pdu.key] = pdu.event_id
        room.events[pdu.event_id] = pdu
        room.state_after[pdu.event_id] = after
        self.graph.events.append(pdu)
        self.graph.decisions[pdu.event_id] = decision

    def _auth_events(
        self, keys: frozenset[StateKey], before: Mapping[StateKey, EventId]
    ) -> list[EventId]:
        rng, events = self.rng, self.graph.events
        source = before
        if rng.random() < 0.08:  # older or newer ones, which may say something else
            source = self.room.state_after[rng.choice(events).event_id]
        chosen = [source[key] for key in sorted(keys) if key in source]
        if chosen and rng.random() < 0.02:
            chosen.remove(rng.choice(chosen))
        if rng.random() < 0.02:
            extra = rng.choice(events)
            # Synapse cannot even hold an event that names a create event which is implied.
            if extra is not self.room.create or self.room.version.auth.create_in_auth_events:
                chosen.append(extra.event_id)
        if rng.random() < 0.03:  # any event of these keys, the rejected ones too
            named = rng.choice(events)
            if named.key in keys:
                chosen = [one for one in chosen if self.room.events[one].key != named.key]
                chosen.append(named.event_id)
        return list(chosen)

    def _event(
        self, before: Mapping[StateKey, EventId]
    ) -> tuple[str, UserId, dict[str, Any], str | None]:
        rng = self.rng
        joined = [user for user in USERS if self._membership(before, user) == "join"]
        anybody, target = rng.choice(USERS), rng.choice(self._targets)
        sender = rng.choice(joined) if joined and rng.random() < 0.85 else anybody
        match rng.choices(range(10), weights=[18, 10, 25, 25, 12, 4, 4, 4, 2, 2])[0]:
            case 0:
                return "m.room.power_levels", sender, self._levels(before), ""
            case 1:
                return "m.room.join_rules", sender, self._join_rule(), ""
            case 2:
                membership = rng.choice(["ban", "ban", "leave", "leave", "invite", "knock", "join"])
                return "m.room.member", sender, {"membership": membership}, target
            case 3:
                membership = rng.choice(["join", "join", "join", "leave", "knock"])
                content = {"membership": membership}
                if membership == "join" and rng.random() < 0.3:
                    content["join_authorised_via_users_server"] = rng.choice(USERS)
                return "m.room.member", anybody, content, anybody
            case 4:
                return "m.room.topic", sender, {"topic": str(rng.randrange(100))}, ""
            case 5:
                return "org.example.own", sender, {"n": rng.randrange(9)}, rng.choice([target, "k"])
            case 6:
                keys = [{"public_key": key_of(IDENTITY_SERVER).verify_key_base64}]
                return "m.room.third_party_invite", sender, {"public_keys": keys}, "token"
            case 7:
                return "m.room.member", sender, self._third_party(target), target
            case 8:
                return "m.room.aliases", sender, {"aliases": []}, rng.choice([target, "a.example"])
            case _:
                kind = rng.choice(["m.room.redaction", "m.room.message"])
                return kind, sender, {"n": rng.randrange(9)}, None

    @property
    def _targets(self) -> tuple[UserId, ...]:
        # About others in a closed room the two disagree: tests/vectors/disagreements.
        closed = self.room.create.content.get("m.federate") is False
        return (ALICE, DAVE) if closed else USERS

    @property
    def _odd(self) -> tuple[Any, ...]:
        version = self.room.version
        if version.auth.integer_levels:
            return ODD
        return ODD_NUMBERS if version.event_format.strict_json else ODD_NUMBERS + NOT_CANONICAL

    def _membership(self, before: Mapping[StateKey, EventId], user: UserId) -> str | None:
        event_id = before.get(("m.room.member", user))
        return None if event_id is None else self.room.events[event_id].membership

    def _join_rule(self) -> dict[str, Any]:
        if self.rng.random() < 0.04:
            return self.rng.choice([{}, {"join_rule": 5}, {"join_rule": None}])
        return {"join_rule": self.rng.choice(JOIN_RULES)}

    def _levels(self, before: Mapping[StateKey, EventId]) -> dict[str, Any]:
        """The levels of before with one or two changes."""
        rng = self.rng
        event_id = before.get(("m.room.power_levels", ""))
        content = dict(self.room.events[event_id].content) if event_id else self.room.levels()
        for _ in range(rng.choice([1, 1, 2])):
            level = rng.choice(self._odd) if rng.random() < 0.05 else rng.choice(LEVELS)
            group, name = rng.choice(
                [
                    *[("users", user) for user in USERS],
                    ("users", rng.choice(["@new:n.example", "@new:n.example", "nobody"])),
                    ("events", rng.choice(["m.room.power_levels", "m.room.topic"])),
                    ("events", "m.room.member"),
                    ("notifications", "room"),
                    ("", rng.choice(NAMED)),
                    ("", rng.choice(NAMED)),
                ]
            )
            inner = dict(content.get(group) or {}) if group else content
            if rng.random() < 0.2:
                inner.pop(name, None)
            else:
                inner[name] = level
            if group:
                content[group] = inner
        return content

    def _third_party(self, target: UserId) -> dict[str, Any]:
        signed: dict[str, Any] = {"mxid": target, "token": "token"}
        if self.rng.random() < 0.1:
            signed["mxid"] = self.rng.choice(self._targets)
        if self.rng.random() < 0.9:
            signer = IDENTITY_SERVER if self.rng.random() < 0.9 else ServerName("other.example")
            signed = sign_json(signed, server=signer, key=key_of(signer))
        return {"membership": "invite", "third_party_invite": {"signed": signed}}


def _is_canonical(content: Mapping[str, Any]) -> bool:
    try:
        check_canonical(content)
    except BadInput:
        return False
    return True
