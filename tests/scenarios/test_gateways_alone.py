"""Gateways among themselves, in rooms of version I.1: the stories that two Synapses live through.

Three gateways, the third on PostgreSQL, each with a Prosody that knows no other: everybody is on
XMPP, everything between them is Matrix. That a direct chat is a room of this version by itself is
in `test_two_gateways`.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from bridge.demo.servers import CertificateAuthority, PostgreSQL, Prosody, free_port
from tests.support import three as stories
from tests.support.port import DrivenGateway
from tests.support.servers import MakeXmppPerson, make_prosody
from tests.support.somebody import OnXmpp
from tests.support.three import Three

VERSION = "I.1"
PEOPLE = ("juliet", "romeo", "nurse")
OWNERS = ("juliet", "nurse")
_labels: Iterator[int] = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    prosody: Prosody
    gateway: DrivenGateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def houses(
    certificates: CertificateAuthority, postgresql: PostgreSQL
) -> AsyncIterator[list[House]]:
    database = await postgresql.create_database(f"gateway_{free_port()}")
    async with AsyncExitStack() as stack:
        found = []
        for domain in ("a.test", "b.test", "c.test"):
            prosody = await stack.enter_async_context(make_prosody(domain, upload=True))
            gateway = DrivenGateway(prosody, certificates)
            if domain == "c.test":
                gateway.change_settings({"database": {"url": postgresql.url(database)}})
            found.append(House(prosody=prosody, gateway=await stack.enter_async_context(gateway)))
        yield found
    await postgresql.drop_database(database)


@pytest.fixture
async def three(houses: list[House], xmpp_person: MakeXmppPerson) -> Three:
    label = str(next(_labels))
    people, homes = {}, {}
    for name, house in zip(PEOPLE, houses, strict=True):
        person = await xmpp_person(house.prosody, f"{name}{label}")
        people[name] = OnXmpp(person, house.gateway)
        homes[name] = house.gateway
    return Three(people=people, homes=homes, label=label)


@pytest.mark.parametrize("owner", OWNERS)
async def test_people_are_invited_come_go_and_are_sent_away(owner: str, three: Three) -> None:
    await stories.come_and_go(three, owner, VERSION)


@pytest.mark.parametrize("owner", OWNERS)
async def test_a_knock_comes_to_nothing_and_another_one_is_answered(
    owner: str, three: Three
) -> None:
    await stories.knock(three, owner, VERSION)


@pytest.mark.parametrize("owner", OWNERS)
async def test_members_of_another_room_come_in_by_the_word_of_any_server(
    owner: str, three: Three
) -> None:
    await stories.vouch(three, owner, VERSION)


@pytest.mark.parametrize("next_version", [VERSION, "12"])
async def test_a_room_is_lived_in_and_upgraded(next_version: str, three: Three) -> None:
    await stories.live_and_move(three, "romeo", VERSION, next_version)


@pytest.mark.parametrize("owner", OWNERS)
async def test_whoever_comes_later_reads_what_was_said_before(owner: str, three: Three) -> None:
    await stories.read_the_past(three, owner, VERSION)


async def test_what_passes_and_what_is_listed_and_stored_is_shown_to_all(three: Three) -> None:
    await stories.pass_by(three, "nurse", VERSION)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("away", PEOPLE)
async def test_a_gateway_that_was_out_finds_what_the_others_did(away: str, three: Three) -> None:
    await stories.be_out(three, away, [VERSION, VERSION, VERSION])
