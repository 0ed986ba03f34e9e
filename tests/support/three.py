"""Three people on three servers, and what happens to them in a room: the same for any servers.

Each function is a story that ends with the three servers agreeing about the room. `owner` makes
it; who the others are follows from that (`Three.led_by`).
"""

from __future__ import annotations

import asyncio
import itertools
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from bridge.demo.servers.process import Server
from bridge.errors import Refused
from bridge.ids import EventId, RoomAlias, RoomId
from tests.support.somebody import MEMBER, OnMatrix, OnXmpp, Somebody, agree

PAST = 25
"""Messages that somebody missed."""
SHOWN_AT_ONCE = 20
"""How much of it a MUC shows to whoever is the first to come."""
JOIN_RULES, POWER_LEVELS, TOPIC = "m.room.join_rules", "m.room.power_levels", "m.room.topic"
PNG = b"\x89PNG\r\n\x1a\n"
VOUCHER = "join_authorised_via_users_server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Three:
    """By name, each on a server of their own. `label` makes names of rooms unique."""

    people: Mapping[str, Somebody]
    homes: Mapping[str, Server]
    label: str

    @property
    def all(self) -> list[Somebody]:
        return list(self.people.values())

    def led_by(self, name: str) -> tuple[Somebody, Somebody, Somebody]:
        """That one first, then in turn."""
        at = list(self.people).index(name)
        first, second, third = [*self.all[at:], *self.all[:at]]
        return first, second, third

    def pairs(self) -> list[tuple[Somebody, Somebody]]:
        """Everybody with everybody else."""
        return list(itertools.permutations(self.all, 2))

    async def see_all(self, room: RoomId, whom: Somebody, membership: str) -> None:
        for one in self.all:
            if one is not whom:
                await one.see_membership(room, whom.user_id, membership)

    async def all_hear(self, room: RoomId, text: str) -> None:
        for one in self.all:
            await one.hear(room, text)

    async def make(
        self, owner: Somebody, version: str, *, public: bool = True, what: str = "room"
    ) -> tuple[RoomId, RoomAlias]:
        """With an alias on the owner's server."""
        name = f"{what}-{self.label}-{version.lower()}"
        room = await owner.create_room(version=version, public=public, alias=name, name=name)
        return room, RoomAlias(f"#{name}:{owner.server}")

    async def meet(self, owner: Somebody, version: str) -> tuple[RoomId, RoomAlias]:
        """A public room that all have entered, by its alias."""
        room, alias = await self.make(owner, version)
        for one in self.all:
            if one is not owner:
                await one.join(room, alias=alias)
        for one in self.all:
            for other in self.all:
                await one.see_membership(room, other.user_id, "join")
        return room, alias

    async def share_power(self, room: RoomId, owner: Somebody) -> None:
        """Everybody may change the room."""
        levels = await owner.content(room, POWER_LEVELS)
        users = dict(levels["users"])
        users |= {one.user_id: 50 for one in self.all if one is not owner}
        await owner.set_state(room, POWER_LEVELS, {**levels, "users": users})
        for one in self.all:
            await one.see_state(room, POWER_LEVELS, {"users": users})


async def come_and_go(three: Three, owner_name: str, version: str) -> None:
    """Invite, refusal, join, leave, return, kick, ban, end of the ban."""
    owner, guest, third = three.led_by(owner_name)
    room = await owner.create_room(version=version, name="Study")
    await owner.invite(room, guest.user_id)
    await guest.see_invite(room)
    await guest.refuse(room)
    await owner.see_membership(room, guest.user_id, "leave")
    for one in (guest, third):
        await owner.invite(room, one.user_id)
        await one.see_invite(room)
        await one.join(room)
        await owner.see_membership(room, one.user_id, "join")
    await guest.see_membership(room, third.user_id, "join")
    await owner.say(room, "all here")
    await three.all_hear(room, "all here")

    await guest.leave(room)
    for one in (owner, third):
        await one.see_membership(room, guest.user_id, "leave")
    await owner.invite(room, guest.user_id)
    await guest.see_invite(room)
    await guest.join(room)
    await three.see_all(room, guest, "join")

    await owner.remove(room, guest.user_id, "too loud")
    await guest.see_removed(room, "too loud")
    await third.see_membership(room, guest.user_id, "leave")
    await owner.remove(room, guest.user_id, "for good", "ban")
    await third.see_membership(room, guest.user_id, "ban")
    with pytest.raises(Refused):
        await guest.join(room, via=owner.server)
    await owner.remove(room, guest.user_id, "come back")
    await third.see_membership(room, guest.user_id, "leave")
    await owner.invite(room, guest.user_id)
    await guest.join(room)
    await three.see_all(room, guest, "join")

    since = await guest.say(room, "thank you")
    await three.all_hear(room, "thank you")
    await third.leave(room)
    for one in (owner, guest):
        await one.see_membership(room, third.user_id, "leave")
    await agree([owner, guest], room, since=since)


async def knock(three: Three, owner_name: str, version: str) -> None:
    """A knock that comes to nothing, and another one that is answered."""
    keeper, knocker, third = three.led_by(owner_name)
    room = await keeper.create_room(version=version, name="Walled garden")
    await keeper.set_state(room, JOIN_RULES, {"join_rule": "knock"})
    await keeper.invite(room, third.user_id)
    await third.see_invite(room)
    await third.join(room)
    await knocker.knock(room, keeper.server, "it rains")
    for one in (keeper, third):
        await one.see_membership(room, knocker.user_id, "knock")
    if isinstance(knocker, OnXmpp):
        await knocker.leave(room)
    else:
        # Synapse takes a knock back in its own house only.
        await keeper.remove(room, knocker.user_id, "not today")
    for one in (keeper, third):
        await one.see_membership(room, knocker.user_id, "leave")
    # Now at another door than the one where it is opened.
    await knocker.knock(room, third.server, "it still rains")
    for one in (keeper, third):
        await one.see_state(
            room,
            MEMBER,
            {"membership": "knock", "reason": "it still rains"},
            state_key=knocker.user_id,
        )
    await keeper.invite(room, knocker.user_id)
    await knocker.see_invite(room)
    await knocker.join(room)
    await three.see_all(room, knocker, "join")
    since = await knocker.say(room, "thank you")
    await three.all_hear(room, "thank you")
    await agree(three.all, room, since=since)


async def vouch(three: Three, owner_name: str, version: str) -> None:
    """Restricted joins, by the word of the owner's server and of the guest's."""
    owner, guest, third = three.led_by(owner_name)
    hall, to_hall = await three.make(owner, version, what="hall")
    room, to_room = await three.make(owner, version, public=False)
    rule = {
        "join_rule": "restricted",
        "allow": [{"type": "m.room_membership", "room_id": hall}],
    }
    await owner.set_state(room, JOIN_RULES, rule)
    levels = await owner.content(room, POWER_LEVELS)
    await owner.set_state(room, POWER_LEVELS, {**levels, "invite": 0})
    await guest.join(hall, alias=to_hall)
    await owner.see_membership(hall, guest.user_id, "join")
    await guest.join(room, alias=to_room)
    await owner.see_state(
        room, MEMBER, {"membership": "join", VOUCHER: owner.user_id}, state_key=guest.user_id
    )
    with pytest.raises(Refused):
        await third.join(room, alias=to_room)
    await third.join(hall, alias=to_hall)
    for one in (owner, guest):
        await one.see_membership(hall, third.user_id, "join")
    await third.join(room, via=guest.server)
    for one in three.all:
        await one.see_state(
            room, MEMBER, {"membership": "join", VOUCHER: guest.user_id}, state_key=third.user_id
        )
    since = await third.say(room, "we meet again")
    await three.all_hear(room, "we meet again")
    await agree(three.all, room, since=since)


async def live_and_move(three: Three, owner_name: str, version: str, next_version: str) -> None:
    """Redactions, names of rooms and people, and the upgrade to `next_version`."""
    owner, guest, third = three.led_by(owner_name)
    room, alias = await three.meet(owner, version)
    for one in three.all:
        assert await one.resolve(alias) == room

    # Everybody redacts what they said; whoever has the power, what others said.
    for one in three.all:
        text = f"a slip of {one.user_id}"
        slip = await one.say(room, text)
        await three.all_hear(room, text)
        await one.redact(room, slip)
        for other in three.all:
            await other.see_redacted(room, slip)
    foul = await guest.say(room, "foul words")
    await three.all_hear(room, "foul words")
    with pytest.raises(Refused):
        await third.redact(room, foul)
    await owner.redact(room, foul)
    for one in three.all:
        await one.see_redacted(room, foul)

    for called, one in three.people.items():
        name = f"The new {called}"
        await one.set_name(name)
        for other in three.all:
            await other.see_name(room, one.user_id, name)
            assert await other.profile_name(one.user_id) == name
    await owner.set_state(room, TOPIC, {"topic": "roses"})
    for one in three.all:
        await one.see_state(room, TOPIC, {"topic": "roses"})
    since = await third.say(room, "so be it")
    await three.all_hear(room, "so be it")
    await owner.say(room, "indeed")
    await agree(three.all, room, since=since)

    successor = await owner.upgrade(room, next_version)
    for one in three.all:
        await one.see_state(room, "m.room.tombstone", {"replacement_room": successor})
    for one in three.all:
        if isinstance(one, OnXmpp):
            await one.see_moved(room, successor)
        elif one is not owner:
            await one.join(successor, via=owner.server)
    for one in three.all:
        for other in three.all:
            await one.see_membership(successor, other.user_id, "join")
        await one.see_state(successor, "m.room.create", {"room_version": next_version})
        await one.see_state(successor, TOPIC, {"topic": "roses"})
    since = await guest.say(successor, "a new beginning")
    await three.all_hear(successor, "a new beginning")
    await third.say(successor, "for all of us")
    await three.all_hear(successor, "for all of us")
    await agree(three.all, successor, since=since)


async def read_the_past(three: Three, owner_name: str, version: str) -> None:
    """What was said before somebody joined; the last one asks at the door of the second."""
    owner, guest, third = three.led_by(owner_name)
    room, alias = await three.make(owner, version)
    said = [f"before you came {number}" for number in range(PAST)]
    for text in said:
        await owner.say(room, text)
    await guest.join(room, alias=alias)
    await _has_read(guest, room, said)
    await guest.say(room, "what did I miss?")
    await third.join(room, via=guest.server)
    await _has_read(third, room, [*said, "what did I miss?"])
    since = await third.say(room, "now I know")
    await three.all_hear(room, "now I know")
    await owner.say(room, "welcome")
    await agree(three.all, room, since=since)


async def _has_read(one: Somebody, room: RoomId, said: list[str]) -> None:
    count = len(said) if isinstance(one, OnMatrix) else SHOWN_AT_ONCE
    assert await one.past(room, count) == said[-count:]


async def pass_by(three: Three, owner_name: str, version: str) -> None:
    """Typing, read receipts, presence, the list of public rooms, and files: each of everybody, to
    everybody else."""
    owner, _, _ = three.led_by(owner_name)
    room, alias = await three.meet(owner, version)
    for one, other in three.pairs():
        await one.watch(other.user_id)
    for one in three.all:
        await one.set_typing(room)
        await one.set_status(room, f"words of {one.user_id}")
    for one, other in three.pairs():
        await one.see_typing(room, other.user_id)
        await one.see_status(other.user_id, f"words of {other.user_id}")
    said = {one.user_id: await one.say(room, f"{one.user_id} says") for one in three.all}
    for one in three.all:
        await three.all_hear(room, f"{one.user_id} says")
    for one in three.all:
        newest = next(said[other.user_id] for other in reversed(three.all) if other is not one)
        await one.mark_read(room, newest)
        for other in three.all:
            if other is not one:
                await other.see_read(room, one.user_id, newest)

    await owner.list_room(room)
    words = alias[1:].partition(":")[0]
    for one in three.all:
        await one.see_listed(owner.server, room, words)

    for number, one in enumerate(three.all, 1):
        data, name = png(number), f"picture{number}.png"
        await one.show(room, data, name)
        for other in three.all:
            if other is not one:
                assert await other.see_shown(room, one.user_id, name) == data


def png(size: int) -> bytes:
    """A grey square of this many tens of pixels."""
    side = 10 * size

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = (b"\x00" + b"\x80" * side) * side
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return PNG + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


async def be_out(three: Three, name: str, versions: Sequence[str]) -> None:
    """A server is stopped in its tracks, and killed later; meanwhile the others go on. In rooms of
    all versions at the same time."""
    gone, *here = three.led_by(name)
    home, rooms = three.homes[name], []
    for number, version in enumerate(versions):
        owner = three.all[number % len(three.all)]
        room, _ = await three.meet(owner, version)
        await three.share_power(room, owner)
        rooms.append(room)
    for out in ("frozen", "killed"):
        since = {room: await gone.say(room, f"soon {out}") for room in rooms}
        for room in rooms:
            await three.all_hear(room, f"soon {out}")
        if out == "frozen":
            home.freeze()
        else:
            await home.kill()
        try:
            async with asyncio.TaskGroup() as tasks:
                for room in rooms:
                    tasks.create_task(_live_on(here, room, out))
        finally:
            if out == "frozen":
                home.thaw()
            else:
                await home.start()
        async with asyncio.TaskGroup() as tasks:
            for room in rooms:
                tasks.create_task(_come_back(three, gone, room, out, since[room]))


def _words(people: Sequence[Somebody], out: str) -> list[tuple[Somebody, str]]:
    return [
        (one, f"said by {one.user_id} while another was {out}, {number}")
        for number in range(2)
        for one in people
    ]


async def _live_on(people: Sequence[Somebody], room: RoomId, out: str) -> None:
    """Two talk and change things, each on their own server."""
    words = _words(people, out)
    for speaker, text in words:
        await speaker.say(room, text)
    for one, kind in zip(people, ("topic", "name"), strict=True):
        await one.set_state(room, f"m.room.{kind}", {kind: f"{out} by {one.user_id}"})
    for one in people:
        for _, text in words:
            await one.hear(room, text)
        for other, kind in zip(people, ("topic", "name"), strict=True):
            await one.see_state(room, f"m.room.{kind}", {kind: f"{out} by {other.user_id}"})


async def _come_back(three: Three, gone: Somebody, room: RoomId, out: str, since: EventId) -> None:
    """Whoever was away reads all of it, and says so."""
    for _, text in _words([one for one in three.all if one is not gone], out):
        await gone.hear(room, text)
    await gone.say(room, f"no longer {out}")
    await three.all_hear(room, f"no longer {out}")
    await agree(three.all, room, since=since)
