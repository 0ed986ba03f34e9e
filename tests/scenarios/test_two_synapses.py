"""Two real Synapses, one of them on PostgreSQL, and a gateway with Prosody: rooms of all three.

What people do and see is told by their clients on both networks (`tests.support.somebody`). Each
thing happens in rooms of several versions, made by a Synapse and by us.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import pytest
import pytest_asyncio

from bridge.demo.servers import CertificateAuthority, PostgreSQL, Prosody, Synapse, free_port
from bridge.demo.servers.process import Server
from bridge.errors import Refused
from bridge.ids import EventId, RoomAlias, RoomId
from tests.support.partition import SYNAPSE_SETTINGS
from tests.support.port import DrivenGateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson, make_prosody
from tests.support.somebody import MEMBER, OnMatrix, OnXmpp, Somebody, agree

VERSIONS = ("6", "9", "10", "11", "12")
NEXT = {"6": "9", "9": "10", "10": "11", "11": "12", "12": "11"}
HOSTS = ("alice", "juliet")
KNOCKING = [version for version in VERSIONS if int(version) >= 7]
RESTRICTED = [version for version in VERSIONS if int(version) >= 8]
PAST = 25
"""Messages that somebody missed."""
SHOWN_AT_ONCE = 20
"""How much of it a MUC shows to whoever is the first to come."""
_labels: Iterator[int] = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    first: Synapse
    second: Synapse
    """On PostgreSQL."""
    prosody: Prosody
    gateway: DrivenGateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(
    certificates: CertificateAuthority, postgresql: PostgreSQL
) -> AsyncIterator[Servers]:
    name = await postgresql.create_database(f"synapse_{free_port()}")
    async with (
        Synapse(certificates, overrides=SYNAPSE_SETTINGS) as first,
        Synapse(certificates, database=(postgresql, name), overrides=SYNAPSE_SETTINGS) as second,
        make_prosody() as prosody,
        DrivenGateway(prosody, certificates, settings={"federation": {"retry_max_s": 1}}) as ours,
    ):
        yield Servers(first=first, second=second, prosody=prosody, gateway=ours)
    await postgresql.drop_database(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Three:
    """Alice on the Synapse with SQLite, Bob on the one with PostgreSQL, Juliet on XMPP."""

    alice: OnMatrix
    bob: OnMatrix
    juliet: OnXmpp
    label: str

    @property
    def all(self) -> list[Somebody]:
        return [self.alice, self.bob, self.juliet]

    def led_by(self, host: str) -> tuple[Somebody, Somebody, Somebody]:
        """That one first; the second is on another network."""
        if host == "alice":
            return self.alice, self.juliet, self.bob
        if host == "bob":
            return self.bob, self.juliet, self.alice
        return self.juliet, self.bob, self.alice

    async def see_all(self, room: RoomId, whom: Somebody, membership: str) -> None:
        for one in self.all:
            if one is not whom:
                await one.see_membership(room, whom.user_id, membership)

    async def all_hear(self, room: RoomId, text: str) -> None:
        for one in self.all:
            await one.hear(room, text)

    async def share_power(self, room: RoomId, host: Somebody) -> None:
        """Everybody may change the room."""
        levels = await host.content(room, "m.room.power_levels")
        users = {one.user_id: 50 for one in self.all if one is not host}
        await host.set_state(
            room, "m.room.power_levels", {**levels, "users": {**levels["users"], **users}}
        )
        for one in self.all:
            await one.see_state(
                room, "m.room.power_levels", {"users": {**levels["users"], **users}}
            )

    async def meet(self, host: Somebody, version: str) -> tuple[RoomId, RoomAlias]:
        """A public room that all have entered, by its alias."""
        name = f"meeting-{self.label}-{version}"
        room = await host.create_room(version=version, public=True, alias=name, name="Meeting")
        alias = RoomAlias(f"#{name}:{host.server}")
        for one in self.all:
            if one is not host:
                await one.join(room, alias=alias)
        for one in self.all:
            for other in self.all:
                await one.see_membership(room, other.user_id, "join")
        return room, alias


@pytest.fixture
async def three(
    servers: Servers, matrix_person: MakeMatrixPerson, xmpp_person: MakeXmppPerson
) -> Three:
    """People of this test alone."""
    label = str(next(_labels))
    return Three(
        alice=OnMatrix(await matrix_person(servers.first, f"alice{label}"), servers.first),
        bob=OnMatrix(await matrix_person(servers.second, f"bob{label}"), servers.second),
        juliet=OnXmpp(await xmpp_person(servers.prosody, f"juliet{label}"), servers.gateway),
        label=label,
    )


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_people_are_invited_come_go_and_are_sent_away(
    version: str, host: str, three: Three
) -> None:
    owner, guest, third = three.led_by(host)
    room = await owner.create_room(version=version, name="Study")
    await owner.invite(room, guest.user_id)
    await guest.see_invite(room)
    await guest.refuse(room)
    await owner.see_membership(room, guest.user_id, "leave")
    for one in (guest, third):
        await owner.invite(room, one.user_id)
        await one.see_invite(room)
        await one.join(room)
        await three.see_all(room, one, "join") if one is third else await owner.see_membership(
            room, one.user_id, "join"
        )
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


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("version", KNOCKING)
async def test_a_knock_comes_to_nothing_and_another_one_is_answered(
    version: str, host: str, three: Three
) -> None:
    keeper, knocker, third = three.led_by(host)
    room = await keeper.create_room(version=version, name="Walled garden")
    await keeper.set_state(room, "m.room.join_rules", {"join_rule": "knock"})
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
    # Whoever is inside lets them in, and be it at another server than the one they knocked at.
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


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("version", RESTRICTED)
async def test_members_of_another_room_come_in_by_the_word_of_any_server(
    version: str, host: str, three: Three
) -> None:
    owner, guest, third = three.led_by(host)
    hall, to_hall = (
        await owner.create_room(version=version, public=True, alias=f"hall-{three.label}"),
        RoomAlias(f"#hall-{three.label}:{owner.server}"),
    )
    room, to_room = (
        await owner.create_room(version=version, alias=f"room-{three.label}"),
        RoomAlias(f"#room-{three.label}:{owner.server}"),
    )
    allow = [{"type": "m.room_membership", "room_id": hall}]
    rule = {"join_rule": "restricted", "allow": allow}
    levels = await owner.content(room, "m.room.power_levels")
    await owner.set_state(room, "m.room.power_levels", {**levels, "invite": 0})
    await owner.set_state(room, "m.room.join_rules", rule)
    await guest.join(hall, alias=to_hall)
    await owner.see_membership(hall, guest.user_id, "join")
    await guest.join(room, alias=to_room)
    await owner.see_state(
        room,
        MEMBER,
        {"membership": "join", "join_authorised_via_users_server": owner.user_id},
        state_key=guest.user_id,
    )
    with pytest.raises(Refused):
        await third.join(room, alias=to_room)
    await third.join(hall, alias=to_hall)
    for one in (owner, guest):
        await one.see_membership(hall, third.user_id, "join")
    # By the word of the guest's server, not of the owner's.
    await third.join(room, via=guest.server)
    for one in three.all:
        await one.see_state(
            room,
            MEMBER,
            {"membership": "join", "join_authorised_via_users_server": guest.user_id},
            state_key=third.user_id,
        )
    since = await third.say(room, "we meet again")
    await three.all_hear(room, "we meet again")
    await agree(three.all, room, since=since)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_room_is_lived_in_and_upgraded(version: str, host: str, three: Three) -> None:
    """Names of rooms and people, redactions, the successor."""
    owner, guest, third = three.led_by(host)
    room, alias = await three.meet(owner, version)
    for one in three.all:
        assert await one.resolve(alias) == room

    # Everybody redacts what they said; whoever has the power, what others said.
    for one in three.all:
        own = await one.say(room, f"a slip of {one.user_id}")
        await three.all_hear(room, f"a slip of {one.user_id}")
        await one.redact(room, own)
        for other in three.all:
            await other.see_redacted(room, own)
    foul = await guest.say(room, "foul words")
    await three.all_hear(room, "foul words")
    with pytest.raises(Refused):
        await third.redact(room, foul)
    await owner.redact(room, foul)
    for one in three.all:
        await one.see_redacted(room, foul)

    for one in three.all:
        name = f"New Name of {one.user_id[1:4]}"
        await one.set_name(name)
        for other in three.all:
            await other.see_name(room, one.user_id, name)
            assert await other.profile_name(one.user_id) == name
    await owner.set_state(room, "m.room.topic", {"topic": "roses"})
    for one in three.all:
        await one.see_state(room, "m.room.topic", {"topic": "roses"})
    since = await third.say(room, "so be it")
    await three.all_hear(room, "so be it")
    await owner.say(room, "indeed")
    await agree(three.all, room, since=since)

    successor = await owner.upgrade(room, NEXT[version])
    for one in three.all:
        await one.see_state(room, "m.room.tombstone", {"replacement_room": successor})
    if isinstance(owner, OnXmpp):
        await owner.see_moved(room, successor)
    for one in (guest, third):
        if isinstance(one, OnXmpp):
            await one.see_moved(room, successor)
        else:
            await one.join(successor, via=owner.server)
    for one in three.all:
        for other in three.all:
            await one.see_membership(successor, other.user_id, "join")
        await one.see_state(successor, "m.room.create", {"room_version": NEXT[version]})
        await one.see_state(successor, "m.room.topic", {"topic": "roses"})
    since = await guest.say(successor, "a new beginning")
    await three.all_hear(successor, "a new beginning")
    await third.say(successor, "for all of us")
    await three.all_hear(successor, "for all of us")
    await agree(three.all, successor, since=since)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_whoever_comes_later_reads_what_was_said_before(
    version: str, host: str, three: Three
) -> None:
    owner, guest, third = three.led_by(host)
    room = await owner.create_room(version=version, public=True, alias=f"past-{three.label}")
    said = [f"before you came {number}" for number in range(PAST)]
    for text in said:
        await owner.say(room, text)
    await guest.join(room, alias=RoomAlias(f"#past-{three.label}:{owner.server}"))
    assert await guest.past(room, SHOWN_AT_ONCE) == said[-SHOWN_AT_ONCE:]
    await guest.say(room, "what did I miss?")
    # At the door of the guest's server, which was not there either.
    await third.join(room, via=guest.server)
    assert await third.past(room, PAST + 1) == [*said, "what did I miss?"]
    since = await third.say(room, "now I know")
    await three.all_hear(room, "now I know")
    await owner.say(room, "welcome")
    await agree(three.all, room, since=since)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("away", ["alice", "bob", "juliet"])
async def test_a_server_that_was_out_finds_what_the_others_did(
    away: str, servers: Servers, three: Three
) -> None:
    """Rooms of all versions at the same time. It is stopped in its tracks once, and killed once."""
    gone, *here = three.led_by(away)
    home: Server = {"alice": servers.first, "bob": servers.second}.get(away, servers.gateway)
    rooms = []
    for number, version in enumerate(VERSIONS):
        host = three.all[number % len(three.all)]
        room, _ = await three.meet(host, version)
        await three.share_power(room, host)
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
                    tasks.create_task(live_on(here, room, out))
        finally:
            if out == "frozen":
                home.thaw()
            else:
                await home.start()
        async with asyncio.TaskGroup() as tasks:
            for room in rooms:
                tasks.create_task(come_back(three, gone, room, out, since[room]))


def what_is_said(people: Sequence[Somebody], out: str) -> list[tuple[Somebody, str]]:
    return [
        (one, f"said by {one.user_id} while another was {out}, {number}")
        for number in range(2)
        for one in people
    ]


async def live_on(people: Sequence[Somebody], room: RoomId, out: str) -> None:
    """Two talk and change things, each on their own server."""
    said = what_is_said(people, out)
    for speaker, text in said:
        await speaker.say(room, text)
    for one, kind in zip(people, ("topic", "name"), strict=True):
        await one.set_state(room, f"m.room.{kind}", {kind: f"{out} by {one.user_id}"})
    for one in people:
        for _, text in said:
            await one.hear(room, text)
        for other, kind in zip(people, ("topic", "name"), strict=True):
            await one.see_state(room, f"m.room.{kind}", {kind: f"{out} by {other.user_id}"})


async def come_back(three: Three, gone: Somebody, room: RoomId, out: str, since: EventId) -> None:
    """Whoever was away reads all of it, and says so."""
    for _, text in what_is_said([one for one in three.all if one is not gone], out):
        await gone.hear(room, text)
    await gone.say(room, f"no longer {out}")
    await three.all_hear(room, f"no longer {out}")
    await agree(three.all, room, since=since)
