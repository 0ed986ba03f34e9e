"""People of several servers who act at random, and against each other, in one room.

Everything is drawn from seeded generators, one for each server, so that a run can be tried again;
what the servers make of it depends on their timing too. On each server one person, the anchor,
stays: nobody of the others has the power to remove it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from bridge.ids import EventId, ServerName, UserId, server_of
from tests.support.partition import Member, Party, RefusedHere

ANCHOR, ADMIN, MODERATOR, USER, OTHER = "anchor", "admin", "moderator", "user", "other"
NAMES = (ANCHOR, ADMIN, MODERATOR, USER, OTHER)
LEVELS = {ANCHOR: 100, ADMIN: 90, MODERATOR: 50}
ACTIONS = {
    "say": 40,
    "topic": 8,
    "name": 6,
    "note": 10,
    "kick": 6,
    "ban": 6,
    "unban": 5,
    "leave": 4,
    "join": 10,
    "power": 10,
    "restore": 3,
    "join_rule": 4,
    "invite": 4,
    "redact": 8,
}
"""How often each is tried. Many are refused by the server of whoever tries."""
POWER_LEVELS, MEMBER = ("m.room.power_levels", ""), "m.room.member"
Step = Callable[[], Awaitable[EventId | None]]


@dataclass(slots=True)
class Quarrel:
    """`done`: the events that came of it, by the server that made them."""

    party: Party
    seed: int
    extensible: bool = False
    done: dict[EventId, ServerName] = field(default_factory=dict)
    tried: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    settled_s: list[float] = field(default_factory=list)
    _spoken: list[tuple[EventId, UserId]] = field(default_factory=list)
    _dice: dict[ServerName, Random] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        for number, member in enumerate(self.party.members):
            self._dice[member.name] = Random(f"{self.seed} {number}")

    def user(self, member: Member, name: str) -> UserId:
        return UserId(f"@{name}:{member.name}")

    @property
    def users(self) -> list[UserId]:
        return [self.user(member, name) for member in self.party.members for name in NAMES]

    def first_levels(self, creator: UserId | None) -> dict[str, Any]:
        """`creator`: left out where it stands above all levels (version 12)."""
        users = {
            self.user(member, name): level
            for member in self.party.members
            for name, level in LEVELS.items()
        }
        return {
            "users": {user: level for user, level in users.items() if user != creator},
            "users_default": 0,
            "events_default": 0,
            "state_default": 50,
            "ban": 50,
            "kick": 50,
            "redact": 50,
            "invite": 0,
            "events": {"m.room.power_levels": 80, "test.note": 0, "m.room.name": 50},
        }

    # --- acting -----------------------------------------------------------------------------

    async def go_on(self, member: Member, count: int) -> None:
        """That many tries on one server, one after the other."""
        dice = self._dice[member.name]
        for _ in range(count):
            action = dice.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            await self._try(action, partial(self._act, action, member, dice))

    async def clash(self, one: Member, other: Member, dice: Random) -> None:
        """Two things at once that cannot both stand."""
        name, first, second = dice.choice(self._clashes(one, other))
        async with asyncio.TaskGroup() as both:
            both.create_task(self._try(name, first))
            both.create_task(self._try(name, second))

    async def say(self, member: Member, name: str = ANCHOR) -> EventId:
        """Raises `RefusedHere`."""
        self._count += 1
        content: dict[str, Any] = {"msgtype": "m.text", "body": f"word {self._count}"}
        kind = "m.room.message"
        if self.extensible:
            kind, content = "m.message", {"m.text": [{"body": f"word {self._count}"}]}
        return await self._send(member, self.user(member, name), kind, content)

    async def _try(self, name: str, step: Step) -> None:
        self.tried[name] += 1
        try:
            await step()
        except RefusedHere:
            self.refused[name] += 1

    async def _send(
        self, member: Member, sender: UserId, type: str, content: Mapping[str, Any], **more: Any
    ) -> EventId:
        event_id = await member.act(sender, type, content, **more)
        self.done[event_id] = member.name
        if type in ("m.room.message", "m.message"):
            self._spoken.append((event_id, sender))
        return event_id

    async def _member(
        self, member: Member, sender: UserId, target: UserId, membership: str
    ) -> EventId:
        content = {"membership": membership, "reason": f"{self._count}"}
        return await self._send(member, sender, MEMBER, content, state_key=target)

    def _somebody(self, member: Member, dice: Random) -> UserId:
        return self.user(member, dice.choice(NAMES))

    def _victim(self, dice: Random) -> UserId:
        return dice.choice([user for user in self.users if not user.startswith(f"@{ANCHOR}:")])

    async def _act(self, action: str, member: Member, dice: Random) -> EventId | None:
        self._count += 1
        actor = self._somebody(member, dice)
        if action == "say":
            return await self.say(member, dice.choice(NAMES))
        if action in ("topic", "name"):
            content = {action: f"{action} {self._count}"}
            return await self._send(member, actor, f"m.room.{action}", content, state_key="")
        if action == "note":
            key = f"note {dice.randrange(4)}"
            return await self._send(
                member, actor, "test.note", {"body": self._count}, state_key=key
            )
        if action in ("kick", "ban", "unban", "invite"):
            strong = self.user(member, dice.choice(NAMES[:3]))
            membership = {"ban": "ban", "invite": "invite"}.get(action, "leave")
            local = [user for user in self.users if server_of(user) == member.name]
            target = dice.choice(local) if action == "invite" else self._victim(dice)
            return await self._member(member, strong, target, membership)
        if action == "leave":
            leaver = self.user(member, dice.choice(NAMES[1:]))
            return await self._member(member, leaver, leaver, "leave")
        if action == "join":
            return await self._join(member, dice)
        if action == "join_rule":
            rule = {"join_rule": dice.choice(["public", "public", "invite"])}
            strong = self.user(member, dice.choice(NAMES[:3]))
            return await self._send(member, strong, "m.room.join_rules", rule, state_key="")
        if action == "redact":
            return await self._redact(member, actor, dice)
        return await self._change_power(member, dice, restore=action == "restore")

    async def _join(self, member: Member, dice: Random) -> EventId | None:
        """Somebody of the server who is out."""
        state = await member.state()
        out = [
            user
            for user in (self.user(member, name) for name in NAMES)
            if state.get((MEMBER, user), {}).get("membership") != "join"
        ]
        if not out:
            return None
        user = dice.choice(out)
        return await self._member(member, user, user, "join")

    async def _redact(self, member: Member, actor: UserId, dice: Random) -> EventId | None:
        known = await member.known()
        spoken = [one for one in self._spoken[-30:] if one[0] in known]
        if not spoken:
            return None
        event_id, _ = dice.choice(spoken)
        return await self._send(member, actor, "m.room.redaction", {}, redacts=event_id)

    async def _change_power(self, member: Member, dice: Random, *, restore: bool) -> EventId | None:
        content = deepcopy(dict((await member.state())[POWER_LEVELS]))
        users = dict(content["users"])
        content["users"] = users
        actor = self.user(member, ANCHOR if restore else dice.choice(NAMES[:2]))
        if restore:
            first = self.first_levels(None)
            anchors = {user: level for user, level in users.items() if user.startswith("@anchor:")}
            content = {
                **first,
                "users": {
                    **{u: n for u, n in first["users"].items() if not u.startswith("@anchor:")},
                    **anchors,
                },
            }
        elif dice.random() < 0.7:
            users[self._victim(dice)] = dice.choice([0, 0, 10, 50, 60, 90])
        else:
            key = dice.choice(["events_default", "state_default", "ban", "kick", "redact"])
            content[key] = dice.choice([0, 0, 10, 50])
        return await self._send(member, actor, *_state(POWER_LEVELS[0], content), state_key="")

    # --- clashes ----------------------------------------------------------------------------

    def _clashes(self, one: Member, other: Member) -> Sequence[tuple[str, Step, Step]]:
        strong, weak = self.user(one, ADMIN), self.user(other, MODERATOR)
        anchor, admin = self.user(one, ANCHOR), self.user(other, ADMIN)
        user, stranger = self.user(one, USER), self.user(other, USER)
        topic = {"topic": f"clash {self._count}"}
        return (
            (
                "ban against topic",
                lambda: self._member(one, strong, weak, "ban"),
                lambda: self._send(other, weak, "m.room.topic", topic, state_key=""),
            ),
            (
                "ban against message",
                lambda: self._member(one, strong, stranger, "ban"),
                lambda: self.say(other, USER),
            ),
            (
                "ban against ban",
                lambda: self._member(one, strong, weak, "ban"),
                lambda: self._member(other, weak, user, "ban"),
            ),
            (
                "demotion against promotion",
                lambda: self._set_level(one, anchor, admin, 0),
                lambda: self._set_level(other, admin, stranger, 50),
            ),
            (
                "demotion against ban",
                lambda: self._set_level(one, anchor, admin, 0),
                lambda: self._member(other, admin, user, "ban"),
            ),
            (
                "two demotions",
                lambda: self._set_level(one, strong, weak, 0),
                lambda: self._set_level(other, admin, self.user(one, MODERATOR), 0),
            ),
            (
                "closing against joining",
                lambda: self._send(
                    one, anchor, "m.room.join_rules", {"join_rule": "invite"}, state_key=""
                ),
                lambda: self._member(other, stranger, stranger, "join"),
            ),
            (
                "topic against topic",
                lambda: self._send(one, strong, "m.room.topic", topic, state_key=""),
                lambda: self._send(other, admin, "m.room.topic", topic, state_key=""),
            ),
            (
                "kick against leaving",
                lambda: self._member(one, strong, stranger, "leave"),
                lambda: self._member(other, stranger, stranger, "leave"),
            ),
        )

    async def _set_level(
        self, member: Member, actor: UserId, target: UserId, level: int
    ) -> EventId:
        content = deepcopy(dict((await member.state())[POWER_LEVELS]))
        content["users"] = {**content["users"], target: level}
        return await self._send(member, actor, *_state(POWER_LEVELS[0], content), state_key="")


def _state(type: str, content: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return type, content


def shapes(party: Party, dice: Random) -> list[tuple[ServerName, ServerName]]:
    """Links to cut: of one server, of a pair, of everybody, or one direction only."""
    links = sorted(party.links.all)
    kind = dice.choice(["one", "one", "pair", "all", "direction"])
    if kind == "all":
        return links
    if kind == "direction":
        return [dice.choice(links)]
    if kind == "one":
        server = dice.choice(party.members).name
        return [link for link in links if server in link]
    first, second = dice.choice(links)
    return [link for link in links if set(link) == {first, second}]
